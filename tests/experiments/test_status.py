"""`birq status` of experiments: running, interrupted, failed, done."""

import os
import re
import shutil
import time

import pytest
import yaml

from espnet2_birq.bin import status
from espnet2_birq.datadir.stamp import write_stamp
from espnet2_birq.experiments.status import (
    COLLAPSED,
    DONE,
    FAILED,
    RUNNING,
    STOPPED,
    describe,
    read_state,
)
from espnet2_birq.pretraining.collapse import FEWEST

CONF = dict(max_epoch=2, num_iters_per_epoch=100, accum_grad=1, objectives=[])
LINE = "[h] 2026-11-21 05:{:02}:00,000 (trainer:810) INFO: 1epoch:train:{}-{}batch: "
LINE += (
    "loss_anchor=9.075, acc_anchor=0.125, label_ppl_anchor={}, pred_ppl_anchor=2.5, "
)
LINE += "loss=9.5, train_time=0.5\n"
END = "[h] 2026-11-21 05:59:00,000 (trainer:532) INFO: The training was finished at 2 ep\n"


@pytest.fixture
def experiment(tmp_path):
    """Experiment with 20 updates, in a recipe's folder."""
    folder = tmp_path / "exp" / "ssl_train_birq_raw"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONF))
    write_log(folder, 25.5)
    return folder


def write_log(folder, perplexity, *more):
    lines = [LINE.format(n, 10 * n + 1, 10 * n + 10, perplexity) for n in range(2)]
    (folder / "train.log").write_text("".join([*lines, *more]))


@pytest.mark.parametrize(
    "more, quiet, word",
    [
        ([], 0, RUNNING),
        ([], 590, RUNNING),
        ([], 610, STOPPED),
        ([LINE.format(9, 21, 30, 25.0)], 610, RUNNING),  # 8 minutes between lines
        # Half an hour between two of the first lines
        ([LINE.format(x, 21, 30, 25.0) for x in [30, *[31] * 20]], 610, STOPPED),
        ([END, "# Ended (code 0) at Thu\n"], 9999, DONE),
        ([END], 9999, DONE),  # without run.pl
        # Resumed after its end
        (["WARNING: The training has already reached at max_epoch: 3\n"], 9999, DONE),
        (["# Ended (code 0) at Thu\n"], 9999, DONE),
        (["# Ended (code 1) at Thu\n"], 0, FAILED),
        (["# Ended (code 85) at Thu\n"], 0, STOPPED),
        (["# Finished at Thu Nov 26 2026 with status 0\n"], 9999, DONE),
        (["# Finished at Thu Nov 26 2026 with status 1\n"], 0, FAILED),
        (["# Finished at Thu Nov 26 2026 with status 85\n"], 0, STOPPED),
        ([END, "# Ended (code 1) at Thu\n"], 0, FAILED),
    ],
)
def test_states(experiment, more, quiet, word):
    write_log(experiment, 25.5, *more)
    assert read_state(experiment, time.time() + quiet).word == word
    assert f"ssl_train_birq_raw: {word}, last line" in describe(
        experiment, time.time() + quiet
    )


def test_a_running_training(experiment, capsys):
    status.main([str(experiment)])
    said = capsys.readouterr().out
    assert "updates     20 of 200 (10 %), about 1 min left" in said
    assert "loss        9.500 (first 9.500)" in said
    assert [line.split() for line in said.splitlines() if "anchor" in line] == [
        ["anchor", "9.07", "12.5", "%", "25.50", "-", "2.50"]
    ]
    assert "collapse    no\n" in said and "checkpoint  none; ESPnet writes" in said
    (experiment / "checkpoint.pth").write_bytes(b"")
    os.utime(experiment / "checkpoint.pth", (0, time.time() - 7200))
    assert "checkpoint  checkpoint.pth, 2 h 0 min old" in describe(experiment)


def test_an_objective_that_has_stopped(experiment):
    later = LINE.format(5, 21, 30, 99.0).replace("_anchor", "_units")
    write_log(experiment, 25.5, later)
    lines = [re.split(r"\s{2,}", x.strip()) for x in describe(experiment).splitlines()]
    rows = {line[0]: line[1:] for line in lines}
    assert rows["anchor, until 20"][2] == "25.50"
    assert rows["units"][2] == "99.00"


