"""Comparison of two systems on the same set."""

from collections.abc import Sequence
from math import isnan
from typing import Any, NamedTuple

import numpy as np

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.evaluation.wer.alignment import align_all, count_errors
from espnet2_birq.evaluation.wer.experiments import (
    KINDS,
    DecodedSet,
    Options,
    goes_with,
    rates,
    read_set,
)
from espnet2_birq.evaluation.wer.grouping import label, make_clusters
from espnet2_birq.evaluation.wer.significance import bootstrap_difference, mapsswe
from espnet2_birq.evaluation.wer.tables import format_rate

NOTE = (
    "[95 %] and p: bootstrap over what stands under resampled, both systems on the "
    "same draw, 2000 draws for the difference, seed 0. MAPSSWE: matched-pairs "
    "sentence-segment word error test, two-sided; Z > 0: B is better."
)


class _Scored(NamedTuple):
    ids: list[str]
    refs: list[str]
    counts: np.ndarray
    steps: list[np.ndarray] | None  # of words only


def pair_sets(
    sets_a: Sequence[DecodedSet], sets_b: Sequence[DecodedSet]
) -> list[tuple[DecodedSet, DecodedSet]]:
    """Match the decodings of two systems.

    Args:
        sets_a: Decoded sets of system A.
        sets_b: Decoded sets of system B.

    Returns:
        Pairs with the same set. If a system has several decodings of a set, the pairs
        also have the same decoding.

    Raises:
        DataError: The systems have no set in common, or a set has several decodings
            without a match.
    """
    pairs = []
    for name in dict.fromkeys(one.name for one in sets_a):
        some_a, some_b = ([x for x in y if x.name == name] for y in (sets_a, sets_b))
        if len(some_a) == len(some_b) == 1:
            pairs.append((some_a[0], some_b[0]))
            continue
        same = [(a, b) for a in some_a for b in some_b if a.decoding == b.decoding]
        if some_b and not same:
            raise DataError(
                f"{some_a[0].experiment}, {some_b[0].experiment}: several decodings of "
                f"{name}, none of one name in both; compare two trn files by --ref"
            )
        pairs += same
    if not pairs:
        raise DataError(
            f"{sets_a[0].experiment}, {sets_b[0].experiment}: no set in common; decode "
            "the same set with both"
        )
    return pairs


def compare_sets(a: DecodedSet, b: DecodedSet, options: Options = Options()) -> dict:
    """Compare two systems on a set.

    Args:
        a: System A's decoding.
        b: System B's decoding.
        options: Scoring options; options.by is ignored.

    Returns:
        Mapping with set, a, b (names of the systems), utterances, normalization,
        resampled, wer and cer. Both wer and cer have a and b (as from rates()),
        difference (percent), low, high and p; wer also has mapsswe, with segments,
        mean, z and p. Unknown values are None.

    Raises:
        DataError: A file is wrong, or the references differ.
        ConfigError: An option cannot be used with the set.
    """
    result: dict[str, Any] = {
        "set": a.name,
        "a": _name(a),
        "b": _name(b),
        "normalization": options.normalization.name,
    }
    for kind in KINDS:
        if not goes_with(kind, options.normalization):
            result[kind] = None
            continue
        x, y = (_score(one, kind, options) for one in (a, b))
        _check_same(a, b, kind, x, y)
        clusters = make_clusters(label(x.ids, options.data), options.cluster)
        result |= {"utterances": len(x.ids), "resampled": clusters.name}
        result[kind] = _compare(x, y, clusters.codes)
    return result


def _name(one: DecodedSet) -> str:
    return one.experiment if one.decoding == "-" else f"{one.experiment}/{one.decoding}"


def _score(one: DecodedSet, kind: str, options: Options) -> _Scored:
    (ids, refs, hyps), cut = read_set(one, kind, options.normalization)
    optional = options.normalization.optional
    steps = align_all(refs, hyps, optional) if kind == "wer" else None
    return _Scored(ids, refs, count_errors(refs, hyps, cut, optional), steps)


def _check_same(
    a: DecodedSet, b: DecodedSet, kind: str, x: _Scored, y: _Scored
) -> None:
    files = ", ".join(str(one.pairs.get(kind, one.pairs["wer"])[0]) for one in (a, b))
    if x.ids != y.ids:
        odd = min(set(x.ids) ^ set(y.ids), default="order differs")
        raise DataError(
            f"{files}: not of the same utterances ({odd}); decode the same set "
            "with both"
        )
    for utt_id, one, other in zip(x.ids, x.refs, y.refs, strict=True):
        if one.split() != other.split():
            raise DataError(
                f"{files}: the references of {utt_id} differ; take the same text and "
                "cleaner for both"
            )


def _compare(x: _Scored, y: _Scored, clusters: np.ndarray) -> dict:
    tokens = x.counts[:, :3].sum(axis=1)
    wrong_x, wrong_y = (one.counts[:, 1:].sum(axis=1) for one in (x, y))
    difference = bootstrap_difference(wrong_x, wrong_y, tokens, clusters)
    result = {
        "a": rates(x.counts, clusters),
        "b": rates(y.counts, clusters),
        "difference": 100 * float((wrong_y - wrong_x).sum() / tokens.sum()),
        "low": _known(100 * difference.low),
        "high": _known(100 * difference.high),
        "p": _known(difference.p),
    }
    if x.steps is not None and y.steps is not None:
        test = mapsswe(x.steps, y.steps)
        result["mapsswe"] = {
            name: _known(value) for name, value in test._asdict().items()
        }
    return result


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def make_comparison_table(results: Sequence[dict]) -> str:
    """Format results of compare_sets() as a Markdown table."""
    lines = []
    for name in dict.fromkeys((one["a"], one["b"]) for one in results):
        lines += [f"A: {name[0]}", f"B: {name[1]}"]
    lines += [f"Normalisation: {results[0]['normalization']}. {NOTE}", ""]
    numbers = [
        "A % [95 %]",
        "B % [95 %]",
        "B - A [95 %]",
        "p",
        "MAPSSWE segments, Z, p",
    ]
    rows = [
        _row(one, kind) for one in results for kind in KINDS if one[kind] is not None
    ]
    head = ["set", "", *numbers, "resampled"]
    return "\n".join([*lines, markdown_table(head, rows, right=numbers)])


def _row(one: dict, kind: str) -> list[str]:
    scored = one[kind]
    if scored["low"] is None:
        interval, p = "[-]", "-"
    else:
        interval = f"[{scored['low']:+.2f}, {scored['high']:+.2f}]"
        p = f"{scored['p']:.4f}"
    test = "-"
    if mapsswe_result := scored.get("mapsswe"):
        test = f"{mapsswe_result['segments']}, "
        test += (
            "-, -"
            if mapsswe_result["z"] is None
            else "{z:.2f}, {p:.4f}".format(**mapsswe_result)
        )
    cells = [one["set"], kind.upper(), format_rate(scored["a"])]
    cells += [format_rate(scored["b"]), f"{scored['difference']:+.2f} {interval}"]
    return [*cells, p, test, one["resampled"]]
