"""Speech of a step and of an epoch, by the options of ESPnet's samplers."""

import argparse
import math
from typing import NamedTuple

from espnet2_birq.config import sampling_rate
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.checks import BINS, DRAWN


class Batch(NamedTuple):
    """The configured batch."""

    seconds: float  # of speech in a step, on all GPUs
    share: float  # ... on each
    accum_grad: int  # steps per update


def configured_batch(args: argparse.Namespace, mean: float, gpus: int) -> Batch:
    """Compute the mean amount of speech per step.

    Args:
        args: Arguments of SSLTask.
        mean: Mean length of an utterance in seconds.
        gpus: Number of GPUs that share a batch.

    Raises:
        ConfigError: A batch has fewer utterances than GPUs, or an update no batch.
    """
    if args.accum_grad < 1:
        raise ConfigError(f"accum_grad {args.accum_grad}: give at least 1")
    if args.batch_type in BINS:
        seconds = args.batch_bins / sampling_rate(args.frontend_conf)
    else:
        samples = mean * sampling_rate(args.frontend_conf)
        seconds = args.batch_size // _folded(args, samples) * mean
    least, most = _limits(args, gpus)
    seconds = max(min(seconds, most * mean), least * mean)
    if seconds < gpus * mean:  # ESPnet would stop
        raise ConfigError(
            f"batch_size {args.batch_size} is the batch of all {gpus} GPUs, of which each "
            f"needs an utterance; give at least --batch_size {gpus}"
        )
    return Batch(seconds, seconds / gpus, args.accum_grad)


def configured_epoch(
    args: argparse.Namespace, total: float, mean: float, gpus: int
) -> tuple[Batch, float]:
    """Compute the speech per step and the steps per epoch.

    Args:
        args: Arguments of SSLTask.
        total: Speech of the training set in seconds.
        mean: Mean length of an utterance in seconds.
        gpus: Number of GPUs that share a batch.

    Raises:
        ConfigError: As by configured_batch(), or an epoch has no update.
    """
    batch = configured_batch(args, mean, gpus)
    # ESPnet draws so many times the utterances of the set.
    drawn = args.dataset_scaling_factor if args.batch_type in DRAWN else 1
    steps = args.num_iters_per_epoch or drawn * total / batch.seconds
    if whole_steps(steps) < batch.accum_grad:
        raise ConfigError(
            f"an epoch of {whole_steps(steps)} batches has no update with accum_grad "
            f"{batch.accum_grad}; lower accum_grad, batch_bins or batch_size"
        )
    return batch, steps


def number_of_updates(args: argparse.Namespace, steps: float) -> int:
    """Compute the updates of a training, without each epoch's leftover steps.

    Args:
        args: Arguments of SSLTask.
        steps: Steps of an epoch.
    """
    return args.max_epoch * (whole_steps(steps) // args.accum_grad)


def whole_steps(steps: float) -> int:
    """Return the number of steps, of which the last may have less speech."""
    return math.ceil(round(steps, 6))  # not one more for an error of rounding


def most_utterances(args: argparse.Namespace, longest: float, gpus: int) -> int:
    """Return how many of the longest utterances a batch may have on a GPU.

    Args:
        args: Arguments of SSLTask.
        longest: Their length in seconds.
        gpus: Number of GPUs that share a batch.
    """
    samples = longest * sampling_rate(args.frontend_conf)
    if args.batch_type in BINS:
        number = int(args.batch_bins / samples) + _exceeds(args)
    else:
        number = args.batch_size // _folded(args, samples)
    least, most = _limits(args, gpus)
    return math.ceil(max(min(number, most), least) / gpus)


def setting_of(
    args: argparse.Namespace, utterances: int, longest: float, gpus: int
) -> str:
    """Return the options for a batch of some of the longest utterances on each GPU.

    Args:
        args: Arguments of SSLTask.
        utterances: Number of utterances on a GPU.
        longest: Their length in seconds.
        gpus: Number of GPUs that share a batch.
    """
    samples = longest * sampling_rate(args.frontend_conf)
    number = utterances * gpus
    if args.batch_type not in BINS:
        options = f"--batch_size {number * _folded(args, samples)}"
    else:
        bins = int(number * samples) - _exceeds(args)
        options = f"--batch_bins {bins}"
        if unlabelled := getattr(args, "unlabelled_batch_bins", None):
            # In joint training, the two batches keep their ratio.
            options += (
                f" --unlabelled_batch_bins {bins * unlabelled // args.batch_bins}"
            )
    least, most = _limits(args, gpus)
    if number < least:
        options += f" --min_batch_size {number}"
    if number > most:
        options += f" --max_batch_size {number}"
    return options


def _limits(args: argparse.Namespace, gpus: int) -> tuple[int, float]:
    """Return between how many utterances ESPnet's sampler keeps a batch, if it does."""
    least, most = 0, math.inf
    if args.batch_type in BINS or _folds(args):
        least = gpus if gpus > 1 else args.min_batch_size
    if args.batch_type in DRAWN and args.max_batch_size is not None:
        most = args.max_batch_size
    return least, most


def _exceeds(args: argparse.Namespace) -> bool:
    """Return whether a batch ends after batch_bins are exceeded, as ESPnet's do.

    Those of catpow are ours (espnet2_birq/tasks/like_lengths.py) and end before.
    """
    return args.batch_type in BINS and args.batch_type != "catpow"


def _folds(args: argparse.Namespace) -> bool:
    """Return whether batch_size is for short utterances, and smaller for longer ones."""
    # By iterator_type category, ESPnet takes folded for catbel, which does not.
    return args.batch_type == "folded" and args.iterator_type != "category"


def _folded(args: argparse.Namespace, samples: float) -> int:
    """Return by what ESPnet divides batch_size for utterances of this length."""
    folds = _folds(args) and args.fold_length
    return 1 + int(samples / args.fold_length[0]) if folds else 1
