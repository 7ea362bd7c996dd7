"""Extract features or units of many recordings, resumably, in parallel."""

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from espnet2_birq.api import load
from espnet2_birq.config import config_of
from espnet2_birq.datadir.audio import ARK_ENTRY, read_wave
from espnet2_birq.datadir.files import whole_file, write_whole
from espnet2_birq.datadir.locking import locked
from espnet2_birq.datadir.stamp import check_stamp, write_stamp
from espnet2_birq.datadir.stream import map_parallel
from espnet2_birq.datadir.workers import worker_pool
from espnet2_birq.errors import ConfigError, DamagedAudioError, DataError
from espnet2_birq.extraction.sources import Recording, find_recordings
from espnet2_birq.extraction.writers import Folder, deduplicate
from espnet2_birq.pretrained import PretrainedModel, Wanted
from espnet2_birq.reading import read_lines, read_text
from espnet2_birq.tasks.loading import resolve

BLOCK_SECONDS = 600.0  # of audio per block; an interrupted command resumes at a block
DAMAGED = "damaged"  # folder of lists, by block, of audio that cannot be decoded
FINISHED = "finished"  # folder of hashes, by block, of the audio that was used
LONGEST_NAME = 255 - len(".part")  # bytes of a file's name, while it is written
READERS = 4  # threads that read audio ahead
REPORT_SECONDS = 10.0  # between progress lines


@dataclass(frozen=True)
class Job:
    """Specification of an extraction.

    Attributes:
        model: Model, as accepted by load().
        out: Folder for the results.
        layers: Layers, as for extract_features(); None: the encoder's output.
        objectives: Objectives whose units to extract; all if empty.
        units: Whether to extract units instead of features.
        kind: npy, ark or, for units only, text.
        merge: Whether to merge equal neighbouring units.
        device: Device of the model.
        batch_seconds: Seconds of audio in a batch, including padding.
        nj: Number of processes.
    """

    model: str
    out: Path
    layers: tuple[int, ...] | None = None
    objectives: tuple[str, ...] = ()
    units: bool = False
    kind: str = "npy"
    merge: bool = False
    device: str = "cpu"
    batch_seconds: float = 200.0
    nj: int = 1

    def wanted(self, model: PretrainedModel) -> Wanted:
        """Return the results that the model must compute.

        Raises:
            ConfigError: There is no such layer or objective, or no objective at all.
        """
        if not self.units:
            if self.layers is None:
                return Wanted(output=True)
            # A layer may be given twice: 6 and -1.
            return Wanted(tuple(dict.fromkeys(model.layer_numbers(self.layers))))
        if not model.objectives:
            raise ConfigError(
                f"{self.model}: was trained on labels from disk and makes none itself; "
                "cluster a layer (fit_kmeans, dump_labels --kmeans)"
            )
        for name in self.objectives:
            if name not in model.objectives:
                raise ConfigError(
                    f"no objective '{name}' that makes labels; there are "
                    f"{', '.join(model.objectives)}"
                )
        names = self.objectives or model.objectives
        return Wanted(labels=tuple(x for x in model.objectives if x in names))


class Output(NamedTuple):
    """Output folder, and the position of its data in the model's results."""

    folder: Folder
    column: int
    book: int | None = None  # codebook
    durations: Folder | None = None  # for the frames of each unit, if merged

    def array(self, columns: Sequence[torch.Tensor]) -> np.ndarray:
        """Return this output's array from the results for a recording.

        Raises:
            DataError: The features are not finite.
        """
        found = columns[self.column].cpu()
        if self.book is None:
            if not found.isfinite().all():
                raise DataError(
                    f"{self.folder.path.name} is not finite; did the model's training "
                    "diverge?"
                )
            return found.numpy()
        return found[:, self.book].numpy().astype(np.int32)


