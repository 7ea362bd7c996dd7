"""Locks against other processes."""

import subprocess
import sys

import pytest

from espnet2_birq.datadir.locking import locked
from espnet2_birq.errors import DataError

# A worker of a killed command would otherwise keep its lock, maybe forever.
FORKED = """
import multiprocessing, os, sys
from pathlib import Path
from espnet2_birq.datadir.locking import locked

def exit_if_held(path, descriptor):
    try:
        held = os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        held = False
    sys.exit(7 if held else 0)

path = sys.argv[1]
with locked(Path(path)) as descriptor:
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=exit_if_held, args=(path, descriptor))
    worker.start()
    worker.join()
    if worker.exitcode == 0:
        exit_if_held(path, descriptor)
"""


def test_a_lock_can_be_refused_and_taken_again(tmp_path):
    path = tmp_path / "new" / "lock"

    def refuse():
        raise DataError("in use")

    with locked(path), pytest.raises(DataError, match="in use"):
        with locked(path, refuse):
            pytest.fail("locked twice")
    with locked(path, refuse):
        pass


def test_forked_workers_do_not_keep_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", FORKED, str(tmp_path / "lock")])
    assert done.returncode == 7
