"""Options of the commands that decode with a CTC head."""

import argparse
from pathlib import Path

from espnet2_birq.evaluation.decode.search import Weights
from espnet2_birq.options import count, positive


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model and its execution."""
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FILE",
        help="ESPnet ASR model with a CTC head, next to its config.yaml",
    )
    parser.add_argument(
        "--ngpu",
        type=int,
        choices=(0, 1),
        help="1: run the network on a GPU (default: 1 if there is one)",
    )
    parser.add_argument(
        "--batch_seconds",
        type=positive,
        default=200.0,
        metavar="S",
        help="audio per batch of the network including padding; does not "
        "affect results",
    )


def wants_gpu(args: argparse.Namespace) -> bool | None:
    """Return whether the network is to run on a GPU; None: if there is one."""
    return None if args.ngpu is None else args.ngpu > 0


def add_lm_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the options of the n-gram."""
    parser.add_argument(
        "--lm",
        type=Path,
        required=required,
        metavar="FILE",
        help="word n-gram: ARPA file, optionally gzipped, or KenLM binary",
    )
    parser.add_argument(
        "--words",
        type=Path,
        metavar="FILE",
        help="words of the n-gram, one per line: required for KenLM binaries, which "
        "do not contain them",
    )
    for name, kind, text in (
        ("beam_size", count, "hypotheses kept after each frame"),
        ("beam_threshold", positive, "drop hypotheses this far below the best"),
    ):
        default = Weights._field_defaults[name]
        parser.add_argument(
            f"--{name}", type=kind, metavar="N", help=f"{text} (default: {default})"
        )
