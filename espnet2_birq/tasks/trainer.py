"""ESPnet's trainer, extended to prepare labellers and to survive interruptions.

Labellers see speech before the first update. The state is also saved within epochs and on
SIGTERM and SIGUSR1, always as complete files. After the first epoch without an update,
ESPnet saves it like any other, stops and reports success; this trainer fails instead.
"""

import argparse
import dataclasses
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.category_iter_factory import CategoryIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.torch_utils.device_funcs import to_device
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.dataset import ESPnetDataset
from espnet2.train.trainer import Trainer as ESPnetTrainer
from espnet2.train.trainer import TrainerOptions

from espnet2_birq.datadir.locking import locked
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.ranks import alone, rank, world_size
from espnet2_birq.tasks.advice import share_warning, speech_hours, warnings_of
from espnet2_birq.tasks.changes import describe_origin, refuse_without_training
from espnet2_birq.tasks.checks import CHECKPOINT
from espnet2_birq.tasks.criteria import Criterion, check_statistics, read_criteria
from espnet2_birq.tasks.given import SPEECH, check_labels
from espnet2_birq.tasks.like_lengths import LikeLengthsIterFactory
from espnet2_birq.tasks.provenance import record_run
from espnet2_birq.tasks.resuming import complete_epoch, read_checkpoint, statistics
from espnet2_birq.tasks.saving import (
    KEPT_CONFIG,
    Batches,
    Parts,
    Saver,
    stop_if_asked,
    whole_saves,
)
from espnet2_birq.tasks.skipping import SkippedUpdates, check_validation
from espnet2_birq.tasks.tensorboard import grouping


@dataclasses.dataclass
class Options(TrainerOptions):
    """ESPnet's trainer options, and our own.

    Attributes:
        saver: Saver of the state.
        hours: Hours of training speech; None: unknown.
        max_skipped_updates: See the option.
        criteria: Statistics that must be there.
    """

    saver: Saver
    hours: float | None
    max_skipped_updates: int
    criteria: list[Criterion]


