"""Training state saved within an epoch, from which an interrupted training resumes.

ESPnet saves checkpoint.pth only at the end of an epoch, which takes a day on a large
corpus. Beside it, progress.pth holds everything that the rest of an epoch depends on:
parameters, optimizers, schedulers, random states of every rank, the position in the epoch,
and its statistics so far. With one process on a CPU, an interrupted training gives the
same result as an uninterrupted one, bit by bit.
"""

import argparse
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from espnet2.train.distributed_utils import get_rank
from espnet2.train.reporter import Average, SubReporter, WeightedAverage
from torch.utils.data import DataLoader

from espnet2_birq.checkpoint import find_fault, load_plain
from espnet2_birq.datadir.files import whole_file
from espnet2_birq.errors import DataError, StorageError
from espnet2_birq.pretraining.ranks import gather, rank, world_size
from espnet2_birq.pretraining.watches import restore_watches, watches_state
from espnet2_birq.tasks.changes import (
    Origin,
    changed_options,
    refuse_changes,
    refuse_other_model,
    tell_changes,
)
from espnet2_birq.tasks.skipping import SkippedUpdates, check_parameters
from espnet2_birq.tasks.stopping import STOPPED, deferred, stop_request

PROGRESS = "progress.pth"
KEPT_CONFIG = ".config.yaml.before"
GO_ON, SAVE, STOP = 0, 1, 2  # requests of a rank before the next batch
SAVED = set(
    "epoch batches finished model optimizers schedulers scaler watches reporter random "
    "origin".split()
)

State = dict[str, Any]


@contextmanager
def whole_saves() -> Iterator[None]:
    """Make torch.save() write files atomically in this context.

    ESPnet's trainer overwrites its only checkpoint: killed while writing, it leaves none.
    It offers no other hook.
    """
    save = torch.save

    def save_whole(content, file, *args, **kwargs):
        if not isinstance(file, (str, Path)):
            save(content, file, *args, **kwargs)
            return
        with _writing(Path(file)) as stream:
            save(content, stream, *args, **kwargs)

    setattr(torch, "save", save_whole)  # noqa: B010  # mypy takes no assignment here
    try:
        yield
    finally:
        torch.save = save


