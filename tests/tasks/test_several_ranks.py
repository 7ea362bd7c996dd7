"""Two ranks by torchrun and by ESPnet's launcher, over gloo; one of them may die."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.multiprocessing import ProcessExitedException
from trainings import Training, difference, write_data

from espnet2_birq.errors import RankError
from espnet2_birq.pretraining.ranks import telling_of_others
from espnet2_birq.tasks.saving import is_first
from espnet2_birq.tasks.stopping import exit_of_rank

RANK = ["-m", "espnet2_birq.bin.ssl_train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
TORCHRUN += ["--nproc_per_node", "2"]
# Otherwise, restarted ranks meet at the address of their predecessors.
RESTARTS = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
GLOO = ["--dist_backend", "gloo", "--multiprocessing_distributed", "false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp("ranks")
    write_data(top)
    return top


class Job:
    """Two ranks and their launcher, in a separate process group."""

    def __init__(self, folder: Path, name: str, start: list[str], more=(), **changes):
        training = Training(
            folder, folder / name, batch_type="unsorted", batch_size=4, **changes
        )
        self.out, self.log = training.out, folder / f"{name}.log"
        self.command = [*start, *training.found, "--log_interval", "2", *more]

    def start(self, env=None) -> "Job":
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                self.command,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
            )
        return self

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def until(self, words: str) -> None:
        for _ in range(6000):
            if words in self.text():
                return
            assert self.process.poll() is None, self.text()[-3000:]
            time.sleep(0.02)
        raise AssertionError(f"never says {words!r}: {self.text()[-2000:]}")

    def ranks(self) -> list[int]:
        """Return the sorted process ids of the ranks, without torchrun."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_text().split("\0")
            except OSError:
                continue  # it has just ended
            if str(self.out) in command and "torch.distributed.run" not in command:
                found.append(int(path.parent.name))
        return sorted(found)

    def wait(self, seconds: float = 120) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise


@pytest.mark.parametrize(
    "code, name, wanted",
    [
        (85, None, 85),
        (1, None, 1),
        (0, None, 1),
        (-9, "SIGKILL", "rank 2 was ended by S"),
    ],
)
def test_what_a_rank_ends_with(code, name, wanted):
    """With ESPnet's launcher, the end of one rank determines the exit status of all."""
    error = ProcessExitedException("x", 2, 1234, exit_code=code, signal_name=name)
    found = exit_of_rank(error)
    if isinstance(wanted, int):
        assert found == wanted
    else:
        assert wanted in found


def test_other_errors_are_not_of_ranks():
    with pytest.raises(RankError, match="another rank has ended .* closed by peer"):
        with telling_of_others():
            raise RuntimeError("[/pytorch/gloo/pair.cc:538] Connection closed by peer")
    with pytest.raises(RuntimeError, match="^out of memory"):
        with telling_of_others():
            raise RuntimeError("out of memory")


def test_who_is_first(monkeypatch):
    """The first rank is known from an option, or from torchrun's environment."""
    args = argparse.Namespace(distributed=True, dist_rank=1, dist_launcher=None)
    assert not is_first(args)
    args.dist_rank = None
    monkeypatch.setenv("RANK", "1")
    assert not is_first(args)
    monkeypatch.setenv("RANK", "0")
    assert is_first(args)
    args.distributed = False
    assert is_first(args)


PLOT = {"num_att_plot": 1, "use_matplotlib": True}


def test_a_training_of_two_ranks(folder):
    """One batch of rank 1 is spoiled; rank 0 plots attention while rank 1 goes on."""
    start = [*TORCHRUN, str(Path(__file__).with_name("spoiled_training.py"))]
    length = dict(max_epoch=2, num_iters_per_epoch=6, accum_grad=1)
    # A script, unlike -m, does not find what is in the working directory.
    here = {"PYTHONPATH": str(Path(__file__).parents[2])}
    job = Job(folder, "short", start, GLOO, **length, **PLOT).start(here)
    assert job.wait(200) == 0, job.text()[-3000:]
    lines = (job.out / "skipped_updates").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"1", "2"}
    assert all("u3" in line.split()[2:] for line in lines)
    model = torch.load(job.out / "2epoch.pth", weights_only=True)
    assert model["updates"] == 12 - len(lines)
    assert list((job.out / "att_ws").glob("u*/*"))
    # Each rank draws masks and noise of its own, in each epoch.
    seeds = re.findall(r"rank (\d): seed (\d+)\n", job.text())
    assert {rank for rank, _ in seeds} == {"0", "1"}
    assert len({seed for _, seed in seeds}) == 4


@pytest.fixture(scope="module")
def whole(folder):
    """Experiment of an uninterrupted training by torchrun."""
    job = Job(folder, "whole", [*TORCHRUN, *RANK], GLOO).start()
    assert job.wait(300) == 0, job.text()[-3000:]
    return job.out


@pytest.mark.slow
def test_torchrun_restarts_them(folder, whole):
    """Elastic training: if a rank is killed, all restart and nothing is lost."""
    job = Job(
        folder,
        "elastic",
        [*TORCHRUN, "--max_restarts", "1", *RANK],
        [*GLOO, "--save_updates", "1"],
    ).start(RESTARTS)
    job.until("1epoch:train:5-6batch")
    ranks = job.ranks()
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    assert job.wait(300) == 0, job.text()[-3000:]
    assert "Resuming in epoch 1 after batch" in job.text()
    assert difference(whole, job.out) is None
    assert not (job.out / ".config.yaml.before").exists()


@pytest.mark.slow
def test_espnets_launcher(folder, whole, tmp_path):
    """Two hosts by ssh (both this machine) give the same models as torchrun."""
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    start = [sys.executable, "-m", "espnet2.bin.launch", "--host", "one,two"]
    start += ["--ngpu", "0", "--init_file_prefix", f"{tmp_path}/meeting", "--log", "-"]
    (tmp_path / "path.sh").touch()
    start += ["--envfile", f"{tmp_path}/path.sh"]
    start += ["--multiprocessing_distributed", "true", "--", sys.executable, *RANK]
    job = Job(folder, "launched", start)
    job.start({"PATH": f"{ssh.parent}:{os.environ['PATH']}"})
    assert job.wait(300) == 0, job.text()[-3000:]
    assert difference(whole, job.out) is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_rank_that_dies(folder, number):
    """Without restarts, the other rank reports it and ends within a minute."""
    job = Job(folder, f"dies{number}", [*TORCHRUN, *RANK], GLOO, max_epoch=1000).start()
    job.until("1epoch:train:5-6batch")
    os.kill(job.ranks()[1], number)
    died = time.monotonic()
    assert job.wait(60) != 0
    assert time.monotonic() - died < 60
    assert "ssl_train: error: another rank has ended" in job.text()
    assert not job.ranks()


@pytest.mark.slow
def test_the_state_is_kept_when_a_rank_dies(folder):
    job = Job(
        folder,
        "kept",
        [*TORCHRUN, *RANK],
        [*GLOO, "--save_updates", "1"],
        max_epoch=1000,
    ).start()
    job.until("1epoch:train:7-8batch")
    os.kill(job.ranks()[0], signal.SIGKILL)  # the rank that writes files
    assert job.wait(60) != 0
    state = torch.load(job.out / "progress.pth", weights_only=True)
    assert state["model"]["updates"] >= 2
