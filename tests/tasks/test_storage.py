"""Full disks, folders that cannot be written, truncated archives and checkpoints."""

import os
import shutil
import subprocess

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml
from trainings import Training, write_data

from espnet2_birq.errors import StorageError
from espnet2_birq.tasks.saving import KEPT_CONFIG, PROGRESS, kept_config, whole_saves


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with data and a training of one epoch."""
    top = tmp_path_factory.mktemp("storage")
    write_data(top)
    training = Training(top, top / "exp", max_epoch=1, num_iters_per_epoch=6)
    assert training.run() == 0, training.text()[-2000:]
    return top


def copy(trained, name, **changes):
    shutil.copytree(trained / "exp", trained / name, symlinks=True)
    changes = {"max_epoch": 2, "num_iters_per_epoch": 6, **changes}
    return Training(trained, trained / name, **changes)


def last_line(training):
    text = training.text()
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


def contents(folder):
    return {x.name: x.read_bytes() for x in folder.iterdir() if x.is_file()}


def test_a_full_disk(trained):
    """The previous state is kept, without partial files; with space, training resumes."""
    training = copy(trained, "full")
    before = contents(training.out)
    training.largest_file = len(before[PROGRESS]) // 2
    assert training.run("--save_updates", "1") == 1
    said = f"ssl_train: error: {training.out}/{PROGRESS}: cannot be written (File too"
    assert last_line(training).startswith(said)
    after = contents(training.out)
    for name in ("config.yaml", "runs.jsonl"):  # changed by --save_updates
        assert before.pop(name) != after.pop(name)
    assert after == before
    training.largest_file = None
    assert training.run() == 0
    assert (training.out / "2epoch.pth").exists()


@pytest.fixture
def small_disk(tmp_path):
    """Separate file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_without_room(trained, small_disk):
    """As above, but with a full disk instead of a limit of the process."""
    training = copy(trained, "on_disk")
    shutil.copytree(training.out, small_disk / "exp", symlinks=True)
    training.found = [
        f"{small_disk}/exp" if x == str(training.out) else x for x in training.found
    ]
    training.out = small_disk / "exp"
    before = contents(training.out)
    room = len(before[PROGRESS]) // 2
    used = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(used.f_bavail * used.f_frsize - room))
    assert training.run("--save_updates", "1") == 1
    said = f"ssl_train: error: {training.out}/{PROGRESS}: cannot be written (No space"
    assert last_line(training).startswith(said)
    after = contents(training.out)
    for name in ("config.yaml", "runs.jsonl"):
        assert before.pop(name) != after.pop(name)
    assert after == before
    filler.unlink()
    assert training.run() == 0
    assert (training.out / "2epoch.pth").exists()


def test_a_disk_too_full_for_a_configuration(trained):
    training = copy(trained, "fuller")
    before = contents(training.out)
    training.largest_file = 1000
    training.log = trained / "fuller.log"
    assert training.run() == 1
    assert contents(training.out) == before


def test_a_folder_that_is_none(trained):
    (trained / "file").write_text("x")
    training = Training(trained, trained / "file" / "exp", max_epoch=1)
    assert training.run() == 1
    assert last_line(training).startswith("ssl_train: error: ")
    assert "Not a directory" in last_line(training)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_checkpoint_cut_short(trained, size):
    training = copy(trained, f"checkpoint{size}")
    path = training.out / "checkpoint.pth"
    path.write_bytes(path.read_bytes()[:size])
    before = contents(training.out)
    assert training.run() == 1
    assert f"{path}: is " in last_line(training)
    assert "training cannot be resumed" in last_line(training)
    assert contents(training.out) == before


def test_an_empty_state(trained):
    training = copy(trained, "empty")
    (training.out / PROGRESS).write_bytes(b"")
    assert training.run() == 0
    assert f"{PROGRESS}: is empty: what was learned since the end" in training.text()


def test_an_archive_cut_short(trained, tmp_path):
    """Utterances of a truncated or missing archive count as bad audio."""
    for path in trained.glob("u*.wav"):
        shutil.copy(path, tmp_path)
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp") as writer:
        for number in range(8):
            samples, rate = soundfile.read(tmp_path / f"u{number}.wav", dtype="int16")
            writer(f"u{number}", (rate, samples.astype(np.int16)))
    training = Training(trained, tmp_path / "exp", max_epoch=1, max_bad_audio=0.02)
    training.log = tmp_path / "log"
    training.found = [
        x.replace(
            f"{trained}/wav.scp,speech,sound", f"{tmp_path}/a.scp,speech,kaldi_ark"
        )
        for x in training.found
    ]
    whole = (tmp_path / "a.ark").read_bytes()
    (tmp_path / "a.ark").write_bytes(whole[: len(whole) // 2])
    assert training.run() == 1
    assert "of the" in last_line(training) and "bad_audio" in last_line(training)
    assert training.run("--max_bad_audio", "0.9") == 0
    listed = (tmp_path / "exp" / "bad_audio").read_text()
    assert "u7 not readable" in listed and "u0 " not in listed


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    path = tmp_path / "no" / "model.pth"
    with whole_saves(), pytest.raises(StorageError, match="cannot be written"):
        torch.save({}, path)
    path = tmp_path / "model.pth"
    path.write_bytes(b"before")
    with whole_saves(), pytest.raises(TypeError):
        torch.save({"x": (x for x in ())}, path)
    assert contents(tmp_path) == {"model.pth": b"before"}


def test_the_configuration_stays_readable(trained):
    config = yaml.safe_load((trained / "exp" / "config.yaml").read_text())
    assert config["max_epoch"] == 1
    assert not (trained / "exp" / ".config.yaml.before").exists()


def test_a_configuration_that_a_kill_has_cut_short(tmp_path):
    """The kept one is still that of the models, whatever there is beside it."""
    config, kept = tmp_path / "config.yaml", tmp_path / KEPT_CONFIG
    config.write_text("seed")
    kept.write_text("seed: 0")
    with pytest.raises(KeyboardInterrupt), kept_config(tmp_path, first=True):
        raise KeyboardInterrupt
    assert config.read_text() == "seed: 0" and not kept.exists()