def extract(job: Job, source: Path) -> dict[str, str]:
    """Extract features or units of a list of recordings.

    Args:
        job: What to extract.
        source: See find_recordings().

    Returns:
        Mapping from skipped recording to the reason; also written to OUT/skipped.

    Raises:
        ConfigError: There is no such layer or objective, or the model cannot be loaded;
            or an archive cannot be in the folder.
        DataError: The list is bad, the folder has results of other settings, another
            command is writing to it, or a process was killed.
    """
    if job.kind == "ark" and "," in str(job.out):
        raise ConfigError(
            f"{job.out}: has a comma, which kaldiio takes for the end of an ark's name; "
            "give another --out"
        )
    worker = _Worker(job)
    recordings, skipped = find_recordings(source, worker.model.sample_rate)
    enough = [one for one in recordings if worker.model.frames(one.samples)]
    short = {one.name for one in recordings} - {one.name for one in enough}
    skipped.update(dict.fromkeys(short, "too short for one frame"))
    if not enough:
        raise DataError(
            f"{source}: no recording can be used; those that can be read are too short "
            "for one frame"
        )
    if job.kind == "npy":
        _check_names(source, [one.name for one in enough])
    with locked(job.out / ".lock", lambda: _refuse(job.out)):
        _claim(job, source, recordings)
        return _extract(job, source, worker, enough, skipped)


def _refuse(out: Path) -> None:
    raise DataError(
        f"{out}: another command is writing to it; wait until it has ended, or give "
        "another --out"
    )


def _extract(
    job: Job,
    source: Path,
    worker: "_Worker",
    enough: list[Recording],
    skipped: dict[str, str],
) -> dict[str, str]:
    """Process recordings that are long enough; return the skipped ones of all."""
    blocks = dict(_blocks(enough, worker.model))
    todo = {x: block for x, block in blocks.items() if not worker.has(x, block)}
    if len(todo) < len(blocks):
        logging.info(
            f"{job.out}: {len(blocks) - len(todo)} of {len(blocks)} blocks done"
        )
    if todo:  # lists of an earlier command may name archives that are written again
        (job.out / "skipped").unlink(missing_ok=True)
        for folder in worker.folders:
            folder.list.unlink(missing_ok=True)
    _run(job, worker, todo)
    damaged = _read_damaged(job.out, blocks)
    skipped.update(damaged)
    if len(damaged) == len(enough):
        name, why = next(iter(damaged.items()))
        raise DataError(f"{source}: no recording can be used; the first, {name}: {why}")
    for folder in worker.folders:
        logging.info(
            f"{folder.finish(blocks)}: {len(enough) - len(damaged)} recordings"
        )
    lines = [f"{name} {why}\n" for name, why in sorted(skipped.items())]
    write_whole(job.out / "skipped", "".join(lines))
    if skipped:
        name, why = min(skipped.items())
        logging.warning(
            f"{len(skipped)} recordings skipped, see {job.out}/skipped; the first, "
            f"{name}: {why}"
        )
    return skipped


def _read_damaged(out: Path, blocks: Iterable[str]) -> dict[str, str]:
    """Return the recordings that could not be decoded, with the reasons."""
    files = [out / DAMAGED / block for block in blocks]
    lines = [line for file in files if file.is_file() for line in read_lines(file)]
    pairs = (line.rstrip("\n").partition(" ") for line in lines)
    return {name: why for name, _, why in pairs}


def _check_names(source: Path, names: list[str]) -> None:
    """Check that each recording can have a file NAME.npy.

    Raises:
        DataError: A name is too long, or its file is a folder or file of another
            recording.
    """
    folders = {str(x): name for name in names for x in Path(name).parents}
    files: dict[str, str] = {}
    for name in names:
        file = str(Path(f"{name}.npy"))  # the same for a//b and a/b
        if (other := files.setdefault(file, name)) != name:
            raise DataError(
                f"{source}: {name} and {other} would both be written to {file}; rename "
                "one, or give --format ark"
            )
        if file in folders:
            raise DataError(
                f"{source}: {name} and {folders[file]} cannot both be written: {file} "
                "would be a file and a folder; rename one, or give --format ark"
            )
        if max(len(os.fsencode(part)) for part in Path(file).parts) > LONGEST_NAME:
            raise DataError(
                f"{source}: {name} is too long a name for a file {file}; rename it, or "
                "give --format ark"
            )


def _claim(job: Job, source: Path, recordings: list[Recording]) -> None:
    """Record what the output folder is made from, or compare this with the record.

    Raises:
        DataError: It was made from something else.
    """
    model = resolve(job.model)
    files = [model] if model.suffix == ".zip" else [model, config_of(model)]
    listed = hashlib.sha256("\n".join(map(str, recordings)).encode("utf-8"))
    options = {
        "layers": "output" if job.layers is None else " ".join(map(str, job.layers)),
        "units": " ".join(job.objectives) or "all" if job.units else "none",
        "format": f"{job.kind}{', deduplicated' * job.merge}",
        "recordings": f"{source}, {len(recordings)}, {listed.hexdigest()[:12]}",
    }
    job.out.mkdir(parents=True, exist_ok=True)
    try:
        check_stamp(job.out, files, options)
    except DataError as error:
        raise DataError(f"{error}; give another --out, or remove it") from error
    write_stamp(job.out, files, options)


