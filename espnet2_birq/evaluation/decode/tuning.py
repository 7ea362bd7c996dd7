"""Tune n-gram weights for the fewest word errors on a development set."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.decode.pipeline import search_store, word_error_rate
from espnet2_birq.evaluation.decode.search import Weights
from espnet2_birq.evaluation.decode.sets import (
    load_recogniser,
    load_search,
    log_probs_of,
    store_key,
)
from espnet2_birq.evaluation.decode.store import LogProbs, Results, reserved
from espnet2_birq.evaluation.markdown import markdown_table

# Step sizes of lm_weight and word_score, used in this order.
STEPS = ((0.5, 1.0), (0.25, 0.5))
LOWEST_LM_WEIGHT = 0.0


def neighbours(weights: Weights, lm_step: float, word_step: float) -> Iterator[Weights]:
    """Yield weights one step away in either direction."""
    for lm, word in ((lm_step, 0), (-lm_step, 0), (0, word_step), (0, -word_step)):
        lm_weight = round(weights.lm_weight + lm, 6)
        if lm_weight >= LOWEST_LM_WEIGHT:
            word_score = round(weights.word_score + word, 6)
            yield weights._replace(lm_weight=lm_weight, word_score=word_score)


def tune(
    error_rate: Callable[[Weights], float], start: Weights
) -> tuple[Weights, dict[Weights, float]]:
    """Run pattern search (Hooke and Jeeves): move to the best neighbour while it helps.

    If no neighbour is better, the step size is reduced; the search ends after
    the smallest one. Ties keep the first.

    Args:
        error_rate: Error rate as a function of the weights, called once for each.
        start: Initial weights, with the beam to use.

    Returns:
        The best weights, and the error rates of all trials.
    """
    tried: dict[Weights, float] = {}

    def rate(weights: Weights) -> float:
        if weights not in tried:
            tried[weights] = error_rate(weights)
        return tried[weights]

    best = start
    rate(best)
    for steps in STEPS:
        while True:
            candidate = min(neighbours(best, *steps), key=rate)
            if rate(candidate) >= rate(best):
                break
            best = candidate
    return best, tried


def table(tried: dict[Weights, float], best: Weights) -> str:
    """Format error rates as a table, a row for each lm_weight."""
    lm_weights = sorted({weights.lm_weight for weights in tried})
    word_scores = sorted({weights.word_score for weights in tried})
    rows = []
    for lm_weight in lm_weights:
        cells = []
        for word_score in word_scores:
            weights = best._replace(lm_weight=lm_weight, word_score=word_score)
            rate = tried.get(weights)
            cell = "" if rate is None else f"{rate:.2f}"
            cells.append(f"**{cell}**" if weights == best else cell)
        rows.append([lm_weight, *cells])
    return markdown_table(["lm_weight \\ word_score", *map(str, word_scores)], rows)


def tune_on_set(
    model: Path,
    dev: Path,
    lm: Path,
    out: Path,
    start: Weights = Weights(),
    *,
    words: Path | None = None,
    gpu: bool | None = False,
    batch_seconds: float = 200.0,
    nj: int = 4,
) -> str:
    """Tune an n-gram's weights on a development set, and write them to a YAML file.

    Finished work is kept in OUT.work, so a killed command can resume.

    Args:
        model: Model file of an ASR experiment.
        dev: Data directory with `text`.
        lm: Word n-gram.
        out: YAML file to write, for decode_sets().
        start: Initial weights, with the beam to use.
        words: Words of the n-gram, if it does not contain them.
        gpu: Whether to run the network on a GPU; None: if there is one.
        batch_seconds: Seconds of audio per batch, including padding.
        nj: Number of search processes.

    Returns:
        Error rates of all trials, as a table.

    Raises:
        ConfigError: The set looks like a test set; or see load_search().
        DataError: A file is missing or invalid, or no utterance has text and audio.
    """
    _refuse_test_set(dev)
    texts = read_scp(dev / "text", allow_empty_values=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    recogniser = load_recogniser(model, gpu)
    store, skipped = log_probs_of(model, recogniser, dev, batch_seconds)
    _warn_of(skipped, dev)
    search, key = load_search(lm, words, recogniser.tokens, start)
    key = {**store_key(store), **key}
    refs = _references(dev, texts, store)
    work = out.with_name(out.name + ".work")

    def error_rate(weights: Weights) -> float:
        search.weights = weights
        name = f"{weights.lm_weight}_{weights.word_score}.jsonl"
        results = Results(work / name, {**key, **weights._asdict()})
        search_store(search, store, results, nj)
        hyps = {x: recogniser.text(y["tokens"])[0] for x, y in results.found.items()}
        rate = word_error_rate(refs, hyps)
        logging.info(
            f"lm_weight {weights.lm_weight} word_score {weights.word_score}: "
            f"WER {rate:.2f} %"
        )
        return rate

    with reserved(work):
        best, tried = tune(error_rate, start)
        values = {"lm": str(lm), **best._asdict()}
        if words:
            values["words"] = str(words)
        values |= {"dev": str(dev), "dev_wer": round(tried[best], 2)}
        write_whole(out, yaml.safe_dump(values, sort_keys=False))
    return f"WER % on {dev}, the best one bold:\n\n{table(tried, best)}"


def _refuse_test_set(dev: Path) -> None:
    words = re.split("[-_.]", dev.resolve().name.lower())
    if any(re.fullmatch(r"(test|eval)\d*", word) for word in words):
        raise ConfigError(
            f"--dev {dev}: looks like a test set; tune on a development set"
        )


def _warn_of(skipped: Mapping[str, str], dev: Path) -> None:
    """Warn of utterances that are left out, given with the reasons."""
    if skipped:
        name, reason = min(skipped.items())
        logging.warning(
            f"{dev}: {len(skipped)} utterances are left out; the first, {name}: "
            f"{reason}"
        )


def _references(dev: Path, texts: Mapping[str, str], store: LogProbs) -> dict[str, str]:
    """Return the texts of utterances that have log-probabilities.

    Raises:
        DataError: There is none.
    """
    names = store.done()
    refs = {name: text for name, text in texts.items() if name in names}
    if not refs:
        raise DataError(f"{dev}: no utterance has both text and audio")
    logging.info(f"{dev}: {len(refs)} utterances with text and audio")
    return refs
