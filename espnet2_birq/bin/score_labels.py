"""Measure how much labels on disk tell about phones: PNMI.

  python -m espnet2_birq.bin.score_labels --alignment dev-clean.ctm \\
      --labels dump/labels/dev/labels.scp,labels,kaldi_ark

Labels of ESPnet's k-means scripts are scored as `--labels FILE,labels,text_int`. See
docs/measures.md for PNMI; only the excess over its value by chance counts.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.options import positive


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("score_labels", __doc__)
    parser.add_argument(
        "--labels",
        required=True,
        metavar="FILE,labels,TYPE",
        help="labels, as for ssl_train",
    )
    parser.add_argument(
        "--alignment", type=Path, required=True, help="alignment, as for phone_probe"
    )
    parser.add_argument("--tier", default="phones", help="tier of a TextGrid")
    parser.add_argument("--rate", type=positive, default=25.0, help="labels per second")
    parser.add_argument(
        "--drop_silence", action="store_true", help="leave out frames of silence"
    )
    return parser


def score(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.evaluation.phones.disk import score_labels

    silence = not args.drop_silence
    found = score_labels(args.labels, args.alignment, args.rate, silence, args.tier)
    print(
        f"PNMI {found.scores.pnmi:.3f}, by chance {found.scores.chance:.3f}; "
        f"{found.codes} labels, as many as {found.scores.perplexity:.1f} in equal use; "
        f"{found.frames} frames of {found.utterances} utterances"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(score, get_parser().parse_args(argv), "score_labels")


if __name__ == "__main__":
    main()