def _state(block: Iterable[Recording]) -> str:
    """Return a hash of a block's recordings, with the sizes and times of their files."""
    digest = hashlib.sha256()
    for one in block:
        match = ARK_ENTRY.match(one.entry)
        file = os.stat(match[1] if match else one.entry)
        digest.update(f"{one} {file.st_size} {file.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _blocks(
    recordings: Iterable[Recording], model: PretrainedModel
) -> Iterator[tuple[str, list[Recording]]]:
    """Yield names and recordings of blocks; a long recording is its own block."""
    block: list[Recording] = []
    number, limit = 0, BLOCK_SECONDS * model.sample_rate
    for one in recordings:
        full = sum(x.samples for x in block) + one.samples > limit
        if block and (full or model.is_long(one.samples)):
            yield f"block{number:06}", block
            number, block = number + 1, []
        block.append(one)
    if block:
        yield f"block{number:06}", block


def _run(job: Job, worker: "_Worker", todo: dict[str, list[Recording]]) -> None:
    """Process blocks here or, for nj > 1, in other processes, and report progress."""
    total = sum(one.samples for block in todo.values() for one in block)
    progress = _Progress(total / worker.model.sample_rate)
    if job.nj == 1 or len(todo) < 2:
        for name, block in todo.items():
            for seconds in worker.process(name, block):
                progress.add(seconds)
        return
    with worker_pool(job.nj, "spawn", _begin, job) as pool:  # no GPU survives a fork
        futures = [pool.submit(_process, name, block) for name, block in todo.items()]
        for future in futures:
            progress.add(future.result())


_worker: "_Worker"


def _begin(job: Job) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = _Worker(job)


def _process(name: str, block: list[Recording]) -> float:
    return sum(_worker.process(name, block))


def _read(one: Recording) -> np.ndarray | str:
    """Return the samples, or why they cannot be decoded."""
    try:
        return read_wave(one.entry)
    except DamagedAudioError as error:
        return str(error)


