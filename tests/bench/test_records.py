"""bench/records.py: kept measurements, and the tables made from them."""

import json
import re
import shlex
import sys

import numpy as np
import pytest
from checkout import ROOT, run

sys.path.insert(0, str(ROOT / "bench"))

import error_records
import records

from espnet2_birq.errors import DataError

COMMENT = re.compile(r"<!-- records: (.+?) -->\n\n((?:\|.*\n)+)")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def write_measurement(out, name, accuracies, objectives=1):
    """Write what phone_probe writes; accuracies: (layers, speakers)."""
    layers = [
        {
            "layer": number,
            "pnmi": 0.3 + 0.01 * number,
            "accuracy": {
                "mean": 0,
                "speakers": {f"s{i}": x for i, x in enumerate(row)},
            },
        }
        for number, row in enumerate(accuracies)
    ]
    books = [{"pnmi": 0.2, "chance": 0.1, "perplexity": 40.0}]
    model = {
        "name": "x",
        "layers": layers,
        "objectives": [
            {"name": f"o{i}", "books": books, "x": 1} for i in range(objectives)
        ],
    }
    (out / "phones").mkdir(parents=True, exist_ok=True)
    (out / "phones" / f"{name}.json").write_text(json.dumps({"models": [model]}))


@pytest.fixture
def kept(tmp_path):
    draw = np.random.default_rng(0)
    own, other = draw.uniform(0.4, 0.5, size=(2, 2, 9, 10))  # seeds, layers, speakers
    for seed in (0, 1):
        write_measurement(tmp_path, f"a_b_seed{seed}", own[seed], objectives=2)
        write_measurement(tmp_path, f"c_seed{seed}", other[seed], objectives=0)
    path = tmp_path / "phones.jsonl"
    assert records.keep("mine", tmp_path, path) == 4
    return path, own, other


def test_rows_are_means_over_seeds(kept):
    path, own, other = kept
    rows = records.table(records.read_records(path), "mine", [0, 1], ["a_b", "c"])
    assert rows[0][:2] == ["a_b", "2"] and rows[1][-1] == ""
    for row, values in zip(rows, (own, other)):
        means = [f"{x:.3f}".lstrip("0") for x in values.mean(axis=(0, 2))]
        assert row[2:11] == means
        assert row[11] == ".380"
    assert rows[0][12] == ".200, 40"


