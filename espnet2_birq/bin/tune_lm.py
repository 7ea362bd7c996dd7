"""Tune the weights of a word n-gram on a development set; see --help."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.bin.options.decode import (
    add_lm_options,
    add_network_options,
    wants_gpu,
)
from espnet2_birq.evaluation.decode.search import Weights
from espnet2_birq.options import output_file

DESCRIPTION = """\
Tune the n-gram weights of ctc_decode: lm_weight and word_score with
the fewest word errors on a development set. Never tune on a set
whose error rates are reported: sets with "test" or "eval" in their name, such as
test_clean or ihm_eval, are refused.

The network runs once (its log-probabilities are kept, and shared with ctc_decode);
then each pair of weights is one search over the set. Hill climbing starts from the
defaults and decreases its step size; all trials are printed as a table. Finished work
is kept in OUT.work, so a killed command can resume."""

EPILOG = """\
example, in a recipe's folder:
  python -m espnet2_birq.bin.tune_lm --model exp/asr_birq/valid.loss.ave.pth \\
      --dev dump/raw/dev --lm 4-gram.arpa.gz --out exp/asr_birq/4-gram.yaml"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("tune_lm", DESCRIPTION, EPILOG)
    add_network_options(parser)
    parser.add_argument(
        "--dev",
        type=Path,
        required=True,
        metavar="DIR",
        help="data directory of the development set, with text",
    )
    add_lm_options(parser, required=True)
    parser.add_argument(
        "--out",
        type=output_file,
        required=True,
        metavar="FILE",
        help="YAML file to write, for ctc_decode --weights",
    )
    add_shared_options(parser, "--nj")
    return parser


def tune(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.evaluation.decode.tuning import tune_on_set

    beam = {name: getattr(args, name) for name in ("beam_size", "beam_threshold")}
    table = tune_on_set(
        args.model,
        args.dev,
        args.lm,
        args.out,
        Weights(**{name: value for name, value in beam.items() if value is not None}),
        words=args.words,
        gpu=wants_gpu(args),
        batch_seconds=args.batch_seconds,
        nj=args.nj,
    )
    print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(tune, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
