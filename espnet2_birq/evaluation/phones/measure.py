"""Measurement of phone information in the layers of several encoders.

For each layer (0 is the stacked input frames, the source of anchor labels):

* accuracy of a linear probe, trained on frames of half of the speakers and tested on the
  other half, speaker by speaker;
* PNMI of k-means units, number of used units, effective rank and variance;
* optionally, ABX error rates.

For a pretrained model, also PNMI and usage of the labels of each objective. All models
are measured on the same utterances, and all layers with the same phones.
"""

import contextlib
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from espnet2_birq.config import config_of, find_config
from espnet2_birq.datadir.files import write_whole
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.phones.abx import abx_errors, import_fastabx
from espnet2_birq.evaluation.phones.frames import Corpus, Frames, collect, find_corpus
from espnet2_birq.evaluation.phones.models import SpeechModel, load_model
from espnet2_birq.evaluation.phones.probing import (
    accuracy_of_speakers,
    effective_rank,
    fit_linear_probe,
    mean_and_error,
    paired_difference,
)
from espnet2_birq.evaluation.phones.units import KMEANS_SEEDS, kmeans_units, score_units
from espnet2_birq.tasks.loading import resolve


class Source(NamedTuple):
    """Model to measure: its name in tables, and its file (see load_model())."""

    name: str
    path: Path


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement.

    Attributes:
        utterances: Number of utterances, balanced over speakers.
        layers: Layers to measure; None measures all, from 0.
        tier: TextGrid tier with the phones.
        silence: Whether silence is a class; otherwise its frames are omitted.
        units: Number of k-means clusters.
        max_frames: Maximum number of frames, in memory for all layers at once.
        abx: Whether to measure ABX error rates.
        device: "cpu" or "cuda".
    """

    utterances: int = 400
    layers: Sequence[int] | None = None
    tier: str = "phones"
    silence: bool = True
    units: int = 100
    max_frames: int = 100_000
    abx: bool = False
    device: str = "cpu"


def name_models(paths: Sequence[Path]) -> list[Source]:
    """Name models by their folders if these differ, otherwise by their full paths.

    Args:
        paths: Model files, their folders, or names on the hub; or configurations, whose
            models are "untrained" instead.

    Raises:
        ConfigError: A folder has no model, or several; or there is none on the hub.
    """
    paths = [resolve(path) for path in paths]
    names = [
        "untrained" if config_of(path) == path else path.absolute().parent.name
        for path in paths
    ]
    whole = len(set(names)) < len(names)
    return [Source(str(x) if whole else name, x) for x, name in zip(paths, names)]


def measure(
    sources: Sequence[Source],
    data: Path,
    alignment: Path,
    settings: Settings = Settings(),
    out: Path | None = None,
) -> dict:
    """Measure models on the same speech.

    Args:
        sources: Models; differences are relative to the first.
        data: Kaldi data directory, or LibriSpeech or a part of it.
        alignment: Alignment file or folder, as in read_alignments().
        settings: Settings of the measurement.
        out: JSON file for the results; None writes none.

    Returns:
        Results, as described in docs/measures.md.

    Raises:
        DataError: The data, an alignment or a model file is wrong.
        ConfigError: A setting or a model cannot be used.
    """
    if min(settings.utterances, settings.units, settings.max_frames) < 2:
        raise ConfigError("--utterances, --units and --max_frames are 2 or more")
    # Check now, not after minutes of computation. Models are loaded after the speech.
    for source in sources:
        find_config(source.path)
    if settings.abx:
        import_fastabx()
    corpus = find_corpus(
        data, alignment, settings.utterances, settings.tier, settings.silence
    )
    _check_models(sources, settings)
    models = [measure_model(source, corpus, settings) for source in sources]
    speakers = {one.speaker for one in corpus.speech}
    result = {
        "data": str(data),
        "alignment": str(alignment),
        "settings": asdict(settings),
        "utterances": [one.name for one in corpus.speech],
        "phones": list(corpus.classes),
        "train_speakers": sorted(speakers - set(corpus.tested)),
        "test_speakers": corpus.tested,
        "models": models,
        "differences": [compare(other, models[0]) for other in models[1:]],
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, json.dumps(result, indent=1) + "\n")
    return result


def measure_model(source: Source, corpus: Corpus, settings: Settings) -> dict:
    """Measure one model.

    Raises:
        DataError: As in load_model() and collect(); or there are no frames for training
            or for the test.
        ConfigError: The model lacks a requested layer.
    """
    start = time.monotonic()
    logging.info(f"{source.name}: {source.path}")
    model = load_model(source.path, settings.device)
    layers = _layers(model, source, settings)
    with contextlib.ExitStack() as stack:
        scratch = None
        if settings.abx:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        frames = collect(model, corpus, layers, settings.max_frames, scratch)
        is_test = np.isin(frames.speakers, corpus.tested)
        _check(frames, is_test, source, settings)
        found = []
        for layer in layers:
            begun = time.monotonic()
            features = frames.layers.pop(layer).to(settings.device)
            one = measure_layer(features, frames, is_test, settings)
            if scratch is not None:
                items, folder = scratch / "triphones.item", scratch / str(layer)
                one["abx"] = abx_errors(items, folder, model.shift)
            found.append({"layer": layer, **one})
            logging.info(
                f"{source.name}: layer {layer}: accuracy "
                f"{one['accuracy']['mean']:.4f}, PNMI {one['pnmi']:.4f} "
                f"({time.monotonic() - begun:.0f} s)"
            )
    return {
        "name": source.name,
        "file": str(source.path),
        "encoder_parameters": model.parameters,
        "frame_shift": model.shift,
        "frames": len(frames.phones),
        "unlabelled_frames": frames.unlabelled,
        "majority": _majority(frames, is_test),
        "layers": found,
        "objectives": _objectives(frames),
        "seconds": round(time.monotonic() - start, 1),
    }


def measure_layer(
    features: torch.Tensor, frames: Frames, is_test: np.ndarray, settings: Settings
) -> dict:
    """Measure one layer.

    Args:
        features: Outputs of the layer, (N, D).
        frames: Phones and speakers of the frames.
        is_test: Frames of the test speakers, (N,) bool.
        settings: Settings of the measurement.
    """
    train = torch.from_numpy(~is_test).to(features.device)
    phones = torch.from_numpy(frames.phones).to(features.device)
    probe = fit_linear_probe(
        features[train], phones[train], int(frames.phones.max()) + 1
    )
    correct = probe.predict(features[~train]) == frames.phones[is_test]
    vectors = features.cpu().numpy()
    runs = [
        score_units(frames.phones, kmeans_units(vectors, settings.units, seed))
        for seed in range(KMEANS_SEEDS)
    ]
    return {
        "size": features.size(1),
        "accuracy": _accuracy(correct, frames.speakers[is_test]),
        "pnmi": float(np.mean([run.pnmi for run in runs])),
        "pnmi_of_seeds": [run.pnmi for run in runs],
        "pnmi_chance": float(np.mean([run.chance for run in runs])),
        "unit_perplexity": float(np.mean([run.perplexity for run in runs])),
        "effective_rank": float(effective_rank(features)),
        "variance": float(features.var(dim=0, correction=0).mean()),
    }


def compare(one: dict, first: dict) -> dict:
    """Subtract the first model's accuracies from another's, speaker by speaker.

    Args:
        one: Result of measure_model().
        first: Result for the first model.

    Returns:
        Names, and mean difference and its standard error for each common layer.

    Raises:
        DataError: A speaker has frames for only one of them.
    """
    speakers = [model["layers"][0]["accuracy"]["speakers"] for model in (one, first)]
    if odd := speakers[0].keys() ^ speakers[1].keys():
        raise DataError(
            f"{one['name']}, {first['name']}: speaker {min(odd)} has frames for only one "
            "of them; raise --max_frames"
        )
    theirs = {layer["layer"]: layer for layer in first["layers"]}
    layers = []
    for layer in one["layers"]:
        if layer["layer"] in theirs:
            mean, error = paired_difference(
                layer["accuracy"]["speakers"],
                theirs[layer["layer"]]["accuracy"]["speakers"],
            )
            layers.append({"layer": layer["layer"], "mean": mean, "error": error})
    return {"model": one["name"], "minus": first["name"], "layers": layers}


def _check_models(sources: Sequence[Source], settings: Settings) -> None:
    """Refuse models that cannot be measured together.

    Raises:
        ConfigError: One lacks a requested layer, or their sample rates differ.
    """
    rates = {}
    for source in sources:
        model = load_model(source.path, settings.device)
        _layers(model, source, settings)
        rates[model.sample_rate] = source.name
    if len(rates) > 1:
        wanted = ", ".join(f"{name} {rate} Hz" for rate, name in sorted(rates.items()))
        raise ConfigError(
            f"models want audio of different sample rates: {wanted}; measure them one "
            "after the other"
        )


def _layers(model: SpeechModel, source: Source, settings: Settings) -> list[int]:
    """Return the layers to measure.

    Raises:
        ConfigError: The model lacks one of them.
    """
    layers = sorted(set(settings.layers or range(model.depth + 1)))
    if layers[0] < 0 or layers[-1] > model.depth:
        raise ConfigError(f"--layers: {source.name} has layers 0 to {model.depth}")
    return layers


def _check(frames: Frames, is_test, source: Source, settings: Settings) -> None:
    if is_test.all() or not is_test.any():
        raise DataError("only one half of the speakers has frames with a phone")
    if len(np.unique(frames.phones)) < 2:
        raise DataError("all frames are of one phone: there is nothing to tell")
    if len(frames.phones) < settings.units:
        raise ConfigError(
            f"--units {settings.units}: there are {len(frames.phones)} frames only"
        )
    for layer, features in frames.layers.items():
        if not features.isfinite().all():
            raise DataError(
                f"{source.path}: layer {layer} is not finite; this training diverged"
            )


def _objectives(frames: Frames) -> list[dict]:
    """Measure the phone information in the labels of each objective and codebook."""
    return [
        {
            "name": name,
            "books": [score_units(frames.phones, codes)._asdict() for codes in books],
        }
        for name, books in frames.objectives.items()
    ]


def _majority(frames: Frames, is_test: np.ndarray) -> dict:
    """Compute the accuracy of always guessing the most frequent phone in training."""
    guess = np.bincount(frames.phones[~is_test]).argmax()
    return _accuracy(frames.phones[is_test] == guess, frames.speakers[is_test])


def _accuracy(correct: np.ndarray, speakers: np.ndarray) -> dict:
    of_speakers = accuracy_of_speakers(correct, speakers)
    mean, error = mean_and_error(list(of_speakers.values()))
    pooled = float(correct.mean())  # over frames of all speakers
    return {"mean": mean, "error": error, "pooled": pooled, "speakers": of_speakers}
