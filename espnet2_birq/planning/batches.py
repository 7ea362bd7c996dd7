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


def configured_batch(args: argparse.Namespace, utterance: float, gpus: int) -> Batch:
    """Compute the amount of speech per step.

    Args:
        args: Arguments of SSLTask.
        utterance: Utterance length in seconds.
        gpus: Number of GPUs that share a batch.

    Raises:
        ConfigError: A batch has less than one utterance per GPU, or an update no batch.
    """
    fs = sampling_rate(args.frontend_conf)
    if args.batch_type in BINS:
        key, least, seconds = "batch_bins", gpus * utterance * fs, args.batch_bins / fs
    else:
        parts = _folded(args, utterance * fs)
        key, least = "batch_size", gpus * parts
        seconds = args.batch_size // parts * utterance
    if seconds / gpus < utterance:
        raise ConfigError(
            f"{key} {getattr(args, key)} is the batch of all {gpus} GPUs and holds "
            f"less than one utterance of {utterance:.1f} s for each; give at least "
            f"--{key} {math.ceil(least)}"
        )
    if args.accum_grad < 1:
        raise ConfigError(f"accum_grad {args.accum_grad}: give at least 1")
    return Batch(seconds, seconds / gpus, args.accum_grad)


def configured_epoch(
    args: argparse.Namespace, total: float, utterance: float, gpus: int
) -> tuple[Batch, float]:
    """Compute the speech per step and the steps per epoch.

    Args:
        args: Arguments of SSLTask.
        total: Speech of the training set in seconds.
        utterance: Utterance length in seconds.
        gpus: Number of GPUs that share a batch.

    Raises:
        ConfigError: As by configured_batch(), or an epoch has no update.
    """
    batch = configured_batch(args, utterance, gpus)
    # ESPnet draws so many times the utterances of the set.
    drawn = args.dataset_scaling_factor if args.batch_type in DRAWN else 1
    steps = args.num_iters_per_epoch or drawn * total / batch.seconds
    if math.ceil(steps) < batch.accum_grad:
        raise ConfigError(
            f"an epoch of {math.ceil(steps)} batches has no update with accum_grad "
            f"{batch.accum_grad}; lower accum_grad, batch_bins or batch_size"
        )
    return batch, steps


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
    return max(1, math.ceil(number / gpus))


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
    if args.batch_type not in BINS:
        return f"--batch_size {utterances * gpus * _folded(args, samples)}"
    bins = int(utterances * gpus * samples) - _exceeds(args)
    options = f"--batch_bins {bins}"
    if unlabelled := getattr(args, "unlabelled_batch_bins", None):
        # In joint training, the two batches keep their ratio.
        options += f" --unlabelled_batch_bins {bins * unlabelled // args.batch_bins}"
    return options


def _exceeds(args: argparse.Namespace) -> bool:
    """Return whether a batch ends after batch_bins are exceeded, as ESPnet's do.

    Those of catpow are ours (espnet2_birq/tasks/like_lengths.py) and end before.
    """
    return args.batch_type in BINS and args.batch_type != "catpow"


def _folded(args: argparse.Namespace, samples: float) -> int:
    """Return by what ESPnet divides batch_size for utterances of this length."""
    # By iterator_type category, ESPnet takes folded for catbel, which does not.
    folds = args.batch_type == "folded" and args.iterator_type != "category"
    return 1 + int(samples / args.fold_length[0]) if folds and args.fold_length else 1
