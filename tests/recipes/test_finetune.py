"""finetune.sh: what is given to asr.sh, which only prints its arguments here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FINETUNE = ROOT / "egs2/TEMPLATE/asr1/finetune.sh"
OURS = "python3 -m espnet2_birq.bin.with_encoders"


@pytest.mark.parametrize(
    "encoder, options, expected",
    [
        ("conformer  # not shaw_conformer", [], "python3"),
        ("shaw_conformer", [], OURS),
        ('"shaw_conformer"', [], OURS),
        ("shaw_conformer", ["--python", "python3 -u"], "python3 -u"),
        ("conformer\nencoder_lr_decay: 0.9", [], OURS),
        ("conformer\nfreeze_encoder_updates: 10", [], OURS),
        ("conformer\naccelerate: auto", [], OURS),
        ("conformer\nobjectives: []", [], OURS),
        ("conformer\n# encoder_lr_decay: 0.9", [], "python3"),
        ("conformer", ["--asr_args", "--seed 1 --encoder_lr_decay 0.9"], OURS),
        ("conformer", ["--asr_args", "--freeze_encoder_updates=9"], OURS),
        ("conformer", ["--asr_args", "--accelerate float32"], OURS),
        ("conformer", ["--asr_args", "--encoder shaw_conformer"], OURS),
        ("conformer", ["--asr_args", "--encoder_conf num_blocks=3"], "python3"),
    ],
)
def test_python_of_asr_sh(tmp_path, encoder, options, expected):
    given = passed_on(tmp_path, f"encoder: {encoder}\n", options)
    assert given.count("--python") == 1
    assert given[given.index("--python") + 1] == expected


@pytest.mark.parametrize(
    "criteria, options, expected",
    [
        ("[[valid, cer_ctc, min]]", [], "valid.cer_ctc.ave.pth"),
        ("[[train, loss, min], [valid, loss, min]]", [], "valid.loss.ave.pth"),
        ("[]", [], "valid.acc.ave.pth"),
        ("[[valid, loss, min]]", ["--inference_asr_model", "x.pth"], "x.pth"),
    ],
)
def test_model_to_decode_with(tmp_path, criteria, options, expected):
    """It is the one that the configuration's training will leave."""
    given = passed_on(tmp_path, f"best_model_criterion: {criteria}\n", options)
    assert given.count("--inference_asr_model") == 1
    assert given[given.index("--inference_asr_model") + 1] == expected


def passed_on(tmp_path, config, options):
    """Return the arguments of asr.sh in stage 12."""
    (tmp_path / "asr.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (tmp_path / "asr.sh").chmod(0o755)
    (tmp_path / "path.sh").touch()
    (tmp_path / "asr.yaml").write_text(config)
    command = [FINETUNE, "--asr_tag", "x", "--asr_config", "asr.yaml", "--stage", "12"]
    command += ["--stop_stage", "12"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_help_shows_all_of_the_usage():
    done = subprocess.run([FINETUNE, "--help"], capture_output=True, text=True)
    assert "--python" in done.stdout
    assert done.stdout.rstrip().endswith("--stop_stage, --ngpu, ...")
