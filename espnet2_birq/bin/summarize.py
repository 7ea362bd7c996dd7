"""Tabulate pretraining, hand-off and error rates of several systems.

For each system, in Markdown: the first and last pretraining loss of each objective,
accuracy at masked frames and codebook perplexities (of the last epoch), transferred
tensors, error rates with bootstrap confidence intervals, and wall time.

example:
  python -m espnet2_birq.bin.summarize \\
      --system scratch none exp/asr_scratch \\
      --system BiRQ ../ssl1/exp/ssl_train_birq_raw exp/asr_birq
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("summarize", __doc__)
    parser.add_argument(
        "--system",
        nargs=3,
        action="append",
        required=True,
        metavar=("NAME", "SSL_EXP", "ASR_EXP"),
        help="name, pretraining experiment (none: from scratch) and ASR "
        "experiment; repeat for each system",
    )
    return parser


def tabulate(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.experiments.summary import summarize

    systems = [
        (name, None if ssl_exp == "none" else Path(ssl_exp), Path(asr_exp))
        for name, ssl_exp, asr_exp in args.system
    ]
    print(summarize(systems))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(tabulate, get_parser().parse_args(argv), "summarize")


if __name__ == "__main__":
    main()
