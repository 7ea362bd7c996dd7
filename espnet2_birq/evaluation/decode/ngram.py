"""Estimation and interpolation of word n-grams, and ARPA files.

Smoothing is interpolated modified Kneser-Ney (Chen and Goodman, TR-10-98, section 3),
with the details of KenLM's lmplz (Heafield et al., ACL 2013) with --discount_fallback:
unigrams are interpolated with the uniform distribution including <unk>; rare n-grams
are pruned after discounts are estimated, and their probability goes to the back-off.
The code is meant for transcripts, since it keeps all n-grams in memory (1 GB for
4-grams of a million words). For more text, use lmplz.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from espnet2_birq.errors import DataError

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"
HEAD = re.compile(r"\\([1-9])-grams:")  # of a section of an ARPA file
NEVER = -99.0  # log10 P(<s>), as in other ARPA files
FALLBACK = (0.5, 1.0, 1.5)  # discounts if counts do not allow estimating them
Ngram = tuple[str, ...]


class Model:
    """A back-off model.

    Attributes:
        order: Length of the longest n-grams.
        prob: log10 probability of the last word of each n-gram.
        backoff: log10 back-off weight of each n-gram; 0 if missing.
    """

    def __init__(
        self, order: int, prob: dict[Ngram, float], backoff: dict[Ngram, float]
    ):
        self.order, self.prob, self.backoff = order, prob, backoff
        self.words = {ngram[0] for ngram in prob if len(ngram) == 1}

    def score(self, context: Ngram, word: str) -> float:
        """Return the log10 probability of a word given its history.

        Unknown words must have been replaced by <unk>.
        """
        context = context[max(0, len(context) - self.order + 1) :]
        weight = 0.0
        while (found := self.prob.get((*context, word))) is None:
            weight += self.backoff.get(context, 0.0)
            context = context[1:]
        return weight + found

    def score_sentence(self, words: Sequence[str]) -> list[float]:
        """Return log10 probabilities of a sentence's words and end."""
        known = [word if word in self.words else UNKNOWN for word in words]
        context: Ngram = (BEGIN,)
        scores = []
        for word in [*known, END]:
            scores.append(self.score(context, word))
            context = (*context, word)[-self.order + 1 :] if self.order > 1 else ()
        return scores


def estimate(
    sentences: Iterable[Sequence[str]],
    order: int,
    prune: Sequence[int] = (),
    words: Iterable[str] = (),
) -> Model:
    """Estimate a model.

    Args:
        sentences: Sentences as lists of words.
        order: Length of the longest n-grams.
        prune: For each length from 1, the count up to which n-grams are pruned,
            non-decreasing; the last applies to all longer ones. Unigrams are kept.
        words: Additional vocabulary.

    Raises:
        DataError: No words.
    """
    counts = _count(sentences, order)
    if len(counts[0]) <= 2:
        raise DataError("no word to estimate an n-gram from")
    adjusted = _adjust(counts)
    for word in words:
        adjusted[0].setdefault((word,), 0)
    adjusted[0].pop((BEGIN,))
    thresholds = [0, *prune[1:order]]
    thresholds += [prune[-1] if len(prune) > 1 else 0] * (order - len(thresholds))
    types = len(adjusted[0]) + 1  # including <unk>
    prob: dict[Ngram, float] = {}
    backoff: dict[Ngram, float] = {}
    for length, table in enumerate(adjusted, start=1):
        kept = {
            ngram: adjusted_count
            for ngram, adjusted_count in table.items()
            if length == 1 or counts[length - 1][ngram] > thresholds[length - 1]
        }
        discounted, left = _discount(table, kept)
        if length == 1:
            rest = left[()] / types
            prob = {ngram: discounted[ngram] + rest for ngram in kept}
            prob[UNKNOWN,] = rest
        else:
            prob.update(
                (ngram, discounted[ngram] + left[ngram[:-1]] * prob[ngram[1:]])
                for ngram in kept
            )
            backoff.update(left)
    return Model(
        order,
        {ngram: math.log10(p) for ngram, p in prob.items()} | {(BEGIN,): NEVER},
        {x: math.log10(p) for x, p in backoff.items() if x in prob or x == (BEGIN,)},
    )


