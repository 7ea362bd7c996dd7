"""Check that training made updates until its end and saved a model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run

DESCRIPTION = """\
Check that training made updates until its end and saved a model: ESPnet stops at the
first epoch without a valid update, averages earlier epochs, and exits with status 0.
finetune.sh runs this after training. Exits with status 1 and the reason on failure."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.check_training exp/asr_birq/valid.loss.ave.pth"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("check_training", DESCRIPTION, EPILOG)
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="model in the training's folder"
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.experiments.checkpoint import check_training

    check_training(args.model)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(check, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