def test_a_collapse(experiment):
    assert COLLAPSED == FEWEST
    write_log(experiment, 1.2)
    assert "collapse    yes: anchor (label perplexity 1.2)" in describe(experiment)
    warning = (
        "[h] 2026-11-21 05:03:00,1 (collapse:99) WARNING: objective 'enhanced' has "
    )
    write_log(experiment, 25.5, warning + "collapsed: codebook ...\n")
    assert "no, but the log has warned of enhanced" in describe(experiment)


@pytest.mark.parametrize(
    "line",
    [
        "ssl_train: error: checkpoint.pth: is cut short; move it away",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        "Killed",
    ],
)
def test_the_last_error(experiment, line):
    trace = "RuntimeError: an earlier one\nTraceback (most recent call last):\n"
    write_log(experiment, 25.5, trace, line + "\n", "# Ended (code 1) at Thu\n")
    assert f"last error  {line}\n" in describe(experiment)


def test_stages(experiment, tmp_path):
    """Stages recorded by the recipe, with paths relative to its folder."""
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        lists = {}
        for name in ("data/train", "dump/raw/org/train", "dump/raw/train"):
            os.makedirs(name)
            lists[name] = f"{name}/wav.scp"
            open(lists[name], "w").write("u1 u1.wav\n")
        os.makedirs("exp/ssl_stats_raw/train")
        open("exp/ssl_stats_raw/train/speech_shape", "w").write("u1 9\n")

        def say():
            return describe(experiment).splitlines()[-1]

        assert (
            "6 statistics: not finished; 7 training: running; 8 pack: not run" in say()
        )
        stats = tmp_path / "exp/ssl_stats_raw/train"
        write_stamp(experiment, ["exp/ssl_stats_raw/train/speech_shape"])
        write_stamp(stats, [lists["dump/raw/train"]])
        assert "4 length filter: not finished; 6 statistics: done" in say()
        made = tmp_path / "dump/raw/train"
        write_stamp(made, [lists["dump/raw/org/train"]])
        write_stamp(tmp_path / "dump/raw/org/train", [lists["data/train"]])
        (experiment / "m.zip").write_bytes(b"")
        write_stamp(experiment / "m.zip", ["x"])
        expected = (
            "  stages      1 data, 3 format, 4 length filter, 6 statistics: done; "
        )
        expected += "7 training: running; 8 pack: done"
        assert say() == expected
    finally:
        os.chdir(here)
    assert describe(experiment).splitlines()[-1] == expected  # from any folder


def test_what_is_no_experiment(tmp_path, experiment, capsys):
    """The others are shown nevertheless."""
    for folder in (tmp_path / "nope", tmp_path):
        with pytest.raises(SystemExit) as stopped:
            status.main([str(folder), str(experiment)])
        said = capsys.readouterr()
        assert stopped.value.code == 1
        assert f"error: {folder}/train.log: no such file; run the training" in said.err
        assert "ssl_train_birq_raw" in said.out
    (experiment / "train.log").write_text("ssl_train: error: no such file\n")
    said = describe(experiment)
    assert "updates     none yet" in said and "last error  ssl_train: error: no" in said


@pytest.mark.parametrize("options", [[], ["--brief"]])
def test_a_configuration_that_is_missing_or_none(tmp_path, experiment, capsys, options):
    """The others are shown nevertheless, and without it what the log tells."""
    other = tmp_path / "exp" / "other"
    shutil.copytree(experiment, other)
    (other / "config.yaml").unlink()
    status.main([*options, str(other), str(experiment)])
    said = capsys.readouterr().out
    assert said.index("other") < said.index("ssl_train_birq_raw")
    if options:
        assert "other: update 20, loss 9.50\n" in said
    else:
        assert "  updates     20\n" in said and "config.yaml missing; copy it" in said
    (other / "config.yaml").write_text("- no options\n")
    with pytest.raises(SystemExit) as stopped:
        status.main([*options, str(other), str(experiment)])
    said = capsys.readouterr()
    assert stopped.value.code == 1 and "ssl_train_birq_raw" in said.out
    assert said.err == (
        f"status: error: {other}/config.yaml: has no training options; copy it again\n"
    )
