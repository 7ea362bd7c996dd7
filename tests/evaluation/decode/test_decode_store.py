"""Folders of stored log-probabilities and results, and the search of them."""

import os
import signal
import weakref
from pathlib import Path

import numpy as np
import pytest

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.decode import store as stores
from espnet2_birq.evaluation.decode.pipeline import (
    finish_set,
    search_store,
    write_output,
)
from espnet2_birq.evaluation.decode.search import best_path
from espnet2_birq.evaluation.decode.sets import set_name
from espnet2_birq.evaluation.decode.store import Block, LogProbs, Results, read_block

AUDIO = {f"u{number}": "1" for number in range(6)}


def make_store(folder):
    store = LogProbs(folder, {"model": "a"}, AUDIO)
    if not store.blocks():
        for name in AUDIO:
            store.add(Block([name], [np.eye(4, dtype=np.float32)], 1.0, 0.1, ["1"]))
    return store


@pytest.mark.parametrize(
    "given, name",
    [
        (".", "org/test"),
        ("..", "org"),
        ("sub/..", "org/test"),
        ("../../org", "org"),
        ("../test/", "org/test"),
    ],
)
def test_sets_have_names(tmp_path, monkeypatch, given, name):
    folder = tmp_path / "raw" / "org" / "test"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert set_name(Path(given)) == Path(name)


def test_a_folder_of_something_else_is_not_removed(tmp_path):
    (tmp_path / "block000000.npz").touch()
    (tmp_path / "exp.part").touch()
    (tmp_path / "valid.loss.ave.pth").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match="ave.pth: is not of stored .* move it away"):
        make_store(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_only_blocks_are_removed(tmp_path):
    make_store(tmp_path)
    (tmp_path / "notes").touch()
    assert not LogProbs(tmp_path, {"model": "b"}, AUDIO).blocks()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["key.json", "notes"]
    # Killed after it had removed the key.
    (tmp_path / "notes").unlink()
    make_store(tmp_path)
    (tmp_path / "key.json").unlink()
    (tmp_path / "key.json.part").touch()
    assert not LogProbs(tmp_path, {"model": "a"}, AUDIO).blocks()
    assert [x.name for x in tmp_path.iterdir()] == ["key.json"]


def test_blocks_are_checked_one_after_the_other(tmp_path, monkeypatch):
    """All of them may need more memory than there is."""
    make_store(tmp_path)
    read, seen, most = stores.read_block, [], []

    def watched(path):
        most.append(sum(one() is not None for one in seen))
        block = read(path)
        seen.append(weakref.ref(block.log_probs[0]))
        return block

    monkeypatch.setattr(stores, "read_block", watched)
    assert make_store(tmp_path).done() == set(AUDIO)
    assert most == [0] * len(AUDIO)


def test_a_block_is_read_as_it_was_stored(tmp_path):
    store = LogProbs(tmp_path, {"model": "a"}, AUDIO)
    matrices = [np.full((t, 4), t, np.float32) for t in (3, 1, 2)]
    names = ["u2", "u0", "u1"]
    store.add(Block(names, matrices, 6.0, 0.5, ["1"] * 3))
    block = read_block(*store.blocks())
    assert (block.names, block.seconds, block.audio) == (names, 6.0, ["1"] * 3)
    assert all(map(np.array_equal, block.log_probs, matrices))
    assert len(block.log_probs) == 3


def test_a_block_that_is_added_replaces_no_other(tmp_path):
    store = make_store(tmp_path)
    store.blocks()[3].unlink()
    store.add(Block(["u3"], [np.eye(4, dtype=np.float32)], 1.0, 0.1, ["1"]))
    assert store.done() == set(AUDIO)


def test_an_utterance_without_result_is_an_error(tmp_path):
    """As after another command has removed its log-probabilities."""
    store, out = make_store(tmp_path / "store"), tmp_path / "out"
    store.blocks()[3].unlink()
    results = Results(out / "results.jsonl", {})
    search_store(best_path, store, results, 1)
    given = (out, list(AUDIO), results)
    with pytest.raises(DataError, match="results.jsonl: lacks u3; .*command again"):
        write_output(*given, {}, lambda tokens: ("", []))
    assert not (out / "text").exists()
    texts = write_output(*given, {"u3": "damaged"}, lambda tokens: ("x", []))
    assert list(texts) == list(AUDIO)


def test_skipped_utterances_do_not_count_as_empty(tmp_path):
    (tmp_path / "wav.scp").write_text("".join(f"{name} x.wav\n" for name in AUDIO))
    store, results = make_store(tmp_path / "store"), Results(tmp_path / "results", {})
    results.add({"u0": dict(tokens=[], score=0.0, seconds=0.0)})
    search_store(best_path, store, results, 1)
    texts = {(): "", (1, 2, 3): "x"}
    figures = finish_set(
        tmp_path,
        tmp_path,
        store,
        results,
        {"u3": "damaged"},
        lambda tokens: (texts[tuple(tokens)], []),
    )
    assert (figures["skipped"], figures["empty"]) == (1, 1)


def test_a_killed_process_of_the_search(tmp_path):
    """The kernel kills one if memory is short; finished blocks are kept."""
    store, path = make_store(tmp_path / "store"), tmp_path / "results.jsonl"
    results, parent = Results(path, {}), os.getpid()
    results.add({"u0": dict(tokens=[], score=0.0, seconds=0.0)})

    def killed(log_probs):
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match="was killed, for lack of memory.* lower --nj"):
        search_store(killed, store, results, 2)
    results = Results(path, {})
    assert results.found.keys() >= {"u0"}
    search_store(best_path, store, results, 2)
    assert results.found.keys() == AUDIO.keys()
