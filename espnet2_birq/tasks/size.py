"""Does an encoder's size suit the amount of speech? A warning, never an error."""

import argparse

import torch

from espnet2_birq.config import sampling_rate
from espnet2_birq.reading import read_lines
from espnet2_birq.tasks.lists import files_of

# Parameters below which a row holds, and hours of speech that such an encoder is for:
# docs/methods.md#a-size. Bounds are wide, since no one has measured them.
FITTING = (
    (20e6, 0.0, 200.0),
    (120e6, 20.0, 6000.0),
    (float("inf"), 500.0, float("inf")),
)


def speech_hours(args: argparse.Namespace) -> float | None:
    """Sum the lengths of the training set.

    Args:
        args: Options of SSLTask.

    Returns:
        Hours; None: no lengths, or those of vectors (``input_size``), not waveforms.
    """
    if not args.train_shape_file or getattr(args, "input_size", None) is not None:
        return None
    samples = 0
    for path in files_of(args.train_shape_file[:1]):
        for line in read_lines(path):
            samples += int(line.split()[1].partition(",")[0])
    return samples / sampling_rate(args.frontend_conf) / 3600


def size_warning(encoder: torch.nn.Module, hours: float) -> str | None:
    """Compare an encoder's number of parameters with what its speech can fill.

    Args:
        encoder: Encoder to pretrain.
        hours: Hours of training speech.

    Returns:
        Warning in one line; None: the size is a usual one.
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
