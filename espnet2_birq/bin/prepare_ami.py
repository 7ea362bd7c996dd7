"""Prepare AMI as Kaldi data directories."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import (
    add_shared_options,
    make_parser,
    run,
    summary_lines,
    wanted_rate,
)
from espnet2_birq.corpora.ami.annotation import find_annotation, read_meetings
from espnet2_birq.corpora.ami.corpus import (
    MICROPHONES,
    MeetingSet,
    Microphone,
    count_words,
    cut_sets,
    drop_lost,
    find_audio,
    match_audio,
)
from espnet2_birq.corpora.ami.output import write_set
from espnet2_birq.corpora.ami.partitions import FULL_CORPUS_ASR, SETS, read_partition
from espnet2_birq.corpora.ami.statistics import measure
from espnet2_birq.errors import DataError

DESCRIPTION = """\
Prepare the AMI meeting corpus as Kaldi data directories, from its manual annotation
1.6.2 as it is published and its audio as it is distributed.

Utterances, their ids, words and set names are those of Kaldi's and ESPnet's recipes:
DATA_DIR/{ihm,sdm1,mdm8}_{train,dev,eval} with wav.scp, segments, text, utt2spk and
spk2utt, and stm and glm for scoring. Recordings that are not there, and utterances that
end after their recording, are skipped and counted. In each set, words.tsv tells what
became of all words of the annotation, statistics.tsv how much is said in each meeting
and how much of it at the same time, skipped what was left out and why.

Microphones: ihm (each participant's headset), sdm1 (the first of the array), mdm8 (the
array's eight, which espnet2_birq.bin.beamform_ami makes one), mix (the sum of the
headsets, Mix-Headset; not among the published benchmarks)."""

EPILOG = """\
examples:
  # What would be cut, by the annotation alone: no audio is needed.
  python -m espnet2_birq.bin.prepare_ami --annotations downloads/annotations \\
      --annotations-only --mic ihm data

  # Headsets, two sets.
  python -m espnet2_birq.bin.prepare_ami --annotations downloads/annotations \\
      --audio downloads/amicorpus --mic ihm --sets train,dev data"""


def set_names(value: str) -> tuple[str, ...]:
    """Parse an option's value such as train,dev.

    Raises:
        argparse.ArgumentTypeError: There is no such set.
    """
    names = tuple(value.split(","))
    if wrong := [name for name in names if name not in SETS]:
        raise argparse.ArgumentTypeError(f"no set {wrong[0]!r}, only {','.join(SETS)}")
    return names


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which recordings of AMI are meant."""
    parser.add_argument(
        "--annotations",
        required=True,
        metavar="DIR",
        help="where ami_public_manual_1.6.2.zip was unpacked",
    )
    parser.add_argument(
        "--mic",
        choices=MICROPHONES,
        default="ihm",
        help="microphone (default: %(default)s)",
    )
    parser.add_argument(
        "--sets",
        type=set_names,
        default=SETS,
        metavar="SET,SET",
        help="some of train,dev,eval (default: all)",
    )
    parser.add_argument(
        "--partition",
        default=FULL_CORPUS_ASR,
        metavar="NAME",
        help="full-corpus-asr, or a folder with the lists of meetings train.txt, "
        "dev.txt and eval.txt (default: %(default)s)",
    )


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("prepare_ami", DESCRIPTION, EPILOG)
    parser.add_argument(
        "dest", type=Path, metavar="DATA_DIR", help="where to write; data in a recipe"
    )
    add_selection(parser)
    parser.add_argument(
        "--audio",
        default="amicorpus",
        metavar="DIR",
        help="the folder of the meetings' folders, or the one that holds it as "
        "amicorpus; for mdm8 the one that beamform_ami wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--annotations-only",
        action="store_true",
        help="do not look for audio; wav.scp tells where it would be",
    )
    add_shared_options(parser, "--fs", "--resample", "--skip-bad", "--nj", "--dry-run")
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: What get_parser() parsed.

    Raises:
        DataError: The annotation, the audio or the request is wrong. Nothing has been
            written then, unless a set itself cannot be written.
    """
    begun = time.monotonic()
    microphone = MICROPHONES[args.mic]
    root = find_annotation(args.annotations)
    partition = read_partition(args.partition)
    # In the order of SETS, each once.
    sets = cut_sets(root, partition, [name for name in SETS if name in args.sets])
    drop_lost(sets, microphone)
    if args.annotations_only:
        audio = Path(args.audio).absolute()
    else:
        audio = find_audio(args.audio)
        match_audio(sets, microphone, audio, wanted_rate(args), args.nj, args.skip_bad)
        _demand_utterances(sets, microphone, audio)
    for one in sets.values():
        dest = args.dest / f"{microphone.name}_{one.name}"
        if not args.dry_run:
            write_set(dest, one, microphone, audio)
        print("\n".join(_summary(dest, one, microphone)))
    print(_others(root, partition))
    _tell_speed(sets, time.monotonic() - begun)
    if args.dry_run:
        print("dry run: nothing was written")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(prepare, get_parser().parse_args(argv))


def _demand_utterances(
    sets: dict[str, MeetingSet], microphone: Microphone, audio: Path
) -> None:
    for one in sets.values():
        if not one.turns:
            example = microphone.path(audio, one.meetings[0], 0)
            raise DataError(
                f"{audio}: no recording with an utterance of {one.name}, for instance "
                f"{example}; correct --audio and --mic, or leave it out with --sets"
            )


def _summary(dest: Path, one: MeetingSet, microphone: Microphone) -> list[str]:
    talks = measure(one.turns)
    total = talks.pop("total")
    skipped = {
        reason: [turn.utt_id(microphone) for turn in turns]
        for reason, turns in one.skipped.items()
    }
    speakers = f"{total.speakers} speakers"
    seconds = total.utterance_hours * 3600
    lines = summary_lines(dest, total.utterances, speakers, seconds, skipped)
    lines.append(
        f"{dest}: {len(talks)} of {len(one.meetings)} meetings, {total.words} words; "
        f"in {total.speech_hours:.2f} hours somebody speaks, in "
        f"{total.overlap_percent:.1f} % of them several do"
    )
    for change, turns in one.moved.items():
        first = min(turn.utt_id(microphone) for turn in turns)
        lines.append(f"{dest}: {len(turns)} x {change}; first: {first}")
    if one.missing:
        names = sorted(Path(path).stem for path in one.missing)
        lines.append(
            f"{dest}: {len(names)} recordings are not there (missing_recordings): "
            + _some(names)
        )
    counts = one.word_counts()
    lines.append(
        f"{dest}: of {one.words} words and punctuation marks of the annotation "
        + ", ".join(f"{number} {reason}" for reason, number in counts.items())
    )
    return lines


def _others(root: Path, partition: dict[str, list[str]]) -> str:
    used = {meeting for meetings in partition.values() for meeting in meetings}
    participants = read_meetings(root)
    others = sorted(set(participants) - used)
    words = sum(count_words(root, name, participants[name]) for name in others)
    return (
        f"{root}: {len(others)} meetings with {words} words and punctuation marks are "
        f"in no set{': ' if others else ''}{_some(others)}"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _tell_speed(sets: dict[str, MeetingSet], seconds: float) -> None:
    turns = [turn for one in sets.values() for turn in one.turns]
    hours = sum(turn.end - turn.start for turn in turns) / 360000
    print(
        f"{len(turns)} utterances, {hours:.2f} hours in {seconds:.1f} s: "
        f"{len(turns) / seconds:.0f} utterances, {hours / seconds:.2f} hours a second"
    )


if __name__ == "__main__":
    main()
