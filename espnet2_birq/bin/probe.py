"""Probe a frozen encoder's layers for text information, in two minutes.

Hidden states of a few hours of transcribed speech are computed once. A learned weighted
sum of layers and a small bidirectional LSTM are trained on them with CTC on characters,
and decode the test sets greedily (a small version of SUPERB's ASR task, arXiv
2105.01051). Compare with an untrained encoder, given by a configuration.

  python -m espnet2_birq.bin.probe --train dump/raw/train --test dump/raw/test \\
      --model exp/ssl_train_birq_raw/valid.total_count.ave.pth --out exp/probe_birq
  python -m espnet2_birq.bin.probe --model exp/ssl_train_birq_raw/config.yaml ...

A probe must not be trained on speech that encoders were pretrained on: those that have
seen it more often would seem worse. Give --halves then, instead of --train.

Data directories need wav.scp and text; with utt2spk, intervals are over speakers. Writes
OUT/<set>/score_{cer,wer}/{ref,hyp}.trn and OUT/probe.json: error rates with 95 %
intervals, loss, weights of the layers.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.bin.options.model import model_help
from espnet2_birq.options import count, output_folder, positive, whole_number


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("probe", __doc__)
    parser.add_argument(
        "--model", type=Path, required=True, help=model_help(untrained=True)
    )
    speech = parser.add_mutually_exclusive_group(required=True)
    speech.add_argument("--train", type=Path, help="data directory to train on")
    speech.add_argument(
        "--halves",
        action="store_true",
        help="train on half of the speakers of a test set, decode the other half, and the "
        "other way round: for encoders that were pretrained on the training set",
    )
    parser.add_argument(
        "--test",
        type=Path,
        nargs="+",
        required=True,
        help="data directories to decode",
    )
    parser.add_argument(
        "--out", type=output_folder, required=True, help="output folder"
    )
    parser.add_argument(
        "--max_seconds",
        type=positive,
        default=16.0,
        help="length limit of training utterances, in seconds",
    )
    parser.add_argument("--updates", type=count, default=1500, help="training updates")
    parser.add_argument(
        "--batch_frames", type=count, default=800, help="encoder frames per update"
    )
    parser.add_argument(
        "--hidden",
        type=whole_number,
        default=64,
        help="LSTM units per direction; 0: no LSTM",
    )
    parser.add_argument("--lr", type=positive, default=5e-3, help="peak learning rate")
    parser.add_argument(
        "--seed", type=whole_number, default=0, help="random seed of the probe"
    )
    return parser


def probe_model(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.api import load, untrained
    from espnet2_birq.config import config_of
    from espnet2_birq.evaluation.probe import Settings, probe

    own = {one.name: getattr(args, one.name) for one in fields(Settings)}
    is_config = config_of(args.model) == args.model
    model = untrained(args.model) if is_config else load(args.model).model
    probe(model, args.train, args.test, args.out, Settings(**own))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(probe_model, get_parser().parse_args(argv), "probe")


if __name__ == "__main__":
    main()
