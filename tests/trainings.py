"""Small trainings in separate processes, which tests kill and restart."""

import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

from espnet2_birq.bin import ssl_train
from espnet2_birq.tasks.saving import Saver

BOOK = {"codebook_size": 16, "codebook_dim": 4}
# Everything that has a state: dropout, noise, BatchNorm, Gumbel noise, running moments,
# a teacher, a condition on the last 50 steps, accumulated gradients, warm-up.
CONFIG = {
    "objectives": [
        {"name": "anchor", "labeller_conf": {**BOOK, "projection": "whitened"}},
        {
            "name": "enhanced",
            "view": "layer 1",
            "head": "enhanced",
            "labeller_conf": {**BOOK, "projection": "whitened"},
        },
        {
            "name": "late",
            "labeller": "random_projection",
            "view": "teacher layer 1",
            "head": "late",
            "gradient": 0,
            "when": {"once": {"anchor": 1.0}},
            "labeller_conf": {**BOOK, "projection": "whitened"},
        },
    ],
    "teacher_conf": {"decay": 0.9},
    "model_conf": {"diagnose_every": 7},
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 20, "fs": "16k"},
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 2,
        "rel_pos_type": "latest",
    },
    "batch_type": "unsorted",
    "batch_size": 2,
    "num_iters_per_epoch": 25,
    "accum_grad": 2,
    "max_epoch": 3,
    "num_workers": 0,
    "optim": "adamw",
    "optim_conf": {"lr": 0.01},
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 10},
    "best_model_criterion": [["valid", "total_count", "max"], ["train", "loss", "min"]],
    "keep_nbest_models": 2,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
}
MODEL = "valid.total_count.ave.pth"


def write_data(folder: Path) -> None:
    """Write eight utterances of noise, about one second each, with their lists."""
    generator = np.random.default_rng(0)
    with (folder / "wav.scp").open("w") as scp, (folder / "shape").open("w") as out:
        for number in range(8):
            samples = 12000 + 800 * number
            path = folder / f"u{number}.wav"
            soundfile.write(path, generator.standard_normal(samples) * 0.1, 16000)
            scp.write(f"u{number} {path}\n")
            out.write(f"u{number} {samples}\n")


def options(folder: Path, out: Path, **changes) -> list[str]:
    """Write a configuration; return the options of ssl_train."""
    config = folder / f"{out.name}.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, **changes}))
    found = ["--config", str(config), "--output_dir", str(out), "--resume", "true"]
    found += ["--ngpu", "0"]
    for kind in ("train", "valid"):
        found += [f"--{kind}_shape_file", f"{folder}/shape"]
        found += [f"--{kind}_data_path_and_name_and_type"]
        found += [f"{folder}/wav.scp,speech,sound"]
    return found


def _pause_after(updates: int) -> None:
    """Let this process wait to be killed once it has saved the state of an update."""
    save = Saver.save

    def pausing(self, parts, *args, **options):
        save(self, parts, *args, **options)
        if int(parts.model.updates) >= updates:
            time.sleep(600)

    Saver.save = pausing


def _train(
    found: list[str], log: Path, largest_file: int | None, pause: int | None
) -> None:
    os.setsid()  # a separate process group, as signalled by a batch system
    with log.open("a") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1)
    if largest_file:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY)
        )
    if pause is not None:
        _pause_after(pause)
    torch.set_num_threads(1)
    # The start method of data-loading workers in a training from the command line.
    multiprocessing.set_start_method("fork", force=True)
    ssl_train.main(found)


class Training:
    """A training that can be killed and restarted.

    Args:
        folder: Folder written by write_data().
        out: Folder of the experiment.
        **changes: Changes of CONFIG.
    """

    # Import once for all trainings, since that takes longer than they do.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["espnet2_birq.bin.ssl_train", __name__])

    def __init__(self, folder: Path, out: Path, **changes):
        self.out, self.log = out, folder / f"{out.name}.log"
        self.largest_file: int | None = None  # bytes, to imitate a full disk
        self.found = options(folder, out, **changes)
        self.process: multiprocessing.process.BaseProcess | None = None

    def start(self, *more: str, pause: int | None = None) -> "Training":
        """Start or restart it; it waits after saving the state of the update `pause`."""
        given = ([*self.found, *more], self.log, self.largest_file, pause)
        self.process = self.context.Process(target=_train, args=given)
        self.process.start()
        return self

    def wait(self) -> int:
        """Wait for its end; return its exit status."""
        self.process.join(120)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"hangs: {self.text()[-2000:]}")
        return self.process.exitcode

    def run(self, *more: str) -> int:
        """Start it and wait for its end; return its exit status."""
        return self.start(*more).wait()

    def text(self) -> str:
        """Return its output, over all starts."""
        return self.log.read_text() if self.log.exists() else ""

    def until(self, words: str, times: int = 1) -> None:
        """Wait until its output contains `words` that many times."""
        for _ in range(20000):
            if self.text().count(words) >= times:
                return
            assert self.process.is_alive(), self.text()[-2000:]
            time.sleep(0.005)
        raise AssertionError(f"never says {words!r}: {self.text()[-2000:]}")


def difference(one: Path, other: Path) -> str | None:
    """Return where two experiments (models, states, statistics) differ, or None."""
    names = {path.name for path in one.glob("*.pth")}
    if names != {path.name for path in other.glob("*.pth")}:
        return f"files: {names}"
    for name in sorted(names - {"progress.pth"}):
        left, right = (torch.load(x / name, weights_only=True) for x in (one, other))
        if found := _unequal(left, right, name):
            return found
    return None


def _unequal(left, right, where: str) -> str | None:
    if type(left) is not type(right):
        return where
    if isinstance(left, dict):
        if left.keys() != right.keys():
            return f"{where}: {left.keys() ^ right.keys()}"
        pairs = [(key, left[key], right[key]) for key in left]
        pairs = [x for x in pairs if not str(x[0]).endswith("time")]
        found = (_unequal(a, b, f"{where}/{key}") for key, a, b in pairs)
        return next(filter(None, found), None)
    if isinstance(left, (list, tuple)):
        if len(left) != len(right):
            return where
        found = (
            _unequal(a, b, f"{where}/{i}") for i, (a, b) in enumerate(zip(left, right))
        )
        return next(filter(None, found), None)
    if isinstance(left, torch.Tensor):
        return None if torch.equal(left, right) else where
    return None if left == right or left != left and right != right else where
