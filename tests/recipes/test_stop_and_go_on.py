"""A recipe stopped by a batch system exits with 85; the same command resumes it."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml
from checkout import ROOT, copy_checkout
from trainings import CONFIG, write_data


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, an4_tarball):
    top = copy_checkout(tmp_path_factory.mktemp("checkout"), an4_tarball.parents[3])
    return top / "egs2" / "own" / "ssl1"


@pytest.mark.parametrize(
    "script", sorted(ROOT.glob("egs2/*/*/run.sh")), ids=lambda x: x.parts[-3]
)
def test_no_signal_kills_a_script_around_the_training(script):
    """srun signals all processes of a job, and bash would end without status 85."""
    text = script.read_text()
    assert "run_options.sh" in text or re.search(r"^exec \./", text, re.MULTILINE)


def names(folder):
    """Return all files of a recipe, except those compiled by Python."""
    return {x for x in folder.rglob("*") if "__pycache__" not in x.parts}


@pytest.mark.slow
def test_a_signal_to_the_whole_job(recipe, tmp_path):
    for name in ("train", "valid"):
        folder = tmp_path / name
        folder.mkdir()
        write_data(folder)
        (folder / "shape").rename(folder / "utt2num_samples")
        (folder / "utt2spk").write_text("".join(f"u{i} u{i}\n" for i in range(8)))
        (folder / "feats_type").write_text("raw\n")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, "max_epoch": 1000}))
    command = ["./run.sh", "--ngpu", "0", "--num_threads", "1", "--nj", "1"]
    command += [
        "--train_config",
        str(tmp_path / "c.yaml"),
        "--speech_fold_length",
        "800",
    ]
    for x in ("train", "valid"):
        command += [f"--{x}_set", str(tmp_path / x)]
    log = recipe / "exp" / "ssl_c_raw" / "train.log"
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"

    def start(*more):
        return subprocess.Popen(
            [*command, *more],
            cwd=recipe,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    before = names(recipe)
    told, _ = start("--dry_run", "true").communicate(timeout=120)
    assert names(recipe) == before
    assert f"stage 1: import {tmp_path}/train -> dump/raw/train" in told
    assert "stage 6: lengths of both sets -> exp/ssl_stats_raw" in told
    assert "stage 7: training, iteration 0 -> exp/ssl_c_raw\n" in told
    assert "stage 3" not in told  # both sets are formatted

    job = start()
    for _ in range(3000):
        if log.exists() and "1epoch:train:" in log.read_text():
            break
        assert job.poll() is None, job.stdout.read()[-3000:]
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGUSR1)
    printed, _ = job.communicate(timeout=120)
    assert job.returncode == 85, printed[-3000:]
    assert "Stopped by a signal; the same command resumes" in printed
    assert (log.parent / "progress.pth").exists()
    # The command shown is the command run.
    line = next(x for x in told.splitlines() if "espnet2.bin.launch" in x)
    training = shlex.split(line.partition(" -- ")[2])
    assert " ".join(training) in log.read_text()
    told, _ = start("--dry_run", "true").communicate(timeout=120)
    assert "-> exp/ssl_c_raw (exists; would be resumed)" in told

    # Ctrl-C: the same, and the shell ends as an interrupted one.
    saved = (log.parent / "progress.pth").stat().st_mtime_ns
    job = start("--stage", "7")
    for _ in range(3000):
        if "Resuming in epoch" in log.read_text():
            break
        assert job.poll() is None, job.stdout.read()[-3000:]
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGINT)
    printed, _ = job.communicate(timeout=120)
    assert job.returncode == -signal.SIGINT, printed[-3000:]
    assert printed.rstrip().endswith(
        "the same command resumes from the last saved state"
    )
    assert "Stopped by SIGINT" in log.read_text()
    assert (log.parent / "progress.pth").stat().st_mtime_ns > saved

    job = start("--stage", "7", "--ssl_args", "--max_epoch 2")
    printed, _ = job.communicate(timeout=300)
    assert job.returncode == 0, printed[-3000:]
    assert "Resuming in epoch" in log.read_text()
