"""finetune.sh: the Python given to asr.sh, which only prints its arguments here."""

import subprocess
from pathlib import Path

import pytest

FINETUNE = Path(__file__).resolve().parents[2] / "egs2/TEMPLATE/asr1/finetune.sh"
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
    (tmp_path / "asr.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (tmp_path / "asr.sh").chmod(0o755)
    (tmp_path / "path.sh").touch()
    (tmp_path / "asr.yaml").write_text(f"encoder: {encoder}\n")
    command = [FINETUNE, "--asr_tag", "x", "--asr_config", "asr.yaml", "--stage", "12"]
    command += ["--stop_stage", "12"]
    done = subprocess.run(
        [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    given = done.stdout.splitlines()
    assert given.count("--python") == 1
    assert given[given.index("--python") + 1] == expected


def test_help_shows_all_of_the_usage():
    done = subprocess.run([FINETUNE, "--help"], capture_output=True, text=True)
    assert "--python" in done.stdout
    assert done.stdout.rstrip().endswith("--stop_stage, --ngpu, ...")
