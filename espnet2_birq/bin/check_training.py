"""Check that training made updates until its end and saved a model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.experiments.checkpoint import check_training

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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(lambda args: check_training(args.model), get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
