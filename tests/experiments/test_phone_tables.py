"""Tables of phone probes: averages, pairs, and omissions."""

import numpy as np
import pytest

from espnet2_birq.experiments.phone_tables import difference, phone_tables
from espnet2_birq.experiments.results import Result
from espnet2_birq.experiments.spec import Spec, System


def probed(layers, labels=()):
    """Make phone_probe's output; layers: the speakers' accuracies by layer, from 0."""
    return {
        "models": [
            {
                "layers": [
                    {
                        "layer": number,
                        "accuracy": {"speakers": dict(zip("abc", row))},
                        "pnmi": 0.1 * number,
                    }
                    for number, row in enumerate(layers)
                ],
                "objectives": [
                    {"name": name, "books": [dict(pnmi=0.2, chance=0.0, perplexity=9)]}
                    for name in labels
                ],
            }
        ]
    }


def test_differences_are_paired_by_seed_and_speaker():
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 0.1, (4, 3, 3))  # (seeds, layers, speakers)
    own = {seed: probed(hard[seed] + 0.51) for seed in range(3)}
    other = {seed: probed(hard[seed] + 0.50) for seed in (1, 2, 3)}
    means, ends, seeds = difference(own, other)
    assert seeds == 2 and means == pytest.approx([0.01] * 3)
    assert ends == pytest.approx(np.full((3, 2), 0.01))


def test_interval_is_over_seeds_and_speakers():
    generator = np.random.default_rng(0)
    zero = probed(np.zeros((2, 40)))
    zero["models"][0]["layers"][1]["accuracy"]["speakers"] = dict.fromkeys(range(40), 0)
    zero["models"][0]["layers"][0]["accuracy"]["speakers"] = dict.fromkeys(range(40), 0)
    own = {}
    for seed, shift in enumerate(generator.normal(0, 0.02, 12)):
        own[seed] = probed(np.zeros((2, 1)))
        for layer in own[seed]["models"][0]["layers"]:
            values = shift + generator.normal(0, 0.05, 40)
            layer["accuracy"]["speakers"] = dict(enumerate(values))
    _, ends, _ = difference(own, dict.fromkeys(own, zero))
    error = np.sqrt(0.02**2 / 12 + 0.05**2 / 480)
    assert ends[0, 1] - ends[0, 0] == pytest.approx(2 * 1.96 * error, rel=0.3)


def test_tables():
    systems = [System(name, name.upper(), {}) for name in ("one", "two", "none")]
    spec = Spec(None, None, systems, [], compare=[("one", "two"), ("one", "none")])
    first = probed([[0.1] * 3, [0.3] * 3, [0.2] * 3], ["anchor"])
    second = probed([[0.1] * 3, [0.2] * 3, [0.25] * 3])
    results = {
        "one": {0: Result(None, {}, None, first), 1: Result(None, {}, None, None)},
        "two": {0: Result(None, {}, None, second)},
        "none": {0: Result(None, {}, None)},
    }
    accuracies, labels, differences = phone_tables(spec, results)
    assert "| ONE | 0.3000 | 0.3000 | 1 | 0.100 | 0.300 | 0.200 | 0.200 |" in accuracies
    assert "| TWO | 0.2500 | 0.2500 | 2 |" in accuracies and "NONE" not in accuracies
    assert "| ONE | anchor | 0.200 | 0.000 | 9 |" in labels
    row = (
        "| ONE minus TWO | 1 | +0.1000 [+0.1000, +0.1000] | -0.0500 [-0.0500, -0.0500]"
    )
    assert f"{row} | +0.0500 [+0.0500, +0.0500] |" in differences
    assert "NONE" not in differences
    assert phone_tables(spec, {"one": {}, "two": {}, "none": {}}) == []
