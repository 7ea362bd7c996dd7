"""birq.sh with stand-ins for the trainings: what it does before and after them."""

import sys

import pytest
import yaml
from checkout import copy_checkout, run

from espnet2_birq.datadir.locking import locked

# A resolved configuration instead of a check.
PYTHON = """#!/bin/bash
case "$*" in
*bin.ssl_train*--dry_run*)
    while [ $# -gt 0 ]; do
        [ "$1" != --output_dir ] || mkdir -p "$2"
        [ "$1" != --output_dir ] || cp resolved.yaml "$2/config.yaml"
        shift
    done ;;
*bin.launch*) . ./ended.sh ;;
*bin.status*) ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, an4_tarball):
    """egs2/own/ssl1 of a copy after stage 6."""
    top = copy_checkout(tmp_path_factory.mktemp("stages"), an4_tarball.parents[3])
    folder = top / "egs2/own/ssl1"
    (folder / "python").write_text(PYTHON.format(python=sys.executable))
    (folder / "python").chmod(0o755)
    (folder / "resolved.yaml").write_text(
        yaml.safe_dump({"frontend": "x", "frontend_conf": {}, "max_epoch": 3})
    )
    (folder / "c.yaml").write_text("max_epoch: 3\n")
    for name in ("train", "valid"):
        data = folder / "dump/raw" / name
        data.mkdir(parents=True)
        (data / "wav.scp").write_text("u u.flac\n")
        (data / "utt2num_samples").write_text("u 16000\n")
        (data / "feats_type").write_text("raw\n")
    stages(folder, "--stage", "6", "--stop_stage", "6")
    return folder


def stages(recipe, *options, check=True):
    command = ["./birq.sh", "--train_set", "train", "--valid_set", "valid"]
    command += ["--train_config", "c.yaml", "--python", "./python", "--ngpu", "0"]
    return run([*command, *options], recipe, check)


def test_an_average_is_not_the_result_of_more_epochs(recipe):
    """A training goes on, and is killed: there is no model to pack or to label with."""
    exp = recipe / "exp/ssl_more"
    exp.mkdir()
    (exp / "latest.pth").symlink_to("3epoch.pth")
    model = exp / "valid.total_count.ave.pth"
    model.write_text("of 3 epochs")
    (recipe / "ended.sh").write_text("true")
    options = ["--ssl_tag", "more", "--stage", "7"]
    stages(recipe, *options)
    assert model.read_text() == "of 3 epochs"
    resolved = recipe / "resolved.yaml"
    before = resolved.read_text()
    resolved.write_text(before.replace("3", "4"))
    (recipe / "ended.sh").write_text("kill -9 $PPID")
    assert stages(recipe, *options, check=False).returncode != 0
    pack = [*options[:2], "--stage", "8", "--skip_packing", "false"]
    done = stages(recipe, *pack, check=False)
    resolved.write_text(before)
    assert done.returncode == 1 and "run stage 7 first (--stage 7)" in done.stdout
    assert (exp / "averages_before" / model.name).read_text() == "of 3 epochs"


def test_a_start_that_fails_is_no_stop_by_a_signal(recipe):
    """Whatever the log of an earlier start says."""
    (recipe / "exp/ssl_stop").mkdir()
    log = "echo '# Ended (code 85)' > exp/ssl_stop/train.log; exit 1"
    for script, code, words in (
        (log, 85, "Stopped by a signal"),
        ("echo no such GPU; exit 1", 1, "not started: the message is above"),
        (log.replace("85", "1"), 1, "see exp/ssl_stop/train.log"),
    ):
        (recipe / "ended.sh").write_text(script)
        done = stages(recipe, "--ssl_tag", "stop", "--stage", "7", check=False)
        assert done.returncode == code and words in done.stdout, done.stdout


def test_audio_that_a_training_reads_is_kept(recipe):
    exp = recipe / "exp/ssl_busy"
    exp.mkdir()
    read = "-   - dump/raw/train/wav.scp\n    - speech\n"
    (exp / "config.yaml").write_text(read)
    with locked(exp / ".lock"):
        done = stages(recipe, "--stage", "3", check=False)
        assert done.returncode == 1 and (recipe / "dump/raw/train/wav.scp").exists()
        assert "dump/raw/train: the training in exp/ssl_busy reads files" in done.stdout
        assert done.stdout.endswith("or begin with --stage 7\n")
    joint = recipe.parent / "asr1/exp/asr_joint"
    joint.mkdir(parents=True)
    (joint / "config.yaml").write_text("-   - ../ssl1/dump/raw/train/wav.scp\n")
    with locked(joint / ".lock_finetune"):
        done = stages(recipe, "--stage", "3", check=False)
        assert "the training in ../asr1/exp/asr_joint reads files in" in done.stdout
    done = stages(recipe, "--stage", "3", check=False)
    assert "no data/train/wav.scp: run stage 1 first" in done.stdout


def test_two_preparations_at_once(recipe):
    """The second in a folder is refused, and its files stay."""
    for stage, folder in (("3", "dump"), ("6", "exp/ssl_stats_raw")):
        with locked(recipe / folder / ".lock"):
            done = stages(recipe, "--stage", stage, "--stop_stage", stage, check=False)
        assert done.returncode == 1
        assert f"error: {folder}: another command is preparing data" in done.stdout
        assert done.stdout.endswith("and begin with --stage 7\n")
        assert (recipe / "exp/ssl_stats_raw/train/made_from.json").exists()
    stages(recipe, "--stage", "6", "--stop_stage", "6")


def test_parts_of_lists_that_a_training_reads_are_kept(recipe):
    exp, part = recipe / "exp/ssl_parts", recipe / "exp/ssl_stats_raw/splits2/wav.scp"
    exp.mkdir()
    part.mkdir(parents=True)
    (exp / "config.yaml").write_text("-   - exp/ssl_stats_raw/splits2/wav.scp\n")
    options = ["--stage", "6", "--stop_stage", "6"]
    with locked(exp / ".lock"):
        done = stages(recipe, *options, check=False)
        assert done.returncode == 1 and part.exists()
        assert "exp/ssl_stats_raw/splits2: the training in exp/ssl_parts" in done.stdout
    stages(recipe, *options)
    assert not part.exists()


def test_labels_that_a_training_reads_are_kept(recipe):
    exp = recipe / "exp/ssl_labels"
    exp.mkdir()
    (exp / "config.yaml").write_text("-   - dump/labels/c_raw_iter1/train/labels.scp\n")
    iteration = "--train_start_iter 1 --train_stop_iter 1".split()
    with locked(exp / ".lock"):
        done = stages(recipe, *iteration, "--stage", "5", check=False)
    assert done.returncode == 1
    assert "the training in exp/ssl_labels reads files in it" in done.stdout
    assert done.stdout.endswith("begin with --stage 7 --train_start_iter 1\n")
    with locked(recipe / "dump/labels/c_raw_iter1/.lock"):
        done = stages(recipe, *iteration, "--stage", "5", check=False)
    assert "another command is preparing data here" in done.stdout


def test_labels_that_are_missing(recipe):
    iteration = "--train_start_iter 1 --train_stop_iter 1 --relabel_config c.yaml"
    done = stages(recipe, *iteration.split(), "--stage", "7", check=False)
    assert done.returncode == 1
    assert "labels.scp: run stage 5 --train_start_iter 1 first" in done.stdout
