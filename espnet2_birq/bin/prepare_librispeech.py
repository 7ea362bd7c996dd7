"""Prepare LibriSpeech as Kaldi data directories."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from espnet2_birq.bin.command import (
    add_shared_options,
    make_parser,
    run,
    wanted_rate,
)
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
    parser = make_parser("prepare_librispeech", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--librispeech",
        required=True,
        metavar="DIR",
        help="the folder LibriSpeech/, or the one that holds it",
    )
    add_shared_options(parser, "--dest")
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
    add_shared_options(parser, "--fs", "--resample", "--skip-bad", "--nj", "--dry-run")
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
    sets, infos = probe_sets(sets, wanted_rate(args), args.nj, args.skip_bad)
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
    run(prepare, get_parser().parse_args(argv))


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
