"""Provenance of a model: a line in its experiment's runs.jsonl for each training start.

config.yaml only holds the options of the last start, and nothing about the code.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import espnet2_birq
from espnet2_birq.errors import StorageError
from espnet2_birq.pretraining.ranks import gather, rank
from espnet2_birq.tasks.lists import describe_lists

RUNS = "runs.jsonl"
PACKAGES = ("espnet", "torchaudio", "numpy", "soundfile", "kaldiio")
GIT_SECONDS = 20


def record_run(args: argparse.Namespace) -> None:
    """Add a line to runs.jsonl; all ranks take part.

    Args:
        args: ESPnet's options; the process group must be initialised.

    Raises:
        StorageError: The file cannot be written.
    """
    machines = gather(_machine())
    if rank() > 0:
        return
    run = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "versions": versions(),
        "git": git_state(Path(espnet2_birq.__file__).parent),
        "seed": args.seed,
        "options": vars(args),
        "lists": {
            path: content
            for kind in ("train", "valid", "unlabelled")
            for path, content in describe_lists(args, kind).items()
        },
        "machines": machines,
    }
    path = Path(args.output_dir, RUNS)
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(run, default=str) + "\n")
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); make room, and repeat the "
            "command"
        ) from error


def versions() -> dict[str, str | None]:
    """Return the versions of Python, of this package and of its main dependencies."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "espnet2_birq": espnet2_birq.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit and the changed files of the checkout that a folder is part of.

    Returns:
        ``commit`` and ``changed`` (lines of `git status --porcelain`); None without git,
        or if git does not track the code, e.g. of an installed package.
    """
    if not shutil.which("git"):
        return None
    try:
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changed = _git(folder, "status", "--porcelain").splitlines()
    except (subprocess.SubprocessError, OSError):
        return None
    return {"commit": commit, "changed": changed}


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=GIT_SECONDS,
    )
    return done.stdout


def _machine() -> dict[str, Any]:
    """Describe where this rank runs."""
    device = "cpu"
    if torch.cuda.is_initialized():
        device = torch.cuda.get_device_name()
    return {
        "host": platform.node(),
        "device": device,
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
    }
