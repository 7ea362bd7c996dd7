"""Tabulate the error rates of decoded ASR experiments."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.errors import DataError
from espnet2_birq.score.experiments import make_table, score_experiments

DESCRIPTION = """\
Tabulate word and character error rates (WER, CER) with 95 % confidence intervals.

It reads what stage 13 of asr.sh wrote: ref.trn and hyp.trn in
ASR_EXP_DIR/<decoding>/<set>/score_wer and score_cer. The errors are counted by jiwer.
The interval is by bootstrap over utterances (1000 resamples, fixed seed): it shows what
another draw of as many utterances would change, not another training run."""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet2_birq.bin.score",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiments", nargs="+", type=Path, metavar="ASR_EXP_DIR")
    parser.add_argument(
        "--case-sensitive",
        action="store_true",
        help='let "a" and "A" differ; by default they do not, as in sclite without -s',
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON in the place of a table"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    args = get_parser().parse_args(argv)
    try:
        rows = score_experiments(args.experiments, args.case_sensitive)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(json.dumps(rows, indent=2) if args.json else make_table(rows))


if __name__ == "__main__":
    main()
