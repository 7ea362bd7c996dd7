"""Reading of ESPnet's train.log, including irregular ones."""

import os

import pytest

from espnet2_birq.bin import plot_training
from espnet2_birq.errors import DataError
from espnet2_birq.experiments import plots
from espnet2_birq.experiments.training_log import read_training_log

FIRST = """\
# Started at Sat Nov 21 05:16:10 UTC 2026
[h] 2026-11-21 05:16:45,236 (trainer:810) INFO: 1epoch:train:1-10batch: \
iter_time=0.015, loss_anchor=9.075, label_entropy_anchor=0.000e+00hit_anchor=1.000, loss=22.698
[h] 2026-11-21 05:17:00,561 (trainer:810) INFO: 1epoch:train:11-20batch: \
iter_time=0.004, loss_anchor=8.696, pred_cov_anchor=1.221e-04
[h] 2026-11-21 05:18:53,330 (trainer:392) INFO: 1epoch results: [train] \
iter_time=0.004, loss_anchor=8.9, time=4 minutes and 12.9 seconds, total_count=20, [valid] \
mask_share=0.372, loss_anchor=6.524
[h] 2026-11-21 05:19:00,561 (trainer:810) INFO: 2epoch:train:1-10batch: loss_anchor=7.5
# Accounting: time=180 threads=1
# Ended (code 137) at Sat Nov 21 05:19:10 UTC 2026, elapsed time 180 seconds
"""
SECOND = """\
[h] 2026-11-21 05:20:00,561 (trainer:810) INFO: 2epoch:train:1-10batch: loss_anchor=7.0
[h] 2026-11-21 05:20:10,561 (trainer:810) INFO: 2epoch:train:11-20batch: loss_anchor=nan
[h] 2026-11-21 05:20:53,330 (trainer:392) INFO: 2epoch results: [train] \
loss_anchor=6.8, total_count=40, [valid] loss_anchor=6.1
# Ended (code 0) at Sat Nov 21 05:21:10 UTC 2026, elapsed time 60 seconds
"""


@pytest.fixture
def experiment(tmp_path):
    (tmp_path / "train.1.log").write_text(FIRST)
    (tmp_path / "train.log").write_text(SECOND)
    os.utime(tmp_path / "train.1.log", (1, 1))
    return tmp_path


def test_values(experiment):
    log = read_training_log(experiment)
    assert log.updates == [10, 20, 30, 40]
    # The interrupted epoch's values are replaced by those of its repetition.
    assert [i["loss_anchor"] for i in log.intervals[:3]] == [9.075, 8.696, 7.0]
    assert log.intervals[0]["label_entropy_anchor"] == 0.0
    assert log.intervals[0]["hit_anchor"] == 1.0
    assert log.intervals[1]["pred_cov_anchor"] == 1.221e-04
    assert log.intervals[3]["loss_anchor"] != log.intervals[3]["loss_anchor"]  # nan
    assert [epoch["loss_anchor"] for epoch in log.train] == [8.9, 6.8]
    assert [epoch["loss_anchor"] for epoch in log.valid] == [6.524, 6.1]
    assert log.seconds == 135 + 53  # from the first to the last line of each run


def test_an_epoch_that_resumes_at_a_logged_batch(experiment):
    """Its first batch is the last one of an interval that was logged before."""
    line = "[h] 2026-11-21 05:22:00,561 INFO: 3epoch:train:{}batch: loss_anchor={}\n"
    with (experiment / "train.log").open("a") as log:
        log.write(line.format("1-10", 5.0) + line.format("11-20", 4.0))
        log.write(line.format("20-29", 3.0))
    found = read_training_log(experiment)
    assert found.updates[4:] == [50, 69]
    assert [one["loss_anchor"] for one in found.intervals[4:]] == [5.0, 3.0]


def test_missing_and_empty_logs(tmp_path):
    with pytest.raises(DataError, match="no such file; run the training stage"):
        read_training_log(tmp_path)
    (tmp_path / "train.log").write_text("# Started\n")
    with pytest.raises(DataError, match="contains no update"):
        read_training_log(tmp_path)


def test_epochs_too_short_for_intervals(tmp_path):
    lines = [line for line in FIRST.splitlines() if "epoch results" in line]
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    log = read_training_log(tmp_path)
    assert log.updates == [20]
    assert log.intervals[0]["loss_anchor"] == 8.9


def test_updates_are_counted_as_espnet_makes_them(experiment):
    """accum_grad batches make an update; the rest of an epoch makes none."""
    (experiment / "config.yaml").write_text("accum_grad: 3\n")
    log = read_training_log(experiment)
    assert log.updates == [3, 6, 9, 12]
    assert log.last_update == 12
    (experiment / "config.yaml").unlink()
    assert read_training_log(experiment).last_update == 40


def test_plot(experiment, tmp_path):
    out = tmp_path / "sub" / "loss.png"
    plot_training.main(
        [f"run={experiment}", "--keys", "loss_anchor", "--out", str(out)]
    )
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "given, name", [("a={}/b=c", "a"), ("{}/x", "x"), ("a b (.3)={}/x", "a b (.3)")]
)
def test_names_in_the_legend(experiment, tmp_path, monkeypatch, given, name):
    for folder in ("b=c", "x"):
        (tmp_path / folder).symlink_to(experiment)
    seen = []
    monkeypatch.setattr(plots, "plot_logs", lambda logs, *rest: seen.extend(logs))
    plot_training.main([given.format(tmp_path), "--out", str(tmp_path / "x.png")])
    assert [one[0] for one in seen] == [name]


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ["--keys", "nope", "--out", "x.png"],
            "--keys nope: in no log; there are .*loss_anc",
        ),
        (["--out", "x.xyz"], "--out x.xyz: give a name that ends in .png or .pdf"),
    ],
)
def test_plots_that_cannot_be(experiment, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"plot_training: error: {words}"):
        plot_training.main([f"run={experiment}", *options])
    assert not list(tmp_path.glob("x.*"))


def test_an_epoch_that_went_on_inside(tmp_path):
    """Batches between the saved state and the kill are logged twice but counted once."""
    line = "[h] 2026-11-21 05:1{}:00,561 (trainer:810) INFO: 1epoch:train:{}-{}batch: loss={}"
    one = [line.format(0, 1, 10, 9.0), line.format(1, 11, 20, 8.0)]
    one.append(line.format(2, 21, 30, 7.0))
    two = [line.format(3, 18, 27, 7.5), line.format(4, 28, 37, 6.5)]
    (tmp_path / "train.1.log").write_text("\n".join(one) + "\n")
    (tmp_path / "train.log").write_text("\n".join(two) + "\n")
    os.utime(tmp_path / "train.1.log", (1, 1))
    log = read_training_log(tmp_path)
    assert log.updates == [10, 27, 37]
    assert [x["loss"] for x in log.intervals] == [9.0, 7.5, 6.5]
