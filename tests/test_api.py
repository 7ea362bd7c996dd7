"""Models by file, folder, zip and hub name, and the README's lines."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from checkout import ROOT
from planted import OBJECTIVES, RATE, write_experiment

from espnet2_birq.api import load
from espnet2_birq.config import averaged_model
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.loading import find_model
from espnet2_birq.tasks.ssl import SSLTask

AVERAGE = "valid.total_count.ave.pth"


@pytest.fixture(scope="module")
def exp(tmp_path_factory):
    """Experiment as ESPnet leaves it."""
    folder = tmp_path_factory.mktemp("top") / "exp" / "ssl_train_birq_raw"
    criterion = [["valid", "total_count", "max"]]
    model = write_experiment(
        folder, SSLTask, objectives=OBJECTIVES, best_model_criterion=criterion
    )
    model.rename(folder / "8epoch.pth")
    (folder / "given.yaml").unlink()
    torch.save({}, folder / "checkpoint.pth")
    for name, target in (
        ("valid.total_count.ave_1best.pth", "8epoch.pth"),
        (AVERAGE, "valid.total_count.ave_1best.pth"),
        ("valid.total_count.best.pth", "8epoch.pth"),
        ("latest.pth", "8epoch.pth"),
    ):
        (folder / name).symlink_to(target)
    return folder


def test_the_model_of_a_folder(exp, tmp_path):
    assert find_model(exp) == exp / AVERAGE
    assert find_model(exp.parents[1]) == exp / AVERAGE
    copy = shutil.copytree(exp, tmp_path / "copy", symlinks=True)
    for name in (AVERAGE, "valid.total_count.best.pth", "latest.pth"):
        assert find_model(copy).name == name
        (copy / name).unlink()
    (copy / "valid.total_count.ave_1best.pth").unlink()
    assert find_model(copy).name == "8epoch.pth"
    shutil.copy(exp / "8epoch.pth", copy / "7epoch.pth")
    with pytest.raises(ConfigError, match="has 2 models .*7epoch.pth, 8epoch.pth"):
        load(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has 0 models .*; is it trained"):
        load(tmp_path / "empty")


def test_the_model_of_a_folder_with_several_criteria(exp, tmp_path):
    copy = shutil.copytree(exp, tmp_path / "copy", symlinks=True)
    criteria = "[[train, loss, min], [valid, loss, min], [valid, total_count, max]]"
    options = yaml.safe_load((copy / "config.yaml").read_text())
    options["best_model_criterion"] = yaml.safe_load(criteria)
    (copy / "config.yaml").write_text(yaml.safe_dump(options))
    for part in ("train", "valid"):
        (copy / f"{part}.loss.ave.pth").symlink_to("8epoch.pth")
    assert find_model(copy).name == averaged_model(copy / "config.yaml")
    assert find_model(copy).name == "valid.loss.ave.pth"
    (copy / "valid.loss.ave.pth").unlink()
    assert find_model(copy).name == AVERAGE


def pack(exp, out):
    """Pack like stage 8 of birq.sh."""
    command = [sys.executable, "-m", "espnet2.bin.pack", "ssl", "--outpath", str(out)]
    command += ["--ssl_train_config", "exp/ssl_train_birq_raw/config.yaml"]
    command += ["--ssl_model_file", f"exp/ssl_train_birq_raw/{AVERAGE}"]
    subprocess.run(command, cwd=exp.parents[1], check=True, capture_output=True)


def test_folder_zip_and_hub_are_the_same_model(exp, tmp_path):
    wave = np.random.default_rng(0).standard_normal((1, RATE)).astype("float32")
    expected = load(exp / AVERAGE)(wave)[0]
    assert torch.equal(load(exp)(wave)[0], expected)
    pack(exp, tmp_path / "model.zip")
    packed = load(tmp_path / "model.zip", window=30.0)
    assert torch.equal(packed(wave)[0], expected) and packed.window == 30.0
    # A model in huggingface_hub's cache needs no network.
    kept = tmp_path / "cache" / "models--me--birq"
    snapshot = kept / "snapshots" / "abc"
    shutil.unpack_archive(tmp_path / "model.zip", snapshot)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    lines = "import sys, torch; from espnet2_birq.api import load; wave, out = "
    lines += (
        "torch.load('wave.pt'); assert torch.equal(load(sys.argv[1])(wave)[0], out)"
    )
    torch.save([torch.from_numpy(wave), expected], tmp_path / "wave.pt")
    env = {**os.environ, "HF_HUB_CACHE": str(kept.parent), "HF_HUB_OFFLINE": "1"}
    for name, status, words in (
        ("me/birq", 0, ""),
        ("me/other", 1, "ConfigError: me/other: no such file or folder here, and not"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", lines, name],
            cwd=tmp_path,
            env={**env, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode, words in done.stderr) == (status, True), done.stderr


def test_espnets_downloader_unpacks_it(exp, tmp_path):
    zoo = pytest.importorskip("espnet_model_zoo.downloader")
    pack(exp, tmp_path / "model.zip")
    files = zoo.ModelDownloader(str(tmp_path / "cache")).download_and_unpack(
        str(tmp_path / "model.zip")
    )
    wave = np.random.default_rng(0).standard_normal((1, RATE)).astype("float32")
    assert torch.equal(load(files["ssl_model_file"])(wave)[0], load(exp)(wave)[0])


def test_lines_of_the_readme(exp, tmp_path):
    """Run the README's lines in a fresh Python in another folder."""
    text = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(from espnet2_birq.api.*?)```", text, re.DOTALL)
    shutil.copytree(exp.parent, tmp_path / "exp", symlinks=True)
    noise = np.random.default_rng(0).standard_normal(RATE)
    soundfile.write(tmp_path / "speech.flac", 0.1 * noise, RATE)
    lines += "print(len(features), *features[0].shape, *codes['anchor'].shape)\n"
    done = subprocess.run(
        [sys.executable, "-c", lines],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "1", "24", "16", "1", "2", "24"]
