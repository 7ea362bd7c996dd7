"""Tables of phone probes for a matrix's report."""

import numpy as np

from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.evaluation.wer.significance import bootstrap_draws, interval_ends
from espnet2_birq.experiments.results import Result
from espnet2_birq.experiments.spec import Spec

DRAWS = 2000


def phone_tables(spec: Spec, results: dict[str, dict[int, Result]]) -> list[str]:
    """Make the tables of accuracies, labels, and differences.

    Args:
        spec: The matrix.
        results: Results by system and seed.

    Returns:
        Parts of a report; empty without phone measurements.
    """
    found = {
        system.name: {
            seed: result.phones
            for seed, result in results[system.name].items()
            if result.phones is not None
        }
        for system in spec.systems
    }
    found = {name: by_seed for name, by_seed in found.items() if by_seed}
    if not found:
        return []
    labels = {system.name: system.label for system in spec.systems}
    pairs = [
        (own, other)
        for own, other in spec.compare
        if found.get(own, {}).keys() & found.get(other, {}).keys()
    ]
    parts = [_accuracies(found, labels), _labels(found, labels)]
    return [*filter(None, [*parts, _differences(pairs, found, labels)])]


def accuracies(phones: dict) -> np.ndarray:
    """Return the accuracy of each layer, 0 first, and each test speaker: (L, P)."""
    layers = sorted(phones["models"][0]["layers"], key=lambda layer: layer["layer"])
    return np.array(
        [
            [value for _, value in sorted(layer["accuracy"]["speakers"].items())]
            for layer in layers
        ]
    )


def difference(
    own: dict[int, dict], other: dict[int, dict]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Subtract one system's accuracies from another's, seed by seed.

    The differences are for each layer from 1, and finally for each system's best layer,
    the one with the highest mean over seeds and speakers.

    Args:
        own: Results of phone_probe by seed.
        other: The same for the other system.

    Returns:
        (L,) means; (L, 2) 95 % intervals, bootstrapped over seeds and speakers; and the
        number of common seeds.
    """
    seeds = sorted(own.keys() & other.keys())
    both = [np.stack([accuracies(x[seed])[1:] for seed in seeds]) for x in (own, other)]
    both = [  # (S, L + 1, P)
        np.concatenate([x, x[:, [x.mean(axis=(0, 2)).argmax()]]], axis=1) for x in both
    ]
    apart = both[0] - both[1]
    drawn = [
        apart[rows][:, :, speakers].mean(axis=(0, 2))
        for rows, speakers in bootstrap_draws(len(seeds), apart.shape[2], draws=DRAWS)
    ]
    return apart.mean(axis=(0, 2)), interval_ends(drawn).T, len(seeds)


def _accuracies(found, labels) -> str:
    rows = []
    for name, by_seed in found.items():
        each = np.stack(
            [accuracies(phones) for phones in by_seed.values()]
        )  # (S, L, P)
        means = each.mean(axis=(0, 2))
        best = 1 + means[1:].argmax()
        units = [
            max(layer["pnmi"] for layer in phones["models"][0]["layers"][1:])
            for phones in by_seed.values()
        ]
        row = [labels[name], f"{means[best]:.4f}"]
        row.append("; ".join(f"{x:.4f}" for x in each[:, best].mean(axis=1)))
        row += [str(best), *(f"{x:.3f}" for x in means), f"{np.mean(units):.3f}"]
        rows.append(row)
    depth = max(len(row) for row in rows) - 6
    rows = [[*row[:-1], *[""] * (depth + 6 - len(row)), row[-1]] for row in rows]
    head = ["system", "best layer's", "each seed", "layer"]
    head += [*map(str, range(depth + 1)), "PNMI"]
    return f"""## Phones

{markdown_table(head, rows)}

Accuracy of a linear probe on frames of speakers that it has not heard, by layer (0: the
input); PNMI of k-means units of the layer where it is highest. Mean over seeds."""


def _labels(found, labels) -> str:
    rows = []
    for name, by_seed in found.items():
        objectives: dict[str, list] = {}
        for phones in by_seed.values():
            for one in phones["models"][0]["objectives"]:
                objectives.setdefault(one["name"], []).extend(one["books"])
        first = labels[name]
        for objective, books in objectives.items():
            rows.append([first, objective])
            for key, digits in (("pnmi", 3), ("chance", 3), ("perplexity", 0)):
                value = np.mean([book[key] for book in books])
                rows[-1].append(f"{value:.{digits}f}")
            first = ""
    if not rows:
        return ""
    head = ["labels of", "objective", "PNMI", "by chance", "codes in use"]
    return f"{markdown_table(head, rows)}\n\nMean over codebooks and seeds."


def _differences(pairs, found, labels) -> str:
    rows = []
    for pair in pairs:
        means, ends, seeds = difference(*(found[name] for name in pair))
        row = [" minus ".join(labels[name] for name in pair), str(seeds)]
        for mean, (low, high) in zip(means, ends):
            row.append(f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]")
        rows.append(row)
    if not rows:
        return ""
    depth = max(map(len, rows)) - 3
    head = ["phones", "seeds", *map(str, range(1, depth + 1)), "best layers"]
    return f"""{markdown_table(head, rows)}

Differences of accuracies by layer, paired by speaker and seed, with 95 % intervals by
bootstrap over both; with one seed they are over speakers alone."""