class _Worker:
    """A loaded model with its output folders."""

    def __init__(self, job: Job):
        self.job = job
        self.model = load(job.model, job.device)
        self.wanted = job.wanted(self.model)
        self.outputs = list(self._outputs())
        self.folders = [x.folder for x in self.outputs]
        self.folders += [x.durations for x in self.outputs if x.durations]

    def _outputs(self) -> Iterator[Output]:
        out, kind = self.job.out, self.job.kind
        if not self.job.units:
            names = [f"layer{number}" for number in self.wanted.layers] or ["output"]
            for column, name in enumerate(names):
                yield Output(Folder(out / name, kind, "feats"), column)
            return
        books = {
            one.name: one.labeller.num_codebooks for one in self.model.model.objectives
        }
        for column, name in enumerate(self.wanted.labels):
            for book in range(books[name]):
                path = out / (name if books[name] == 1 else f"{name}.{book}")
                durations = None
                if self.job.merge:
                    durations = Folder(path / "frames", kind, "durations")
                yield Output(Folder(path, kind, "units"), column, book, durations)

    def has(self, name: str, block: list[Recording]) -> bool:
        """Whether all outputs of a block exist, and are of this audio, none damaged."""
        finished = self.job.out / FINISHED / name
        return (
            finished.is_file()
            and read_text(finished) == _state(block)
            and all(folder.has(name) for folder in self.folders)
        )

    def process(self, name: str, block: list[Recording]) -> Iterator[float]:
        """Write a block, yielding the seconds of audio done since the previous yield.

        Recordings that cannot be decoded are left out, and listed for the block.

        Raises:
            DataError: Samples or features are not finite.
        """
        rate, state = self.model.sample_rate, _state(block)
        damaged: dict[str, str] = {}
        finished = self.job.out / FINISHED / name
        finished.unlink(missing_ok=True)
        with ExitStack() as stack:
            add = {x.path: stack.enter_context(x.writing(name)) for x in self.folders}
            long = [one for one in block if self.model.is_long(one.samples)]
            short = [one for one in block if one not in long]
            for batch, waves in self._batches(short, damaged):
                for one, columns in zip(batch, self._compute(waves)):
                    self._write(one, columns, add)
                yield sum(one.samples for one in batch) / rate
            for one in long:
                try:
                    self._write_long(one, add)
                except DamagedAudioError as error:
                    damaged[one.name] = str(error)
                yield one.samples / rate
        listed = self.job.out / DAMAGED / name
        listed.unlink(missing_ok=True)
        if damaged:  # and not finished: they may be replaced
            lines = [f"{one} {why}\n" for one, why in damaged.items()]
            listed.parent.mkdir(exist_ok=True)
            write_whole(listed, "".join(lines))
            return
        finished.parent.mkdir(exist_ok=True)
        write_whole(finished, state)

    def _batches(self, recordings: list[Recording], damaged: dict[str, str]):
        """Yield batches of recordings of similar lengths, and their waveforms.

        Recordings that cannot be decoded are added to `damaged` instead.
        """
        limit = self.job.batch_seconds * self.model.sample_rate
        batches: list[list[Recording]] = []
        for one in recordings:  # sorted by length
            if not batches or (len(batches[-1]) + 1) * one.samples > limit:
                batches.append([])
            batches[-1].append(one)
        waves = map_parallel(_read, recordings, READERS)
        for batch in batches:
            read = [(one, next(waves)) for one in batch]
            damaged |= {one.name: x for one, x in read if isinstance(x, str)}
            if good := [(one, x) for one, x in read if not isinstance(x, str)]:
                yield [one for one, _ in good], [torch.from_numpy(x) for _, x in good]

    def _compute(self, waves: list[torch.Tensor]) -> list[list[torch.Tensor]]:
        """Run the model, halving batches that exceed the GPU's memory."""
        try:
            return self.model.compute(waves, self.wanted)
        except torch.OutOfMemoryError:
            if len(waves) == 1:
                raise
        # Outside of the except block, whose traceback would keep the memory in use.
        torch.cuda.empty_cache()
        half = len(waves) // 2
        return self._compute(waves[:half]) + self._compute(waves[half:])

    def _write(
        self, one: Recording, columns: Sequence[torch.Tensor], add: dict
    ) -> None:
        for output in self.outputs:
            array = output.array(columns)
            if output.durations:
                array, frames = deduplicate(array)
                add[output.durations.path](one.name, frames.astype(np.int32))
            add[output.folder.path](one.name, array)

    def _write_long(self, one: Recording, add: dict) -> None:
        """Write a long recording; NumPy files of features are written piece by piece."""
        audio: Path | torch.Tensor = Path(one.entry)
        if ARK_ENTRY.match(one.entry):
            audio = torch.from_numpy(read_wave(one.entry))
        pieces = self.model.stream(audio, self.wanted)
        if self.job.units or self.job.kind != "npy":
            self._write(one, [torch.cat(x) for x in zip(*pieces)], add)
            return
        frames, start = self.model.frames(one.samples), 0
        with ExitStack() as stack:
            files = [x.folder.npy(one.name) for x in self.outputs]
            parts = [stack.enter_context(whole_file(file)) for file in files]
            arrays: list[np.ndarray] = []
            for piece in pieces:
                new = [output.array(piece) for output in self.outputs]
                if not arrays:
                    arrays = [
                        np.lib.format.open_memmap(
                            part, "w+", x.dtype, (frames, *x.shape[1:])
                        )
                        for part, x in zip(parts, new)
                    ]
                for array, x in zip(arrays, new):
                    array[start : start + len(x)] = x
                start += len(new[0])
        for output, file in zip(self.outputs, files):
            add[output.folder.path](one.name, file)


@dataclass
class _Progress:
    """Log lines with the speed and the time left."""

    total: float  # seconds of audio
    done: float = 0.0
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def add(self, seconds: float) -> None:
        self.done += seconds
        now = time.monotonic()
        if now - self.told < REPORT_SECONDS and self.done < self.total - 1e-6:
            return
        self.told = now
        speed = self.done / max(now - self.began, 1e-9)
        left = (self.total - self.done) / speed
        logging.info(
            f"{self.done / 3600:.2f} of {self.total / 3600:.2f} h of audio, {speed:.0f} x "
            f"real time, {left / 60:.0f} min left"
        )
