"""Prepare ESPnet's mini AN4 as Kaldi data directories."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.corpora.an4 import prepare_an4

DESCRIPTION = """\
Prepare mini AN4, included in every ESPnet source tree, as Kaldi data directories.

It has seven transcribed utterances: enough to test a recipe end to end, too few to
learn from. Writes DEST/train_dev (the first training utterance), DEST/train_nodev (the
other four) and DEST/test (two), split as in ESPnet's own recipe. wav.scp lists the .sph
files directly: no sph2pipe is needed."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.prepare_an4 --dest data \\
      --tarball /espnet/egs2/mini_an4/asr1/downloads.tar.gz"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("prepare_an4", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--tarball",
        required=True,
        type=Path,
        help="egs2/mini_an4/asr1/downloads.tar.gz of an ESPnet source tree",
    )
    parser.add_argument(
        "--downloads",
        default=Path("downloads"),
        type=Path,
        help="folder to unpack to; reused if it exists",
    )
    add_shared_options(parser, "--dest")
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Run the command."""
    prepare_an4(args.tarball, args.downloads, args.dest)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(prepare, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