class Trainer(ESPnetTrainer):
    """Trainer of SSLTask."""

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser):
        """Add options of this trainer to ESPnet's."""
        group = parser.add_argument_group("Interrupted and failing training")
        group.add_argument(
            "--save_minutes",
            type=float,
            default=15.0,
            help="Save the state in progress.pth whenever this many minutes have passed "
            "(0: at the end of an epoch and on SIGTERM or SIGUSR1 only)",
        )
        group.add_argument(
            "--save_updates",
            type=int,
            default=None,
            help="Save it after every so many updates of an epoch, too",
        )
        group.add_argument(
            "--max_skipped_updates",
            type=int,
            default=30,
            help="Stop after this many updates in a row that were skipped because the "
            "gradient was not finite",
        )
        group.add_argument(
            "--max_bad_audio",
            type=float,
            default=0.05,
            help="Stop once more than this share of the utterances that a process has "
            "read cannot be used; others are left out, and listed in bad_audio",
        )

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> Options:
        """Build the options of run(), reading the state of an interrupted run."""
        record_run(args)
        warning = share_warning(args, world_size())
        if warning and rank() == 0:
            logging.warning(warning)
        options = vars(super().build_options(args))
        saver = Saver(
            Path(args.output_dir),
            minutes=args.save_minutes,
            updates=args.save_updates,
            origin=describe_origin(args),
            resume=args.resume,
        )
        return Options(
            **options,
            saver=saver,
            hours=speech_hours(args),
            max_skipped_updates=args.max_skipped_updates,
            criteria=read_criteria(args),
        )

    @classmethod
    def run(cls, model: AbsESPnetModel, **arguments) -> None:
        """Initialise labellers on batches of the first epoch, then train.

        Args:
            model: A BiRQModel or JointModel.
            **arguments: ESPnet's arguments, including `train_iter_factory` and
                `trainer_options`.

        Raises:
            DataError: Too little speech for the labellers, or see check_labels().
            ConfigError: The saved model has another configuration, or another training
                is at work in the folder, or see check_labels().
        """
        with _sole_training(Path(arguments["trainer_options"].output_dir)):
            cls._run(model, **arguments)

    @classmethod
    def _run(cls, model: AbsESPnetModel, **arguments) -> None:
        for mode in ("train", "valid"):
            if isinstance(model, BiRQModel):  # JointModel: in batches only
                check_labels(model, arguments[f"{mode}_iter_factory"], mode)
        options = arguments["trainer_options"]
        for warning in warnings_of(model, options.hours, options.keep_nbest_models):
            if rank() == 0:
                logging.warning(warning)
        resumed = _is_resumed(model, options)
        # The new config.yaml suits the model, and replaces the kept one.
        Path(options.output_dir, KEPT_CONFIG).unlink(missing_ok=True)
        if not resumed:
            options.saver.forget()
            model.begin()
        if model.unprepared and not resumed:
            names = ", ".join(model.unprepared)
            logging.info(
                f"Before the first update: reading speech to initialise {names}"
            )
            iterator = arguments["train_iter_factory"].build_iter(1)
            iterator = Batches(iterator, lambda _: stop_if_asked())
            seen = model.prepare(_batches(iterator, model.updates.device))
            logging.info(
                f"Objectives {names} have seen {seen} frames and are initialised"
            )
        with whole_saves(), grouping([one.name for one in model.objectives]):
            super().run(model=model, **arguments)

    @classmethod
    def train_one_epoch(cls, **arguments) -> bool:
        """Train for an epoch, or for the rest of it.

        Args:
            **arguments: ESPnet's arguments, including `reporter`.

        Returns:
            False, which tells ESPnet that not all updates were invalid.

        Raises:
            ConfigError: No update was made, and the epoch is not saved; or a statistic
                of a criterion is missing, and it is saved.
        """
        options, reporter = arguments["options"], arguments["reporter"]
        names = ("model", "optimizers", "schedulers", "scaler")
        parts = Parts(*(arguments[name] for name in names))
        for optimizer in parts.optimizers:
            # ESPnet would add the gradient of leftover batches (accum_grad) to the next
            # epoch's first update.
            optimizer.zero_grad()
        if rank() > 0:
            # ESPnet gives all ranks the same random numbers, hence the same masks.
            seed = options.seed + reporter.get_epoch() + rank() * 1_000_003
            set_all_random_seed(seed % 2**32)
        position = options.saver.restore(parts, reporter)
        arguments["iterator"] = options.saver.batches(
            arguments["iterator"],
            parts,
            reporter,
            position,
            SkippedUpdates(
                Path(options.output_dir),
                options.max_skipped_updates,
                parts.model.checks,
                options.accum_grad,
            ),
        )
        invalid = super().train_one_epoch(**arguments)
        if invalid and "grad_norm" not in reporter.stats:
            raise ConfigError(
                f"epoch {reporter.get_epoch()}: no update was made: the gradient was "
                "never finite, or there were fewer batches than accum_grad; see the log, "
                "lower the learning rate or accum_grad"
            )
        options.saver.save(parts, reporter, finished=True)
        check_statistics(options.criteria, "train", reporter.stats)
        return False

    @classmethod
    def validate_one_epoch(cls, **arguments) -> None:
        """Run validation, which may be stopped: the trained epoch has been saved.

        Args:
            **arguments: ESPnet's arguments.

        Raises:
            ConfigError: The loss of most batches is not finite, or a statistic of a
                criterion is missing.
        """
        batches = Batches(arguments["iterator"], lambda _: stop_if_asked())
        super().validate_one_epoch(**{**arguments, "iterator": batches})
        check_validation(arguments["reporter"])
        criteria = arguments["options"].criteria
        check_statistics(criteria, "valid", arguments["reporter"].stats)

    @classmethod
    def plot_attention(cls, model: AbsESPnetModel, **arguments) -> None:
        """Plot attention weights in single precision, as NumPy has no bfloat16.

        Only the first rank does it.

        Args:
            model: A BiRQModel or JointModel.
            **arguments: ESPnet's other arguments.
        """
        inner = getattr(model, "pretraining", model)
        before, inner.cpu_bfloat16 = inner.cpu_bfloat16, False
        try:
            with alone():
                super().plot_attention(model=model, **arguments)
        finally:
            inner.cpu_bfloat16 = before


