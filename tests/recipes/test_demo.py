"""Messages of egs2/mini_synth/demo.sh, with stubs for the recipes it calls."""

import re

import pytest
from checkout import copy_checkout, run

# A recipe's run.sh: prints two stages, trains in between, may fail.
RUN = """#!/usr/bin/env bash
set -e
method=$2
echo "2026-11-26T00:49:45 (birq.sh:211:main) Stage 6: Statistics: exp/ssl_stats_raw"
if [ -e fail_${method} ]; then echo "this went wrong"; exit 3; fi
if [[ " $* " == *" --stage "* ]]; then
    for exp in exp/ssl_train_${method}_raw exp/asr_${method}; do
        mkdir -p ${exp}
        echo "{max_epoch: 4, num_iters_per_epoch: 400, accum_grad: 1}" > ${exp}/config.yaml
        echo "[h] 2026-11-26 00:50:00,0 (trainer:810) INFO: 1epoch:train:1-20batch:" \\
            "loss=3.5, train_time=0.25" > ${exp}/train.log
    done
fi
sleep 2.5
echo "2026-11-26T00:49:59 (asr.sh:264:main) Stage 11: ASR Training: train_set=x"
"""


@pytest.fixture
def demo(tmp_path, an4_tarball):
    """The demo's folder in a copy of the checkout, with replaced recipes."""
    folder = copy_checkout(tmp_path, an4_tarball.parents[3]) / "egs2" / "mini_synth"
    for task in ("ssl1", "asr1"):
        (folder / task / "run.sh").write_text(RUN)
    return folder


def test_stages_and_progress_are_told(demo):
    said = run(
        ["./demo.sh"], demo, check=False
    ).stdout  # there are no results at the end
    lines = [re.sub(r"^\[\d+m\d\ds\] ", "", line) for line in said.splitlines()]
    left = "update 20 of 1600, loss 3.50, about 6 min left"
    two, three = (
        lines.index("2 of 4, pretraining: best_rq birq"),
        lines.index("3 of 4, data preparation for ASR: scratch"),
    )
    assert lines[two + 1 : three] == [
        "  Stage 6: Statistics",  # of both, shown once
        f"    ssl_train_best_rq_raw: {left}",
        f"    ssl_train_birq_raw: {left}",
        "  Stage 11: ASR Training",
    ]
    assert sum("asr_scratch: update 20" in line for line in lines) == 1
    assert not [line for line in lines[:two] if "update" in line]


def test_a_failure_ends_it(demo):
    (demo / "ssl1" / "fail_best_rq").touch()
    done = run(["./demo.sh"], demo, check=False)
    assert done.returncode == 1 and "this went wrong\n" in done.stdout
    assert "3 of 4" not in done.stdout and "failed, see " in done.stdout
