"""Recipes use all allowed cores, whatever OMP_NUM_THREADS is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from checkout import ROOT, copy_checkout

CORES = ROOT / "local" / "cores"

# Like nproc of GNU coreutils on seven cores.
NPROC = '#!/bin/sh\necho "${OMP_NUM_THREADS:-7}"\n'


def say(folder: Path, name: str, script: str):
    """Put a command into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)


def output(command, **variables) -> str:
    environment = {**os.environ, **variables}
    return subprocess.check_output(command, env=environment, text=True).strip()


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "UNUSED"])
def test_cores_are_those_of_the_affinity(variable):
    cores = sorted(os.sched_getaffinity(0))
    assert int(output([CORES], **{variable: "1"})) == min(len(cores), 128)
    if shutil.which("taskset"):
        one = ["taskset", "-c", str(cores[0]), CORES]
        assert output(one, **{variable: "9"}) == "1"


def test_cores_are_at_most_what_commands_take(tmp_path):
    say(tmp_path, "nproc", "#!/bin/sh\necho 384\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert output([CORES], PATH=path) == "128"


PREPARATIONS = [
    ("librispeech/ssl1/local/data.sh", "--librispeech .", 1),
    ("librispeech/asr1/local/data.sh", "--librispeech . --subset train:1", 2),
    ("mini_librispeech/ssl1/local/data.sh", "--librispeech .", 1),
    ("mini_synth/ssl1/local/data.sh", "", 1),
    ("own/asr1/local/data.sh", "--set a --set a --set b", 1),
    ("ami/ssl1/local/data.sh", "--ami .", 1),
    ("ami/ssl1/local/data.sh", "--ami . --mic mdm8", 2),
]


@pytest.fixture
def seven_cores(tmp_path, an4_tarball):
    """Copy of the recipes, next to bin/ with commands that print --nj."""
    top = copy_checkout(tmp_path / "top", an4_tarball.parents[3])
    say(tmp_path / "bin", "nproc", NPROC)
    tell = '#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" != --nj ] || echo "nj $2"; shift; done'
    for name in ("python3", "birq.sh", "finetune.sh"):
        say(tmp_path / "bin", name, tell)
    return top


@pytest.mark.parametrize("omp", ["", "1"])
@pytest.mark.parametrize("script, options, times", PREPARATIONS)
def test_data_preparation_has_as_many_jobs(seven_cores, script, options, times, omp):
    script = seven_cores / "egs2" / script
    stubs = seven_cores.parent / "bin"
    variables = dict(PATH=f"{stubs}:{os.environ['PATH']}")
    if omp:
        variables["OMP_NUM_THREADS"] = omp
    said = subprocess.run(
        [script, *options.split()],
        cwd=script.parents[1],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert said.stdout.split("\n")[:-1] == ["nj 7"] * times, said


def test_nothing_else_counts_cores():
    """Recipes get the number only from local/cores, so that one fix serves all."""
    patterns = ("egs2/*/*/*.sh", "egs2/*/*/local/*", "egs2/*/*.sh", "local/*")
    scripts = [path for pattern in patterns for path in ROOT.glob(pattern)]
    scripts = {path.resolve() for path in scripts if path.is_file()}
    scripts = [path for path in scripts if path.is_relative_to(ROOT) and path != CORES]
    counting = [
        str(path.relative_to(ROOT))
        for path in scripts
        if b"nproc" in (text := path.read_bytes()) or b"_NPROCESSORS" in text
    ]
    assert len(scripts) > 20 and not counting
