"""Worker processes of a command."""

import os
import subprocess
import sys
import time

import pytest

from espnet2_birq.datadir.workers import worker_pool
from espnet2_birq.errors import DataError

# Tells its workers' numbers when all of them work, and is killed.
KILLED = """
import os, signal, sys, time
from espnet2_birq.datadir.workers import worker_pool

def work(number):
    os.write(1, b"%d\\n" % os.getpid())  # at once
    time.sleep(600)

if __name__ == "__main__":
    with worker_pool(2, sys.argv[1]) as pool:
        for number in range(6):
            pool.submit(work, number)
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def begin(value):
    os.environ["OF_THIS_TEST"] = value


def of_worker(name):
    return os.environ.get(name)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_killed_command_end(tmp_path, method):
    """They would write what the next command writes, too, and then wait forever."""
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    pipe = subprocess.PIPE
    command = [sys.executable, str(script), method]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        workers = [int(process.stdout.readline()) for _ in range(2)]
        process.stdin.write("\n")
    assert process.returncode == -9
    until = time.monotonic() + 60
    while any(map(is_running, workers)):
        assert time.monotonic() < until, "a worker is left"
        time.sleep(0.01)


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_are_begun_and_missed():
    with worker_pool(1, "spawn", begin, "x") as pool:
        assert pool.submit(of_worker, "OF_THIS_TEST").result() == "x"
    with pytest.raises(DataError, match="was killed, for lack of memory.* lower --nj"):
        with worker_pool(1, "spawn") as pool:
            pool.submit(os._exit, 9).result()
