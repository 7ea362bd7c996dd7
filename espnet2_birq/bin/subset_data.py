"""Take some hours out of a data directory."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.datadir.subset import subset_data_dir

DESCRIPTION = """\
Take some hours out of a Kaldi data directory, or of a set that ESPnet has formatted
(dump/raw/NAME): to fine-tune on 10 h or 1 h of labelled speech.

Utterances are drawn at random, as much of women as of men, where spk2gender tells, and
as much of each speaker as there is, to half an utterance. (A speaker 19-198 is taken to
be LibriSpeech's reader 19 in a chapter, and counts as reader 19.) With one seed, 1 h is
part of 10 h. (Libri-light's sets of these sizes are others, of few speakers.)

All files that list utterances, recordings or speakers are cut accordingly, paths become
absolute, other files are copied. DEST is written whole or not at all, and replaces an
earlier data directory."""

EPILOG = """\
examples:
  # An hour of train_clean_100
  python -m espnet2_birq.bin.subset_data --hours 1 data/train_clean_100 data/train_1h

  # One hour with labels, and all else without, out of a formatted set
  python -m espnet2_birq.bin.subset_data --hours 1 --rest dump/raw/rest \\
      dump/raw/train dump/raw/train_1h"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("subset_data", DESCRIPTION, EPILOG)
    parser.add_argument("source", metavar="SRC", type=Path, help="what to draw from")
    parser.add_argument("dest", metavar="DEST", type=Path, help="directory to write")
    parser.add_argument(
        "--hours", type=float, required=True, metavar="H", help="how much to draw"
    )
    parser.add_argument(
        "--rest",
        type=Path,
        metavar="DIR",
        help="also write what was not drawn, as another data directory",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the draw (default: %(default)s)"
    )
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
