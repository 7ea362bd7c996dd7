"""Print the progress of trainings: updates, loss, time left.

Example:
    python -m espnet2_birq.bin.progress exp/ssl_train_birq_raw
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.errors import DataError
from espnet2_birq.experiments.progress import read_progress


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        description="Print, for each experiment that has started, a line with "
        "its number of updates, its loss, and the estimated time left."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="EXP")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each experiment that has started."""
    for folder in get_parser().parse_args(argv).folders:
        try:
            print(f"{folder.name}: {read_progress(folder)}")
        except DataError:  # no update yet
            continue


if __name__ == "__main__":
    main()
