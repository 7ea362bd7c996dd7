"""Alignment of word sequences, exactly as in NIST's sclite.

sclite (Network_dpalign and wwd_WORD of SCTK 2.4) minimises the total cost, 4 for a
substitution and 3 for a deletion or an insertion. Three substitutions cost as much as
two deletions and two insertions, so the number of errors also depends on
tie-breaking: at each cell a match or substitution is preferred, then an
insertion, then a deletion. Libraries with the same costs but other tie-breaking differ.
"""

from collections.abc import Callable, Iterable, Sequence

import numba
import numpy as np

from espnet2_birq.errors import DataError

# Steps of an alignment. OPTIONAL is the deletion of an optional reference token ("(word)"
# with sclite -D); it counts as correct.
CORRECT, SUBSTITUTION, DELETION, INSERTION, OPTIONAL = range(5)
NULL = "@"  # sclite's empty token, which is not counted
_MAX_CELLS = 4_000_000_000  # one byte of memory each
_BATCH_TOKENS = 2_000_000

# Reference token and hypothesis token; None for an insertion or a deletion.
AlignedPair = tuple[str | None, str | None]


class _Numbers(dict):
    """Mapping from token to number, in order of first occurrence."""

    def __missing__(self, token: str) -> int:
        number = self[token] = len(self)
        return number

    def of(self, tokens: Iterable[str]) -> np.ndarray:
        """Return the tokens' numbers, int32, shape (len(tokens),)."""
        return np.array([self[token] for token in tokens], dtype=np.int32)


def steps_of(
    ref_tokens: Sequence[str],
    hyp_tokens: Sequence[str],
    optional: str | None = None,
) -> np.ndarray:
    """Align two token sequences.

    Args:
        ref_tokens: Tokens of the reference.
        hyp_tokens: Tokens of the hypothesis.
        optional: Reference token that the hypothesis may omit.

    Returns:
        Steps (CORRECT, SUBSTITUTION, ...) in order, uint8, shape (steps,).

    Raises:
        DataError: The sequences are too long.
    """
    numbers = _Numbers()
    ref, hyp = numbers.of(ref_tokens), numbers.of(hyp_tokens)
    _check_size(ref, hyp)
    return _align(ref, hyp, numbers[optional] if optional else -1)


def pair_tokens(
    ref_tokens: Sequence[str], hyp_tokens: Sequence[str], steps: np.ndarray
) -> list[AlignedPair]:
    """Pair the tokens of two aligned sequences.

    Args:
        ref_tokens: Tokens of the reference.
        hyp_tokens: Tokens of the hypothesis.
        steps: Alignment, from steps_of() without an optional token.

    Returns:
        Pairs (reference token, hypothesis token) in order. A deletion is (token, None),
        an insertion (None, token).
    """
    refs, hyps = iter(ref_tokens), iter(hyp_tokens)
    return [
        (
            next(refs) if step != INSERTION else None,
            next(hyps) if step != DELETION else None,
        )
        for step in steps.tolist()
    ]


def count_errors(
    refs: Sequence[str],
    hyps: Sequence[str],
    tokenize: Callable[[str], Sequence[str]] = str.split,
    optional: str | None = None,
) -> np.ndarray:
    """Count the errors of many utterances.

    Args:
        refs: References.
        hyps: Hypotheses, in the same order.
        tokenize: Function that splits an utterance into tokens.
        optional: Reference token that the hypothesis may omit.

    Returns:
        Numbers of correct, substituted, deleted and inserted tokens per utterance,
        int64, shape (len(refs), 4). NULL tokens are not counted.

    Raises:
        DataError: An utterance is too long.
    """
    numbers = _Numbers()
    mark = numbers[optional] if optional else -1
    counts = np.zeros((len(refs), 4), dtype=np.int64)
    start, batch, tokens = 0, [], 0
    for ref, hyp in zip(refs, hyps, strict=True):
        batch.append(_numbered(numbers, ref, hyp, tokenize))
        tokens += len(batch[-1][0]) + len(batch[-1][1])
        if tokens > _BATCH_TOKENS or start + len(batch) == len(refs):
            counts[start : start + len(batch)] = _count_batch(batch, mark)
            start, batch, tokens = start + len(batch), [], 0
    return counts


