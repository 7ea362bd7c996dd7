"""Estimate a word n-gram from transcripts; see --help."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.evaluation.decode.ngram_training import train_ngram

DESCRIPTION = """\
Estimate a word n-gram from transcripts and write it as an ARPA file, for ctc_decode.

Text is a data directory (its file `text`), or a file with a sentence in each line,
which may be gzipped. The estimate is interpolated modified Kneser-Ney smoothing, by
KenLM's lmplz where it is on the PATH, else by this package: the same, but in memory,
for a few million words. With --interpolate, other texts' n-grams or ARPA files are
mixed with it, by weights that make the --dev text likeliest. Give a development set
there, no test set."""

EPILOG = """\
examples:
  python -m espnet2_birq.bin.train_ngram --text data/ihm_train --dev data/ihm_dev \\
      --out exp/ngram/ami.arpa
  python -m espnet2_birq.bin.train_ngram --text data/ihm_train --dev data/ihm_dev \\
      --interpolate 3-gram.pruned.1e-7.arpa.gz --out exp/ngram/ami_libri.arpa"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("train_ngram", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="what the n-gram is estimated from, all together",
    )
    parser.add_argument("--out", type=Path, required=True, help="ARPA file to write")
    parser.add_argument(
        "--order",
        type=int,
        default=4,
        choices=range(1, 7),
        metavar="N",
        help="words in the longest n-grams, 1 to 6 (default: %(default)s)",
    )
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[0, 0, 1],
        metavar="COUNT",
        help="n-grams that occur no more often are left out, for one word, two, three "
        "and so on; the last holds for all longer ones (default: 0 0 1)",
    )
    parser.add_argument(
        "--interpolate",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="ARPA files or texts, each of which is mixed with the n-gram",
    )
    parser.add_argument(
        "--dev",
        type=Path,
        metavar="PATH",
        help="text of a development set: perplexities are told, and mixture weights "
        "tuned on it",
    )
    return parser


def train(args: argparse.Namespace) -> None:
    """Run the command."""
    train_ngram(args.text, args.out, args.order, args.prune, args.interpolate, args.dev)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(train, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
