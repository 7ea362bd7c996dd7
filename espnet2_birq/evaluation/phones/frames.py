"""Frames of many utterances with phone labels, used by all measures."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.phones.abx import save_features, write_items
from espnet2_birq.evaluation.phones.alignments import (
    Alignment,
    phone_classes,
    read_alignments,
)
from espnet2_birq.evaluation.phones.models import Look, SpeechModel
from espnet2_birq.evaluation.phones.speech import (
    check_audio,
    choose,
    find_speech,
    held_out_speakers,
    read_batches,
)

SHORTEST = 0.2  # seconds; shorter utterances may have no frame
BEYOND = 0.1  # seconds by which an alignment may be longer than its audio
BATCH_SECONDS = 60.0  # audio per batch, including padding
REPORT_SECONDS = 10.0  # time between progress lines


class Corpus(NamedTuple):
    """Utterances to measure on.

    Attributes:
        speech: Utterances, sorted by speaker and name.
        alignments: Mapping from utterance to alignment.
        classes: Phones, ordered by class index.
        tested: Speakers on which the linear probe is not trained.
    """

    speech: list
    alignments: dict[str, Alignment]
    classes: tuple[str, ...]
    tested: list[str]


class Frames(NamedTuple):
    """Frames that have a phone; utterances in order of duration, as batched.

    Attributes:
        layers: Mapping from layer to hidden states (N, D).
        objectives: Mapping from objective to codes (books, N).
        phones: Phone classes (N,).
        speakers: Speaker names (N,).
        unlabelled: Number of frames omitted because they have no phone.
    """

    layers: dict[int, torch.Tensor]
    objectives: dict[str, np.ndarray]
    phones: np.ndarray
    speakers: np.ndarray
    unlabelled: int


def find_corpus(
    data: Path, alignment: Path, utterances: int, tier: str, silence: bool
) -> Corpus:
    """Choose utterances that have an alignment.

    Args:
        data: Data set, as in find_speech().
        alignment: Alignment file or folder, as in read_alignments().
        utterances: Number of utterances, as in choose().
        tier: TextGrid tier with the phones.
        silence: Whether silence is a class; otherwise its frames have no phone.

    Raises:
        DataError: As in these functions.
    """
    speech = find_speech(data)
    alignments = read_alignments(alignment, {one.name for one in speech}, tier)
    there = [
        one
        for one in speech
        if one.name in alignments and alignments[one.name].seconds >= SHORTEST
    ]
    if len(there) < len(speech):
        logging.info(
            f"{data}: {len(speech) - len(there)} of {len(speech)} utterances have no "
            f"alignment, or are shorter than {SHORTEST} s: left out"
        )
    chosen = choose(there, utterances)
    alignments = {one.name: alignments[one.name] for one in chosen}
    classes = phone_classes(alignments.values(), silence)
    speakers = {one.speaker for one in chosen}
    tested = held_out_speakers(speakers)
    logging.info(
        f"{len(chosen)} utterances of {len(speakers)} speakers, {len(tested)} of them "
        f"to test on; {len(classes)} phones"
    )
    return Corpus(chosen, alignments, classes, tested)


def collect(
    model: SpeechModel,
    corpus: Corpus,
    layers: Sequence[int],
    max_frames: int,
    abx_folder: Path | None = None,
) -> Frames:
    """Run a model over the corpus.

    Args:
        model: Model to run.
        corpus: Utterances to measure on.
        layers: Layers to keep.
        max_frames: Maximum number of frames. If there are more, equally spaced frames
            are kept: the same share of every utterance, and the same frames for models
            with the same frame rate.
        abx_folder: Folder for files with all frames of all layers, and the list of
            triphones.

    Raises:
        DataError: Audio is bad or does not match its alignment, or no frame has a
            phone.
    """
    utterances = check_audio(corpus.speech, model.sample_rate)
    seconds = sum(one.seconds for one in utterances)
    _check_lengths(utterances, corpus)
    share = min(1.0, max_frames * model.shift / seconds)
    if share < 1:
        logging.info(f"about {share:.0%} of the frames are kept, see --max_frames")
    most = sum(int(one.seconds / model.shift * share) + 2 for one in utterances)
    phones, speakers = _Rows(most), _Rows(most)
    outputs: dict[int, _Rows] = defaultdict(lambda: _Rows(most))
    labels: dict[str, _Rows] = defaultdict(lambda: _Rows(most))
    speaker_of = {one.name: one.speaker for one in corpus.speech}
    lengths, unlabelled = {}, 0
    for name, look in _run(model, utterances, layers, seconds):
        lengths[name] = len(next(iter(look.layers.values())))
        numbers = corpus.alignments[name].frame_labels(
            lengths[name], model.shift, corpus.classes
        )
        kept = spread(lengths[name], share)
        labelled = kept[numbers[kept] >= 0]
        unlabelled += len(kept) - len(labelled)
        phones.add(numbers[labelled])
        speakers.add(np.array([speaker_of[name]] * len(labelled), dtype=object))
        for layer, values in look.layers.items():
            outputs[layer].add(values[labelled])
        for objective, codes in look.labels.items():
            labels[objective].add(codes.T[labelled])
        if abx_folder is not None:
            save_features(abx_folder, name, look.layers)
    if abx_folder is not None:
        items = abx_folder / "triphones.item"
        write_items(items, corpus.alignments, speaker_of, lengths, model.shift)
    if not len(phones.take()):
        raise DataError(
            "no frame has a phone: give the alignment of these utterances, and of "
            "TextGrids the --tier that has the phones"
        )
    if unlabelled:
        logging.info(f"{unlabelled} frames have no phone: left out")
    return Frames(
        {layer: torch.from_numpy(rows.take()) for layer, rows in outputs.items()},
        {objective: rows.take().T for objective, rows in labels.items()},
        phones.take(),
        speakers.take().astype(str),
        unlabelled,
    )


class _Rows:
    """Array that is allocated once and filled in parts."""

    def __init__(self, most: int):
        self._most, self._used, self._rows = most, 0, np.empty(0)

    def add(self, rows: np.ndarray) -> None:
        if not len(self._rows):  # the first rows determine shape and type
            self._rows = np.empty((self._most, *rows.shape[1:]), rows.dtype)
        self._rows[self._used : self._used + len(rows)] = rows
        self._used += len(rows)

    def take(self) -> np.ndarray:
        return self._rows[: self._used]


def spread(frames: int, share: float) -> np.ndarray:
    """Return the indices of a share of frames, equally spaced."""
    return np.flatnonzero(np.diff(np.floor(np.arange(frames + 1) * share + 1e-9)))


def _check_lengths(utterances, corpus: Corpus) -> None:
    for one in utterances:
        alignment = corpus.alignments[one.name]
        if alignment.seconds > one.seconds + BEYOND:
            raise DataError(
                f"{alignment.where}: {one.name} ends at {alignment.seconds:.2f} s, its "
                f"audio {one.entry} at {one.seconds:.2f} s; are its times those of a "
                "whole recording, or is it an alignment of other audio?"
            )


def _run(
    model: SpeechModel, utterances, layers: Sequence[int], seconds: float
) -> Iterator[tuple[str, Look]]:
    done, told = 0.0, time.monotonic()
    for batch, waves in read_batches(utterances, BATCH_SECONDS):
        try:
            looks = model.look(waves, layers)
        except TooShortUttError as error:
            raise DataError(f"{batch[-1].entry}: too short: {error}") from error
        yield from zip((one.name for one in batch), looks)
        done += sum(one.seconds for one in batch)
        if time.monotonic() - told > REPORT_SECONDS:
            told = time.monotonic()
            logging.info(f"encoder: {done:.0f} of {seconds:.0f} s of speech")
