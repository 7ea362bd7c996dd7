"""Label whole sets, resumably."""

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from espnet2_birq import api
from espnet2_birq.config import config_of
from espnet2_birq.datadir.files import whole_file, write_whole
from espnet2_birq.datadir.kaldi import iter_scp
from espnet2_birq.datadir.locking import locked
from espnet2_birq.datadir.stamp import STAMP, check_stamp, write_stamp
from espnet2_birq.errors import DataError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import maker_of
from espnet2_birq.relabelling.kmeans import KMeans
from espnet2_birq.relabelling.sources import load_source
from espnet2_birq.relabelling.speech import SpeechList, speech_batches
from espnet2_birq.relabelling.store import SCP, write_labels
from espnet2_birq.tasks.loading import resolve

LABELS = re.compile(r"labels(\.\d+)?\.(ark|scp)")  # files written here
SIZE = "codebook_size"  # file with the number of distinct labels
PART = 10_000  # utterances per archive, the most that an interruption can cost

# Maps (B, N) speech and (B,) lengths to (B, T') codes and (B,) lengths.
Labelling = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Origin:
    """What labels are made from; see write_stamp().

    Attributes:
        files: Model file first.
        options: Options.
        settings: Further settings, which records of older versions do not have.
    """

    files: Sequence[Path]
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


def label_by_objective(
    path: Path, objective: str, data: str, out: Path, batch_size: int, device: str
) -> int:
    """Label a set with the first codebook of a model's objective.

    Args:
        path: Model, as for api.load().
        objective: Name of an objective that makes labels.
        data: FILE,speech,TYPE, as for ssl_train.
        out: Folder for the labels.
        batch_size: Utterances per batch.
        device: "cpu" or "cuda".

    Returns:
        Number of utterances.

    Raises:
        ConfigError: `data` is invalid, or there is no such objective.
        DataError: Audio is missing or bad.
    """
    path = resolve(path)
    model = api.load(path, device).model
    size = maker_of(model.objectives, objective).labeller.codebook_size

    def label(speech, lengths):
        codes, frames = model.label(speech, lengths, objective)
        return codes[0], frames

    origin = Origin([path], {"objective": objective})
    return label_set(model, label, size, origin, data, out, batch_size)


def label_by_kmeans(
    path: Path, kmeans: Path, data: str, out: Path, batch_size: int, device: str
) -> int:
    """Label a set with centroids of fit_kmeans.

    Args:
        path: Model that the centroids were fitted to, as for api.load().
        kmeans: File of the centroids.
        data: FILE,speech,TYPE, as for ssl_train.
        out: Folder for the labels.
        batch_size: Utterances per batch.
        device: "cpu" or "cuda".

    Returns:
        Number of utterances.

    Raises:
        ConfigError: `data` is invalid, or the centroids are of another model.
        DataError: Audio is missing or bad, or `kmeans` has no centroids.
    """
    path, found = resolve(path), KMeans.load(kmeans)
    found.check_model(path, kmeans)
    model = load_source(path, found.about["view"], device)

    def label(speech, lengths):
        return found.label(model, speech, lengths)

    size = len(found.centroids)
    made = {"view": found.about["view"], "clusters": str(size)}
    origin = Origin([path, kmeans], settings=made)
    return label_set(model, label, size, origin, data, out, batch_size)


def label_set(
    model: BiRQModel,
    label: Labelling,
    size: int,
    origin: Origin,
    data: str,
    out: Path,
    batch_size: int,
) -> int:
    """Write the labels of all utterances of a list, in parts.

    A complete part is not made again, unless its inputs have changed.

    Args:
        model: Model in evaluation mode.
        label: Labelling function.
        size: V, number of distinct labels.
        origin: What the labels depend on besides the speech.
        data: FILE,speech,TYPE, as for ssl_train.
        out: Folder for labels.N.ark, codebook_size (which holds `size`) and, once all
            are complete, labels.scp.

    Returns:
        Number of utterances. Those with bad audio get the label -1 and a warning.

    Raises:
        ConfigError: `data` is invalid.
        DataError: The list or its first audio cannot be used, `out` has other files, or
            another command is writing to it.
    """

    def refuse():
        raise DataError(
            f"{out}: another command is writing labels to it; wait until it has ended, or "
            "give another --out"
        )

    with locked(out / ".lock", refuse):
        speech = SpeechList.read(data, model.sample_rate)
        files = [*origin.files, *map(config_of, origin.files[:1]), speech.path]
        _prepare(out, replace(origin, files=files), size)
        names = list(speech.entries)
        if _is_whole(out / SCP):
            logging.info(f"{out / SCP}: is already complete")
            return len(names)
        # It may name archives that are written again.
        (out / SCP).unlink(missing_ok=True)
        parts = [names[start : start + PART] for start in range(0, len(names), PART)]
        arks = [out / f"labels.{number}.ark" for number in range(1, len(parts) + 1)]
        for number, (ark, part) in enumerate(zip(arks, parts)):
            if not _is_whole(ark.with_suffix(".scp")):
                codes = _labels(model, label, speech, part, batch_size)
                write_labels(ark, codes, size, model.frame_rate)
            logging.info(f"{number * PART + len(part)} of {len(names)} utterances")
        with whole_file(out / SCP) as partial, partial.open("wb") as whole:
            for ark in arks:
                with ark.with_suffix(".scp").open("rb") as stream:
                    shutil.copyfileobj(stream, whole)
        return len(names)


def _is_whole(listed: Path) -> bool:
    """Whether a list is there, and the archives that it names."""
    if not listed.is_file():
        return False
    arks = {entry.rpartition(":")[0] for _, entry in iter_scp(listed)}
    return all(map(os.path.isfile, arks))


def _prepare(out: Path, origin: Origin, size: int) -> None:
    """Write codebook_size, and remove labels that were made from something else.

    Raises:
        DataError: The folder has files of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    labels = [x for x in out.glob("labels.*") if LABELS.fullmatch(x.name)]
    for other in (*set(out.glob("labels.*")).difference(labels), out / STAMP):
        if other.exists() and not (out / SIZE).exists():
            raise DataError(f"{other}: not of dump_labels; give another --out")
    # For the next configuration; and before the stamp: it tells whose folder this is.
    write_whole(out / SIZE, f"{size}\n")
    files, options, settings = origin.files, origin.options, origin.settings
    try:
        check_stamp(out, files, options, required=True, settings=settings)
    except DataError:
        if labels:
            logging.info(f"{out}: labels were made from something else; made again")
        # The stamp first: with it, what an interruption leaves would count as complete.
        for old in (out / STAMP, *labels):
            old.unlink(missing_ok=True)
        write_stamp(out, files, options, settings)


def _labels(
    model: BiRQModel,
    label: Labelling,
    speech: SpeechList,
    names: Sequence[str],
    batch_size: int,
) -> Iterator[tuple[str, np.ndarray]]:
    bad: list[str] = []
    for batch in speech_batches(model, speech, names, batch_size):
        codes, frames = label(batch.speech, batch.lengths)
        # Utterances that training drops get label -1, so that all lists have the
        # same utterances.
        rows = codes.where(batch.good[:, None], -1).cpu().numpy()
        for name, row, length in zip(batch.names, rows, frames.tolist()):
            yield name, row[:length]
        sound = batch.good.tolist()
        bad += [name for name, good in zip(batch.names, sound) if not good]
    if bad:
        logging.warning(
            f"{speech.path}: {len(bad)} utterances without a label (-1), for the reasons "
            "above: " + " ".join(bad)
        )
