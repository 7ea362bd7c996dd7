"""Triphones, and their ABX error rates if fastabx is installed."""

import builtins

import numpy as np
import pytest
import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.phones.abx import (
    HEADER,
    abx_errors,
    import_fastabx,
    save_features,
    triphones,
    write_items,
)
from espnet2_birq.evaluation.phones.alignments import read_alignments

SHIFT = 0.04


def write_alignment(path, rows):
    """Write and read an alignment; rows: utterance to [(phone, 10 ms frames)]."""
    lines = (
        name + "\t" + " ".join(f"{p}:{n}" for p, n in row) + "\n"
        for name, row in rows.items()
    )
    path.write_text("".join(lines))
    return read_alignments(path)


def test_triphones_have_neighbours_and_frames(tmp_path):
    row = [("SIL", 5), ("AH", 8), ("S", 4), ("IY", 8), ("T", 8), ("SIL", 9), ("B", 9)]
    alignment = write_alignment(tmp_path / "a.tsv", {"a": row})["a"]
    found = list(triphones(alignment, 12, SHIFT))
    assert found == [
        (0.05, 0.25, "S", "AH", "IY"),
        (0.13, 0.33, "IY", "S", "T"),
    ]
    # The second needs the eighth frame, which is centred at 300 ms.
    assert len(list(triphones(alignment, 8, SHIFT))) == 2
    assert len(list(triphones(alignment, 7, SHIFT))) == 1


def test_triphones_across_a_gap_do_not_count(tmp_path):
    path = tmp_path / "gap.ctm"
    path.write_text("a 1 0 0.1 A\na 1 0.1 0.1 B\na 1 0.25 0.1 C\na 1 0.35 0.1 D\n")
    alignment = read_alignments(path)["a"]
    assert list(triphones(alignment, 20, SHIFT)) == []


def test_items(tmp_path):
    row = [("AH", 8), ("S", 4), ("IY", 8)]
    alignments = write_alignment(tmp_path / "a.tsv", {"a": row, "b": row})
    items = tmp_path / "x.item"
    write_items(items, alignments, {"a": "s", "b": "t"}, {"a": 5, "b": 5}, SHIFT)
    assert items.read_text().splitlines() == [
        HEADER,
        "a 0.000000 0.200000 S AH IY s",
        "b 0.000000 0.200000 S AH IY t",
    ]
    with pytest.raises(DataError, match="no triphone"):
        write_items(items, alignments, {"a": "s"}, {"a": 1}, SHIFT)


def test_without_fastabx(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "fastabx":
            raise ImportError("No module named 'fastabx'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match="--abx: No module.*pip install fastabx"):
        import_fastabx()


@pytest.mark.parametrize("informative", [True, False])
def test_planted_triphones(tmp_path, informative):
    """Frames that encode the phone have no errors, frames of noise those of chance."""
    pytest.importorskip("fastabx", reason="fastabx is an extra: pip install fastabx")
    generator = np.random.default_rng(0)
    names = [f"{s}{n}" for s in "stuv" for n in range(20)]
    rows = {}
    for name in names:
        middles = generator.choice(["S", "T", "B"], 5)
        rows[name] = [
            x for m in middles for x in (("AH", 8), (m, 8), ("IY", 8), ("SIL", 4))
        ]
    alignments = write_alignment(tmp_path / "a.tsv", rows)
    phones = ("AH", "B", "IY", "S", "SIL", "T")
    frames = {}
    for name in names:
        frames[name] = sum(n for _, n in rows[name]) // 4
        labels = alignments[name].frame_labels(frames[name], SHIFT, phones)
        features = np.eye(6)[labels]
        if not informative:
            features = generator.standard_normal(features.shape)
        save_features(tmp_path, name, {3: features.astype(np.float32)})
    write_items(
        tmp_path / "x.item", alignments, {x: x[0] for x in names}, frames, SHIFT
    )
    found = abx_errors(tmp_path / "x.item", tmp_path / "3", SHIFT)
    assert set(found) == {"within", "across"}
    for error in found.values():
        assert error == pytest.approx(0.0 if informative else 0.5, abs=0.05)


def test_features_are_saved_one_by_one(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    save_features(tmp_path, "a", {0: values[::2], 2: values})
    assert torch.load(tmp_path / "0" / "a.pt").tolist() == values[::2].tolist()
    assert torch.load(tmp_path / "2" / "a.pt").shape == (4, 3)
