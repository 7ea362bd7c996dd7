"""Import the lists of another recipe's data directory."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.datadir.adopt import adopt

DESCRIPTION = """\
Import another recipe's Kaldi data directory, or a set formatted by ESPnet
(dump/raw/NAME), as stage 1 of birq.sh does for a --train_set or --valid_set given by
path.

Writes new lists to DEST; audio is neither copied nor opened, and nothing is
written to SOURCE. Paths relative to the other recipe's folder become absolute.
Speakers and transcripts are copied only with --transcripts. DEST is replaced only if
it was made from SOURCE."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.adopt_data --max_seconds 30 \\
      /espnet/egs2/x/asr1/dump/raw/train dump/raw/train"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("adopt_data", DESCRIPTION, EPILOG)
    parser.add_argument(
        "source", metavar="SOURCE", type=Path, help="directory to import"
    )
    parser.add_argument("dest", metavar="DEST", type=Path, help="directory to write")
    add_shared_options(parser, "--fs")
    for limit, default in (("min", 0.0), ("max", float("inf"))):
        parser.add_argument(
            f"--{limit}_seconds",
            type=float,
            default=default,
            metavar="S",
            help=f"{limit}imum length of a formatted set's utterances; others are "
            "dropped",
        )
    parser.add_argument(
        "--transcripts",
        action="store_true",
        help="copy text and utt2spk, too, and make a Kaldi data directory of a formatted "
        "set, for fine-tuning and scoring",
    )
    return parser


def adopt_data(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: What get_parser() parsed.

    Raises:
        DataError: The source is unusable, or DEST was not made from it.
    """
    adopted = adopt(
        args.source,
        args.dest,
        args.fs,
        args.min_seconds,
        args.max_seconds,
        args.transcripts,
    )
    line = f"{args.dest}: {adopted.utterances} utterances of {args.source}"
    if adopted.left_out is not None:
        line += (
            f", {adopted.left_out} left out that are not between {args.min_seconds:g} and "
            f"{args.max_seconds:g} s"
        )
    if adopted.unconverted:
        line += f", {adopted.unconverted} left out whose audio could not be converted"
    print(line)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(adopt_data, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
