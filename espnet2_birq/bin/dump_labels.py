"""Label speech with a pretrained model, to train the next model on these labels.

Offline relabelling as in HuBERT: train a model, label all data by k-means of one of its
layers (fit_kmeans) or by one of its objectives, and train a new model on these labels.

  python -m espnet2_birq.bin.dump_labels --kmeans exp/kmeans_6.npz \\
      --model exp/ssl_train_birq_raw/valid.total_count.ave.pth \\
      --data dump/raw/train/wav.scp,speech,sound --out dump/labels/train
  python -m espnet2_birq.bin.ssl_train ... \\
      --train_data_path_and_name_and_type dump/labels/train/labels.scp,labels,kaldi_ark

with `objectives: [{name: given, labeller_conf: {codebook_size: 500}}]`, and the same for
the validation set. A label is the centroid, or the code in the objective's first
codebook, nearest to the clean frame. Utterances with non-finite samples get -1 (no label)
and are listed. To add an objective to a model without using it in training, set weight
0: {name: enhanced, view: layer 7, weight: 0, gradient: 0, head: own,
labeller_conf: {projection: whitened}}.

When repeated, it resumes after the last complete 10,000 utterances.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.bin.options.model import model_help
from espnet2_birq.options import count, output_folder


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("dump_labels", __doc__)
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        help=f"{model_help()}; with --kmeans, the one given to fit_kmeans",
    )
    by = parser.add_mutually_exclusive_group()
    by.add_argument("--objective", default="enhanced", help="objective of the model")
    by.add_argument(
        "--kmeans",
        type=Path,
        help="centroids, written by fit_kmeans, to use instead of an objective",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="SCP,speech,TYPE",
        help="speech, as for ssl_train",
    )
    parser.add_argument(
        "--out",
        type=output_folder,
        required=True,
        help="folder for labels.scp and its archives",
    )
    parser.add_argument(
        "--batch_size", type=count, default=8, help="utterances per batch"
    )
    parser.add_argument("--device", default="cpu", help="device: cpu or cuda")
    return parser


def dump(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.relabelling.labelling import label_by_kmeans, label_by_objective

    common = (args.data, args.out, args.batch_size, args.device)
    if args.kmeans is not None:
        labelled = label_by_kmeans(args.model, args.kmeans, *common)
    else:
        labelled = label_by_objective(args.model, args.objective, *common)
    logging.info(f"{args.out / 'labels.scp'}: labels of {labelled} utterances")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(dump, get_parser().parse_args(argv), "dump_labels")


if __name__ == "__main__":
    main()
