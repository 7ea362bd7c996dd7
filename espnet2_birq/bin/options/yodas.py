"""Options of prepare_yodas that are stored in manifests; None if not given."""

import argparse
import re
from pathlib import Path

from espnet2_birq.corpora.yodas.prepare import SETTINGS
from espnet2_birq.corpora.yodas.writer import allowed_captions
from espnet2_birq.options import (
    finite,
    not_negative,
    positive,
    sample_rate,
    whole_number,
)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that select shards and videos."""
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART",
        help="languages (en), subsets (en000) or shards (en000/00000001)",
    )
    parser.add_argument(
        "--hours",
        type=positive,
        metavar="N",
        help="hours of each language (default: all)",
    )
    parser.add_argument(
        "--valid_hours",
        type=not_negative,
        metavar="N",
        help=_help(
            "hours of whole videos to hold out for NAME_valid; 0: no such set",
            "valid_hours",
        ),
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        metavar="N",
        help=_help("seed of the shard order and of held-out videos", "seed"),
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="repeat the selection of this manifest.jsonl",
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that filter utterances, and of the output format."""
    # None, not False, if not given: the manifest's value then applies.
    parser.add_argument(
        "--text",
        action="store_const",
        const=True,
        help="write captions; drop utterances with empty captions",
    )
    parser.add_argument(
        "--uncaptioned",
        action="store_const",
        const=True,
        help="also use audio without captions; not with --text",
    )
    parser.add_argument(
        "--characters",
        action="append",
        type=_characters,
        metavar="LANG=CHARS",
        help="with --text, drop captions of this language with other characters, "
        "given as in brackets of a regular expression: en=a-zA-Z',.?; may be "
        "repeated",
    )
    for option, kind, text in (
        ("--min_duration", positive, "leave out shorter utterances (seconds)"),
        ("--max_duration", positive, "leave out longer utterances (seconds)"),
        ("--min_level", finite, "leave out quieter utterances (dB below full scale)"),
    ):
        setting = option.removeprefix("--")
        parser.add_argument(option, type=kind, metavar="N", help=_help(text, setting))
    parser.add_argument(
        "--fs", type=sample_rate, metavar="HZ", help=_help("sample rate to write", "fs")
    )
    parser.add_argument(
        "--audio_format",
        choices=("flac.ark", "wav.ark"),
        help=_help("of the archives; FLAC is about half as large", "audio_format"),
    )


def _help(text: str, setting: str) -> str:
    return f"{text} (default: {SETTINGS[setting]})"


def _characters(value: str) -> tuple[str, str]:
    language, _, characters = value.partition("=")
    try:
        allowed_captions(characters)
        if not (language and characters):
            raise re.error("empty")
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not LANG=CHARS, as in en=a-z"
        ) from error
    return language, characters
