"""Draw a subset of some hours from a data directory."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.datadir.subset import subset_data_dir
from espnet2_birq.options import whole_number

DESCRIPTION = """\
Draw a subset from a Kaldi data directory, or from a set formatted by ESPnet
(dump/raw/NAME), e.g. to fine-tune on 10 h or 1 h of labelled speech.

Utterances are drawn at random, balanced over gender, if spk2gender exists, and
over speakers as far as possible, to half an utterance. (A speaker 19-198 is taken as
LibriSpeech's reader 19 in a chapter, and counts as reader 19.) With the same seed, 1 h
is a subset of 10 h. (Libri-light's sets of these sizes differ, with few speakers.)

All lists of utterances, recordings or speakers are filtered accordingly, paths become
absolute, other files are copied. DEST is written atomically, and replaces an
earlier data directory."""

EPILOG = """\
examples:
  # An hour of train_clean_100
  python -m espnet2_birq.bin.subset_data --hours 1 data/train_clean_100 data/train_1h

  # One hour with labels, and the rest without, from a formatted set
  python -m espnet2_birq.bin.subset_data --hours 1 --rest dump/raw/rest \\
      dump/raw/train dump/raw/train_1h"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("subset_data", DESCRIPTION, EPILOG)
    parser.add_argument(
        "source", metavar="SRC", type=Path, help="directory to draw from"
    )
    parser.add_argument("dest", metavar="DEST", type=Path, help="directory to write")
    parser.add_argument(
        "--hours", type=float, required=True, metavar="H", help="hours to draw"
    )
    parser.add_argument(
        "--rest",
        type=Path,
        metavar="DIR",
        help="also write the remainder, as another data directory",
    )
    parser.add_argument("--seed", type=whole_number, default=0, help="random seed")
    add_shared_options(parser, "--fs", "--nj")
    return parser


def subset_data(args: argparse.Namespace) -> None:
    """Run the command."""
    subset_data_dir(
        args.source, args.dest, args.hours, args.rest, args.seed, args.fs, args.nj
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(subset_data, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
