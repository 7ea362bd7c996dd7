"""Prepare LibriSpeech as Kaldi data directories."""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from espnet2_birq.bin.command import (
    add_shared_options,
    make_parser,
    run,
    summary_lines,
    wanted_rate,
)
from espnet2_birq.corpora.librispeech import (
    JOINT_SETS,
    UTTERANCES_OF_PART,
    SpeechSet,
    find_corpus,
    find_parts,
    make_sets,
    official_size,
    probe_sets,
    read_genders,
    reader_of,
    write_set,
)
from espnet2_birq.datadir.audio import AudioInfo
from espnet2_birq.errors import DataError

Value = TypeVar("Value")

DESCRIPTION = """\
Prepare LibriSpeech, or mini LibriSpeech, as Kaldi data directories.

Every part becomes a directory DEST/<set> with wav.scp, text, utt2spk, spk2utt and
spk2gender, where <set> is the part's name with "_" for "-". As in ESPnet, train_960
joins the three training parts and dev the two dev parts, if all of them are there. As
in Kaldi, a "speaker" is a reader in a chapter.

Every audio file is opened: one that is missing, empty, cut short or of a wrong rate is
an error that names it. What is left out is listed in DEST/<set>/skipped (utterance,
reason). The summary tells what each set holds, and what the corpus has beyond it."""

EPILOG = """\
examples:
  # All parts that are there: data/dev_clean, data/train_clean_100, ..., data/train_960
  python -m espnet2_birq.bin.prepare_librispeech --librispeech /corpora --dest data

  # What is there, and is all of it whole? (A minute for the 960 hours.)
  python -m espnet2_birq.bin.prepare_librispeech --librispeech /corpora --dest data \\
      --skip-bad --dry-run

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
    if not args.parts:
        _refuse_leftovers(args.dest, sets)
    sets, infos = probe_sets(sets, wanted_rate(args), args.nj, args.skip_bad)
    genders = read_genders(corpus)
    if not genders:
        print(f"{corpus}/SPEAKERS.TXT is not there: no spk2gender is written")
    for name, one in sets.items():
        if not args.dry_run:
            write_set(args.dest / name, one, genders)
        print("\n".join(_summary(args.dest / name, one, infos, genders)))
    if not args.parts:
        for line in _absent(corpus, args.dest, sets):
            print(line)
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


def _unique[Value](option: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key, value in pairs:
        if key in values:
            raise DataError(f"{option} {key}: given twice; give it once")
        values[key] = value
    return values


def _summary(
    dest: Path,
    one: SpeechSet,
    infos: Mapping[str, AudioInfo],
    genders: Mapping[str, str],
) -> list[str]:
    speakers = {u.speaker for u in one.utterances}
    readers = {reader_of(speaker) for speaker in speakers}
    skipped = defaultdict(list)
    for utt_id, reason in one.skipped.items():
        skipped[reason].append(utt_id)
    lines = summary_lines(
        dest,
        len(one.utterances),
        f"{len(speakers)} speakers ({len(readers)} readers)",
        sum(infos[u.path].seconds for u in one.utterances),
        skipped,
    )
    found, size = len(one.utterances) + len(one.skipped), official_size(dest.name)
    if size is not None and found != size:
        what = "partial" if found < size else "too many"
        lines.append(f"{dest}: {what}: {found} of the {size} utterances of the corpus")
    if genders and (unknown := sorted(readers - genders.keys(), key=int)):
        lines.append(
            f"{dest}: no spk2gender: SPEAKERS.TXT has no gender of {len(unknown)} "
            f"readers; first: {unknown[0]}"
        )
    return lines


def _refuse_leftovers(dest: Path, sets: Mapping[str, SpeechSet]) -> None:
    for name, members in JOINT_SETS.items():
        if name not in sets and (dest / name).exists():
            raise DataError(
                f"{dest / name}: is there from an earlier preparation, but not all of "
                f"{' '.join(members)} are now; remove it or add the parts"
            )


def _absent(corpus: Path, dest: Path, sets: Mapping[str, SpeechSet]) -> list[str]:
    lines = []
    there = find_parts(corpus)
    absent = [part for part in UTTERANCES_OF_PART if part not in there]
    # Mini LibriSpeech has none of these parts, and misses none.
    if 0 < len(absent) < len(UTTERANCES_OF_PART):
        lines.append(f"{corpus}: parts that are not there: {' '.join(absent)}")
    for name, members in JOINT_SETS.items():
        missing = [member for member in members if member not in sets]
        if name not in sets and len(missing) < len(members):
            lines.append(f"{dest / name}: not made, without {' '.join(missing)}")
    return lines


if __name__ == "__main__":
    main()
