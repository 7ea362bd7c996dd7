"""Find the n-gram's weights with the fewest word errors on a development set."""

from collections.abc import Callable, Iterator

from espnet2_birq.evaluation.decode.search import Weights

# Steps of lm_weight and word_score, one after the other.
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
    """Pattern search (Hooke and Jeeves): go to the best neighbour while there is one.

    Where no neighbour is better, the steps are made smaller; the search is over when
    they have been the smallest. Of equals, the first seen is kept.

    Args:
        error_rate: Of decoding with these weights; called once for each.
        start: Where to begin; the beam is kept as it is there.

    Returns:
        The best weights, and the error rate of all that were tried.
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
    lines = ["| lm_weight \\ word_score | " + " | ".join(map(str, word_scores)) + " |"]
    lines.append("|---" * (len(word_scores) + 1) + "|")
    for lm_weight in lm_weights:
        cells = []
        for word_score in word_scores:
            weights = best._replace(lm_weight=lm_weight, word_score=word_score)
            rate = tried.get(weights)
            cell = "" if rate is None else f"{rate:.2f}"
            cells.append(f"**{cell}**" if weights == best else cell)
        lines.append(f"| {lm_weight} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
