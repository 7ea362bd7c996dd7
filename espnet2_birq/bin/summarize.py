"""Tabulate pretraining, hand-off and error rates of several systems.

Example:
    python -m espnet2_birq.bin.summarize \\
        --system scratch none exp/asr_scratch \\
        --system BiRQ ../ssl1/exp/ssl_train_birq_raw exp/asr_birq
"""

import argparse
import sys
from pathlib import Path

from espnet2_birq.errors import DataError
from espnet2_birq.experiments.summary import summarize


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description="Print a Markdown table: for each system the first and last loss "
        "of each objective of pretraining, accuracy at masked frames and codebook "
        "perplexities (of the last epoch), tensors handed off, error rates with bootstrap "
        "confidence intervals, and wall time."
    )
    parser.add_argument(
        "--system",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "SSL_EXP", "ASR_EXP"),
        help="a name, the pretraining experiment (none: from scratch) and the ASR "
        "experiment; repeat for each system",
    )
    return parser


def main(cmd=None):
    """Run the command; a missing file is one line on stderr and exit status 1."""
    args = get_parser().parse_args(cmd)
    systems = [
        (name, None if ssl_exp == "none" else Path(ssl_exp), Path(asr_exp))
        for name, ssl_exp, asr_exp in args.system
    ]
    try:
        print(summarize(systems))
    except DataError as error:
        sys.exit(f"summarize: error: {error}")


if __name__ == "__main__":
    main()
