"""Checks of labels, transcripts and languages before training; errors name the file."""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.fileio.read_text import read_2columns_text
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.multiple_iter_factory import MultipleIterFactory
from espnet2.train.dataset import ESPnetDataset

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.views import LABELS, SLACK, View, other_rate
from espnet2_birq.reading import read_lines, refusing
from espnet2_birq.tasks.bad_audio import ReadOrReason

INTEGERS = re.compile(r"-?[0-9]+( -?[0-9]+)*")
SPEECH = "speech"
OPTION = "--{}_data_path_and_name_and_type"


def check_files(lists: Collection[Sequence[str]]) -> None:
    """Check that lists of data exist, and that lists of labels have the stated type.

    Args:
        lists: Path, name and type, as in ``train_data_path_and_name_and_type``.

    Raises:
        DataError: A list is missing or of another type.
        ConfigError: The stated type of labels is text.
    """
    for path, name, kind in lists:
        if not Path(path).exists():
            how = "run the data preparation"
            if name != SPEECH:
                how = "make these labels first (dump_labels, birq.sh --stage 5)"
            raise DataError(f"{path}: no such file, the {name}: {how}")
        if name != SPEECH:
            _check_type(Path(path), name, kind)


def _check_type(path: Path, name: str, kind: str) -> None:
    if kind == "text":
        raise ConfigError(
            f"{path},{name},{kind}: type text is words; labels in a text, `utterance "
            "12 7 7 ...`, are of type text_int"
        )
    if path.is_dir():
        path = path / "split.0"  # a list split into parts
    if kind not in ("kaldi_ark", "text_int") or not path.is_file():
        return
    first = next(iter(read_lines(path)), "")
    value = " ".join(first.split()[1:])
    if kind == "kaldi_ark" and not os.path.isfile(value.rpartition(":")[0]):
        raise DataError(
            f"{path}: line 1: no archive '{value[:60]}'; make these labels again, or if "
            "it is a text of integers, give type text_int"
        )
    if kind == "text_int" and not INTEGERS.fullmatch(value):
        raise DataError(
            f"{path}: line 1: no integers: '{value[:60]}'; a list of dump_labels is of "
            "type kaldi_ark"
        )


def check_transcripts(lists: Collection[Sequence[str]]) -> None:
    """Check that transcripts exist and are not all empty.

    Without any words, CTC silently learns to predict blanks for all frames.

    Args:
        lists: Path, name and type of training or validation data, including texts.

    Raises:
        DataError: A text is missing or not UTF-8, or no utterance in it has a word.
    """
    for path, name, kind in lists:
        if kind != "text" or Path(path).is_dir():  # a list split into parts
            continue
        if not Path(path).is_file():
            raise DataError(
                f"{path}: no such file, the {name}: run the data preparation"
            )
        lines = read_lines(Path(path), "make the list again")
        if not any(len(line.split(maxsplit=1)) == 2 for line in lines):
            raise DataError(
                f"{path}: no utterance has a transcript; add them (`UTTERANCE WORDS`), "
                "or pretrain without (ssl_train)"
            )


