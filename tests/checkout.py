"""Copies of the project to run recipes in, and a function to run commands there."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GENERATED = shutil.ignore_patterns("data", "dump", "exp", "downloads", "*.log")


def copy_checkout(top: Path, espnet: Path | None = None) -> Path:
    """Copy egs2/, conf/ and local/; link the package, and an ESPnet tree if given."""
    for folder in ("egs2", "conf", "local"):
        shutil.copytree(ROOT / folder, top / folder, symlinks=True, ignore=GENERATED)
    (top / "espnet2_birq").symlink_to(ROOT / "espnet2_birq")
    if espnet is not None:
        (top / "tools").mkdir()
        (top / "tools" / "espnet").symlink_to(espnet.resolve())
    return top


def run(
    command: Sequence[str], cwd: Path, check: bool = True, more_path: Sequence = ()
) -> subprocess.CompletedProcess:
    """Run a command with this Python first on the PATH; show its output if it fails."""
    path = [Path(sys.executable).parent, os.environ["PATH"], *more_path]
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": ":".join(map(str, path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if check and done.returncode:
        pytest.fail(
            f"{command} in {cwd}: exit {done.returncode}\n{done.stdout[-6000:]}"
        )
    return done
