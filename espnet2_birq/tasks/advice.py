"""Warnings about options of a training that are allowed, but unusual; never errors."""

import argparse

import torch

from espnet2_birq.config import sampling_rate
from espnet2_birq.encoders.taps import layers_that_see_padding
from espnet2_birq.pretraining.labellers.codebooks import MovingCodebooks
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.reading import read_lines
from espnet2_birq.tasks.lists import files_of

# Rows: upper limit on the parameters, and the range of hours of speech for such an
# encoder (docs/methods.md#a-size). The ranges are wide, since no one has measured them.
FITTING = (
    (20e6, 0.0, 200.0),
    (120e6, 20.0, 6000.0),
    (float("inf"), 500.0, float("inf")),
)
FEW_SECONDS = 100.0  # of speech in a GPU's part of a batch


def warnings_of(
    model: torch.nn.Module, hours: float | None, keep_nbest_models: int | list[int]
) -> list[str]:
    """Return all warnings about a model that is to be trained, each one line.

    Args:
        model: A BiRQModel or JointModel.
        hours: Hours of speech; None if unknown.
        keep_nbest_models: ESPnet's option.
    """
    found = [padding_warning(model), averaging_warning(model, keep_nbest_models)]
    if isinstance(model, BiRQModel) and hours is not None:
        found.append(size_warning(model.encoder, hours))
    return [warning for warning in found if warning]


def padding_warning(model: torch.nn.Module) -> str | None:
    """Name ESPnet's layers that make an utterance's features depend on its batch."""
    seeing = layers_that_see_padding(model)
    if not seeing:
        return None
    return (
        f"{', '.join(seeing)}: what such layers of ESPnet make of speech depends on the "
        "padding behind it, hence on the batch; rel_pos_type: latest and "
        "positionwise_layer_type: linear avoid this"
    )


def averaging_warning(
    model: torch.nn.Module, keep_nbest_models: int | list[int]
) -> str | None:
    """Name objectives whose codes an average of epochs would mix with replaced ones."""
    kept = (
        [keep_nbest_models] if isinstance(keep_nbest_models, int) else keep_nbest_models
    )
    moving = [
        one.name
        for one in getattr(model, "objectives", [])
        if isinstance(one.labeller, MovingCodebooks)
        and one.labeller.decay < 1
        and one.labeller.reseed
    ]
    if max(kept) < 2 or not moving:
        return None
    return (
        f"{', '.join(moving)}: codes are replaced in training (reseed), and the average of "
        f"{max(kept)} epochs would mix them with others; give keep_nbest_models: 1 for a "
        "model that makes labels"
    )


def speech_hours(args: argparse.Namespace) -> float | None:
    """Compute the duration of the training set.

    Args:
        args: Options of SSLTask.

    Returns:
        Hours; None if lengths are missing or count vectors (``input_size``), not samples.
    """
    if not args.train_shape_file or getattr(args, "input_size", None) is not None:
        return None
    samples = 0
    for path in files_of(args.train_shape_file[:1]):
        for line in read_lines(path):
            samples += int(line.split()[1].partition(",")[0])
    return samples / sampling_rate(args.frontend_conf) / 3600


def size_warning(encoder: torch.nn.Module, hours: float) -> str | None:
    """Compare an encoder's number of parameters with the amount of training speech.

    Args:
        encoder: Encoder to pretrain.
        hours: Hours of training speech.

    Returns:
        One-line warning; None if the size is usual.
    """
    count = sum(parameter.numel() for parameter in encoder.parameters())
    low, high = next(row[1:] for row in FITTING if count < row[0])
    if low <= hours <= high:
        return None
    wrong = "large" if hours < low else "small"
    usual = f"{low:g} to {high:g}" if high < float("inf") else f"{low:g} and more"
    return (
        f"An encoder of {count / 1e6:.1f} M parameters is {wrong} for {hours:.3g} hours "
        f"of speech; usual are {usual} (docs/methods.md#a-size)"
    )


def share_warning(args: argparse.Namespace, processes: int) -> str | None:
    """Compare the speech of a process's part of a batch with what several batches allow.

    Args:
        args: Options of SSLTask.
        processes: Number of processes (GPUs) that share each batch.

    Returns:
        One-line warning if each gets little while several batches make an update; else
        None.
    """
    if processes == 1 or args.accum_grad == 1 or args.batch_type != "numel":
        return None
    if getattr(args, "input_size", None) is not None:
        return None
    seconds = args.batch_bins / sampling_rate(args.frontend_conf) / processes
    if seconds >= FEW_SECONDS:
        return None
    return (
        f"Each of {processes} GPUs gets {seconds:.0f} s of speech at a time, and "
        f"{args.accum_grad} batches make an update. Updates remain the same, and take less "
        f"time, with --batch_bins {args.batch_bins * args.accum_grad} --accum_grad 1, or "
        "with numbers in between, if that fits into memory (docs/plan.md)"
    )