def check_languages(path: Path, shape_files: Sequence[str]) -> None:
    """Check the languages of ESPnet's category sampler.

    Args:
        path: category2utt, beside the first list of the training data.
        shape_files: Shape files of the training set.

    Raises:
        DataError: The file is missing or malformed, a language has no utterance of the
            training set, or some of its utterances are not in the set; or an utterance of
            the set is in no language, in two, or twice in one.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file, from which iterator_type category samples languages; "
            "write a line `LANGUAGE UTTERANCE ...` for each, or leave iterator_type out"
        )
    there = {name for file in shape_files for name in read_2columns_text(file)}
    with refusing(path, "no lines `LANGUAGE UTTERANCE ...`", "correct it"):
        languages = read_2columns_text(path)
    seen: set[str] = set()
    twice: list[str] = []
    for language, line in languages.items():
        utterances = line.split()
        lacking = [one for one in utterances if one not in there]
        if len(lacking) == len(utterances):
            raise DataError(
                f"{path}: language '{language}' has no utterance of the training set; "
                "prepare its data, or take it out of the file"
            )
        if lacking:
            raise DataError(
                f"{path}: language '{language}': {len(lacking)} utterances are not in "
                f"{shape_files[0]}, the first: {min(lacking)}; take them out, or make the "
                "shape file again (birq.sh --stage 6)"
            )
        if line.split(" ") != utterances:  # ESPnet's reading
            raise DataError(
                f"{path}: language '{language}': utterances are not separated by single "
                "spaces; correct it"
            )
        for one in utterances:
            if one in seen:
                twice.append(one)
            seen.add(one)
    if twice:
        raise DataError(
            f"{path}: {len(set(twice))} utterances are listed more than once, the first: "
            f"{min(twice)}: they would be drawn as often; leave each in one place"
        )
    if there - seen:
        raise DataError(
            f"{path}: {len(there - seen)} utterances of {shape_files[0]} are in no "
            f"language, the first: {min(there - seen)}: they would never be drawn; add "
            "them, or take them out of the shape file"
        )


def check_labels(model: BiRQModel, factory: AbsIterFactory, mode: str) -> None:
    """Compare data names with the objectives, and an utterance's labels with its speech.

    Other utterances are checked in their batches.

    Args:
        model: The model.
        factory: Factory of an epoch's batches.
        mode: "train" or "valid".

    Raises:
        ConfigError: Labels that an objective reads are not given, or data is given that
            no objective reads.
        DataError: Labels are not integers, of another rate, or out of range.
    """
    if isinstance(factory, MultipleIterFactory):
        factory = factory.build_funcs[0]()  # any part will do
    dataset = getattr(getattr(factory, "factory", factory), "dataset", None)
    if isinstance(dataset, ReadOrReason):
        dataset = dataset.dataset
    if not isinstance(dataset, ESPnetDataset):
        return
    given = set(dataset.names())
    for view in model.label_sizes:
        if view.name not in given:
            raise ConfigError(
                f"an objective has view '{view}': give these labels, "
                f"{OPTION.format(mode)} labels.scp,{view.name},kaldi_ark (dump_labels "
                "makes them)"
            )
    read = {view.name for view in model.label_sizes}
    if unread := sorted(given - read - {SPEECH, LABELS}):
        path, kind = dataset.debug_info[unread[0]]
        raise ConfigError(
            f"{OPTION.format(mode)} {path},{unread[0]},{kind}: no objective has view "
            f"'{LABELS} {unread[0]}'"
        )
    # Utterances that are not in the shape file may lack labels.
    labelled = (x for x in dataset if all(x in dataset.loader_dict[y] for y in read))
    utterance = next(labelled, None)
    if not read or utterance is None:
        return
    arrays = dataset[utterance][1]
    frames = _frames(model, arrays[SPEECH])
    for view, size in model.label_sizes.items():
        path = dataset.debug_info[view.name][0]
        where = f"{path}: {utterance}"
        _check_values(where, arrays[view.name], size)
        _check_rate(where, len(arrays[view.name]), frames, view, model.frame_rate)


@torch.no_grad()
def _frames(model: BiRQModel, speech: np.ndarray) -> int:
    device = model.updates.device
    waves = torch.from_numpy(speech)[None].to(device)
    samples = torch.tensor([len(speech)], device=device)
    return int(model.vectors(waves, samples, View("input"))[1])


def _check_values(where: str, labels: Any, size: int) -> None:
    if labels.ndim != 1 or labels.dtype.kind != "i":
        raise DataError(
            f"{where}: labels are a row of integers for each utterance, these are "
            f"{labels.dtype} of shape {labels.shape}; use dump_labels, or type text_int"
        )
    if len(labels) and not -1 <= labels.min() <= labels.max() < size:
        raise DataError(
            f"{where}: labels from {labels.min()} to {labels.max()}, but codebook_size "
            f"is {size}: labels are 0 to {size - 1}, or -1 for none; change "
            "labeller_conf, or make these labels again"
        )


def _check_rate(where: str, labels: int, frames: int, view: View, rate: float) -> None:
    if abs(labels / view.every - frames) > SLACK:
        raise DataError(
            f"{where}: {labels} labels ({rate * labels / max(1, frames):.1f} a second) "
            f"for {frames} encoder frames ({rate:.1f} a second)"
            + other_rate(labels, frames, view)
        )
