"""with_encoders: which command it runs instead, for calls like asr.sh's."""

import subprocess
import sys

import pytest

from espnet2_birq.bin.with_encoders import translate

PREFIX = [sys.executable, "-m", "espnet2_birq.bin.with_encoders"]
TRAIN = ["-m", "espnet2.bin.asr_train", "--print_config", "--encoder", "shaw_conformer"]


def run(*command):
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            ["-m", "espnet2.bin.asr_train", "--x", "1"],
            ["-m", "espnet2_birq.bin.asr_train", "--x", "1"],
        ),
        (["-m", "espnet2.bin.asr_inference"], ["-m", "espnet2_birq.bin.asr_inference"]),
        (
            ["-u", "-m", "espnet2.bin.asr_train"],
            ["-u", "-m", "espnet2_birq.bin.asr_train"],
        ),
        (["-m", "espnet2.bin.lm_train", "--x"], None),
        (["-m", "espnet2.bin.asr_train_x"], None),
        # Arguments of another program are left unchanged.
        (["-m", "espnet2.bin.launch", "--", "-m", "espnet2.bin.asr_train"], None),
        (["pyscripts/utils/x.py", "-m", "espnet2.bin.asr_train"], None),
        (["-c", "print()", "-m", "espnet2.bin.asr_train"], None),
        (["-m"], None),
        ([], None),
    ],
)
def test_translate(arguments, expected):
    assert translate(arguments) == (arguments if expected is None else expected)


def test_training_in_launch_knows_the_encoder(tmp_path):
    # Stage 11 of asr.sh puts the prefix before launch and before the launched command.
    (tmp_path / "run.sh").write_text('#!/bin/sh\nshift 2; log=$1; shift; "$@" >"$log"')
    (tmp_path / "run.sh").chmod(0o755)
    log = tmp_path / "train.log"
    launch = ["-m", "espnet2.bin.launch", "--cmd", str(tmp_path / "run.sh")]
    launch += ["--log", str(log), "--ngpu", "0", "--", *PREFIX]
    done = run(*PREFIX, *launch, *TRAIN)
    assert done.returncode == 0, done.stderr
    assert "encoder: shaw_conformer" in log.read_text()


def test_inference_knows_the_encoder():
    code = (
        "import espnet2_birq.bin.asr_inference as ours, espnet2.bin.asr_inference as e;"
        "names = [{x for y in one.get_parser()._actions for x in y.option_strings} "
        "for one in (ours, e)];"
        "print(names[0] == names[1], e.ASRTask.class_choices_list[5].choices())"
    )
    done = run(sys.executable, "-c", code)
    assert done.stdout.startswith("True") and "'shaw_conformer'" in done.stdout


def test_any_other_program_runs_as_it_is(tmp_path):
    (tmp_path / "x.py").write_text("import sys; print(sys.argv[1:]); sys.exit(3)")
    done = run(*PREFIX, str(tmp_path / "x.py"), "a b", "--help")
    assert (done.returncode, done.stdout) == (3, "['a b', '--help']\n")
    assert "with_encoders" in run(*PREFIX, "--help").stdout