def _count(sentences: Iterable[Sequence[str]], order: int) -> list[Counter]:
    """Count n-grams of each length."""
    counts: list[Counter] = [Counter() for _ in range(order)]
    for sentence in sentences:
        padded = (BEGIN, *sentence, END)
        for length, table in enumerate(counts, start=1):
            table.update(zip(*(padded[i:] for i in range(length))))
    return counts


def _adjust(counts: Sequence[Mapping]) -> list[dict[Ngram, int]]:
    """Compute Kneser-Ney's adjusted counts: the number of distinct preceding words.

    The longest n-grams keep their counts, as do those that begin a sentence.
    """
    adjusted = []
    for table, longer in zip(counts, counts[1:]):
        new = Counter(ngram[1:] for ngram in longer)
        new.update({x: count for x, count in table.items() if x[0] == BEGIN})
        adjusted.append(dict(new))
    return [*adjusted, dict(counts[-1])]


def _discounts(table: Mapping[Ngram, int]) -> tuple[float, float, float]:
    """Estimate discounts for counts of 1, 2, and 3 or more (Chen and Goodman, eq. 26)."""
    having = Counter(count for count in table.values() if count <= 4)
    if not all(having[count] for count in (1, 2, 3)):
        return FALLBACK
    y = having[1] / (having[1] + 2 * having[2])
    one, two, more = (k - (k + 1) * y * having[k + 1] / having[k] for k in (1, 2, 3))
    found = one, two, more
    # Without a discount, nothing would be left in some contexts.
    return found if all(0 < d <= k for k, d in enumerate(found, 1)) else FALLBACK


def _discount(
    table: Mapping[Ngram, int], kept: Mapping[Ngram, int]
) -> tuple[dict[Ngram, float], dict[Ngram, float]]:
    """Compute discounted shares of kept n-grams, and the mass left in each context."""
    taken = (0.0, *_discounts(table))
    total: dict[Ngram, int] = defaultdict(int)
    for ngram, count in table.items():
        total[ngram[:-1]] += count
    shares = {
        ngram: (count - taken[min(count, 3)]) / total[ngram[:-1]]
        for ngram, count in kept.items()
    }
    # Not 1 minus the sum of shares, which loses precision if little is left.
    left: dict[Ngram, float] = defaultdict(float)
    for ngram, count in table.items():
        context = ngram[:-1]
        share = taken[min(count, 3)] if ngram in kept else count
        left[context] += share / total[context]
    return shares, left


def mix(models: Sequence[Model], weights: Sequence[float]) -> Model:
    """Interpolate models linearly, over the union of their n-grams.

    Back-off weights normalise each context, so the result equals the mixture for the
    n-grams of the union, and is close to it for all others.

    Args:
        models: Models to mix.
        weights: Weights of the models, summing to one.
    """
    words = set().union(*(model.words for model in models))
    models = [_with_words(model, words) for model in models]
    order = max(model.order for model in models)
    ngrams = sorted(set().union(*(model.prob for model in models)), key=len)
    mixed = Model(order, {}, {})
    sums: dict[Ngram, list[float]] = {}
    length = 1
    for ngram in ngrams:
        if len(ngram) > length:  # all shorter n-grams are complete
            mixed.backoff.update(_backoff_weights(sums))
            sums, length = {}, len(ngram)
        context, word = ngram[:-1], ngram[-1]
        if ngram == (BEGIN,):
            mixed.prob[ngram] = NEVER
            continue
        scores = [model.score(context, word) for model in models]
        p = sum(w * 10**score for w, score in zip(weights, scores))
        mixed.prob[ngram] = math.log10(p)
        if context:
            both = sums.setdefault(context, [0.0, 0.0])
            both[0] += p
            both[1] += 10 ** mixed.score(context[1:], word)
    mixed.backoff.update(_backoff_weights(sums))
    mixed.words = words
    return mixed


