"""Estimate a word n-gram from transcripts; see --help."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.evaluation.decode.ngram_training import train_ngram
from espnet2_birq.options import output_file

DESCRIPTION = """\
Estimate a word n-gram from transcripts and write it as an ARPA file, for ctc_decode.

Text is a data directory (its file `text`), or a file with one sentence per line,
optionally gzipped. Smoothing is interpolated modified Kneser-Ney, by
KenLM's lmplz if on the PATH, else by this package: the same, but in memory,
for a few million words. With --interpolate, n-grams of other texts or ARPA files are
mixed in, with weights that maximise the likelihood of the --dev text. Use a development
set there, not a test set."""

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
        help="training texts",
    )
    parser.add_argument(
        "--out", type=output_file, required=True, help="ARPA file to write"
    )
    parser.add_argument(
        "--order",
        type=int,
        default=4,
        choices=range(1, 7),
        metavar="N",
        help="order of the n-gram, 1 to 6",
    )
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[0, 0, 1],
        metavar="COUNT",
        help="drop n-grams that occur at most this often, for unigrams, bigrams, "
        "trigrams and so on; the last applies to all longer ones (default: 0 0 1)",
    )
    parser.add_argument(
        "--interpolate",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="ARPA files or texts to mix with the n-gram",
    )
    parser.add_argument(
        "--dev",
        type=Path,
        metavar="PATH",
        help="development text, to report perplexities and tune mixture weights",
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
