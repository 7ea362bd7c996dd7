"""Each start of a training records its code, data and options in a line."""

import hashlib
import json
import platform
import shutil
import subprocess
from pathlib import Path

import torch
import yaml
from trainings import Training, write_data

import espnet2_birq
from espnet2_birq.tasks.provenance import git_state


def test_two_starts(tmp_path):
    write_data(tmp_path)
    training = Training(tmp_path, tmp_path / "exp", max_epoch=1, num_iters_per_epoch=4)
    assert training.run() == 0, training.text()[-2000:]
    assert training.run("--max_epoch", "2") == 0
    lines = (training.out / "runs.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["options"]["max_epoch"], second["options"]["max_epoch"]) == (1, 2)
    assert first["seed"] == 0
    assert first["versions"]["torch"] == torch.__version__
    assert first["versions"]["espnet2_birq"] == espnet2_birq.__version__
    (machine,) = first["machines"]
    assert machine["host"] == platform.node()
    assert machine["device"] == "cpu"
    content = (tmp_path / "wav.scp").read_bytes()
    described = first["lists"][str(tmp_path / "wav.scp")]
    assert described["sha256"] == hashlib.sha256(content).hexdigest()
    assert described["lines"] == 8
    # All options of config.yaml at that start.
    config = yaml.safe_load((training.out / "config.yaml").read_text())
    assert config["objectives"] == second["options"]["objectives"]


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a"]
    command = ["git", *who, *arguments]
    return subprocess.check_output(command, cwd=folder, text=True).strip()


def test_git(tmp_path):
    code = tmp_path / "repository" / "package"
    code.mkdir(parents=True)
    (code / "__init__.py").write_text("")
    assert git_state(code) is None
    git(code.parent, "init", "-q")
    assert git_state(code) is None  # a repository that lacks this code
    git(code.parent, "add", ".")
    git(code.parent, "commit", "-q", "-m", "x")
    commit = git(code, "rev-parse", "HEAD")
    assert git_state(code) == {"commit": commit, "changed": []}
    (code / "__init__.py").write_text("x = 1\n")
    assert git_state(code) == {"commit": commit, "changed": [" M package/__init__.py"]}


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert git_state(Path(espnet2_birq.__file__).parent) is None
