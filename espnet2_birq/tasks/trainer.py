"""ESPnet's trainer with labeller initialisation and an error for epochs without updates.

Labellers see speech before the first update. At the first epoch without an update, ESPnet
stops, saves it like any other, and reports success; ours fails.
"""

import argparse
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.category_iter_factory import CategoryIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.dataset import ESPnetDataset
from espnet2.train.trainer import Trainer as ESPnetTrainer

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.tasks.given import SPEECH, check_labels
from espnet2_birq.tasks.like_lengths import LikeLengthsIterFactory

CHECKPOINT = "checkpoint.pth"  # from which ESPnet resumes


class Trainer(ESPnetTrainer):
    """Trainer of SSLTask."""

    @classmethod
    def run(cls, model: AbsESPnetModel, **arguments) -> None:
        """Initialise labellers on batches of the first epoch, then train.

        Args:
            model: A BiRQModel or JointModel.
            **arguments: ESPnet's, including `train_iter_factory` and `trainer_options`.

        Raises:
            DataError: Too little speech for the labellers, or see check_labels().
            ConfigError: See check_labels().
        """
        for mode in ("train", "valid"):
            if isinstance(model, BiRQModel):  # JointModel: in each batch only
                check_labels(model, arguments[f"{mode}_iter_factory"], mode)
        options = arguments["trainer_options"]
        resumed = options.resume and (Path(options.output_dir) / CHECKPOINT).exists()
        if not resumed:
            model.begin()
        if model.unprepared and not resumed:
            names = ", ".join(model.unprepared)
            logging.info(f"Before the first update: looking at speech for {names}")
            iterator = arguments["train_iter_factory"].build_iter(1)
            seen = model.prepare(_batches(iterator, model.updates.device))
            logging.info(f"Objectives {names} have seen {seen} frames, and are settled")
        super().run(model=model, **arguments)

    @classmethod
    def train_one_epoch(cls, **arguments) -> bool:
        """Train for an epoch.

        Args:
            **arguments: ESPnet's, including `reporter`.

        Returns:
            False: not all updates were invalid.

        Raises:
            ConfigError: No update was made. The epoch is not saved.
        """
        if super().train_one_epoch(**arguments):
            epoch = arguments["reporter"].get_epoch()
            raise ConfigError(
                f"epoch {epoch}: no update was made: the gradient was never finite, or "
                "there were fewer batches than accum_grad; see the log, lower the "
                "learning rate or accum_grad"
            )
        return False


def _batches(
    iterator: Iterable[tuple[list[str], dict[str, torch.Tensor]]], device: torch.device
) -> Iterator[dict[str, Any]]:
    """Yield arguments of the model's forward pass."""
    for utterances, batch in iterator:
        yield {"utt_id": utterances, **to_device(batch, device)}


def check_trainer(args: argparse.Namespace) -> None:
    """Refuse options that replace the trainer.

    Raises:
        ConfigError: DeepSpeed is set, for which ESPnet uses its own trainer.
    """
    if args.use_deepspeed:
        raise ConfigError(
            "use_deepspeed: pretraining has a trainer of its own, which ESPnet cannot "
            "combine with DeepSpeed; leave it out"
        )


def check_batches(args: argparse.Namespace, factory: AbsIterFactory, mode: str) -> None:
    """Check before training that an epoch has enough batches, and all data.

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
    # With split lists, this is one part of them.
    if mode == "train" and not args.multiple_iterator:
        batches = args.num_iters_per_epoch or len(factory.build_iter(1))
        if batches < args.accum_grad:
            raise ConfigError(
                f"an epoch of {batches} batches has no update with accum_grad "
                f"{args.accum_grad}; lower accum_grad, batch_bins or batch_size"
            )


def check_utterances(batches: Iterable[Iterable[str]], dataset: ESPnetDataset) -> None:
    """Check that no utterance is missing, before a worker raises a KeyError.

    Args:
        batches: Utterances of the shape file.
        dataset: Dataset they are read from.

    Raises:
        DataError: An utterance is missing from a file.
    """
    for name, loader in dataset.loader_dict.items():
        there = set(loader)
        lacking = [key for batch in batches for key in batch if key not in there]
        if lacking:
            remedy = "the shape file again (birq.sh --stage 6)"
            if name != SPEECH:
                remedy = "labels of the whole set (dump_labels, birq.sh --stage 5)"
            raise DataError(
                f"{dataset.debug_info[name][0]}: has no {name} of {len(set(lacking))} "
                f"utterances that the shape file has, the first: {min(lacking)}; make "
                + remedy
            )
