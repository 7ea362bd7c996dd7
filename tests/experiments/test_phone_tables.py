"""Tables of phone probes: averages, pairs, and omissions."""

from itertools import count

import numpy as np
import pytest

from espnet2_birq.experiments.phone_tables import BEST, difference, phone_tables
from espnet2_birq.experiments.results import Result
from espnet2_birq.experiments.spec import Spec, System


def probed(layers, labels=(), first=0, step=1):
    """Make phone_probe's output; layers: the speakers' accuracies by layer."""
    return {
        "models": [
            {
                "layers": [
                    {
                        "layer": number,
                        "accuracy": {"speakers": dict(zip("abc", row))},
                        "pnmi": 0.1 * number,
                    }
                    for number, row in zip(count(first, step), layers)
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
    assert seeds == 2 and means == pytest.approx({1: 0.01, 2: 0.01, BEST: 0.01})
    assert np.stack(list(ends.values())) == pytest.approx(np.full((3, 2), 0.01))


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
    assert ends[1][1] - ends[1][0] == pytest.approx(2 * 1.96 * error, rel=0.3)


def test_interval_covers_speakers_that_differ_alike_in_all_seeds():
    """Of seeds alone, the interval would have no width."""
    own = dict.fromkeys(range(4), probed([[0.0] * 3, [0.1, 0.2, 0.3]]))
    other = dict.fromkeys(range(4), probed([[0.0] * 3] * 2))
    means, ends, _ = difference(own, other)
    # One speaker is drawn three times in 1 of 27 draws, which is more than 2.5 %.
    assert means[1] == pytest.approx(0.2) and ends[1] == pytest.approx([0.1, 0.3])


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


def cells(*systems):
    """Return the cells of both tables; each system is compared with the first."""
    names = [f"s{number}" for number in range(len(systems))]
    spec = Spec(
        *(None, None, [System(name, name, {}) for name in names], []),
        compare=[(names[0], name) for name in names[1:]],
    )
    found = {n: {0: Result(None, {}, None, x)} for n, x in zip(names, systems)}
    lines = "\n".join(phone_tables(spec, found)).splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_some_layers_keep_their_numbers():
    some = probed([[0.34] * 3, [0.42] * 3, [0.38] * 3], first=4, step=4)
    head, _, row = cells(some)
    assert head[4:] == ["4", "8", "12", "PNMI"]
    assert row[1:] == ["0.4200", "0.4200", "8", "0.340", "0.420", "0.380", "1.200"]


def test_the_input_is_no_best_layer():
    head, _, row = cells(probed([[0.3] * 3]), probed([[0.2] * 3]))[:3]
    assert head[4:] == ["0", "PNMI"] and row[1:] == ["", "", "", "0.300", ""]


def test_systems_of_different_depth():
    deep = probed([[x] * 3 for x in (0.1, 0.2, 0.3, 0.5)])
    rows = cells(deep, probed([[x] * 3 for x in (0.1, 0.2, 0.25)]))
    assert rows[0][4:] == ["0", "1", "2", "3", "PNMI"]
    assert rows[3][4:] == ["0.100", "0.200", "0.250", "", "0.200"]
    head, _, row = rows[4:]
    assert head[2:] == ["1", "2", BEST]
    assert row[2].startswith("+0.0000") and row[3].startswith("+0.0500")
    assert row[4] == "+0.2500 [+0.2500, +0.2500]"
