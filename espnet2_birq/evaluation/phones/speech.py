"""Selection of utterances of a data set, and their audio."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet2_birq.corpora.librispeech import find_corpus, find_parts, scan_part
from espnet2_birq.datadir.audio import probe_many, read_wave
from espnet2_birq.datadir.kaldi import read_scp, voice_of
from espnet2_birq.datadir.stream import map_parallel
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.audio_list import read_audio_list
from espnet2_birq.evaluation.decode.network import Utterance, make_batches

READERS = 4  # threads that read audio ahead


@dataclass(frozen=True)
class Spoken:
    """Utterance of a data set.

    Attributes:
        name: Unique name.
        speaker: Name of the speaker; for LibriSpeech the reader, not the chapter.
        entry: Audio file, or file.ark:offset.
    """

    name: str
    speaker: str
    entry: str


def find_speech(folder: Path) -> list[Spoken]:
    """List the utterances of a data set, without opening any audio.

    Args:
        folder: Kaldi data directory without segments; or LibriSpeech/, its parent, or
            one of its parts.

    Returns:
        Utterances, sorted by name.

    Raises:
        DataError: The folder is neither, or one of its lists is wrong.
    """
    if (folder / "wav.scp").is_file():
        return _of_kaldi(folder)
    corpus, parts = folder.parent, [folder.name]
    if not (folder.is_dir() and corpus.is_dir() and folder.name in find_parts(corpus)):
        try:
            corpus = find_corpus(folder)
        except DataError as error:
            raise DataError(
                f"{folder}: neither a data directory (no wav.scp) nor LibriSpeech or a "
                "part of it"
            ) from error
        parts = find_parts(corpus)
    found = []
    for part in parts:
        scanned = scan_part(corpus, part)
        if scanned.skipped:
            name, why = next(iter(scanned.skipped.items()))
            logging.warning(
                f"{corpus / part}: {len(scanned.skipped)} utterances left out; the "
                f"first, {name}: {why}"
            )
        found += [
            Spoken(one.utt_id, voice_of(one.speaker), one.path)
            for one in scanned.utterances
        ]
    return sorted(found, key=lambda one: one.name)


def _of_kaldi(folder: Path) -> list[Spoken]:
    entries = read_audio_list(folder)
    speakers = read_scp(folder / "utt2spk")
    found = []
    for name, entry in entries.items():
        if name not in speakers:
            raise DataError(f"{folder}/utt2spk: lacks {name}; utils/fix_data_dir.sh")
        found.append(Spoken(name, voice_of(speakers[name]), entry))
    return found


def choose(speech: Sequence[Spoken], number: int) -> list[Spoken]:
    """Choose utterances, balanced over speakers.

    Take the first utterance of every speaker, then the second, and so on, sorted by name.
    The choice is not random: with 20 speakers, 400 utterances are the first 20 of each.

    Args:
        speech: Utterances to choose from.
        number: Number of utterances; all if there are no more.

    Returns:
        Chosen utterances, sorted by speaker and name.

    Raises:
        DataError: There are fewer than two speakers.
    """
    of_speaker = defaultdict(list)
    for one in sorted(speech, key=lambda one: one.name):
        of_speaker[one.speaker].append(one)
    if len(of_speaker) < 2:
        raise DataError(
            f"{len(speech)} utterances of {len(of_speaker)} speaker: half of the "
            "speakers are trained on, the others tested; give at least two, better 20"
        )
    turns = [
        (turn, one.speaker, one)
        for some in of_speaker.values()
        for turn, one in enumerate(some)
    ]
    turns.sort(key=lambda turn: turn[:2])
    chosen = [one for _, _, one in turns[:number]]
    return sorted(chosen, key=lambda one: (one.speaker, one.name))


def held_out_speakers(speakers: Collection[str]) -> list[str]:
    """Return every second speaker in sorted order: the second, the fourth, ..."""
    return sorted(set(speakers))[1::2]


def check_audio(speech: Sequence[Spoken], rate: int) -> list[Utterance]:
    """Check the audio of each utterance.

    Args:
        speech: Utterances.
        rate: Required sample rate in Hz.

    Returns:
        Utterances with their durations.

    Raises:
        DataError: As in probe().
    """
    infos = probe_many([one.entry for one in speech], rate)
    return [
        Utterance(one.name, one.entry, info.seconds) for one, info in zip(speech, infos)
    ]


def read_batches(
    utterances: Sequence[Utterance], seconds: float
) -> Iterator[tuple[list[Utterance], list[np.ndarray]]]:
    """Yield batches of at most `seconds`, including padding, with their waveforms."""
    batches = list(make_batches(utterances, seconds))
    waves = map_parallel(
        lambda one: read_wave(one.entry),
        (one for batch in batches for one in batch),
        READERS,
    )
    for batch in batches:
        yield batch, [next(waves) for _ in batch]
