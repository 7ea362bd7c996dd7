"""Copy the recipes and their configurations to a folder, to run and change them there."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run

DESCRIPTION = """\
Copy the recipes (egs2/), their configurations (conf/) and the scripts they share (local/)
to a new folder. They run with the Python that has this package, and with the scripts of
an ESPnet tree:

  FOLDER/local/setup.sh                                 fetches one
  ESPNET_ROOT=/path/to/espnet FOLDER/local/setup.sh     links one you have

Single configurations need no copy: --config birq:tuning/train_birq_c1.yaml."""
EPILOG = """\
example:
  python -m espnet2_birq.bin.recipes ~/birq
  ESPNET_ROOT=/path/to/espnet ~/birq/local/setup.sh
  cd ~/birq/egs2/librispeech/ssl1 && ./run.sh --method birq --librispeech /corpora"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("recipes", DESCRIPTION, EPILOG)
    parser.add_argument("dest", type=Path, metavar="FOLDER", help="new or empty folder")
    return parser


def recipes(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.recipes import copy_recipes

    copy_recipes(args.dest)
    print(f"{args.dest}: next, {args.dest}/local/setup.sh; see --help")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(recipes, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
