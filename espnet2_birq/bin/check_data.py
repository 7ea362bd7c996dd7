"""Check Kaldi data directories."""

import argparse
import sys
from collections.abc import Sequence

from espnet2_birq.bin.command import (
    RESAMPLE,
    add_shared_options,
    make_parser,
    wanted_rate,
)
from espnet2_birq.datadir.check import check_data_dir, describe

DESCRIPTION = """\
Check Kaldi data directories, or sets that ESPnet has formatted (dump/raw/NAME), before
a training depends on them.

Checks that wav.scp and utt2spk, and segments, text, spk2utt and utt2num_samples if they
are there, are sorted, have no id twice and agree with each other; that the audio, in
files or in ark files, opens, is whole, has one channel, the wanted rate and length, and
no sample that is NaN or infinite; that segments lie inside their recordings. Commands
in wav.scp are run, as ESPnet's stage 3 runs them, and their output is audio, too.
Prints a line for each kind of problem, with its remedy and the first example: a screen
at most. Exits with 1 if there is any error; warnings are no errors.

Millions of utterances are read as a stream, in memory that does not grow with them;
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
        help="open all audio (and run all commands), not just 200 files drawn at "
        "random with a fixed seed",
    )
    add_shared_options(parser, "--fs", "--resample", "--nj")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 if anything is wrong."""
    args = get_parser().parse_args(argv)
    wrong = False
    for folder in args.folders:
        report = check_data_dir(
            folder, wanted_rate(args), args.full, args.nj, rate_remedy=RESAMPLE
        )
        wrong = wrong or bool(report.problems)
        print("\n".join(describe(folder, report)))
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
