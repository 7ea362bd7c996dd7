"""self_train.sh: finished rounds, and rounds whose input has changed since."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "egs2/TEMPLATE/asr1/self_train.sh"


@pytest.fixture
def recipe(tmp_path):
    """Recipe's folder with a fine-tuned model, two sets, and a finished round."""
    (tmp_path / "path.sh").touch()
    (tmp_path / "conf.yaml").write_text("max_epoch: 3\n")
    for name in ("few", "many"):
        folder = tmp_path / "dump" / "raw" / name
        folder.mkdir(parents=True)
        for file in ("wav.scp", "text"):
            (folder / file).write_text("a b\n")
    for tag in ("x", "x_st1"):
        (tmp_path / "exp" / f"asr_{tag}").mkdir(parents=True)
        (tmp_path / "exp" / f"asr_{tag}" / "m.pth").write_text(tag)
    done = tmp_path / "exp" / "asr_x_st1" / "self_train.done"
    done.touch()
    stamp = [sys.executable, "-m", "espnet2_birq.bin.stamp", "write"]
    stamp += ["exp/asr_x_st1/self_train.done"]
    stamp += ["exp/asr_x/m.pth", "dump/raw/few/wav.scp", "dump/raw/few/text"]
    stamp += ["dump/raw/many/wav.scp", "--option", "keep=0.8"]
    subprocess.run(stamp, cwd=tmp_path, env=environment(), check=True)
    return tmp_path


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def run(recipe, *options, script=SCRIPT):
    command = [script, "--asr_tag", "x", "--train_set", "few", "--unlabelled_set"]
    command += [
        "many",
        "--asr_config",
        "conf.yaml",
        "--inference_asr_model",
        "m.pth",
        *options,
    ]
    return subprocess.run(
        command, cwd=recipe, env=environment(), capture_output=True, text=True
    )


def test_a_finished_round_is_skipped(recipe):
    done = run(recipe)
    assert done.returncode == 0, done.stderr
    assert "round 1: already done (exp/asr_x_st1)" in done.stdout


def test_another_folder_of_formatted_sets(recipe):
    found = run(recipe, "--dumpdir", "other")
    assert found.returncode != 0 and "no other/raw/many/wav.scp" in found.stderr


@pytest.mark.parametrize("what", ["model", "share"])
def test_what_has_changed_is_an_error(recipe, what):
    if what == "model":
        (recipe / "exp" / "asr_x" / "m.pth").write_text("another")
    found = run(recipe, *(["--keep", "0.5"] if what == "share" else []))
    assert found.returncode != 0
    assert "remove exp/asr_x_st1 to repeat round 1" in found.stderr


SETTINGS = ["--ssl_model", "ssl.pth", "--test_sets", "a b", "--asr_args", "--seed 1"]
SETTINGS += ["--g2p", "pyopenjtalk", "--local_data_opts", "--a b"]
TUNE = """#!/bin/bash
echo "$@" >> tuned
while [ $# -gt 0 ]; do printf -v "${1#--}" %s "$2"; shift 2; done
mkdir -p "$expdir/asr_$asr_tag" && echo new > "$expdir/asr_$asr_tag/m.pth"
"""


@pytest.fixture
def finished(recipe):
    """The recipe after a round, by stand-ins of Python commands and finetune.sh."""
    for folder in ("egs2/TEMPLATE/asr1", "bin"):
        (recipe / folder).mkdir(parents=True)
    (recipe / "local").symlink_to(ROOT / "local")
    shutil.copy(SCRIPT, recipe / "egs2/TEMPLATE/asr1")
    tune = recipe / "egs2/TEMPLATE/asr1/finetune.sh"
    tune.write_text(TUNE)
    python = recipe / "bin/python3"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *bin.stamp*) exec {sys.executable} "$@" ;; esac\n'
    )
    for path in (tune, python):
        path.chmod(0o755)
    (recipe / "path.sh").write_text(f"PATH={recipe}/bin:$PATH\n")
    for old in (recipe / "exp/asr_x_st1").iterdir():
        old.unlink()
    done = run(recipe, *SETTINGS, script=recipe / tune.parent / SCRIPT.name)
    assert done.returncode == 0, done.stderr
    tuned = (recipe / "tuned").read_text()
    assert "--ssl_model ssl.pth" in tuned and "--test_sets a b" in tuned
    assert "--asr_args --seed 1" in tuned
    assert "--g2p pyopenjtalk" in tuned and "--local_data_opts --a b" in tuned
    return recipe


