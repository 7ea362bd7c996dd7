"""Compare languages in one model: use of codes, and a character probe for each.

  python -m espnet2_birq.bin.languages --model exp/ssl_train_birq_raw --out exp/languages \\
      --train dump/raw/train --test dump/raw/valid

Both sets need wav.scp and category2utt (`LANGUAGE UTTERANCE ...`, as prepare_yodas writes
it for several languages); a language without text gets no probe. Writes
OUT/languages.md and OUT/languages.json; see docs/languages.md.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.bin.options.model import model_help
from espnet2_birq.options import count, output_folder, positive, whole_number


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("languages", __doc__)
    parser.add_argument("--model", required=True, help=model_help())
    parser.add_argument(
        "--train", type=Path, required=True, help="data directory to train probes on"
    )
    parser.add_argument(
        "--test",
        type=Path,
        required=True,
        help="data directory to test probes and count codes on",
    )
    parser.add_argument(
        "--out", type=output_folder, required=True, help="output folder"
    )
    parser.add_argument(
        "--utterances",
        type=count,
        default=200,
        help="number of utterances of each language whose codes are counted",
    )
    parser.add_argument(
        "--updates",
        type=whole_number,
        default=1500,
        help="training updates of a probe; 0: no probes",
    )
    parser.add_argument(
        "--max_seconds",
        type=positive,
        default=16.0,
        help="length limit of a probe's training utterances, in seconds",
    )
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="random seed of the probes"
    )
    return parser


def compare(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.api import load
    from espnet2_birq.evaluation.languages import compare_languages
    from espnet2_birq.evaluation.probe import Settings

    settings = None
    if args.updates:
        settings = Settings(
            updates=args.updates, max_seconds=args.max_seconds, seed=args.seed
        )
    print(
        compare_languages(
            load(args.model).model,
            args.train,
            args.test,
            args.out,
            args.utterances,
            settings,
        )
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(compare, get_parser().parse_args(argv), "languages")


if __name__ == "__main__":
    main()
