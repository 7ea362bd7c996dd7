"""Plot statistics of training logs over updates, several experiments per figure.

example:
  python -m espnet2_birq.bin.plot_training --out loss.png \\
      BEST-RQ=exp/ssl_train_best_rq_raw BiRQ=exp/ssl_train_birq_raw
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.experiments.training_log import read_training_log
from espnet2_birq.options import output_file


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("plot_training", __doc__)
    parser.add_argument(
        "experiments", nargs="+", metavar="NAME=EXP", help="legend and folder"
    )
    parser.add_argument(
        "--keys",
        nargs="+",
        help="names in train.log, one panel each (another option must follow); "
        "default: the loss of every objective",
    )
    parser.add_argument(
        "--out", type=output_file, required=True, help="PNG or PDF to write"
    )
    parser.add_argument("--log_scale", action="store_true", help="logarithmic y axis")
    return parser


def plot_training(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.experiments.plots import plot_logs

    logs = []
    for experiment in args.experiments:
        # Names of folders have "=" more often than names in a legend.
        name, named, folder = experiment.partition("=")
        if not named:
            name, folder = Path(experiment).name, experiment
        logs.append((name, read_training_log(Path(folder))))
    plot_logs(logs, args.out, args.keys, args.log_scale)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(plot_training, get_parser().parse_args(argv), "plot_training")


if __name__ == "__main__":
    main()