def _backoff_weights(sums) -> Iterator[tuple[Ngram, float]]:
    for context, (longer, shorter) in sums.items():
        left, below = max(1 - longer, 1e-12), max(1 - shorter, 1e-12)
        yield context, math.log10(left / below)


def _with_words(model: Model, words: set[str]) -> Model:
    """Extend a model's vocabulary, each new word with an equal share of P(<unk>)."""
    new = words - model.words
    if not new:
        return model
    prob = {}
    for ngram, score in model.prob.items():
        unknown = ngram[-1] == UNKNOWN
        prob[ngram] = score - math.log10(len(new) + 1) if unknown else score
        if unknown:
            prob.update(((*ngram[:-1], word), prob[ngram]) for word in new)
    return Model(model.order, prob, model.backoff)


def tune_weights(
    models: Sequence[Model], sentences: Sequence[Sequence[str]], rounds: int = 50
) -> list[float]:
    """Estimate maximum-likelihood mixture weights by expectation maximisation.

    Args:
        models: Models to mix.
        sentences: Development text, not used to estimate the models.
        rounds: Iterations of expectation maximisation.
    """
    words = set().union(*(model.words for model in models))
    models = [_with_words(model, words) for model in models]
    scored = [[model.score_sentence(words) for words in sentences] for model in models]
    probs = [[10**score for one in scores for score in one] for scores in scored]
    weights = [1 / len(models)] * len(models)
    for _ in range(rounds):
        shares = [0.0] * len(models)
        for event in zip(*probs):
            parts = [weight * p for weight, p in zip(weights, event)]
            total = sum(parts)
            shares = [share + part / total for share, part in zip(shares, parts)]
        weights = [share / len(probs[0]) for share in shares]
    return weights


def perplexity(model: Model, sentences: Iterable[Sequence[str]]) -> tuple[float, int]:
    """Compute perplexity, with sentence ends and unknown words; count the latter."""
    scores, unknown = [], 0
    for words in sentences:
        scores += model.score_sentence(words)
        unknown += sum(word not in model.words for word in words)
    if not scores:
        raise DataError("no sentence to compute a perplexity of")
    return 10 ** (-sum(scores) / len(scores)), unknown


def arpa_lines(model: Model) -> Iterator[str]:
    """Yield the lines of an ARPA file, sorted."""
    tables = [
        sorted(ngram for ngram in model.prob if len(ngram) == length)
        for length in range(1, model.order + 1)
    ]
    yield "\\data\\"
    for length, table in enumerate(tables, start=1):
        yield f"ngram {length}={len(table)}"
    for length, table in enumerate(tables, start=1):
        yield f"\n\\{length}-grams:"
        for ngram in table:
            line = f"{model.prob[ngram]:.7g}\t{' '.join(ngram)}"
            if length < model.order:
                line += f"\t{model.backoff.get(ngram, 0.0):.7g}"
            yield line
    yield "\n\\end\\"


def read_arpa(lines: Iterable[str], name: str) -> Model:
    """Read an ARPA file.

    Args:
        lines: Lines of the file.
        name: Name of the file in error messages.

    Raises:
        DataError: Not an ARPA file, or truncated.
    """
    prob: dict[Ngram, float] = {}
    backoff: dict[Ngram, float] = {}
    length = 0
    for line in map(str.strip, lines):
        if line == "\\end\\":
            break
        if match := HEAD.fullmatch(line):
            length = int(match[1])
        elif line and length:
            fields = line.split()
            try:
                if len(fields) not in (length + 1, length + 2):
                    raise ValueError(f"{len(fields)} fields")
                ngram = tuple(fields[1 : length + 1])
                prob[ngram] = float(fields[0])
                if len(fields) == length + 2:
                    backoff[ngram] = float(fields[-1])
            except ValueError as error:
                raise DataError(
                    f"{name}: no line of {length}-grams: {line[:80]}"
                ) from error
    else:
        raise DataError(f"{name}: no \\end\\: not an ARPA file, or cut short")
    prob.setdefault((UNKNOWN,), NEVER)
    return Model(length, prob, backoff)
