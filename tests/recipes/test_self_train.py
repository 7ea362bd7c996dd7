"""self_train.sh: finished rounds, and rounds whose input has changed since."""

import os
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
    stamp = [sys.executable, "-m", "espnet2_birq.bin.stamp", "write", str(done)]
    stamp += ["exp/asr_x/m.pth", "dump/raw/few/wav.scp", "dump/raw/few/text"]
    stamp += ["dump/raw/many/wav.scp", "--option", "keep=0.8"]
    subprocess.run(stamp, cwd=tmp_path, env=environment(), check=True)
    return tmp_path


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def run(recipe, *options):
    command = [SCRIPT, "--asr_tag", "x", "--train_set", "few", "--unlabelled_set"]
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


@pytest.mark.parametrize("what", ["model", "share"])
def test_what_has_changed_is_an_error(recipe, what):
    if what == "model":
        (recipe / "exp" / "asr_x" / "m.pth").write_text("another")
    found = run(recipe, *(["--keep", "0.5"] if what == "share" else []))
    assert found.returncode != 0
    assert "remove exp/asr_x_st1 to repeat round 1" in found.stderr


def test_nothing_to_start_from(recipe):
    (recipe / "exp" / "asr_x" / "m.pth").unlink()
    found = run(recipe)
    assert found.returncode != 0 and "fine-tune first" in found.stderr