def align_all(
    refs: Sequence[str], hyps: Sequence[str], optional: str | None = None
) -> list[np.ndarray]:
    """Align the words of many utterances.

    Args:
        refs: References.
        hyps: Hypotheses, in the same order.
        optional: Reference word that the hypothesis may omit.

    Returns:
        Steps of each utterance, as from steps_of().

    Raises:
        DataError: An utterance is too long.
    """
    numbers = _Numbers()
    mark = numbers[optional] if optional else -1
    return [
        _align(*_numbered(numbers, ref, hyp, str.split), mark)
        for ref, hyp in zip(refs, hyps, strict=True)
    ]


def _numbered(
    numbers: _Numbers, ref: str, hyp: str, tokenize: Callable[[str], Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of both utterances' tokens."""
    cut = [tokenize(text) for text in (ref, hyp)]
    ref_numbers, hyp_numbers = (
        # Testing the whole text first is faster than testing each token.
        (
            numbers.of([token for token in tokens if token != NULL])
            if NULL in text
            else numbers.of(tokens)
        )
        for tokens, text in zip(cut, (ref, hyp), strict=True)
    )
    _check_size(ref_numbers, hyp_numbers)
    return ref_numbers, hyp_numbers


def _count_batch(
    batch: list[tuple[np.ndarray, np.ndarray]], optional: int
) -> np.ndarray:
    refs, hyps = zip(*batch, strict=True)
    ref_ends, hyp_ends = (
        np.cumsum([0] + [len(one) for one in side]) for side in (refs, hyps)
    )
    return _count(
        np.concatenate(refs), ref_ends, np.concatenate(hyps), hyp_ends, optional
    )


def _check_size(ref: np.ndarray, hyp: np.ndarray) -> None:
    if (len(ref) + 1) * (len(hyp) + 1) > _MAX_CELLS:
        raise DataError(
            f"an utterance of {len(ref)} and {len(hyp)} tokens is too long to be "
            "aligned; cut it into shorter ones"
        )


@numba.njit(cache=True)
def _align(ref: np.ndarray, hyp: np.ndarray, optional: int) -> np.ndarray:
    """Find the steps of sclite's alignment of two sequences of numbers."""
    n, m = len(ref), len(hyp)
    if n == m and np.array_equal(ref, hyp):
        return np.zeros(n, dtype=np.uint8)
    back = np.empty((n + 1, m + 1), dtype=np.uint8)
    cost = np.empty(m + 1, dtype=np.int32)  # of the current row
    cost[0] = 0
    for j in range(1, m + 1):
        cost[j] = 3 * j
        back[0, j] = INSERTION
    for i in range(1, n + 1):
        leave = 3
        deletion = DELETION
        if ref[i - 1] == optional:
            leave, deletion = 2, OPTIONAL
        diagonal = cost[0]
        cost[0] += leave
        back[i, 0] = deletion
        for j in range(1, m + 1):
            best, step = diagonal, CORRECT
            if ref[i - 1] != hyp[j - 1]:
                best, step = diagonal + 4, SUBSTITUTION
            diagonal = cost[j]
            without, extra = diagonal + leave, cost[j - 1] + 3
            if best > without or best > extra:
                if without < extra:
                    best, step = without, deletion
                else:
                    best, step = extra, INSERTION
            cost[j] = best
            back[i, j] = step
    steps = np.empty(n + m, dtype=np.uint8)
    i, j, at = n, m, n + m
    while i > 0 or j > 0:
        step = back[i, j]
        at -= 1
        steps[at] = step
        if step != INSERTION:
            i -= 1
        if step != DELETION and step != OPTIONAL:
            j -= 1
    return steps[at:]


@numba.njit(cache=True)
def count_steps(steps: np.ndarray) -> np.ndarray:
    """Count an alignment's correct, substituted, deleted, inserted tokens: (4,) int64."""
    counts = np.zeros(4, dtype=np.int64)
    for step in steps:
        counts[step % OPTIONAL] += 1
    return counts


@numba.njit(cache=True)
def _count(ref, ref_ends, hyp, hyp_ends, optional):
    """Count the steps of each utterance."""
    counts = np.zeros((len(ref_ends) - 1, 4), dtype=np.int64)
    for i in range(len(counts)):
        one = ref[ref_ends[i] : ref_ends[i + 1]]
        other = hyp[hyp_ends[i] : hyp_ends[i + 1]]
        counts[i] = count_steps(_align(one, other, optional))
    return counts