@contextmanager
def _sole_training(folder: Path) -> Iterator[None]:
    """Keep other trainings from writing to the same experiment.

    Raises:
        ConfigError: One is at work there.
    """
    lock = folder / ".lock"

    def refuse() -> None:
        raise ConfigError(
            f"{folder}: another training is at work in this folder; stop it, or give "
            f"another folder (if there is none, since a machine crashed: remove {lock})"
        )

    with locked(lock, refuse) if rank() == 0 else nullcontext():
        yield


def _is_resumed(model: AbsESPnetModel, options: Options) -> bool:
    """Check what is saved, and complete it; return whether training goes on from there.

    Raises:
        ConfigError: The saved model has another configuration, or its epochs lack the
            statistic of a criterion; or no epoch is left, and options have changed.
    """
    options.saver.check_model(model)
    folder = Path(options.output_dir)
    if not options.resume or not (folder / CHECKPOINT).exists():
        return options.saver.is_in_first_epoch
    saved = read_checkpoint(folder / CHECKPOINT, model)
    reporter = statistics(saved)
    for phase, found in reporter.stats[reporter.get_epoch()].items():
        check_statistics(options.criteria, phase, found)
    saver = options.saver
    if reporter.get_epoch() >= options.max_epoch and saver.state is not None:
        refuse_without_training(folder, saver.state["origin"], saver.origin)
    if rank() == 0:
        with whole_saves():
            complete_epoch(folder, saved, options.best_model_criterion)
    return True


def _batches(
    iterator: Iterable[tuple[list[str], dict[str, torch.Tensor]]], device: torch.device
) -> Iterator[dict[str, Any]]:
    """Yield arguments of the model's forward pass."""
    for utterances, batch in iterator:
        yield {"utt_id": utterances, **to_device(batch, device)}


def check_batches(args: argparse.Namespace, factory: AbsIterFactory, mode: str) -> None:
    """Check before training that an epoch has enough batches and no data is missing.

    Args:
        args: Options of training.
        factory: Factory of an epoch's batches.
        mode: ESPnet's mode: train, valid or plot_att.

    Raises:
        ConfigError: An epoch has fewer batches than accum_grad.
        DataError: An utterance is missing from a data file.
    """
    sampled = (
        factory.factory if isinstance(factory, LikeLengthsIterFactory) else factory
    )
    if not isinstance(sampled, (SequenceIterFactory, CategoryIterFactory)):
        return  # Chunks are cut during training: their number is unknown.
    if isinstance(sampled.dataset, ESPnetDataset):
        check_utterances(sampled.sampler.batches, sampled.dataset)
    # With split lists, the factory covers only one part of them.
    if mode == "train" and not args.multiple_iterator:
        batches = args.num_iters_per_epoch or len(factory.build_iter(1))
        if batches < args.accum_grad:
            raise ConfigError(
                f"an epoch of {batches} batches has no update with accum_grad "
                f"{args.accum_grad}; lower accum_grad, batch_bins or batch_size"
            )
        updates = args.max_epoch * (batches // args.accum_grad)
        for row in args.objectives:
            start = (row.get("when") or {}).get("start", 0)
            if start >= updates and rank() == 0:
                logging.warning(
                    f"Objective '{row['name']}' is never trained: it starts at update "
                    f"{start}, and {args.max_epoch} epochs have {updates} updates"
                )


def check_utterances(batches: Iterable[Iterable[str]], dataset: ESPnetDataset) -> None:
    """Check that no utterance is missing, before a worker raises a KeyError.

    Args:
        batches: Batches of utterances from the shape file.
        dataset: Dataset from which they are read.

    Raises:
        DataError: An utterance is missing from a file.
    """
    for name, loader in dataset.loader_dict.items():
        there = set(loader)
        lacking = [key for batch in batches for key in batch if key not in there]
        if lacking:
            remedy = "the shape file again (birq.sh --stage 6)"
            if dataset.debug_info[name][1] == "text":
                remedy = "transcripts of all, or the shape file again"
            elif name != SPEECH:
                remedy = "labels of the whole set (dump_labels, birq.sh --stage 5)"
            raise DataError(
                f"{dataset.debug_info[name][0]}: has no {name} of {len(set(lacking))} "
                f"utterances that the shape file has, the first: {min(lacking)}; make "
                + remedy
            )
