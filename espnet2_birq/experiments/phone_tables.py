"""Tables of phone probes for a matrix's report."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.evaluation.wer.significance import bootstrap_draws, interval_ends
from espnet2_birq.experiments.results import Result
from espnet2_birq.experiments.spec import Spec

DRAWS = 2000
BEST = "best layers"


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


def accuracies(phones: dict) -> dict[int, np.ndarray]:
    """Return accuracies by layer, in order: (P,) for P test speakers; layer 0: input."""
    layers = sorted(phones["models"][0]["layers"], key=lambda layer: layer["layer"])
    return {
        layer["layer"]: np.array(
            [value for _, value in sorted(layer["accuracy"]["speakers"].items())]
        )
        for layer in layers
    }


class Difference(NamedTuple):
    """Differences of two systems' accuracies.

    Attributes:
        means: Mean over seeds and speakers, by layer; BEST is that of each system's best
            layer, the one with the highest mean.
        ends: Ends of the 95 % intervals, bootstrapped over seeds and speakers.
        seeds: Number of common seeds.
    """

    means: dict[int | str, float]
    ends: dict[int | str, np.ndarray]
    seeds: int


def difference(own: dict[int, dict], other: dict[int, dict]) -> Difference:
    """Subtract one system's accuracies from another's, seed by seed.

    Args:
        own: Results of phone_probe by seed.
        other: The same for the other system.

    Returns:
        Differences for the layers from 1 that both have, and for the best layers.
    """
    seeds = sorted(own.keys() & other.keys())
    both = [_by_layer(x[seed] for seed in seeds) for x in (own, other)]
    rows: dict[int | str, np.ndarray] = {
        layer: both[0][layer] - both[1][layer]
        for layer in both[0]
        if layer and layer in both[1]
    }
    best = [
        layers[layer] for layers in both if (layer := best_layer(layers)) is not None
    ]
    if len(best) == 2:
        rows[BEST] = best[0] - best[1]
    if not rows:
        return Difference({}, {}, len(seeds))
    apart = np.stack(list(rows.values()), axis=1)  # (S, L, P)
    drawn = [
        apart[picked][:, :, speakers].mean(axis=(0, 2))
        for picked, speakers in bootstrap_draws(len(seeds), apart.shape[2], draws=DRAWS)
    ]
    means = dict(zip(rows, apart.mean(axis=(0, 2))))
    return Difference(means, dict(zip(rows, interval_ends(drawn).T)), len(seeds))


def best_layer(layers: dict[int, np.ndarray]) -> int | None:
    """Return the layer from 1 with the highest mean; None without such a layer."""
    return max((k for k in layers if k), key=lambda k: layers[k].mean(), default=None)


def _by_layer(results: Iterable[dict]) -> dict[int, np.ndarray]:
    """Stack accuracies over seeds, by layer: (S, P)."""
    each = [accuracies(phones) for phones in results]
    return {layer: np.stack([one[layer] for one in each]) for layer in each[0]}


def _accuracies(found, labels) -> str:
    systems = {name: _by_layer(by_seed.values()) for name, by_seed in found.items()}
    columns = sorted({layer for layers in systems.values() for layer in layers})
    rows = []
    for name, layers in systems.items():
        best = best_layer(layers)
        row = [labels[name], "", "", ""]
        if best is not None:
            each = "; ".join(f"{x:.4f}" for x in layers[best].mean(axis=1))
            row[1:] = [f"{layers[best].mean():.4f}", each, str(best)]
        row += [f"{layers[k].mean():.3f}" if k in layers else "" for k in columns]
        units = [
            [one["pnmi"] for one in phones["models"][0]["layers"] if one["layer"]]
            for phones in found[name].values()
        ]
        row.append(f"{np.mean([max(x) for x in units]):.3f}" if all(units) else "")
        rows.append(row)
    head = ["system", "best layer's", "each seed", "layer", *map(str, columns), "PNMI"]
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
    pairs = {pair: difference(*(found[name] for name in pair)) for pair in pairs}
    pairs = {pair: one for pair, one in pairs.items() if one.means}
    if not pairs:
        return ""
    columns = sorted({x for one in pairs.values() for x in one.means if x != BEST})
    rows = []
    for pair, one in pairs.items():
        rows.append([" minus ".join(labels[name] for name in pair), str(one.seeds)])
        for column in (*columns, BEST):
            cell = ""
            if column in one.means:
                low, high = one.ends[column]
                cell = f"{one.means[column]:+.4f} [{low:+.4f}, {high:+.4f}]"
            rows[-1].append(cell)
    head = ["phones", "seeds", *map(str, columns), BEST]
    return f"""{markdown_table(head, rows)}

Differences of accuracies by layer, paired by speaker and seed, with 95 % intervals by
bootstrap over both; with one seed they are over speakers alone."""
