"""Turn recordings into discrete units, the labels of a pretrained model's objectives.

For each objective and codebook, writes to OUT/<objective>[.<codebook>]/ the list units,
with a recording's name and the code of each frame per line (--format text), or units.scp
and its files of integers. With --deduplicate, equal neighbours are merged into one unit,
and frames/durations has the number of frames of each.

A command that was killed resumes when it is repeated. Recordings that cannot be used are
skipped, counted and listed in OUT/skipped. To train on labels, use dump_labels.

examples:
  python -m espnet2_birq.bin.units exp/ssl_train_birq_raw dump/raw/test --out units
  python -m espnet2_birq.bin.units me/model manifest.jsonl --out units \\
      --objective enhanced --deduplicate
"""

import argparse
import logging
from collections.abc import Sequence

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.bin.options.extraction import add_extraction_options, job_options


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("units", __doc__)
    add_extraction_options(parser)
    parser.add_argument(
        "--objective",
        nargs="+",
        default=(),
        metavar="NAME",
        help="objectives of the model (default: all)",
    )
    parser.add_argument(
        "--deduplicate", action="store_true", help="merge runs of equal units"
    )
    parser.add_argument(
        "--format",
        choices=("text", "npy", "ark"),
        default="text",
        help="format of the output",
    )
    return parser


def units(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.extraction.run import Job, extract

    job = Job(
        units=True,
        objectives=tuple(args.objective),
        kind=args.format,
        merge=args.deduplicate,
        **job_options(args),
    )
    extract(job, args.source)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(units, get_parser().parse_args(argv), "units")


if __name__ == "__main__":
    main()
