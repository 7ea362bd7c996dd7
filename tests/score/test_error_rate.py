"""Error rates against a plain dynamic programme, and the command that shows them."""

import json
import random

import numpy as np
import pytest

from espnet2_birq.bin import score as command
from espnet2_birq.errors import DataError
from espnet2_birq.score.error_rate import (
    Counts,
    align,
    bootstrap_interval,
    count_errors,
    error_rate,
    fold_case,
    read_trn,
    read_trn_pair,
)


def edit_distance(ref, hyp):
    row = list(range(len(hyp) + 1))
    for i, ref_token in enumerate(ref, 1):
        previous, row = row, [i]
        for j, hyp_token in enumerate(hyp, 1):
            change = previous[j - 1] + (ref_token != hyp_token)
            row.append(min(change, previous[j] + 1, row[j - 1] + 1))
    return row[-1]


def random_pairs(number, seed):
    rng = random.Random(seed)
    for _ in range(number):
        letters = "abcdefgh"[: rng.randint(1, 8)]
        yield tuple(
            [rng.choice(letters) for _ in range(rng.randint(0, 12))] for _ in range(2)
        )


def test_counts_are_least_and_consistent():
    for ref, hyp in random_pairs(500, 0):
        counts = count_errors(ref, hyp)
        assert counts.errors == edit_distance(ref, hyp)
        assert counts.ref_tokens == len(ref)
        assert counts.correct + counts.sub + counts.ins == len(hyp)


def test_alignment_is_of_both_sequences():
    for ref, hyp in random_pairs(200, 1):
        pairs = align(ref, hyp)
        assert [token for token, _ in pairs if token is not None] == ref
        assert [token for _, token in pairs if token is not None] == hyp


@pytest.mark.parametrize(
    "ref, hyp, counts",
    [
        ("a b c", "a b c", Counts(3, 0, 0, 0)),
        ("a b c", "a x c d", Counts(2, 1, 0, 1)),
        ("a b c", "", Counts(0, 0, 3, 0)),
        ("", "a", Counts(0, 0, 0, 1)),
        ("", "", Counts()),
        ("a", "A", Counts(0, 1, 0, 0)),
    ],
)
def test_count_errors(ref, hyp, counts):
    assert count_errors(ref.split(), hyp.split()) == counts


def test_tokens_with_spaces_stay_whole():
    assert count_errors(["a b", "\u3000"], ["a b", "c"]) == Counts(1, 1, 0, 0)


def test_fold_case_is_of_ascii():
    assert fold_case(["AbÉ"]) == ["abÉ"]


def test_error_rate_is_of_the_corpus():
    counts = [Counts(9, 1, 0, 0), Counts(0, 0, 0, 2), Counts(10, 0, 0, 0)]
    assert error_rate(counts) == 3 / 20
    with pytest.raises(DataError, match="no token"):
        error_rate([Counts(0, 0, 0, 1)])


def test_bootstrap_interval():
    rng = np.random.default_rng(3)
    counts = [Counts(10 - n, n, 0, 0) for n in rng.binomial(10, 0.2, 400).tolist()]
    low, high = bootstrap_interval(counts)
    assert (low, high) == bootstrap_interval(counts)
    assert (low, high) != bootstrap_interval(counts, seed=1)
    # As for a mean of 4000 tosses: 0.2 +- 1.96 * sqrt(0.2 * 0.8 / 4000).
    rate = error_rate(counts)
    assert low == pytest.approx(rate - 0.0124, abs=0.002)
    assert high == pytest.approx(rate + 0.0124, abs=0.002)


def test_bootstrap_interval_without_spread():
    assert bootstrap_interval([Counts(3, 1, 0, 0)] * 5) == (0.25, 0.25)
    # Draws of the first alone have no error rate.
    assert bootstrap_interval([Counts(), Counts(1, 1, 0, 0)]) == (0.5, 0.5)


def test_read_trn(tmp_path):
    path = tmp_path / "a.trn"
    path.write_text("A (B) c\t(s_1-u-1)\n\t(s-2)\n\nx(s-3)\n")
    assert read_trn(path) == {"s_1-u-1": ["A", "(B)", "c"], "s-2": [], "s-3": ["x"]}


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "empty file"),
        ("a (s-1)\nb\n", "line 2 does not end with"),
        ("a ()\n", "line 1 does not end with"),
        ("a (s-1)\nb (s-1)\n", r"line 2: \(s-1\) is there twice"),
    ],
)
def test_bad_trn(tmp_path, content, message):
    path = tmp_path / "a.trn"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"a\.trn: {message}"):
        read_trn(path)


def test_ids_of_one_file_are_named(tmp_path):
    (tmp_path / "ref").write_text("a (s-1)\nb (s-2)\n")
    (tmp_path / "hyp").write_text("a (s-1)\n")
    with pytest.raises(DataError, match=r"hyp: lacks 1 utterance\(s\) of .*ref: s-2;"):
        read_trn_pair(tmp_path / "ref", tmp_path / "hyp")
    with pytest.raises(DataError, match=r"hyp: lacks 1 utterance\(s\) of .*ref: s-2;"):
        read_trn_pair(tmp_path / "hyp", tmp_path / "ref")


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, ref, hyp in (
        ("wer", "HI ME (s-1)\nYOU (s-2)\n", "hi ma (s-1)\nyou (s-2)\n"),
        ("cer", "H I <space> M E (s-1)\nY O U (s-2)\n", "h i m a (s-1)\ny o u (s-2)\n"),
    ):
        for name in ("test", "org/valid"):
            folder = tmp_path / "exp/asr/decode_a" / name / f"score_{kind}"
            folder.mkdir(parents=True)
            (folder / "ref.trn").write_text(ref)
            (folder / "hyp.trn").write_text(hyp)
    return tmp_path / "exp/asr"


def test_table(experiment, capsys):
    command.main(["exp/asr"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].count("|") == 7 and len(lines) == 4
    assert lines[2].startswith("| exp/asr | decode_a | org/valid | 2 | 33.3 [")
    assert lines[3].startswith("| exp/asr | decode_a | test | 2 | 33.3 [0.0, 50.0] |")
    assert "| 25.0 [0.0, 40.0] |" in lines[3]


def test_json(experiment, capsys):
    command.main(["exp/asr", "--json", "--case-sensitive"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["set"] for row in rows] == ["org/valid", "test"]
    assert rows[1]["wer"] == {
        "utterances": 2,
        "tokens": 3,
        "errors": 3,
        "percent": 100.0,
        "low": 100.0,
        "high": 100.0,
    }


@pytest.mark.parametrize(
    "removed, named",
    [
        ("exp/asr", "error: exp/asr: no such folder"),
        (
            "exp/asr/decode_a",
            "error: exp/asr/decode_*/<set>/score_wer/ref.trn: no such file",
        ),
        (
            "exp/asr/decode_a/test/score_cer",
            "error: exp/asr/decode_a/test/score_cer/ref.trn: no such file",
        ),
        (
            "exp/asr/decode_a/test/score_wer/hyp.trn",
            "error: exp/asr/decode_a/test/score_wer/hyp.trn: no such file",
        ),
    ],
)
def test_missing_files_are_named(experiment, tmp_path, removed, named):
    (tmp_path / removed).rename(tmp_path / "gone")
    with pytest.raises(SystemExit) as failure:
        command.main(["exp/asr"])
    assert str(failure.value).startswith(named)
    assert "\n" not in str(failure.value)
