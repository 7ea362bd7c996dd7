"""A command killed at any moment and repeated has the result of an undisturbed run."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from espnet2_birq.bin.prepare_yodas import main

from .test_sets import error_of

KILLS = int(os.environ.get("BIRQ_KILLS", 3))


def tree(folder):
    """Read a folder: every file's path and bytes."""
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def start(arguments):
    """Run the command in another process; return its id."""
    if pid := os.fork():
        return pid
    try:
        main(arguments)
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_kill_and_repeat(release, tmp_path):
    for number in range(8):
        videos = {
            f"video{number}{index}": [(10 * i, 10 * i + 9, f"{i}") for i in range(4)]
            for index in range(3)
        }
        release.add(f"en000/{number:08d}", videos)
    out = tmp_path / "out"
    arguments = ["--yodas", str(release.root), "--dest", str(out), "--parts", "en"]
    arguments += ["--hours", "0.15", "--valid_hours", "0.02", "--nj", "3", "--text"]
    begin = time.monotonic()
    assert os.waitpid(start(arguments), 0)[1] == 0
    duration = time.monotonic() - begin
    wanted = tree(out)
    assert len(wanted) > 40 and not any("work" in path for path in wanted)

    rng, stages = random.Random(0), set()
    for kill in range(KILLS):
        out.rename(tmp_path / f"before{kill}")
        pid = start(arguments)
        time.sleep(rng.uniform(0, duration))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        stages.add(len(list(out.glob("shards/en000/*"))))
        assert os.waitpid(start(arguments), 0)[1] == 0
        assert tree(out) == wanted, f"kill {kill}"
    assert len(stages) > 1  # the kills hit different stages


def test_kill_again_and_again(make_release, tmp_path):
    release = make_release()
    for number in range(6):
        release.add(f"en000/{number:08d}", {f"video{number}": [(0, 20, "x")] * 5})
    out = tmp_path / "out"
    arguments = ["--yodas", str(release.root), "--dest", str(out), "--parts", "en"]
    arguments += ["--valid_hours", "0", "--nj", "2"]
    for wait in (0.05, 0.1, 0.15, 0.2, 0.25):
        pid = start(arguments)
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert os.waitpid(start(arguments), 0)[1] == 0
    wanted = tree(out)
    out.rename(tmp_path / "killed")
    main(arguments)
    assert tree(out) == wanted


def test_a_worker_that_dies_is_an_error(make_release, prepare, monkeypatch):
    release = make_release()
    release.add("en000/00000000", {"abcdefghijk": [(0, 1, "x")]})
    module = "espnet2_birq.corpora.yodas.store.prepare_shard"
    monkeypatch.setattr(module, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    message = error_of(prepare, release, "--parts", "en")
    assert "en000/00000000: its worker was killed by signal 9" in message


def test_a_full_disk_is_an_error(make_release, prepare, monkeypatch, tmp_path):
    release = make_release()
    release.add("en000/00000000", {"abcdefghijk": [(0, 1, "x")]})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("espnet2_birq.corpora.yodas.store.prepare_shard", full)
    assert "No space left" in error_of(prepare, release, "--parts", "en")
    assert not (tmp_path / "out" / "shards" / "en000").exists()


def test_two_at_once(make_release, prepare, monkeypatch, tmp_path):
    release = make_release()
    release.add("en000/00000000", {"abcdefghijk": [(0, 1, "x")]})
    prepare(release, "--parts", "en", "--valid_hours", 0)
    import fcntl

    monkeypatch.setattr("espnet2_birq.corpora.yodas.store._LOCK_WAIT", 0)
    with (tmp_path / "out" / "shards" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = error_of(prepare, release, "--parts", "en")
    assert "another process is at work" in message


@pytest.mark.parametrize("parts", [["en"], ["en", "de"]])
def test_speculative_shards_are_not_kept(make_release, prepare, parts):
    release = make_release()
    for part in ("en", "de"):
        for number in range(5):
            name = f"{part}video{number}"
            release.add(f"{part}000/{number:08d}", {name: [(0, 20, "x")]})
    options = ["--parts", *parts, "--hours", 0.005, "--valid_hours", 0, "--nj", 8]
    out = prepare(release, *options)
    assert len(list(out.glob("shards/*/0*"))) == len(parts)
    assert not (out / "shards" / ".work").exists()
