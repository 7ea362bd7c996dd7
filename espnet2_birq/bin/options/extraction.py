"""Options of the commands that extract features and units."""

import argparse
from pathlib import Path
from typing import Any

from espnet2_birq.bin.options.model import model_help
from espnet2_birq.options import output_folder, positive


def add_extraction_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of model, data and execution."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=model_help())
    add(
        "source",
        type=Path,
        metavar="DATA",
        help="Kaldi data directory, wav.scp, JSON lines with audio_filepath, fairseq's "
        "TSV, folder of audio, or an audio file",
    )
    add("--out", type=output_folder, required=True, metavar="DIR", help="output folder")
    add("--device", default="cpu", help="cpu (default), cuda, ...")
    add(
        "--nj",
        type=int,
        default=1,
        choices=range(1, 129),
        metavar="N",
        help="processes, each with the model and one thread (default: %(default)s, with "
        "all threads)",
    )
    add(
        "--batch_seconds",
        type=positive,
        default=200.0,
        metavar="S",
        help="audio in a batch including padding; does not affect results (default: "
        "%(default)s)",
    )


def job_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return these options as arguments of a Job."""
    names = ("model", "out", "device", "nj", "batch_seconds")
    return {name: getattr(args, name) for name in names}
