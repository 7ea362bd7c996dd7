"""Make a training set of labelled and recognised speech."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.options import share

DESCRIPTION = """\
Make a training set of a labelled set and of recognised utterances of an unlabelled set,
for self-training. asr1/self_train.sh does all of a round: decode, this, fine-tune.

Left out, counted and printed are utterances of the labelled set, empty texts, texts with
fewer or more characters a second than all but the extreme 1 % of the labelled set's on
either side, and of the rest all but the share --keep with the highest log-probability per
token. Texts that the unlabelled set may have are not looked at.

DEST is written atomically, and replaces an earlier data directory."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.pseudo_label --labelled dump/raw/train_1h \\
      --unlabelled dump/raw/rest --decoded exp/asr_birq/greedy_ctc_valid.loss.ave/rest \\
      dump/raw/train_1h_st1"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("pseudo_label", DESCRIPTION, EPILOG)
    parser.add_argument("dest", metavar="DEST", type=Path, help="directory to write")
    for name, what in (
        ("labelled", "formatted set with transcripts"),
        ("unlabelled", "formatted set that was decoded"),
        ("decoded", "folder with the decoder's text, token and score files"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, required=True, metavar="DIR", help=what
        )
    parser.add_argument(
        "--keep",
        type=share,
        default=0.8,
        metavar="SHARE",
        help="share of the usable utterances to keep",
    )
    add_shared_options(parser, "--fs")
    return parser


def make(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.datadir.pseudo_labels import pseudo_label

    pseudo_label(
        args.labelled, args.unlabelled, args.decoded, args.dest, args.keep, args.fs
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(make, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
