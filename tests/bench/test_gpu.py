"""bench/gpu.py: a tiny run of all parts on a CPU, and conditions for forks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


def run(*words, seconds=600, **environment):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_all_parts_on_a_cpu(tmp_path):
    done = run(BENCH / "gpu.py", "--out", tmp_path, "--device", "cpu", "--tiny")
    assert done.returncode == 0, done.stdout[-4000:]
    outcomes = [x for x in done.stdout.splitlines() if x.startswith("== ")]
    assert len(outcomes) == 8 and all(": done" in x for x in outcomes)
    for name in ("steps", "compiled"):
        assert "failed" not in (tmp_path / f"{name}.log").read_text()
    rows = json.loads((tmp_path / "compiled.json").read_text())["rows"]
    assert {x["name"] for x in rows} > {"c2 birq compiled", "c2 birq"}
    assert "c2 birq compiled / c2 birq" in (tmp_path / "compiled.log").read_text()
    assert "ours" in (tmp_path / "depthwise.log").read_text()
    assert "ms a step in" in (tmp_path / "profile.log").read_text()


@pytest.mark.parametrize("what", ["import forked; forked.preload()", "import memory"])
def test_forks_of_a_process_that_has_imported_espnet_may_use_cuda(what):
    """ESPnet's trainer queries CUDA on import."""
    code = f"""
import os, sys
sys.path.insert(0, {str(BENCH)!r})
{what}
import torch
pid = os.fork()
if pid == 0:
    os._exit(int(torch.cuda._is_in_bad_fork()))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_a_fork_prints_fails_and_is_stopped(tmp_path):
    sys.path.insert(0, str(BENCH))
    import forked

    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\nprint(*sys.argv[1:])\n"
        "if sys.argv[1] == 'wait': time.sleep(60)\n"
        "if sys.argv[1] == 'fail': raise ValueError('no such thing')\n"
    )
    good = forked.run([str(program), "a", "b c"])
    assert (good.returncode, good.stdout) == (0, "a b c\n")
    bad = forked.run([str(program), "fail"])
    assert bad.returncode == 1 and "ValueError: no such thing" in bad.stderr
    assert forked.run([str(program), "wait"], seconds=1.0).returncode == 124
