"""Streaming of long files: correct results in constant memory."""

import itertools
import random
import subprocess
import threading

import pytest

from espnet2_birq.datadir import stream
from espnet2_birq.datadir.stream import (
    ExternalSort,
    draw,
    iter_spk2utt,
    map_parallel,
    merge,
)
from espnet2_birq.errors import DataError


def test_merge_is_an_outer_join():
    tables = {"a": [("1", "x"), ("3", "y")], "b": [("1", "X"), ("2", "Y")], "c": []}
    assert list(merge(tables)) == [
        ("1", {"a": "x", "b": "X"}),
        ("2", {"b": "Y"}),
        ("3", {"a": "y"}),
    ]


def test_sort_is_that_of_bytes():
    lines = ["b\tß", "B x", "", "é", "b", "a\u2028"]
    with ExternalSort() as lines_sorted:
        for line in lines:
            lines_sorted.write(line)
        assert list(lines_sorted) == sorted(lines, key=str.encode)


def test_sort_left_early_ends(monkeypatch):
    started = []
    popen = subprocess.Popen

    def remember(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    with pytest.raises(KeyError), ExternalSort() as lines:
        lines.write("b")
        raise KeyError
    assert started[0].returncode is not None


def test_draw_is_uniform_and_repeatable():
    assert draw(range(3), 5) == [0, 1, 2]
    assert draw(iter(range(1000)), 10) == draw(range(1000), 10)
    counts = [0] * 20
    for seed in range(2000):
        sample = draw(range(20), 5, seed)
        assert len(set(sample)) == 5 and sample == sorted(sample)
        for item in sample:
            counts[item] += 1
    assert 400 < min(counts) and max(counts) < 600  # mean 500, deviation 19
    # The first item after the sample is full is left out half of the time, too.
    firsts = [draw("ab", 1, seed)[0] for seed in range(1000)]
    assert 420 < firsts.count("a") < 580


def test_map_parallel_reads_no_further_than_it_must():
    taken = itertools.count()
    last = 0

    def items():
        for last_taken in taken:
            nonlocal last
            last = last_taken
            yield last_taken

    threads = set()

    def double(number):
        threads.add(threading.get_ident())
        return 2 * number

    results = map_parallel(double, items(), 2)
    assert list(itertools.islice(results, 100)) == list(range(0, 200, 2))
    assert last < 100 + 2 * stream.IN_FLIGHT
    assert threading.get_ident() not in threads
    results.close()
    with pytest.raises(ZeroDivisionError):
        list(map_parallel(lambda number: 1 // number, [1, 0], 2))


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1 << 16])
def test_spk2utt_in_pieces(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(stream, "PIECE", piece)
    path = tmp_path / "spk2utt"
    generator = random.Random(piece)
    pairs = []
    for speaker in ("s1", "s2", "sé"):
        for number in range(generator.randrange(1, 9)):
            pairs.append((f"{speaker}-{'u' * generator.randrange(5)}{number}", speaker))
    lines = []
    for speaker, own in itertools.groupby(pairs, lambda pair: pair[1]):
        lines.append(" ".join([speaker, *(utterance for utterance, _ in own)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert list(iter_spk2utt(path)) == pairs
    path.write_text("\n".join(lines), encoding="utf-8")  # no newline at the end
    assert list(iter_spk2utt(path)) == pairs


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty file"),
        (b"a u\n\n", "line 2 is blank"),
        (b"a u\na v\n", "line 2 repeats a"),
        (b"b u\na v\n", "a comes after b"),
        (b"a\nb v\n", "a has no utterance"),
        (b"a \xff\n", "not UTF-8"),
    ],
)
def test_bad_spk2utt(tmp_path, content, words):
    (tmp_path / "spk2utt").write_bytes(content)
    with pytest.raises(DataError, match=words):
        list(iter_spk2utt(tmp_path / "spk2utt"))
    with pytest.raises(DataError, match="no such file"):
        list(iter_spk2utt(tmp_path / "nowhere"))
