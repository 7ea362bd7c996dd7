"""Options that select AMI recordings."""

import argparse

from espnet2_birq.corpora.ami.corpus import MICROPHONES
from espnet2_birq.corpora.ami.partitions import FULL_CORPUS_ASR, SETS


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that select AMI recordings."""
    add = parser.add_argument
    add(
        "--annotations",
        required=True,
        metavar="DIR",
        help="folder of the unpacked ami_public_manual_1.6.2.zip",
    )
    add("--mic", choices=MICROPHONES, default="ihm", help="microphone (default: ihm)")
    add(
        "--sets",
        type=_set_names,
        default=SETS,
        metavar="SET,SET",
        help="some of train,dev,eval (default: all)",
    )
    add(
        "--partition",
        default=FULL_CORPUS_ASR,
        metavar="NAME",
        help="full-corpus-asr, or a folder with the lists of meetings train.txt, "
        "dev.txt and eval.txt",
    )


def _set_names(value: str) -> tuple[str, ...]:
    names = tuple(value.split(","))
    if wrong := [name for name in names if name not in SETS]:
        raise argparse.ArgumentTypeError(f"no set {wrong[0]!r}, only {','.join(SETS)}")
    return names
