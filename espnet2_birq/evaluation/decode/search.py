"""CTC decoding without a language model: prefix search with beam 1, or arg-max path.

Both take natural log-probabilities (T, V) of T encoder frames and V tokens, where
token 0 is the blank, and need only NumPy, so worker processes run without PyTorch.
For search with a word n-gram, see ngram_search.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_lines

BLANK = 0


class Hypothesis(NamedTuple):
    """Result of a search.

    Attributes:
        tokens: Token ids, without blanks.
        score: Natural logarithm of the search's objective.
    """

    tokens: list[int]
    score: float


def best_path(log_probs: np.ndarray) -> Hypothesis:
    """Decode the arg-max path: remove repeats, then blanks."""
    codes = log_probs.argmax(axis=1)
    first = np.diff(codes, prepend=-1) != 0
    tokens = codes[first & (codes != BLANK)].tolist()
    return Hypothesis(tokens, float(log_probs.max(axis=1).sum()))


def greedy(log_probs: np.ndarray, eos: int) -> Hypothesis:
    """Extend the prefix by its most likely label until ending it is more likely.

    This is CTC prefix search (Graves et al., ICML 2006, section 3.2) with one
    hypothesis, as in ESPnet's asr_inference with beam_size 1 and ctc_weight 1.
    Unlike the arg-max path, it sums over all alignments.

    The recursion over frames r[t] = p[t] (r[t-1] + s[t-1]) is solved for all frames at
    once: with P[t] the product of p up to t, r[t] = P[t] * sum of s[u] / P[u], u < t.

    Args:
        log_probs: (T, V) natural log-probabilities.
        eos: Id of the token <sos/eos>, which is never an output.
    """
    if not len(log_probs):
        return Hypothesis([], 0.0)
    log_probs = log_probs.astype(np.float64)
    probs = np.exp(log_probs)
    sums = np.cumsum(log_probs, axis=0)  # (T, V)
    start = np.full(1, -np.inf)
    label = np.full(len(sums), -np.inf)  # (T,) prefix ends at t with its last label
    blank = sums[:, BLANK]  # (T,) prefix ends at t with a blank
    tokens: list[int] = []
    while True:
        total = np.logaddexp(label[-1], blank[-1])
        before = np.logaddexp(label, blank)
        first = start if tokens else np.zeros(1)
        # (T,) scores before a new label at t; a repeated label must follow a blank
        free = np.concatenate([first, before[:-1]])
        most = free.max()
        prefix = np.einsum("t,tv->v", np.exp(free - most), probs)
        if tokens:
            last = np.concatenate([start, blank[:-1]])
            prefix[tokens[-1]] = np.exp(last - most) @ probs[:, tokens[-1]]
        prefix[[BLANK, eos]] = 0
        best = int(prefix.argmax())
        if len(tokens) == len(sums) or not np.log(prefix[best]) + most > total:
            return Hypothesis(tokens, float(total))
        if tokens and best == tokens[-1]:
            free = last
        label = _scan(free, sums[:, best])
        blank = _scan(np.concatenate([start, label[:-1]]), sums[:, BLANK])
        tokens.append(best)


def _scan(entries: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Compute forward variables (T,) of a label that may start at each frame."""
    products = np.concatenate([np.zeros(1), sums[:-1]])
    return sums + np.logaddexp.accumulate(entries - products)


class Weights(NamedTuple):
    """Weights and pruning of the beam search.

    Attributes:
        lm_weight: Weight of the n-gram's log10 probability, relative to CTC's natural
            logarithm (as in flashlight and fairseq).
        word_score: Score added per word, in natural logarithm; negative values yield
            fewer words.
        beam_size: Hypotheses kept after each frame.
        beam_threshold: Largest distance from the best hypothesis, in natural logarithm.
    """

    lm_weight: float = 1.5
    word_score: float = 0.0
    beam_size: int = 100
    beam_threshold: float = 25.0


def arpa_words(path: Path) -> Iterator[str]:
    """Yield the unigrams of an optionally gzipped ARPA file.

    Raises:
        DataError: The file is missing or has no unigrams.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    inside = False
    remedy = "with a KenLM binary, give its words in a file, one in a line, by --words"
    for number, line in enumerate(read_lines(path, remedy), 1):
        if inside and line.startswith("\\"):
            return
        if inside and line.strip():
            fields = line.split()
            if len(fields) < 2:
                raise DataError(f"{path}: line {number} is no unigram; make it again")
            yield fields[1]
        inside = inside or line.strip() == "\\1-grams:"
    if not inside:
        raise DataError(f"{path}: no ARPA file; {remedy}")
