"""Warning, never an error, if an encoder's size does not suit the amount of speech."""

import argparse

import torch

from espnet2_birq.config import sampling_rate
from espnet2_birq.reading import read_lines
from espnet2_birq.tasks.lists import files_of

# Rows: upper limit on the parameters, and the range of hours of speech for such an
# encoder (docs/methods.md#a-size). The ranges are wide, since no one has measured them.
FITTING = (
    (20e6, 0.0, 200.0),
    (120e6, 20.0, 6000.0),
    (float("inf"), 500.0, float("inf")),
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
