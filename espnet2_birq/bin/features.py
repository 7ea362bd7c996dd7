"""Extract features of a pretrained model from recordings.

Extracts the encoder's output, from which fine-tuning starts, or with --layers the outputs
of its layers. For each, writes OUT/<layer>/feats.scp and its files: npy/NAME.npy, (frames,
size) in single precision, or Kaldi archives. Recordings longer than a minute are processed
in overlapping windows; see docs/features.md.

A command that was killed resumes when it is repeated. Recordings that cannot be used are
skipped, counted and listed in OUT/skipped.

examples:
  python -m espnet2_birq.bin.features exp/ssl_train_birq_raw dump/raw/test --out feats
  python -m espnet2_birq.bin.features me/model recordings/ --out feats --layers 6 -1 \\
      --device cuda
"""

import argparse
import logging
from collections.abc import Sequence

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.bin.options.extraction import add_extraction_options, job_options


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("features", __doc__)
    add_extraction_options(parser)
    parser.add_argument(
        "--layers",
        type=int,
        nargs="+",
        metavar="N",
        help="layers, counted from 1; 0 is the input, -1 the last layer",
    )
    parser.add_argument(
        "--format", choices=("npy", "ark"), default="npy", help="format of the output"
    )
    return parser


def features(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.extraction.run import Job, extract

    layers = tuple(args.layers) if args.layers else None
    extract(Job(layers=layers, kind=args.format, **job_options(args)), args.source)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(features, get_parser().parse_args(argv), "features")


if __name__ == "__main__":
    main()
