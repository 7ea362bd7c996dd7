"""Options of prepare_yodas that a manifest repeats: None where they are not given."""

import argparse
import re
from pathlib import Path

from espnet2_birq.corpora.yodas.prepare import SETTINGS
from espnet2_birq.corpora.yodas.writer import allowed_captions
from espnet2_birq.options import finite, not_negative, positive


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which shards and videos are meant."""
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
        help="stop when there is so much of each language (default: use all)",
    )
    parser.add_argument(
        "--valid-hours",
        type=not_negative,
        metavar="N",
        help=_help(
            "hold out whole videos for NAME_valid until they last so long; 0: no such "
            "set",
            "valid_hours",
        ),
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help=_help("of the shards' order and the videos that are held out", "seed"),
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="repeat what this manifest.jsonl says",
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which utterances are used, and how they are written."""
    # None, not False, where the option is not given: a manifest's value holds then.
    parser.add_argument(
        "--text",
        action="store_const",
        const=True,
        help="write captions; leave out utterances whose caption is empty",
    )
    parser.add_argument(
        "--uncaptioned",
        action="store_const",
        const=True,
        help="use audio that has no caption, too; not with --text",
    )
    parser.add_argument(
        "--characters",
        action="append",
        type=_characters,
        metavar="LANG=CHARS",
        help="with --text, leave out captions of this language with other characters, "
        "given as in the brackets of a regular expression: en=a-zA-Z',.?; may be given "
        "for several languages",
    )
    for option, kind, text in (
        ("--min-duration", positive, "leave out shorter utterances (seconds)"),
        ("--max-duration", positive, "leave out longer utterances (seconds)"),
        ("--min-level", finite, "leave out quieter utterances (dB below full scale)"),
    ):
        setting = option.removeprefix("--").replace("-", "_")
        parser.add_argument(option, type=kind, metavar="N", help=_help(text, setting))
    parser.add_argument(
        "--fs", type=int, metavar="HZ", help=_help("sample rate to write", "fs")
    )
    parser.add_argument(
        "--audio-format",
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
