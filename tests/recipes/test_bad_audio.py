"""birq.sh with bad audio: it is reported before it is copied or used."""

import shutil

import numpy as np
import pytest
import soundfile
from checkout import copy_checkout, run

from espnet2_birq.datadir.kaldi import read_scp

FS = 16000


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, an4_tarball):
    top = copy_checkout(tmp_path_factory.mktemp("checkout"), an4_tarball.parents[3])
    return top / "egs2" / "own" / "ssl1"


@pytest.fixture
def sets(tmp_path):
    """Three utterances in a Kaldi data directory, and three in a formatted set."""
    for name in ("train", "valid"):
        folder = tmp_path / name
        folder.mkdir()
        scp = []
        for number in range(3):
            path = folder / f"{number}.flac"
            noise = np.random.default_rng(number).normal(0.0, 0.1, 2 * FS)
            soundfile.write(path, noise, FS)
            scp.append(f"u{number} {path}\n")
        (folder / "wav.scp").write_text("".join(scp))
        (folder / "utt2spk").write_text("u0 u0\nu1 u1\nu2 u2\n")
    (folder / "utt2num_samples").write_text("u0 32000\nu1 32000\nu2 32000\n")
    (folder / "feats_type").write_text("raw\n")
    return tmp_path


def birq(recipe, sets, *options, check=False):
    """Run stages 1 to 4 from scratch; return the output."""
    for folder in ("data", "dump", "exp"):
        shutil.rmtree(recipe / folder, ignore_errors=True)
    command = ["./run.sh", "--nj", "1", "--ngpu", "0", "--stop_stage", "4"]
    command += ["--train_set", str(sets / "train"), "--valid_set", str(sets / "valid")]
    done = run([*command, *options], recipe, check=check)
    assert check or done.returncode != 0
    assert "Traceback" not in done.stdout or "not formatted: " in done.stdout
    return done.stdout


def replace(path, old, new):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def stereo(path):
    soundfile.write(path, np.zeros((2 * FS, 2)), FS)
    return path


def test_several_channels_are_named_before_anything_is_copied(recipe, sets):
    path = stereo(sets / "train" / "1.flac")
    printed = birq(recipe, sets)
    assert "error: 1 x has 2 channels, wanted one; `sox FILE NEW remix 1`" in printed
    assert f"first: {path}" in printed
    assert not (recipe / "dump/raw/org").exists()


def test_several_channels_in_a_formatted_set(recipe, sets):
    path = stereo(sets / "valid" / "2.flac")
    printed = birq(recipe, sets)
    assert "has 2 channels, wanted one" in printed and f"first: {path}" in printed
    assert "Stage 3" not in printed


def later(sets, command):
    """Make a command that outputs good audio in the check, but not afterwards."""
    first = f"cat {sets}/train/1.flac"
    return f"if mkdir {sets}/once 2>/dev/null; then {first}; else {command}; fi |"


def test_the_command_that_fails_is_named(recipe, sets):
    command = later(sets, "echo no such tape >&2; exit 3")
    replace(sets / "train/wav.scp", f"{sets}/train/1.flac", command)
    printed = birq(recipe, sets)
    lines = [line for line in printed.splitlines() if "not formatted: " in line]
    assert len(lines) == 1 and f"not formatted: u1 if mkdir {sets}/once" in lines[0]
    assert "no such tape" in printed
    shutil.rmtree(sets / "once")
    (sets / "train/segments").write_text("u0 u0 0 2\nu1 u1 0.5 2\nu2 u1 0 0.5\n")
    replace(sets / "train/wav.scp", f"u2 {sets}/train/2.flac\n", "")
    printed = birq(recipe, sets)
    assert f"not formatted: u1 u1 u1 if mkdir {sets}/once" in printed


def test_what_commands_give_is_checked_when_it_is_there(recipe, sets):
    command = later(sets, f"cat {stereo(sets / 'two.flac')}")
    replace(sets / "train/wav.scp", f"{sets}/train/1.flac", command)
    printed = birq(recipe, sets)
    assert "has 2 channels, wanted one" in printed
    assert "first: " in printed and "/u1.flac" in printed
    assert not (recipe / "dump/raw/org/train/feats_type").exists()  # needed by stage 4


def test_segments_to_the_end_of_the_recording(recipe, sets):
    (sets / "train/segments").write_text("u0 u0 0 1\nu1 u0 1.25 -1\nu2 u1 0 1\n")
    replace(sets / "train/wav.scp", f"u2 {sets}/train/2.flac\n", "")
    birq(recipe, sets, check=True)
    lengths = read_scp(recipe / "dump/raw/train/utt2num_samples")
    assert lengths == {"u0": "16000", "u1": "12000", "u2": "16000"}
    printed = birq(recipe, sets, "--speed_perturb_factors", "0.9 1.0")
    assert "segments: u1 ends at -1" in printed and "write its end in sec" in printed


def test_too_short_to_train_on(recipe, sets):
    printed = birq(recipe, sets, "--min_wav_duration", "0.05")
    assert "--min_wav_duration 0.05: give at least 0.15" in printed
