"""Decode data directories with an ASR model's CTC head, and write the texts."""

import functools
import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.decode.network import Recogniser, compute_log_probs
from espnet2_birq.evaluation.decode.pipeline import Search, finish_set, search_store
from espnet2_birq.evaluation.decode.search import Weights, arpa_words, best_path, greedy
from espnet2_birq.evaluation.decode.store import (
    LogProbs,
    Results,
    file_hash,
    reserved,
)
from espnet2_birq.reading import read_json, read_text, read_yaml


def decode_sets(
    model: Path,
    folders: Sequence[Path],
    given: Mapping[str, Any],
    *,
    weights_file: Path | None = None,
    search: str = "greedy",
    tag: str | None = None,
    gpu: bool | None = False,
    batch_seconds: float = 200.0,
    nj: int = 4,
) -> None:
    """Decode data directories into <asr_exp>/<tag>/<set>, skipping finished work.

    Args:
        model: Model file of an ASR experiment.
        folders: Data directories with distinct names.
        given: `lm`, `words` and fields of Weights, which override `weights_file`.
        weights_file: Output of tune_on_set(); None: use only `given`.
        search: Search without `lm`: "greedy" or "best_path".
        tag: Name of the output folder; None: derived from search and model.
        gpu: Whether to run the network on a GPU; None: if there is one.
        batch_seconds: Seconds of audio per batch, including padding.
        nj: Number of search processes.

    Raises:
        ConfigError: Incompatible options, or an unsuitable model.
        DataError: A file is missing or invalid, or a set has no usable audio.
    """
    if len({set_name(data) for data in folders}) < len(folders):
        raise ConfigError(
            "--data: two directories have the same name; decode them apart"
        )
    recogniser = load_recogniser(model, gpu)
    stores = {
        data: log_probs_of(model, recogniser, data, batch_seconds) for data in folders
    }
    chosen = {**(read_weights(weights_file) if weights_file else {}), **given}
    run, key, name = choose_search(recogniser, chosen, search)
    for data, (store, skipped) in stores.items():
        folder = model.parent / (tag or f"ctc_{name}_{model.stem}") / set_name(data)
        with reserved(folder):
            results = Results(folder / "results.jsonl", {**store_key(store), **key})
            search_store(run, store, results, nj)
            finish_set(data, folder, store, results, skipped, recogniser.text)


def choose_search(
    recogniser: Recogniser, given: Mapping[str, Any], without_lm: str
) -> tuple[Search, dict[str, Any], str]:
    """Make the configured search.

    Args:
        recogniser: The model, which defines the tokens.
        given: `lm`, `words` and fields of Weights, if set.
        without_lm: "greedy" or "best_path".

    Returns:
        The search, its dependencies besides the log-probabilities, and its name.

    Raises:
        ConfigError: An option requires `lm`.
        DataError: See load_search().
    """
    if "lm" not in given:
        if given:
            raise ConfigError(f"--{next(iter(given))} has no effect without --lm")
        if without_lm == "best_path":
            return best_path, {"search": "best_path"}, "best_path"
        search = functools.partial(greedy, eos=recogniser.model.eos)
        return search, {"search": "greedy"}, "greedy"
    weights = Weights(**{x: given[x] for x in Weights._fields if x in given})
    lm, words = Path(given["lm"]), given.get("words")
    ngram, key = load_search(lm, words and Path(words), recogniser.tokens, weights)
    return ngram, {"search": "ngram", **key, **weights._asdict()}, lm_name(lm)


def load_recogniser(model: Path, gpu: bool | None) -> Recogniser:
    """Load a model; raise ConfigError if a GPU is requested but unavailable."""
    there = torch.cuda.is_available()
    gpu = there if gpu is None else gpu
    if gpu and not there:
        raise ConfigError("--ngpu 1: PyTorch finds no GPU here; give --ngpu 0")
    return Recogniser(model, "cuda" if gpu else "cpu")


def log_probs_of(
    model: Path, recogniser: Recogniser, data: Path, batch_seconds: float
) -> tuple[LogProbs, dict[str, str]]:
    """Compute log-probabilities, stored in <asr_exp>/ctc_log_probs_<model>/<set>."""
    folder = model.parent / f"ctc_log_probs_{model.stem}" / set_name(data)
    return compute_log_probs(recogniser, data, folder, batch_seconds)


def store_key(store: LogProbs) -> dict[str, Any]:
    """Return dependencies and start time of stored log-probabilities."""
    return read_json(store.folder / "key.json")


def set_name(data: Path) -> Path:
    """Name a set as asr.sh does: org/<name> before the length filter."""
    data = Path(os.path.abspath(data))  # "." and ".." are no names
    return Path("org", data.name) if data.parent.name == "org" else Path(data.name)


def lm_name(lm: Path) -> str:
    """Return an n-gram's file name without .arpa, .arpa.gz or .bin."""
    return lm.name.removesuffix(".gz").rsplit(".", 1)[0]


def load_search(
    lm: Path, words: Path | None, tokens: Sequence[str], weights: Weights
) -> tuple[Any, dict[str, Any]]:
    """Load an n-gram.

    Returns:
        The NgramSearch, and its dependencies besides the log-probabilities.

    Raises:
        ConfigError: Its packages are not installed; or see NgramSearch.
        DataError: A file is missing, or not an n-gram.
    """
    try:
        from espnet2_birq.evaluation.decode.ngram_search import NgramSearch
    except ImportError as error:
        raise ConfigError(
            "--lm needs packages that are missing: pip install ufal-flashlight-text "
            f"ufal-kenlm ({error})"
        ) from error
    if not lm.is_file():
        raise DataError(f"{lm}: no such n-gram; see --help for how to get one")
    if words is None:
        vocabulary = list(arpa_words(lm))
    elif words.is_file():
        vocabulary = read_text(words).split()
    else:
        raise DataError(f"{words}: no such file")
    search = NgramSearch(lm, tokens, vocabulary, weights)
    logging.info(
        f"{lm}: {len(search.words)} words; {search.unspelled} left out, which have "
        "letters that are no tokens"
    )
    joined = hashlib.sha256("\n".join(search.words).encode("utf-8")).hexdigest()
    return search, {"lm": file_hash(lm), "words": joined}


def read_weights(path: Path) -> dict[str, Any]:
    """Read the output file of tune_lm.

    Raises:
        DataError: The file is missing.
        ConfigError: It lacks `lm`, has unknown keys, or a weight is no number.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; run tune_lm first")
    values = read_yaml(path, "run tune_lm again")
    known = {*Weights._fields, "lm", "words", "dev", "dev_wer"}
    if not isinstance(values, dict) or "lm" not in values or values.keys() - known:
        raise ConfigError(f"{path}: needs lm and only {', '.join(sorted(known))}")
    for name in values.keys() & set(Weights._fields):
        kinds = int if name == "beam_size" else int | float
        if not isinstance(values[name], kinds) or not math.isfinite(values[name]):
            raise ConfigError(
                f"{path}: {name} {values[name]!r} is no such number; run tune_lm again"
            )
    return values
