"""Tell how far trainings are: updates, loss, time left.

Example:
    python -m espnet2_birq.bin.progress exp/ssl_train_birq_raw
"""

import argparse
from pathlib import Path

from espnet2_birq.errors import DataError
from espnet2_birq.experiments.progress import read_progress


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description="Print, for each experiment that has made an update, a line with "
        "its number of updates, its loss, and about how long it still trains."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="EXP")
    return parser


def main(cmd=None):
    """Print a line for each experiment; those that have not begun have none."""
    for folder in get_parser().parse_args(cmd).folders:
        try:
            print(f"{folder.name}: {read_progress(folder)}")
        except DataError:  # no update yet
            continue


if __name__ == "__main__":
    main()
