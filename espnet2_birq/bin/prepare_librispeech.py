"""Prepare LibriSpeech as Kaldi data directories."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from espnet2_birq.data.audio import AudioInfo
from espnet2_birq.data.librispeech import (
    SpeechSet,
    find_corpus,
    find_parts,
    make_sets,
    probe_sets,
    read_genders,
    reader_of,
    write_set,
)
from espnet2_birq.errors import DataError

_Value = TypeVar("_Value")

DESCRIPTION = """\
Prepare LibriSpeech, or mini LibriSpeech, as Kaldi data directories.

Every part becomes a directory DEST/<set> with wav.scp, text, utt2spk, spk2utt and
spk2gender, where <set> is the part's name with "_" for "-". As in Kaldi, a "speaker"
is a reader in a chapter. Every audio file is opened: one that is missing, empty, cut
short or of a wrong rate is an error that names it. What is left out is listed in
DEST/<set>/skipped."""

EPILOG = """\
examples:
  # All parts that are there: data/dev_clean, data/train_clean_100, ...
  python -m espnet2_birq.bin.prepare_librispeech --librispeech /corpora --dest data

  # Two parts. The last 4 readers of dev-clean are held out: 2 of them are
  # data/dev_clean_valid, 2 are data/dev_clean_test, the other readers are
  # data/dev_clean_train. data/train joins these with the whole of train-clean-100.
  python -m espnet2_birq.bin.prepare_librispeech --librispeech /corpora --dest data \\
      --parts train-clean-100 dev-clean --split dev-clean:4 \\
      --combine train=train_clean_100+dev_clean_train"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m espnet2_birq.bin.prepare_librispeech",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--librispeech",
        required=True,
        metavar="DIR",
        help="the folder LibriSpeech/, or the one that holds it",
    )
    parser.add_argument(
        "--dest", required=True, type=Path, help="where to write; data in a recipe"
    )
    parser.add_argument(
        "--parts", nargs="+", metavar="PART", help="default: all that are there"
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        type=_split,
        metavar="PART:N",
        help="hold out PART's last N readers: N/2 in <set>_valid, N/2 in <set>_test, "
        "the others in <set>_train; may be given for several parts",
    )
    parser.add_argument(
        "--combine",
        action="append",
        default=[],
        type=_combination,
        metavar="NAME=SET+SET...",
        help="also write a set NAME that joins these sets; may be given several times",
    )
    parser.add_argument(
        "--fs", type=int, default=16000, help="sample rate in Hz (default: %(default)s)"
    )
    parser.add_argument(
        "--resample",
        choices=("true", "false"),
        default="false",
        help="accept other rates than --fs, because a later stage of the recipe "
        "converts them (default: %(default)s)",
    )
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="leave out bad audio files and list them, rather than stop at the first",
    )
    parser.add_argument(
        "--nj",
        type=int,
        default=4,
        choices=range(1, 129),
        metavar="N",
        help="threads that read, 1 to 128 (default: %(default)s)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check and count all, but write nothing"
    )
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: What get_parser() parsed.

    Raises:
        DataError: The corpus or the request is wrong. Nothing has been written then,
            unless a set itself cannot be written.
    """
    corpus = find_corpus(args.librispeech)
    parts = args.parts or find_parts(corpus)
    splits = _unique("--split", args.split)
    combinations = _unique("--combine", args.combine)
    sets = make_sets(corpus, parts, splits, combinations)
    fs = None if args.resample == "true" else args.fs
    sets, infos = probe_sets(sets, fs, args.nj, args.skip_bad)
    genders = read_genders(corpus)
    if not genders:
        print(f"{corpus}/SPEAKERS.TXT is not there: no spk2gender is written")
    for name, one in sets.items():
        if not args.dry_run:
            write_set(args.dest / name, one, genders)
        print(_summary(args.dest / name, one, infos))
    if args.dry_run:
        print("dry run: nothing was written")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    args = get_parser().parse_args(argv)
    try:
        prepare(args)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")


def _split(value: str) -> tuple[str, int]:
    part, _, number = value.rpartition(":")
    if not part or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is not PART:N, as in dev-clean:4")
    return part, int(number)


def _combination(value: str) -> tuple[str, list[str]]:
    name, _, members = value.partition("=")
    if not name or not all(members.split("+")):
        raise argparse.ArgumentTypeError(
            f"{value!r} is not NAME=SET+SET, as in train=train_clean_5+dev_clean_2"
        )
    return name, members.split("+")


def _unique(option: str, pairs: Iterable[tuple[str, _Value]]) -> dict[str, _Value]:
    values: dict[str, _Value] = {}
    for key, value in pairs:
        if key in values:
            raise DataError(f"{option} {key}: given twice; give it once")
        values[key] = value
    return values


def _summary(dest: Path, one: SpeechSet, infos: dict[str, AudioInfo]) -> str:
    speakers = {u.speaker for u in one.utterances}
    readers = {reader_of(speaker) for speaker in speakers}
    hours = sum(infos[u.utt_id].seconds for u in one.utterances) / 3600
    line = (
        f"{dest}: {len(one.utterances)} utterances, {len(speakers)} speakers "
        f"({len(readers)} readers), {hours:.2f} hours, {len(one.skipped)} skipped"
    )
    if one.skipped:
        utt_id = min(one.skipped)
        line += f"; first: {utt_id}: {one.skipped[utt_id]}"
    return line


if __name__ == "__main__":
    main()
