"""Plot values of training logs against updates, several experiments in one figure.

Example:
    python -m espnet2_birq.bin.plot_training --out loss.png \\
        BEST-RQ=exp/ssl_train_best_rq_raw BiRQ=exp/ssl_train_birq_raw
"""

import argparse
import sys
from pathlib import Path

from espnet2_birq.errors import DataError
from espnet2_birq.experiments.training_log import objectives_of, read_training_log


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description="Plot values of ESPnet training logs against updates."
    )
    parser.add_argument(
        "experiments", nargs="+", metavar="NAME=EXP", help="legend and folder"
    )
    parser.add_argument(
        "--keys",
        nargs="+",
        help="names in train.log, one panel each (put another option behind them); "
        "default: the loss of every objective",
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG or PDF to write")
    parser.add_argument("--log_scale", action="store_true", help="logarithmic y axis")
    return parser


def main(cmd=None):
    """Run the command; a missing log is one line on stderr and exit status 1."""
    args = get_parser().parse_args(cmd)
    import matplotlib

    matplotlib.use("Agg")  # no display is needed
    import matplotlib.pyplot as plt

    logs = []
    for experiment in args.experiments:
        name, _, folder = experiment.rpartition("=")
        try:
            logs.append((name, read_training_log(Path(folder))))
        except DataError as error:
            sys.exit(f"plot_training: error: {error}")
    names = dict.fromkeys(
        x for _, log in logs for x in objectives_of(log.intervals[-1])
    )
    keys = args.keys or [f"loss_{name}" for name in names] or ["loss"]
    size = (5 * len(keys), 3.4)
    figure, axes = plt.subplots(1, len(keys), figsize=size, squeeze=False)
    for number, (name, log) in enumerate(logs):
        for axis, key in zip(axes[0], keys):
            points = [
                (update, values[key])
                for update, values in zip(log.updates, log.intervals)
                if key in values
            ]
            if points:
                axis.plot(*zip(*points), f"C{number}", label=name, linewidth=1)
    for axis, key in zip(axes[0], keys):
        axis.set_xlabel("updates")
        axis.set_title(key)
        axis.grid(alpha=0.3)
        axis.legend()
        if args.log_scale:
            axis.set_yscale("log")
    figure.tight_layout()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)


if __name__ == "__main__":
    main()
