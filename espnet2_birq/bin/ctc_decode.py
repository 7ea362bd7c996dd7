"""Decode data directories with an ASR model's CTC head; see --help."""

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
from espnet2_birq.options import finite

DESCRIPTION = """\
Decode data directories with the CTC head of an ESPnet ASR model, without language model
or by beam search with a word n-gram.

The network runs on padded batches, on a GPU if available; its log-probabilities
are kept in ASR_EXP/ctc_log_probs_MODEL/SET (4 bytes per token and frame;
delete the folder after decoding). The search runs in --nj processes. Rerunning a
finished or killed command does only missing work; with another model, other audio or
options it starts over.

Writes to ASR_EXP/TAG/SET (TAG/org/SET for dump/raw/org/SET, as asr.sh): text,
token, token_int and score, as stage 12 of asr.sh (score with its stage 13 and
--inference_tag TAG); skipped, the utterances that failed, which have empty
lines; decode.json, with real-time factors and, if the data has a text, the word error
rate (against the raw text, without a cleaner)."""

EPILOG = """\
examples, in a recipe's folder:
  python -m espnet2_birq.bin.ctc_decode --model exp/asr_birq/valid.loss.ave.pth \\
      --data dump/raw/test dump/raw/test_other
  python -m espnet2_birq.bin.ctc_decode --model exp/asr_birq/valid.loss.ave.pth \\
      --data dump/raw/test --lm 4-gram.arpa.gz --lm_weight 1.8 --word_score -0.5
  python -m espnet2_birq.bin.tune_lm --model exp/asr_birq/valid.loss.ave.pth \\
      --dev dump/raw/valid --lm 4-gram.arpa.gz --out exp/asr_birq/4-gram.yaml
  python -m espnet2_birq.bin.ctc_decode --model exp/asr_birq/valid.loss.ave.pth \\
      --data dump/raw/test --weights exp/asr_birq/4-gram.yaml"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("ctc_decode", DESCRIPTION, EPILOG)
    add_network_options(parser)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        metavar="DIR",
        help="data directories with wav.scp, e.g. dump/raw/test",
    )
    parser.add_argument(
        "--search",
        choices=("greedy", "best_path"),
        default="greedy",
        help="without an n-gram: prefix search as in ESPnet with beam_size 1 and "
        "ctc_weight 1, or greedy decoding",
    )
    add_lm_options(parser, required=False)
    parser.add_argument(
        "--lm_weight", type=finite, metavar="X", help="weight of the n-gram's log10 P"
    )
    parser.add_argument(
        "--word_score", type=finite, metavar="X", help="score added per word"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="output of tune_lm with n-gram and weights, instead of "
        "--lm; explicit options take precedence",
    )
    parser.add_argument("--tag", help="name of the output folder (default: automatic)")
    add_shared_options(parser, "--nj")
    return parser


def decode(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.evaluation.decode.sets import decode_sets

    given = {name: getattr(args, name) for name in ("lm", "words", *Weights._fields)}
    decode_sets(
        args.model,
        args.data,
        {name: value for name, value in given.items() if value is not None},
        weights_file=args.weights,
        search=args.search,
        tag=args.tag,
        gpu=wants_gpu(args),
        batch_seconds=args.batch_seconds,
        nj=args.nj,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(decode, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
