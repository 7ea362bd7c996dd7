"""Generation of the synthetic demo corpus: data directories and audio."""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

import espnet2_birq
from espnet2_birq.corpora.sentences import random_sentence
from espnet2_birq.corpora.synth import (
    SAMPLE_RATE,
    TEST_VOICES,
    TRAIN_VOICES,
    VALID_VOICES,
    Job,
    Voice,
    check_available,
    synthesize,
)
from espnet2_birq.datadir.files import whole_folder, write_whole
from espnet2_birq.datadir.kaldi import Utterance, write_data_dir
from espnet2_birq.datadir.workers import worker_pool
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_json, read_lines

# Utterances planned at once. Planned sentences are never repeated, so this number affects
# all later sentences: it must not depend on --nj.
BATCH = 64
MARKER = "synthetic.json"

# Sentences are drawn in this order, so the test set does not depend on the lengths of
# the others. The position is also part of a set's seed: do not reorder.
VOICES_OF = {
    "test": TEST_VOICES,
    "valid": VALID_VOICES,
    "train": TRAIN_VOICES,
    "pretrain": TRAIN_VOICES,
}
UNLABELLED = "pretrain"


def make_corpus(
    dest: str, audio: str, minutes: Mapping[str, float], seed: int = 0, nj: int = 4
) -> None:
    """Make the sets, unless they exist already, and print the size of each.

    Args:
        dest: Parent folder of the data directories.
        audio: Folder for the audio; wav.scp has this path as given.
        minutes: Length in minutes of each set of VOICES_OF.
        seed: Random seed of sentences, speaking style and noise.
        nj: Number of processes.

    Raises:
        DataError: eSpeak NG is not installed, or `audio` holds other files, or those of
            another `dest`.
    """
    check_available()
    options = {
        "dest": dest,
        "audio": audio,
        "minutes": dict(minutes),
        "seed": seed,
        "version": espnet2_birq.__version__,
        "espeakng_loader": version("espeakng-loader"),
    }
    # Replace the folder that a link points at, not the link.
    folder = Path(os.path.realpath(audio))
    made = _read_marker(folder)
    if made.get("dest", dest) != dest:
        raise DataError(
            f"{audio}: has the audio of --dest {made['dest']}; choose another --audio, or "
            "remove it"
        )
    if made == options and all(_has_audio(Path(dest, name)) for name in minutes):
        print(f"{audio}: the same corpus is already there")
        return

    start = time.perf_counter()
    corpus, seconds = _make_audio(folder, Path(audio), minutes, seed, nj)
    elapsed = time.perf_counter() - start
    for name, utterances in corpus.items():
        write_data_dir(Path(dest, name), utterances)
        speakers = len({u.speaker for u in utterances})
        print(
            f"{Path(dest, name)}: {len(utterances)} utterances, {speakers} speakers, "
            f"{seconds[name] / 60:.2f} minutes"
        )
    total = sum(seconds.values())
    print(
        f"{total / 3600:.3f} hours made in {elapsed:.1f} s with {nj} process(es): "
        f"real-time factor {elapsed / total:.4f}"
    )
    write_whole(folder / MARKER, json.dumps(options, indent=1) + "\n")


def _make_audio(
    folder: Path, shown: Path, minutes: Mapping[str, float], seed: int, nj: int
) -> tuple[dict[str, list[Utterance]], dict[str, float]]:
    """Write the audio of all sets; return their utterances and lengths in seconds."""
    _check_replaceable(folder)
    corpus: dict[str, list[Utterance]] = {}
    seconds: dict[str, float] = {}
    seen: set[str] = set()
    with whole_folder(folder) as part, _mapper(nj) as run:
        # The marker shows later runs that they may replace this folder.
        (part / MARKER).write_text("{}\n")
        for number, name in enumerate(VOICES_OF):
            jobs = _plan(name, (seed, number), seen)
            corpus[name], seconds[name] = _make_set(
                name, minutes[name] * 60, jobs, run, part, shown
            )
    return corpus, seconds


def _read_marker(audio: Path) -> dict[str, Any]:
    """Return the options that the audio was made with; none if it is incomplete."""
    marker = audio / MARKER
    if not marker.is_file():
        return {}
    return read_json(marker, dict, f"remove {audio}, or choose another --audio")


def _has_audio(data: Path) -> bool:
    """Whether a data directory exists, with all of its audio."""
    scp = data / "wav.scp"
    if not scp.is_file():
        return False
    files = (line.strip().partition(" ")[2] for line in read_lines(scp))
    return all(map(os.path.isfile, files))


def _check_replaceable(audio: Path) -> None:
    if not audio.exists() or (audio / MARKER).is_file():
        return
    if audio.is_dir() and not any(audio.iterdir()):
        return
    raise DataError(
        f"{audio}: exists and was not written by this command; choose another --audio"
    )


@contextlib.contextmanager
def _mapper(nj: int) -> Iterator[Callable[..., Any]]:
    # Yields an order-preserving map() over nj processes, or in this one.
    if nj == 1:
        yield map
        return
    with worker_pool(nj, "spawn") as pool:
        yield pool.map


def _plan(
    name: str, seed: tuple[int, ...], seen: set[str]
) -> Iterator[list[tuple[str, Job]]]:
    voices: tuple[Voice, ...] = VOICES_OF[name]
    order = np.random.default_rng(seed).permutation(len(voices))
    for start in itertools.count(0, BATCH):
        batch = []
        for index in range(start, start + BATCH):
            rng = np.random.default_rng((*seed, index, 0))
            text = random_sentence(rng)
            while text in seen:
                text = random_sentence(rng)
            seen.add(text)
            voice = voices[order[index % len(voices)]]
            utt_id = f"{voice.speaker}-{name}-{index:06d}"
            batch.append((utt_id, Job(text, voice, (*seed, index, 1))))
        yield batch


def _make_set(
    name: str,
    wanted: float,
    batches: Iterator[list[tuple[str, Job]]],
    run: Callable[..., Any],
    part: Path,
    shown: Path,
) -> tuple[list[Utterance], float]:
    (part / name).mkdir()
    utterances: list[Utterance] = []
    frames = 0
    with tqdm(total=round(wanted), desc=name, unit="s", disable=None) as progress:
        for utt_id, job, signal in _made(batches, run):
            file = Path(name) / f"{utt_id}.flac"
            soundfile.write(part / file, signal, SAMPLE_RATE)
            text = None if name == UNLABELLED else job.text
            utterances.append(
                Utterance(utt_id, job.voice.speaker, os.fspath(shown / file), text)
            )
            frames += len(signal)
            progress.update(round(frames / SAMPLE_RATE) - progress.n)
            if frames >= wanted * SAMPLE_RATE:
                break
    return utterances, frames / SAMPLE_RATE


def _made(
    batches: Iterator[list[tuple[str, Job]]], run: Callable[..., Any]
) -> Iterator[tuple[str, Job, np.ndarray]]:
    for batch in batches:
        signals = run(synthesize, [job for _, job in batch])
        for (utt_id, job), signal in zip(batch, signals, strict=True):
            yield utt_id, job, signal