def test_differences_are_paired(kept):
    path, own, other = kept
    (row,) = records.differences(records.read_records(path), "mine", [0, 1], ["a_b:c"])
    apart = (own - other).mean(axis=2)  # seeds, layers
    cells = [re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", cell).groups() for cell in row[2:]]
    cells = np.array([[float(x) for x in cell] for cell in cells])
    expected = [apart[:, layer].mean() for layer in (2, 4, 5, 6, 8)]
    best = [values.mean(axis=(0, 2))[1:].max() for values in (own, other)]
    expected.append(best[0] - best[1])
    assert cells[:, 0] == pytest.approx(np.array(expected), abs=0.00051)
    assert (cells[:, 1] <= cells[:, 0]).all() and (cells[:, 0] <= cells[:, 2]).all()
    # One seed: the interval is of means over resampled speakers.
    (row,) = records.differences(records.read_records(path), "mine", [1], ["a_b:c"])
    generator = np.random.default_rng(7)
    draws = (own - other)[1, 4][generator.integers(10, size=(20000, 10))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    found = re.fullmatch(r"\S+ \[(\S+), (\S+)\]", row[3]).groups()
    assert [float(x) for x in found] == pytest.approx([low, high], abs=0.003)


def test_keeping_again_replaces(kept, tmp_path):
    path, _, other = kept
    write_measurement(tmp_path / "later", "c_seed1", other[1] + 0.1)
    assert records.keep("mine", tmp_path / "later", path) == 1
    found = records.read_records(path)
    assert len(found) == 4
    (row,) = records.table(found, "mine", [1], ["c"])
    assert float(row[2]) == pytest.approx(other[1, 0].mean() + 0.1, abs=0.001)


def test_missing_records_are_named(kept, tmp_path):
    found = records.read_records(kept[0])
    with pytest.raises(DataError, match="no record of mine, c, seed 5"):
        records.table(found, "mine", [0, 5], ["c"])
    with pytest.raises(DataError, match="'c' is not OWN:OTHER"):
        records.differences(found, "mine", [0], ["c"])
    done = run(
        [sys.executable, "bench/records.py", "keep", "mine", "--out", "x"], ROOT, False
    )
    assert done.returncode == 1 and "x: no measurements" in done.stdout


def write_decoding(out, end, folder, texts):
    """Write a scored set and a file; texts: by utterance, reference and hypothesis."""
    (out / end).parent.mkdir(parents=True)
    (out / end).touch()
    for kind in ("cer", "wer"):
        score = out / folder / f"score_{kind}"
        score.mkdir(parents=True)
        for number, name in enumerate(("ref.trn", "hyp.trn")):
            lines = [
                f"{' '.join(text[number])}\t({utterance})\n"
                for utterance, text in texts.items()
            ]
            (score / name).write_text("".join(lines))


def test_errors_are_counted_by_speaker(tmp_path):
    path = tmp_path / "errors.jsonl"
    texts = {
        "1-1-2-0": ("abcd", "abcd"),
        "3-3-2-0": ("abcd", "bcdf"),  # a deletion and an insertion
        "3-3-2-1": ("ab", "xyb"),  # a substitution and an insertion
    }
    for end, folder in (
        ("probe/a_b_seed0/probe.json", "probe/a_b_seed0/t"),
        ("steps/asr_a_b_seed0_1h/done.json", "asr/asr_a_b_seed0_1h/greedy/t"),
        ("probe/c_seed0/log", "probe/c_seed0/t"),  # still running
        ("steps/asr_c_seed0_1h/log", "asr/asr_c_seed0_1h/greedy/t"),
    ):
        write_decoding(tmp_path, end, folder, texts)
    assert error_records.keep("mine", tmp_path, path) == 2
    found = error_records.read_records(path)
    assert set(found) == {("mine", "a_b", 0, f"{x}, t") for x in ("frozen", "1h")}
    assert found["mine", "a_b", 0, "1h, t"] == {"1": [0, 4], "3": [4, 6]}
    assert error_records.columns(found, "mine") == ["frozen, t", "1h, t"]
    assert error_records.errors(found, "mine", [0], ["a_b"]) == [
        ["a_b", "40.0", "40.0"]
    ]
    assert error_records.errors(found, "mine", [0], ["a_b"], "1h") == [["a_b", "40.0"]]
    with pytest.raises(DataError, match="no record of mine, c, seeds"):
        error_records.errors(found, "mine", [0], ["c"])


def test_differences_of_error_rates_are_paired():
    draw = np.random.default_rng(1)
    tokens = draw.integers(50, 100, size=10)
    counts = draw.integers(10, 40, size=(2, 2, 10))  # system, seed, speaker
    found = {
        ("mine", system, seed, "frozen, t"): {
            str(i): [int(counts[s, seed, i]), int(tokens[i])] for i in range(10)
        }
        for s, system in enumerate("ab")
        for seed in (0, 1)
    }
    (row,) = error_records.error_differences(found, "mine", [0, 1], ["a:b"])
    cell = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", row[1]).groups()
    apart = (counts[0] - counts[1]).sum() / 2 / tokens.sum()
    assert float(cell[0]) == pytest.approx(100 * apart, abs=0.006)
    # The two seeds and the speakers are drawn anew, the same for both systems.
    seeds, speakers = (
        draw.integers(2, size=(20000, 2)),
        draw.integers(10, size=(20000, 10)),
    )
    sums = (counts[0] - counts[1])[seeds[:, :, None], speakers[:, None]].sum(
        axis=(1, 2)
    )
    rates = 100 * sums / 2 / tokens[speakers].sum(axis=1)
    low, high = np.quantile(rates, [0.025, 0.975])
    assert [float(x) for x in cell[1:]] == pytest.approx([low, high], abs=0.6)
    with pytest.raises(DataError, match="no records of a:c"):
        error_records.error_differences(found, "mine", [0], ["a:c"])


def marked_tables():
    return [
        pytest.param(words, text, id=f"{page.stem}-{words[:60]}")
        for page in PAGES
        for words, text in COMMENT.findall(page.read_text())
    ]


@pytest.mark.parametrize("words, text", marked_tables())
def test_tables_are_those_of_the_records(words, text):
    args = records.get_parser().parse_args(shlex.split(words))
    rows = records.rows_of(args)
    lines = [line.strip("|").split(" | ") for line in text.splitlines()[2:]]
    shown = [[cell.strip() for cell in line] for line in lines]
    # The first cell has the system's name in words.
    assert [row[1:] for row in shown] == [row[1:] for row in rows]


def test_every_mark_has_a_table():
    marks = [
        line for page in PAGES for line in re.findall("<!-- records:", page.read_text())
    ]
    assert len(marks) == len(marked_tables()) > 0
