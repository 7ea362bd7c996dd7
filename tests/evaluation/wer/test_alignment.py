"""Alignment against a plain dynamic programme and against NIST's sclite."""

import editdistance
import numpy as np
import pytest
from nist import needs_nist, random_set, run_sclite, scores

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.wer import alignment
from espnet2_birq.evaluation.wer.alignment import (
    align_all,
    count_errors,
    pair_tokens,
    steps_of,
)
from espnet2_birq.evaluation.wer.transcripts import fold_case


def slow_steps(ref, hyp):
    """Align by recursion from the end, with sclite's costs and tie-breaking."""
    cost, step = {(0, 0): 0}, {}
    for i in range(len(ref) + 1):
        for j in range(len(hyp) + 1):
            options = []
            if i and j:
                same = ref[i - 1] == hyp[j - 1]
                options.append((cost[i - 1, j - 1] + 4 * (not same), 0, int(not same)))
            if j:
                options.append((cost[i, j - 1] + 3, 1, 3))
            if i:
                options.append((cost[i - 1, j] + 3, 2, 2))
            if options:
                cost[i, j], _, step[i, j] = min(options)
    steps, i, j = [], len(ref), len(hyp)
    while i or j:
        kind = step[i, j]
        steps.insert(0, kind)
        i, j = i - (kind != 3), j - (kind != 2)
    return steps


def test_steps_are_those_of_a_plain_programme():
    """Also their order, which decides on the segments of the matched-pairs test."""
    sides = [list(side.values()) for side in random_set(300, 0)]
    counts, steps = count_errors(*sides), align_all(*sides)
    for ref, hyp, count, found in zip(*sides, counts, steps, strict=True):
        expected = slow_steps(ref.split(), hyp.split())
        assert found.tolist() == expected
        assert count.tolist() == [expected.count(kind) for kind in range(4)]


def test_more_errors_than_least_are_few():
    # 3 substitutions cost as much as 2 deletions and 2 insertions.
    refs, hyps = random_set(1000, 1)
    least = [
        editdistance.eval(ref.split(), hyps[utt_id].split())
        for utt_id, ref in refs.items()
    ]
    errors = count_errors(list(refs.values()), list(hyps.values()))[:, 1:].sum(axis=1)
    assert (errors >= least).all() and 1 < errors.sum() / sum(least) < 1.03


def test_batches_do_not_matter(monkeypatch):
    refs, hyps = (list(side.values()) for side in random_set(100, 2))
    whole = count_errors(refs, hyps)
    monkeypatch.setattr(alignment, "_BATCH_TOKENS", 50)
    np.testing.assert_array_equal(count_errors(refs, hyps), whole)
    assert count_errors([], []).shape == (0, 4)


def test_alignment_is_of_both_sequences():
    refs, hyps = random_set(200, 3)
    for ref, hyp in zip(refs.values(), hyps.values(), strict=True):
        words = ref.split(), hyp.split()
        pairs = pair_tokens(*words, steps_of(*words))
        assert [token for token, _ in pairs if token is not None] == ref.split()
        assert [token for _, token in pairs if token is not None] == hyp.split()


@pytest.mark.parametrize(
    "ref, hyp, counts",
    [
        ("a b c", "a b c", [3, 0, 0, 0]),
        ("a b c", "a x c d", [2, 1, 0, 1]),
        ("a b c", "", [0, 0, 3, 0]),
        ("", "a", [0, 0, 0, 1]),
        ("", "", [0, 0, 0, 0]),
        ("a", "A", [0, 1, 0, 0]),
        ("a @ b", "a b @", [2, 0, 0, 0]),
    ],
)
def test_count_errors(ref, hyp, counts):
    assert count_errors([ref], [hyp]).tolist() == [counts]


def test_characters():
    assert count_errors(["ab c"], ["abc"], list).tolist() == [[3, 0, 1, 0]]


def test_optional_words():
    # A missing optional word is correct; another word in its place is wrong.
    refs, hyps = ["u a u b", "u", "u"], ["a b", "x", "u"]
    expected = [[4, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    assert count_errors(refs, hyps, optional="u").tolist() == expected
    steps = align_all(refs, hyps, "u")
    assert steps[0].tolist() == [4, 0, 4, 0]


def test_too_long(monkeypatch):
    monkeypatch.setattr(alignment, "_MAX_CELLS", 11)
    assert len(steps_of("abc", "a")) == 3
    with pytest.raises(DataError, match="4 and 2 tokens is too long"):
        steps_of("abcd", "ab")
    with pytest.raises(DataError, match="4 and 2 tokens is too long"):
        count_errors(["a b c d"], ["a b"])


@needs_nist
def test_same_as_nist(tmp_path):
    """2000 utterances, including empty ones and words that are not ASCII."""
    refs, hyps = random_set(2000, 4)
    theirs = scores(run_sclite(tmp_path, refs, hyps))
    ours = count_errors(
        [fold_case(ref) for ref in refs.values()],
        [fold_case(hyp) for hyp in hyps.values()],
    )
    assert dict(zip(refs, ours.tolist(), strict=True)) == theirs
    assert sum(not ref for ref in refs.values()) > 20
    assert sum(not hyp for hyp in hyps.values()) > 20


@needs_nist
def test_optional_words_as_nist(tmp_path):
    refs, hyps = random_set(1000, 5)
    marked = {utt_id: ref.replace("w0", "(w0)") for utt_id, ref in refs.items()}
    theirs = scores(run_sclite(tmp_path, marked, hyps, "-D"))
    ours = count_errors(
        [fold_case(ref) for ref in refs.values()],
        [fold_case(hyp) for hyp in hyps.values()],
        optional="w0",
    )
    assert dict(zip(refs, ours.tolist(), strict=True)) == theirs
