"""A long training on real speech, with broken files and kills, leaks and loses nothing.

pytest tests/tasks/test_soak.py -s    # prints the figures of docs/faults.md
"""

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from trainings import BOOK, Training

RATE = 16000
UPDATES, EPOCHS = 3000, 30
KILLS = (430, 990, 1550)  # updates, at different places in their epochs
SMALL = {
    "encoder_conf": {
        "output_size": 32,
        "attention_heads": 2,
        "linear_units": 64,
        "num_blocks": 2,
        "rel_pos_type": "latest",
    },
    "objectives": [
        {"name": "anchor", "labeller_conf": {**BOOK, "projection": "whitened"}},
        {
            "name": "enhanced",
            "view": "layer 1",
            "gradient": 0.0,
            "labeller_conf": {**BOOK, "projection": "whitened"},
        },
    ],
    "teacher_conf": {},
    "batch_size": 4,
    "accum_grad": 1,
    "num_iters_per_epoch": UPDATES // EPOCHS,
    "max_epoch": EPOCHS,
    "num_workers": 1,
    "log_interval": 10,
    "optim_conf": {"lr": 0.002},
    "scheduler_conf": {"warmup_steps": 200},
}
STEP = re.compile(r"(\d+)epoch:train:\d+-(\d+)batch")


def write_list(folder: Path, name: str, files: list[Path], broken=()) -> None:
    """Write a second of each file, and break some in ways that occur in practice."""
    (folder / name).mkdir()
    scp, shape = (folder / f"{name}.{x}" for x in ("scp", "shape"))
    with scp.open("w") as entries, shape.open("w") as sizes:
        for number, file in enumerate(files):
            samples = 16000 + 80 * (number % 100)
            speech, _ = soundfile.read(file, frames=samples, start=4000)
            path = folder / name / f"{number:04}.wav"
            soundfile.write(path, speech, RATE, "FLOAT")
            if number in broken:
                break_file(path, number)
            entries.write(f"u{number:04} {path}\n")
            sizes.write(f"u{number:04} {samples}\n")


def break_file(path: Path, number: int) -> None:
    content = path.read_bytes()
    match number % 4:
        case 0:
            path.write_bytes(b"")
        case 1:
            path.write_bytes(content[:20])
        case 2:
            path.unlink()
        case 3:
            soundfile.write(path, np.full(16000, np.nan), RATE, "FLOAT")


@pytest.fixture(scope="module")
def folder(shared_data, tmp_path_factory):
    """Folder with lists: 400 for training, clean and with 4 broken files, and 40 others."""
    corpus = shared_data / "librispeech" / "LibriSpeech" / "train-clean-100"
    files = sorted(corpus.glob("*/*/*.flac"))
    files = [x for x in files if soundfile.info(x).frames > 30000][:440]
    if len(files) < 440:
        pytest.skip(f"{corpus}: {len(files)} utterances, fewer than 440")
    top = tmp_path_factory.mktemp("soak")
    write_list(top, "clean", files[:400])
    write_list(top, "broken", files[:400], broken=(80, 161, 242, 323))
    write_list(top, "valid", files[400:])
    return top


def training(folder: Path, name: str, train: str, seed: int) -> Training:
    one = Training(folder, folder / name, **SMALL, seed=seed)
    place = [x.startswith("--train_shape") for x in one.found].index(True)
    del one.found[place:]
    for kind, lists in (("train", train), ("valid", "valid")):
        one.found += [f"--{kind}_shape_file", f"{folder}/{lists}.shape"]
        one.found += [f"--{kind}_data_path_and_name_and_type"]
        one.found += [f"{folder}/{lists}.scp,speech,sound"]
    return one


class Watch:
    """Recorder of memory, files and processes of a training.

    Attributes:
        rows: Update, "main" or "worker", resident KB, open files.
    """

    def __init__(self, one: Training):
        self.one, self.rows = one, []
        self.tail = 0  # of the log, whose last line may be incomplete
        self.update = 0

    def processes(self) -> list[int]:
        """Return the live processes of its group."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == self.one.process.pid and fields[0] != "Z":
                found.append(int(path.parent.name))
        return found

    def sample(self) -> None:
        """Record the current state."""
        text = self.one.text()[self.tail :]
        for epoch, batch in STEP.findall(text):
            self.update = (int(epoch) - 1) * (UPDATES // EPOCHS) + int(batch)
        self.tail += max(0, len(text) - 500)
        for pid in self.processes():
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                files = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue  # it has just ended
            if not pages:
                continue  # it is ending, and its memory is already free
            kind = "main" if pid == self.one.process.pid else "worker"
            self.rows.append((self.update, kind, 4 * pages, files))

    def until(self, update: int) -> None:
        """Wait until it has reached an update or ended."""
        while self.one.process.is_alive() and self.update < update:
            self.sample()
            time.sleep(0.5)

    def of(self, kind: str, column: int, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Return updates from `first` on, and the values recorded there."""
        rows = [(x[0], x[column]) for x in self.rows if x[1] == kind and x[0] >= first]
        return np.array([x for x, _ in rows]), np.array([y for _, y in rows])

    def slope(self, kind: str, first: int) -> float:
        """Return the growth of memory in KB per update."""
        updates, memory = self.of(kind, 2, first)
        return float(np.polyfit(updates, memory, 1)[0])


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))


