"""Memory that a process may use."""

import pytest

from espnet2_birq.planning.machine import _group_limits, memory_of


@pytest.mark.parametrize(
    "group, files, limits",
    [
        # Version 2: a Slurm job's step below the job
        (
            "0::/job_7/step_0\n",
            {"job_7/step_0/memory.max": "max", "job_7/memory.max": "2147483648"},
            [2**31],
        ),
        # A container, which sees its own group as the top
        ("0::/\n", {"memory.max": "1073741824"}, [2**30]),
        # Version 1; the path is the host's
        (
            "5:cpu:/x\n4:memory:/docker/abc\n0::/\n",
            {"memory/memory.limit_in_bytes": "3221225472"},
            [3 * 2**30],
        ),
        ("0::/\n", {}, []),
        (None, {}, []),
    ],
)
def test_limits_of_control_groups(tmp_path, group, files, limits):
    groups = tmp_path / "cgroup"
    if group:
        groups.write_text(group)
    root = tmp_path / "fs"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    assert list(_group_limits(groups, root)) == limits


def test_a_limit_is_the_memory(monkeypatch):
    whole = memory_of("cpu")
    monkeypatch.setattr(
        "espnet2_birq.planning.machine._group_limits", lambda: iter([2**30])
    )
    assert memory_of("cpu") == 2**30 < whole
