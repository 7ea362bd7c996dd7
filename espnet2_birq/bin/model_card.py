"""Write a model card from an experiment: data, hours, updates, numbers, how to use it.

Stage 8 of birq.sh does this; the Hugging Face hub shows README.md as the model's page.
It has only the names of the sets and of the configuration, not the training's folders.

example:
  python -m espnet2_birq.bin.model_card exp/ssl_train_birq_raw \\
      --license cc-by-4.0 --repository me/birq --out README.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.options import output_file


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("model_card", __doc__)
    add = parser.add_argument
    add(
        "model", type=Path, metavar="MODEL", help="experiment, or a model in its folder"
    )
    add("--license", metavar="ID", help="e.g. cc-by-4.0; default: none is given")
    add("--repository", metavar="USER/NAME", help="where the model will be")
    add("--out", type=output_file, required=True, metavar="FILE")
    return parser


def card(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.experiments.card import write_card
    from espnet2_birq.tasks.loading import resolve

    write_card(resolve(args.model), args.out, args.license, args.repository)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(card, get_parser().parse_args(argv), "model_card")


if __name__ == "__main__":
    main()