@contextmanager
def _writing(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically.

    Raises:
        StorageError: The file cannot be written.
    """
    try:
        with whole_file(path) as part, part.open("wb") as stream:
            yield stream
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}); what was there before is "
            "kept: make room, and repeat the command"
        ) from error


def is_first(args: argparse.Namespace) -> bool:
    """Whether this process will be the first rank, before the group is initialised.

    Args:
        args: ESPnet's options; torchrun and Slurm pass the rank in the environment.
    """
    return not args.distributed or get_rank(args.dist_rank, args.dist_launcher) == 0


@contextmanager
def kept_config(folder: Path, first: bool) -> Iterator[None]:
    """Keep an experiment's config.yaml until the new one is complete.

    ESPnet overwrites it at each start: on a full disk it would be lost, and models cannot
    be read without it.

    Args:
        folder: Folder of the experiment.
        first: Whether this is the first rank, which writes the file.
    """
    config, before = folder / "config.yaml", folder / KEPT_CONFIG
    if first and config.exists() and not before.exists():
        config.replace(before)
    try:
        yield
    except BaseException:
        if first and before.exists():
            before.replace(config)
        raise
    if first:
        before.unlink(missing_ok=True)


class Position(NamedTuple):
    """Where an epoch goes on; not the whole saved state, which is as large as the model."""

    batches: int = 0  # number of batches to skip
    finished: bool = False  # whether none is left
    random: State | None = None  # random state of this rank; None: whatever it is


class Saver:
    """Saves and restores the state of a training.

    Args:
        folder: Folder of the experiment.
        minutes: Minutes between two saves; 0: no limit.
        updates: Updates between two saves, counted within an epoch; None: no limit.
        origin: Everything that the training depends on besides its state.
        resume: Whether to resume where an earlier run stopped.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        updates: int | None,
        origin: Origin,
        resume: bool,
    ):
        self.path = folder / PROGRESS
        self.seconds = 60 * minutes or float("inf")
        self.updates = updates
        self.origin = origin
        self.saved_at = time.monotonic()
        self.state = self._read() if resume else None

    def _read(self) -> State | None:
        if not self.path.exists():
            return None
        fault = find_fault(self.path)
        if not fault:
            try:
                state = load_plain(self.path)
                if isinstance(state, dict) and SAVED <= state.keys():
                    return state
                fault = "is no state of a training"
            except DataError:
                fault = "cannot be read"
        logging.warning(
            f"{self.path}: {fault}: what was learned since the end of the last epoch is "
            "lost; training resumes from there"
        )
        return None

    @property
    def is_in_first_epoch(self) -> bool:
        """Whether there is a saved state from the first epoch, before any checkpoint."""
        return self.state is not None and self.state["epoch"] == 1

    def check_model(self, model: torch.nn.Module) -> None:
        """Compare the shapes of a model's tensors with the saved ones.

        Raises:
            ConfigError: The saved model, or its optimizer, has another configuration; the
                message lists the options that have changed.
        """
        if self.state is None:
            return
        refuse_changes(self.path, self.state["origin"], self.origin)
        changed = changed_options(self.state["origin"], self.origin)
        refuse_other_model(self.path, self.state["model"], model, changed)

    def forget(self) -> None:
        """Remove the saved state, because its training is over or starts anew."""
        self.path.unlink(missing_ok=True)

    def restore(self, parts: "Parts", reporter: SubReporter) -> Position:
        """Restore the state if it belongs to this epoch; only in a run's first epoch.

        Args:
            parts: Model, optimizers, schedulers and scaler.
            reporter: Reporter of the epoch.

        Returns:
            The position at which the epoch goes on, by default its beginning.
        """
        state, self.state = self.state, None
        epoch = reporter.get_epoch()
        if state is None or state["epoch"] not in (epoch, epoch - 1):
            if state is not None:
                logging.warning(
                    f"{self.path} is of epoch {state['epoch']}, {epoch} comes next: it "
                    "is ignored"
                )
            return Position()
        finished = state["finished"] and state["epoch"] == epoch
        others = tell_changes(state["origin"], self.origin, epoch, finished)
        if state["epoch"] < epoch:  # and checkpoint.pth has been saved since
            restore_watches(parts.model, state["watches"])
            return Position()
        parts.load(state)
        if others and not finished:
            return Position()
        logging.info(
            f"Resuming in epoch {epoch} after batch {state['batches']}, as {self.path} "
            "has it"
        )
        restore_reporter(reporter, state["reporter"])
        numbers = None if others else state["random"][rank()]
        return Position(0 if finished else state["batches"], finished, numbers)

    def save(self, parts: "Parts", reporter: SubReporter, finished: bool) -> None:
        """Save the state between two updates; all ranks take part.

        Args:
            parts: Model, optimizers, schedulers and scaler.
            reporter: Reporter of the epoch.
            finished: Whether the epoch has no batch left.

        Raises:
            ConfigError: A parameter or buffer is not finite; the previously saved state is
                kept.
        """
        check_parameters(parts.model)
        randoms = gather(random_state())
        if rank() == 0:
            with _writing(self.path) as stream:
                torch.save(
                    {
                        "epoch": reporter.get_epoch(),
                        "batches": reporter.count,
                        "finished": finished,
                        **parts.state(),
                        "reporter": reporter_state(reporter),
                        "random": randoms,
                        "origin": self.origin,
                    },
                    stream,
                )
        if world_size() > 1:
            torch.distributed.barrier()
        self.saved_at = time.monotonic()

    def batches(
        self,
        iterator: Iterable,
        parts: "Parts",
        reporter: SubReporter,
        position: Position,
        skipped: SkippedUpdates,
    ) -> "Batches":
        """Return the remaining batches of an epoch; the state is saved between them.

        Args:
            iterator: ESPnet's iterator of the epoch.
            parts: Model, optimizers, schedulers and scaler.
            reporter: Reporter of the epoch.
            position: Return value of restore().
            skipped: Watch for skipped updates.
        """
        accum_grad = skipped.accum_grad

        def before_batch(utterances):
            if reporter.count % accum_grad:
                return
            for one in parts.model.objectives:
                one.labeller.forget()  # what a skipped update has observed
            if utterances:
                skipped.after_update(reporter, utterances)
                utterances.clear()
            wish = self._wish(reporter.count // accum_grad)
            if wish != GO_ON and reporter.count:
                self.save(parts, reporter, position.finished)
            if wish == STOP:
                stop()

        return Batches(
            [] if position.finished else iterator,
            before_batch,
            position.batches,
            lambda: set_random_state(position.random),
        )

    def _wish(self, updates: int) -> int:
        due = time.monotonic() - self.saved_at >= self.seconds
        due |= bool(self.updates and updates and updates % self.updates == 0)
        return agree(STOP if stop_request() else SAVE if due else GO_ON)


class Parts:
    """What ESPnet saves in a checkpoint, except the statistics of epochs, and our watches.

    Args:
        model: Model, possibly wrapped for distributed training.
        optimizers: Optimizers.
        schedulers: Their schedulers, or None.
        scaler: Gradient scaler of ``use_amp``, or None.
    """

    def __init__(self, model, optimizers, schedulers, scaler):
        self.model = getattr(model, "module", model)
        self.optimizers, self.schedulers = optimizers, schedulers
        self.scaler = scaler

    def state(self) -> State:
        """Return all states."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [one.state_dict() for one in self.optimizers],
            "schedulers": [one and one.state_dict() for one in self.schedulers],
            "scaler": self.scaler and self.scaler.state_dict(),
            "watches": watches_state(self.model),
        }

    def load(self, state: State) -> None:
        """Set all states."""
        self.model.load_state_dict(state["model"])
        for one, saved in zip(self.optimizers, state["optimizers"], strict=True):
            one.load_state_dict(saved)
        for one, saved in zip(self.schedulers, state["schedulers"], strict=True):
            if one is not None and saved is not None:
                one.load_state_dict(saved)
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        restore_watches(self.model, state["watches"])


class Batches:
    """Batches of an epoch, with a callback before each.

    Args:
        iterator: ESPnet's iterator of the epoch.
        before_batch: Called before each batch, and after the last, with the names of the
            utterances read since it last cleared this list.
        done: Number of batches to skip.
        before_first: Called once these are skipped.
    """

    def __init__(
        self,
        iterator: Iterable,
        before_batch: Callable[[list[str]], None],
        done: int = 0,
        before_first: Callable[[], None] = lambda: None,
    ):
        self.iterator, self.done = iterator, done
        self.before_batch, self.before_first = before_batch, before_first

    def __len__(self) -> int:
        """Return the number of batches of the whole epoch, which ESPnet asks for."""
        if not isinstance(self.iterator, Sized):
            raise TypeError("the number of batches is unknown")
        return len(self.iterator)

    def __iter__(self) -> Iterator:
        """Yield the remaining batches."""
        rest, done = without_first(self.iterator, self.done)
        # Whatever the iterator, its workers are started here: see deferred().
        with deferred():
            iterator = iter(rest)
            for _ in islice(iterator, done):
                pass
        self.before_first()
        utterances: list[str] = []
        while True:
            self.before_batch(utterances)
            try:
                with deferred():
                    batch = next(iterator)
            except StopIteration:
                return
            utterances += batch[0]
            yield batch


def without_first(iterator: Iterable, number: int) -> tuple[Iterable, int]:
    """Skip an epoch's first batches, without reading them if possible.

    Returns:
        Batches, and the number of them that still have to be skipped.
    """
    if number and isinstance(iterator, DataLoader):
        batches = iterator.batch_sampler
        if isinstance(batches, list):
            rest = DataLoader(
                dataset=iterator.dataset,
                batch_sampler=batches[number:],
                num_workers=iterator.num_workers,
                pin_memory=iterator.pin_memory,
                worker_init_fn=iterator.worker_init_fn,
                collate_fn=iterator.collate_fn,
            )
            return rest, 0
    if number:
        logging.info(f"Reading the first {number} batches of the epoch again")
    return iterator, number


def agree(wish: int) -> int:
    """Return the largest of all ranks' requests (GO_ON, SAVE or STOP)."""
    if world_size() == 1:
        return wish
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    largest = torch.tensor(wish, device=device)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    return int(largest)


def stop_if_asked() -> None:
    """Stop if any rank was asked to; the state has already been saved."""
    if agree(STOP if stop_request() else GO_ON) == STOP:
        stop()


def stop() -> None:
    """Exit with the status that tells the caller to repeat the command.

    Raises:
        SystemExit: Always.
    """
    logging.warning(
        f"Stopped by {stop_request() or 'a signal to another rank'}; the same command "
        "resumes from here"
    )
    raise SystemExit(STOPPED)


def random_state() -> State:
    """Return the states of all random number generators of this process."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: State | None) -> None:
    """Set the states of all random number generators of this process, if given."""
    if state is None:
        return
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def reporter_state(reporter: SubReporter) -> State:
    """Return the statistics of an epoch so far, as tensors."""
    stats = {}
    for key, values in reporter.stats.items():
        weights = None
        if isinstance(values[0], WeightedAverage):
            weights = torch.tensor([x.weight for x in values], dtype=torch.float64)
        numbers = torch.tensor([x.value for x in values], dtype=torch.float64)
        stats[key] = (numbers, weights)
    return {
        "stats": stats,
        "count": reporter.count,
        "total_count": reporter.total_count,
        "seconds": time.perf_counter() - reporter.start_time,
    }


def restore_reporter(reporter: SubReporter, state: State) -> None:
    """Restore the statistics of an epoch so far."""
    for key, (numbers, weights) in state["stats"].items():
        if weights is None:
            reporter.stats[key] = [Average(x) for x in numbers.tolist()]
        else:
            pairs = zip(numbers.tolist(), weights.tolist())
            reporter.stats[key] = [WeightedAverage(*pair) for pair in pairs]
    reporter.count = state["count"]
    reporter.total_count = state["total_count"]
    reporter.start_time -= state["seconds"]
