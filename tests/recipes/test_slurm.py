"""Recipes that submit to Slurm: sbatch's options, and a job stopped by a signal.

Slurm itself is not needed: `sbatch`, `squeue` and `srun` are stand-ins that run a script
in the background, with the environment that remains after sbatch --export=PATH.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, copy_checkout, run
from trainings import CONFIG

from espnet2_birq.experiments.status import STOPPED, read_state

SBATCH = """#!/bin/bash
echo "$*" >> "{folder}/calls"
script="${{!#}}"
array=0-0
while [ $# -gt 1 ]; do
    case "$1" in
        -o) out=$2; shift ;;
        --array) array=$2; shift ;;
    esac
    shift
done
for n in $(seq "${{array%-*}}" "${{array#*-}}"); do
    env -i PATH="$PATH" SLURM_ARRAY_TASK_ID=$n setsid bash "$script" >> "$out" 2>&1 &
done
echo "Submitted batch job $$"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """Folder with Slurm's programs; its file `calls` has sbatch's arguments."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "sbatch").write_text(SBATCH.format(folder=folder))
    (folder / "squeue").write_text("#!/bin/sh\nexit 0\n")
    for program in folder.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("CMD_BACKEND", "slurm")
    return folder


@pytest.mark.parametrize("cpus", ["", "48"])
def test_srun_gets_the_cpus_of_the_job(cpus):
    """Without SRUN_CPUS_PER_TASK, srun in ESPnet's launcher gets one of them."""
    folder = ROOT / "egs2/mini_an4/ssl1"
    if not (ROOT / "tools/espnet/egs2").is_dir():
        pytest.skip("no ESPnet tree")
    env = {"PATH": os.environ["PATH"], "SLURM_CPUS_PER_TASK": cpus}
    command = '. ./path.sh && echo "${SRUN_CPUS_PER_TASK:-}"'
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == cpus


def test_what_sbatch_is_asked_for(cluster, tmp_path):
    """By slurm.pl with conf/slurm.conf, called as by ESPnet's launcher."""
    script = ROOT / "tools/espnet/egs2/TEMPLATE/asr1/utils/slurm.pl"
    if not script.is_file():
        pytest.skip("no ESPnet tree")
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/slurm.conf").symlink_to(ROOT / "conf/librispeech/slurm.conf")
    (tmp_path / "path.sh").touch()
    for options in (
        ["--gpu", "4"],
        ["--gpu", "8", "--num_threads", "8", "--num_nodes", "2"],
        ["--gpu", "1", "--num_threads", "1", "--num_nodes", "2"],
        ["--num_threads", "20"],
        ["--gpu", "0"],
    ):
        run([str(script), "--name", "x", *options, "x.log", "true"], tmp_path)
    calls = (cluster / "calls").read_text().splitlines()
    cpus = [set(re.findall(r"--cpus-per-task (\d+)", call)) for call in calls]
    assert cpus == [{"24"}, {"48"}, {"6"}, {"20"}, set()]
    gpus = [re.findall(r"--gres=gpu:(\d)", call) for call in calls]
    assert gpus == [["4"], ["8"], ["1"], [], []]
    assert "--nodes 2 --ntasks-per-node 1" in calls[1]
    assert all("--export=PATH" in call and "--job-name x" in call for call in calls)


def trainings_of(config: Path) -> list[int]:
    """Return the processes that train with a configuration."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"espnet2_birq.bin.ssl_train" in words and str(config).encode() in words:
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_recipe_by_slurm(cluster, tmp_path, an4_tarball):
    """All stages are jobs; a signal stops training with status 85; it is resumed."""
    top = copy_checkout(tmp_path / "checkout", an4_tarball.parents[3])
    recipe = top / "egs2" / "mini_an4" / "ssl1"
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({**CONFIG, "max_epoch": 10000}))
    command = ["./run.sh", "--train_config", str(config)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = subprocess.Popen(
        command,
        cwd=recipe,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = recipe / "exp/ssl_c_raw/train.log"
    for _ in range(6000):
        if log.exists() and "1epoch results" in log.read_text():
            break
        assert job.poll() is None, job.stdout.read()[-3000:]
        time.sleep(0.1)
    for process in trainings_of(config):
        os.kill(process, signal.SIGUSR1)
    printed, _ = job.communicate(timeout=300)
    assert job.returncode == 85, printed[-3000:]
    assert "with status 85" in log.read_text().splitlines()[-1]
    assert "Stopped by a signal" in printed
    calls = (cluster / "calls").read_text().splitlines()
    assert any("--array 1-2" in call for call in calls)
    assert "ssl_c_raw/q/train.log" in calls[-1] and " -p cpu" in calls[-1]
    assert read_state(log.parent).word == STOPPED

    epoch = max(map(int, re.findall(r"(\d+)epoch results", log.read_text())))
    more = ["--stage", "7", "--ssl_args", f"--max_epoch {epoch + 1}"]
    done = run([*command, *more], recipe)
    assert "Training completed" in done.stdout
    epochs = re.findall(r"(\d+)epoch results", log.read_text())
    assert set(map(int, epochs)) == {epoch + 1}  # this run's log: it was resumed
