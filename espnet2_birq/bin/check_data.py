"""Check Kaldi data directories."""

import argparse
import sys
from collections.abc import Sequence

from espnet2_birq.bin.command import add_shared_options, make_parser, wanted_rate
from espnet2_birq.data.check import Report, check_data_dir

DESCRIPTION = """\
Check Kaldi data directories before a training depends on them.

Checks that wav.scp and utt2spk, and segments, text and spk2utt if they are there, are
sorted, have no id twice and agree with each other; that the audio opens, is whole and
has the wanted rate; that segments lie inside their recordings. Prints a line for each
kind of problem, with its remedy and the first example. Exits with 1 if there is any."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.check_data --fs 16000 --full data/train data/valid"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("check_data", DESCRIPTION, EPILOG)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="data directory")
    parser.add_argument(
        "--full",
        action="store_true",
        help="open all audio files, not just 200 drawn at random with a fixed seed",
    )
    add_shared_options(parser, "--fs", "--resample", "--nj")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 if anything is wrong."""
    args = get_parser().parse_args(argv)
    wrong = False
    for folder in args.folders:
        report = check_data_dir(folder, wanted_rate(args), args.full, args.nj)
        wrong = wrong or bool(report.problems)
        print("\n".join(_describe(folder, report)))
    if wrong:
        sys.exit(1)


def _describe(folder: str, report: Report) -> list[str]:
    lines = []
    for level, found in (("error", report.problems), ("warning", report.warnings)):
        for kind, affected in found.items():
            lines.append(
                f"{folder}: {level}: {len(affected)} x {kind}; first: {affected[0]}"
            )
    lines.append(
        f"{folder}: {'NOT ok' if report.problems else 'ok'}: "
        f"{report.utterances} utterances, {report.speakers} speakers; opened "
        f"{report.opened} audio files, {report.seconds / 3600:.2f} hours"
    )
    return lines


if __name__ == "__main__":
    main()
