"""Check Kaldi data directories."""

import argparse
import sys
from collections.abc import Sequence

from espnet2_birq.bin.command import (
    RESAMPLE,
    add_shared_options,
    make_parser,
    run,
    wanted_rate,
)
from espnet2_birq.datadir.check import check_data_dir, describe

DESCRIPTION = """\
Check Kaldi data directories, or sets formatted by ESPnet (dump/raw/NAME), before
training on them.

Checks that wav.scp and utt2spk, and segments, text, spk2utt and utt2num_samples if
present, are sorted, have unique ids and are consistent; that audio, in
files or in ark files, is readable and complete, with one channel, the right rate and
length, and no NaN or infinite samples; that segments lie within their recordings.
Commands in wav.scp are run as in ESPnet's stage 3, and their output checked likewise.
Prints a line per kind of problem, with remedy and first example: at most a screen.
Exits with status 1 on errors, not on warnings.

Lists are streamed, in constant memory for millions of utterances;
segments are sorted on disk, in TMPDIR."""

EPILOG = """\
examples:
  python -m espnet2_birq.bin.check_data --fs 16000 data/train data/valid
  python -m espnet2_birq.bin.check_data --full --nj 16 /espnet/x/asr1/dump/raw/train"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("check_data", DESCRIPTION, EPILOG)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="data directory")
    parser.add_argument(
        "--full",
        action="store_true",
        help="open all audio (and run all commands), not just 200 random files with "
        "a fixed seed",
    )
    parser.add_argument(
        "--decode",
        action="store_true",
        help="as --full, and decode all audio to its end, instead of its last samples: "
        "finds damage within files",
    )
    add_shared_options(parser, "--fs", "--resample", "--nj")
    return parser


def check(args: argparse.Namespace) -> None:
    """Run the command."""
    wrong = False
    for folder in args.folders:
        report = check_data_dir(
            folder,
            wanted_rate(args),
            args.full,
            args.nj,
            rate_remedy=RESAMPLE,
            decode=args.decode,
        )
        wrong = wrong or bool(report.problems)
        print("\n".join(describe(folder, report)))
    if wrong:
        sys.exit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 if anything is wrong."""
    run(check, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
