"""Progress of a training, from its log and its configuration."""

import pytest
import yaml

from espnet2_birq.bin import status
from espnet2_birq.errors import DataError
from espnet2_birq.experiments.progress import progress_of, time_words
from espnet2_birq.experiments.training_log import read_training_log

LINE = "[h] 2026-11-21 05:16:4{}, (trainer:810) INFO: {}epoch:train:{}-{}batch: "
LINE += "iter_time=0.015, loss_anchor=9.075, loss={}, train_time={}\n"
CONF = dict(max_epoch=2, num_iters_per_epoch=100, accum_grad=1)


def read_progress(folder):
    return progress_of(read_training_log(folder), folder)


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "ssl_train_birq_raw"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONF))
    return folder


def write_log(folder, *lines):
    (folder / "train.log").write_text("".join(LINE.format(*line) for line in lines))


def test_a_running_training(experiment):
    write_log(experiment, (1, 1, 1, 10, 9.5, 1.0), (2, 1, 11, 20, 8.25, 0.5))
    found = read_progress(experiment)
    assert found == (20, 200, 8.25, 180 * 0.75)
    assert str(found) == "update 20 of 200, loss 8.25, about 2 min left"


def test_the_last_intervals_make_the_pace(experiment):
    slow = [(0, 1, 10 * i + 1, 10 * i + 10, 9.0, 60.0) for i in range(8)]
    fast = [(0, 2, 9 * i + 1, 9 * i + 9, 8.0, 0.5) for i in range(11)]
    write_log(experiment, *slow, *fast)
    # An epoch without its results counts with the 80 batches that were logged.
    assert read_progress(experiment) == (80 + 99, 200, 8.0, 21 * 0.5)
    assert str(read_progress(experiment)).endswith("about 10 s left")


def test_updates_of_several_batches(experiment):
    """ESPnet's train_time is that of an update, i.e. of all its batches."""
    conf = {**CONF, "accum_grad": 4}
    (experiment / "config.yaml").write_text(yaml.safe_dump(conf))
    write_log(experiment, (1, 1, 1, 40, 9.0, 0.5))
    assert read_progress(experiment) == (10, 50, 9.0, 40 * 0.5)


def test_ends_that_are_not_known_and_that_are_reached(experiment):
    write_log(experiment, (1, 1, 1, 100, 9.0, 0.5), (1, 2, 1, 100, 7.0, 0.5))
    assert str(read_progress(experiment)) == "all 200 updates done, loss 7.00"
    conf = {**CONF, "num_iters_per_epoch": None}
    (experiment / "config.yaml").write_text(yaml.safe_dump(conf))
    assert str(read_progress(experiment)) == "update 200, loss 7.00"
    # ESPnet logs the number of batches of the whole data.
    said = (
        "[h] INFO: [train] Batch sampler: NumElementsBatchSampler(N-batch=150, x=1)\n"
    )
    log = experiment / "train.log"
    log.write_text(said + log.read_text())
    assert read_progress(experiment)[:2] == (200, 300)


def test_times():
    seconds = (9, 61, 3600, 90_000)
    assert list(map(time_words, seconds)) == ["9 s", "1 min", "1 h 0 min", "1 d 1 h"]


def test_only_those_that_have_begun_have_a_line(experiment, tmp_path, capsys):
    with pytest.raises(DataError):
        read_progress(experiment)
    status.main(["--brief", str(experiment), str(tmp_path / "none")])
    assert capsys.readouterr().out == ""
    write_log(experiment, (1, 1, 1, 10, 9.5, 1.0))
    status.main(["--brief", str(tmp_path / "none"), str(experiment)])
    said = capsys.readouterr().out
    assert said == (
        "ssl_train_birq_raw: update 10 of 200, loss 9.50, about 3 min left\n"
    )
