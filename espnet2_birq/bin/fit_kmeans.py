"""Fit k-means to a model's vectors, to label speech by them with dump_labels.

HuBERT makes its labels in this way (arXiv 2106.07447): first from MFCC, later from a
layer of the previous model.

  python -m espnet2_birq.bin.fit_kmeans --view mfcc --clusters 100 \\
      --model conf/train_best_rq.yaml \\
      --data dump/raw/train/wav.scp,speech,sound --out exp/kmeans_mfcc.npz
  python -m espnet2_birq.bin.fit_kmeans --view "layer 6" --clusters 500 \\
      --model exp/ssl_train_best_rq_raw/valid.total_count.ave.pth \\
      --data dump/raw/train/wav.scp,speech,sound --out exp/kmeans_6.npz

The sample is spread over utterances. The file records the model, its view and the label
rate; dump_labels refuses another model.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.bin.options.model import model_help
from espnet2_birq.options import count, output_file, whole_number
from espnet2_birq.relabelling.settings import DEFAULT, Fit


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("fit_kmeans", __doc__)
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help=f"{model_help(untrained=True)}, which is enough for mfcc and input",
    )
    parser.add_argument(
        "--view",
        required=True,
        help="what to cluster, at the encoder's rate: mfcc (39 values, as HuBERT), input "
        "(stacked, normalised log-mel), 'layer K', 'layer P%%' of the depth, 'teacher "
        "layer K'",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SCP,speech,TYPE",
        help="speech, as for ssl_train",
    )
    parser.add_argument(
        "--out", type=output_file, required=True, help="file to write (.npz)"
    )
    parser.add_argument(
        "--clusters", type=count, default=DEFAULT.clusters, help="number of clusters"
    )
    parser.add_argument(
        "--frames",
        type=count,
        default=DEFAULT.frames,
        help="number of frames in the sample, spread over utterances",
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=DEFAULT.seed,
        help="random seed of the sample and of k-means",
    )
    parser.add_argument(
        "--batch_size",
        type=count,
        default=DEFAULT.batch_size,
        help="utterances per batch",
    )
    parser.add_argument("--device", default="cpu", help="device: cpu or cuda")
    return parser


def fit(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.relabelling.kmeans import fit_kmeans

    settings = Fit(args.clusters, args.frames, args.seed, args.batch_size)
    fit_kmeans(args.model, args.view, args.data, args.out, settings, args.device)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(fit, get_parser().parse_args(argv), "fit_kmeans")


if __name__ == "__main__":
    main()