def losses(one: Training) -> np.ndarray:
    """Return the validation losses of the last ten epochs."""
    path = one.out / "checkpoint.pth"
    stats = torch.load(path, weights_only=True)["reporter"]["stats"]
    return np.array([stats[epoch]["valid"]["loss"] for epoch in range(21, EPOCHS + 1)])


def train_clean(folder: Path, seed: int) -> Training:
    """Train without faults."""
    one = training(folder, f"clean{seed}", "clean", seed).start()
    while one.process.is_alive():
        one.process.join(60)
    assert one.process.exitcode == 0, one.text()[-2000:]
    return one


def train_with_kills(folder: Path) -> tuple[Watch, int]:
    """Train with broken files and kills.

    Returns:
        Recorder, and update of the last kill.
    """
    one = training(folder, "soak", "broken", 0)
    watch = Watch(one)
    for kill in KILLS:
        one.start("--save_updates", "20")
        watch.until(kill)
        assert one.process.is_alive(), one.text()[-2000:]
        os.kill(one.process.pid, signal.SIGKILL)  # as by the system if memory runs out
        one.process.join()
        for _ in range(60):  # its worker must notice and end
            if not (orphans := watch.processes()):
                break
            time.sleep(1)
        assert not orphans
    last = watch.update
    one.start("--save_updates", "20")
    watch.until(UPDATES + 1)
    one.process.join()
    assert one.process.exitcode == 0, one.text()[-2000:]
    assert not watch.processes()
    return watch, last


def check_steady(watch: Watch, first: int) -> None:
    """Check memory and open files from an update on."""
    for kind in ("main", "worker"):
        updates, memory = watch.of(kind, 2, first)
        updates, files = watch.of(kind, 3, first)
        slope = watch.slope(kind, first)
        late = updates >= (first + UPDATES) / 2
        print(
            f"{kind}: {len(memory)} samples from update {first} on, "
            f"{memory.min() / 1024:.0f} to {memory.max() / 1024:.0f} MB, {slope:+.2f} KB "
            f"an update; {np.median(files[~late]):.0f}, later {np.median(files[late]):.0f} "
            "open files"
        )
        assert abs(slope) < 5  # 15 MB in 3,000 updates
        # Compare medians, since files are opened and closed while they are read.
        assert np.median(files[late]) <= np.median(files[~late])


def check_losses(own: Training, clean: list[Training]) -> None:
    """Check that faults cost no more than another seed, or another epoch, does."""
    found, one, other = (losses(x) for x in (own, *clean))
    noise = max(abs(one.mean() - other.mean()), one.std(ddof=1), other.std(ddof=1))
    print(
        f"validation loss over the last 10 epochs: clean {one.mean():.4f} and "
        f"{other.mean():.4f}, with broken files and kills {found.mean():.4f}; noise "
        f"{noise:.4f}"
    )
    assert abs(found.mean() - (one.mean() + other.mean()) / 2) < 2 * noise


@pytest.mark.slow
def test_soak(folder):
    """Memory is flat, nothing is left behind, and the model is as good as others."""
    before = shared_memory()
    clean = [train_clean(folder, seed) for seed in (0, 1)]
    watch, last = train_with_kills(folder)
    assert shared_memory() <= before
    text = watch.one.text()
    assert text.count("Resuming in epoch") == len(KILLS)
    listed = (watch.one.out / "bad_audio").read_text().splitlines()
    assert {line.split()[0] for line in listed} == {"u0080", "u0161", "u0242", "u0323"}
    state = torch.load(watch.one.out / f"{EPOCHS}epoch.pth", weights_only=True)
    assert state["updates"] == UPDATES
    check_steady(watch, last + 300)
    check_losses(watch.one, clean)
