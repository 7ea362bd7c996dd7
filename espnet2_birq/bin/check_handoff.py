"""Verify which tensors of an ASR model were loaded from a pretrained model.

The loading is repeated into a model filled with NaN. If every encoder tensor was loaded
and both models see the same features, prints counts and exits with status 0; otherwise
prints the names and exits with status 1. The ASR encoder may lack top layers. Run it from
the folder in which the ASR model was trained: its configuration has relative paths.

example:
  python -m espnet2_birq.bin.check_handoff \\
      ../ssl1/exp/ssl_train_birq_raw/valid.total_count.ave.pth \\
      exp/asr_birq/valid.loss.ave.pth
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run, warnings_off


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("check_handoff", __doc__)
    parser.add_argument(
        "ssl_model", type=Path, help="pretrained model (.pth next to its config.yaml)"
    )
    parser.add_argument(
        "asr_model",
        type=Path,
        help="ASR model (.pth next to its config.yaml), or that config.yaml",
    )
    return parser


def check(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.transfer import change_since, check_handoff

    with warnings_off():
        handoff = check_handoff(args.ssl_model, args.asr_model)
    print(handoff)
    if not handoff.is_whole:
        sys.exit(1)
    print("frontend and normalize are the same")
    if args.asr_model.suffix == ".pth":
        change = change_since(args.ssl_model, args.asr_model)
        print(f"the encoder has moved by {100 * change:.1f} % of its norm since")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the check; exit with status 1 if it fails."""
    run(check, get_parser().parse_args(argv), "check_handoff")


if __name__ == "__main__":
    main()
