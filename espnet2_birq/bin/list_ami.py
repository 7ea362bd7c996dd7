"""List the AMI files to download."""

import argparse
from collections.abc import Sequence

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.bin.options.ami import add_selection
from espnet2_birq.corpora.ami.prepare import list_downloads

DESCRIPTION = """\
List a microphone's recordings in AMI's sets, as lines `- URL PATH` for
local/download.sh, without unused headsets and the lost array recordings of
IS1003b and IS1007d."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.list_ami --annotations downloads/annotations --mic sdm1 \\
      > data/local/sdm1.list
  ../../../local/download.sh data/local/sdm1.list downloads"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("list_ami", DESCRIPTION, EPILOG)
    add_selection(parser)
    return parser


def list_files(args: argparse.Namespace) -> None:
    """Run the command."""
    for line in list_downloads(args.annotations, args.mic, args.sets, args.partition):
        print(line)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(list_files, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
