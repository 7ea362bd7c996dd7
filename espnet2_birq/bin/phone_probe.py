"""Measure phone information in encoder layers, in a minute per small model.

Linear frame probes, PNMI of k-means units and of the objectives' labels, and effective
rank, side by side for several models, with paired differences from the first:

  python -m espnet2_birq.bin.phone_probe \\
      --model exp/ssl_train_best_rq_raw/valid.total_count.ave.pth \\
      --model exp/ssl_train_birq_raw/valid.total_count.ave.pth \\
      --model exp/ssl_train_birq_raw/config.yaml \\
      --data dump/raw/dev_clean --alignment dev-clean.ctm --out exp/phones.json

A configuration (.yaml) stands for an untrained model, here the third. A model may also
be a fine-tuned ASR model. See docs/measures.md for the measures.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.bin.options.model import model_help
from espnet2_birq.options import count, output_file


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("phone_probe", __doc__)
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        required=True,
        help=f"{model_help(packed=False, untrained=True)}; may be repeated",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="Kaldi data directory, or LibriSpeech (or a part of it) as distributed",
    )
    parser.add_argument(
        "--alignment",
        type=Path,
        required=True,
        help="CTM, TextGrid, folder of <utterance>.TextGrid, or lines of `utterance, "
        "tab, PHONE:n PHONE:n ...`, n in frames of 10 ms; may be gzipped",
    )
    parser.add_argument("--tier", help="tier of a TextGrid (default: phones)")
    parser.add_argument(
        "--utterances",
        type=count,
        help="number of utterances, the first ones of each speaker (default: 400)",
    )
    parser.add_argument(
        "--layers",
        type=int,
        nargs="+",
        help="layers to measure, 0 is the input (default: all)",
    )
    parser.add_argument(
        "--drop_silence", action="store_true", help="leave out frames of silence"
    )
    parser.add_argument(
        "--units", type=count, help="number of k-means clusters (default: 100)"
    )
    parser.add_argument(
        "--max_frames",
        type=count,
        help="limit on frames, since all layers are kept in memory; equally spaced ones are "
        "used (default: 100000)",
    )
    parser.add_argument(
        "--abx",
        action="store_true",
        help="also measure ABX error rates; requires fastabx",
    )
    parser.add_argument("--device", help="device: cpu (default) or cuda")
    parser.add_argument(
        "--out",
        type=output_file,
        required=True,
        help="JSON file to write, with results per speaker",
    )
    return parser


def phone_probe(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.evaluation.phones.measure import Settings, measure, name_models
    from espnet2_birq.evaluation.phones.report import make_tables

    given = {x.name: getattr(args, x.name, None) for x in fields(Settings)}
    given["silence"] = not args.drop_silence
    settings = Settings(**{k: v for k, v in given.items() if v is not None})
    sources = name_models(args.model)
    print(make_tables(measure(sources, args.data, args.alignment, settings, args.out)))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(phone_probe, get_parser().parse_args(argv), "phone_probe")


if __name__ == "__main__":
    main()