@pytest.mark.parametrize("mixed", ["", "_mixed"])
def test_the_language_model_is_that_of_the_labelled_set(finished, mixed):
    (finished / "exp/asr_x_st1/self_train.done").unlink()
    options = [*SETTINGS, "--decode_lm", "train"]
    options += ["--lm_interpolate", "books.txt"] if mixed else []
    script = finished / "egs2/TEMPLATE/asr1" / SCRIPT.name
    done = run(finished, *options, script=script)
    lm = f"exp/ngram/few{mixed}.arpa"
    assert done.returncode == 1 and f"--decode_lm train: no {lm}; fine" in done.stderr
    (finished / "exp/ngram").mkdir()
    (finished / lm).touch()
    assert run(finished, *options, script=script).returncode == 0
    tuned = (finished / "tuned").read_text().splitlines()[-1].split()
    assert (
        tuned[tuned.index("--decode_lm") + 1] == lm and "--lm_interpolate" not in tuned
    )


@pytest.mark.parametrize(
    "options, words",
    [
        ([], None),
        (
            ["--ssl_model", "other.pth"],
            "ssl_model ssl.pth, now there is ssl_model other",
        ),
        (["--test_sets", "a b c"], "test_sets a b, now there is test_sets a b c"),
        (["--valid_set", "other"], "now there is valid_set other"),
        (["--cleaner", "tacotron"], "was made with no cleaner, now there is cleaner"),
        (
            ["--token_type", "char"],
            "was made with no token_type, now there is token_type",
        ),
        (["--asr_args", ""], "--seed 1, now there is no --seed"),
        (["conf.yaml"], "max_epoch 3, now there is max_epoch 4"),
    ],
)
def test_a_round_with_other_options(finished, options, words):
    """A round is finished only for the options that it was made with."""
    if options == ["conf.yaml"]:
        (finished / options.pop()).write_text("max_epoch: 4\n")
    found = run(finished, *SETTINGS, *options)
    assert (found.returncode == 0) is (words is None), found.stderr
    if words is None:
        assert "round 1: already done" in found.stdout
    else:
        assert words in found.stderr and len(found.stderr.splitlines()) == 1
        assert "remove exp/asr_x_st1 to repeat round 1" in found.stderr


def test_rounds_of_several_experiments_write_to_separate_folders(finished):
    """They may run at the same time."""
    for expdir, tag in (("exp", "y"), ("exp/a", "x"), ("exp/a", "y")):
        folder = finished / expdir / f"asr_{tag}"
        folder.mkdir(parents=True)
        (folder / "m.pth").touch()
        script = finished / "egs2/TEMPLATE/asr1" / SCRIPT.name
        done = run(
            finished, *SETTINGS, "--expdir", expdir, "--asr_tag", tag, script=script
        )
        assert done.returncode == 0, done.stderr
    for option in ("--train_set", "--asr_stats_dir"):
        made = re.findall(f"{option} (\\S+)", (finished / "tuned").read_text())
        assert len(set(made)) == 4, made


@pytest.mark.parametrize("option", ["--stage", "--stop_stage"])
def test_a_round_has_its_own_stages(recipe, option):
    found = run(recipe, option, "1")
    assert found.returncode == 1 and "leave them out" in found.stderr
    assert "--stage, --stop_stage: " in found.stderr


def test_a_round_has_its_own_folder(recipe):
    found = run(recipe, "--asr_exp", "exp/mine")
    assert (
        found.returncode == 1
        and "--asr_exp: rounds have EXPDIR/asr_TAG_stN" in found.stderr
    )


def test_nothing_to_start_from(recipe):
    (recipe / "exp" / "asr_x" / "m.pth").unlink()
    found = run(recipe)
    assert found.returncode != 0 and "fine-tune first" in found.stderr
