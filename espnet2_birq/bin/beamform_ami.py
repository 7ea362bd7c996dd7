"""Beamform AMI's microphone arrays, for the microphone mdm8."""

import argparse
from collections.abc import Sequence

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.corpora.ami.mdm8 import METHODS, beamform_meetings

DESCRIPTION = """\
Beamform the eight recordings of each meeting's array: DEST/<meeting>/<meeting>_MDM8.wav.

Uses the program BeamformIt if on PATH, as in the published benchmarks, otherwise
a delay-and-sum beamformer in Python: the same idea without BeamformIt's search, so do
not compare its error rates with published mdm8 ones. DEST/method records the
choice. Existing recordings are kept. Meetings with fewer than
eight recordings are skipped."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.beamform_ami --audio downloads/amicorpus --dest beamformed
  python -m espnet2_birq.bin.prepare_ami --annotations downloads/annotations \\
      --mic mdm8 --audio beamformed data"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("beamform_ami", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--audio",
        required=True,
        metavar="DIR",
        help="folder with the meetings' folders, or its parent if named amicorpus",
    )
    add_shared_options(parser, "--dest")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="auto",
        help="auto: BeamformIt if it is on PATH, else python",
    )
    add_shared_options(parser, "--nj", "--dry_run")
    return parser


def make_recordings(args: argparse.Namespace) -> None:
    """Run the command."""
    beamform_meetings(args.audio, args.dest, args.method, args.nj, args.dry_run)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(make_recordings, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
