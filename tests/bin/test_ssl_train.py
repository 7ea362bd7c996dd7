"""Every configuration builds; user errors are one line and exit status 1."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from espnet2_birq.bin import ssl_train
from espnet2_birq.tasks.ssl import SSLTask

ROOT = Path(__file__).resolve().parents[2]
# The paper's are large and tested in tests/tasks/test_tuning.py.
CONFIGS = sorted((ROOT / "conf").glob("mini*/train_b*.yaml"))


def test_there_are_configurations():
    assert len(CONFIGS) >= 5


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parent.name}")
def test_configuration_builds(config):
    args = SSLTask.get_parser().parse_args(
        ["--config", str(config), "--output_dir", "unused"]
    )
    first = {"train_bridle": "cold"}.get(config.stem, "anchor")
    assert SSLTask.build_model(args).objectives[0].name == first


@pytest.mark.parametrize("corpus", ["mini_librispeech", "mini_synth"])
def test_best_rq_and_birq_differ_in_objectives_alone(corpus):
    one, two = (
        yaml.safe_load((ROOT / "conf" / corpus / f"train_{name}.yaml").read_text())
        for name in ("best_rq", "birq")
    )
    assert one.pop("objectives") != two.pop("objectives")
    assert one == two


def test_wrong_objective_is_one_line(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"objectives": [{"name": "anchr"}]}))
    done = subprocess.run(
        [sys.executable, "-m", "espnet2_birq.bin.ssl_train", "--config", str(config)]
        + ["--dry_run", "true", "--iterator_type", "none"]
        + ["--output_dir", str(tmp_path / "out"), "--log_level", "WARNING"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert re.match("ssl_train: error: unknown objective 'anchr': use one of", last)


def test_get_parser():
    assert ssl_train.get_parser() is not None
    with pytest.raises(SystemExit):
        ssl_train.main([])


def test_statistics_are_collected_from_tables_without_lengths(tmp_path):
    """As birq.sh's stage 6 does for global_mvn, with splits of wav.scp in their place."""
    lines = ""
    for number in range(2):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.random.default_rng(number).normal(0, 0.1, 8000), 16000)
        lines += f"u{number} {path}\n"
    (tmp_path / "wav.scp").write_text(lines)
    command = [
        sys.executable,
        "-m",
        "espnet2_birq.bin.ssl_train",
        "--log_level",
        "ERROR",
    ]
    command += ["--collect_stats", "true", "--output_dir", str(tmp_path / "stats")]
    command += ["--encoder_conf", "output_size=16", "--encoder_conf", "num_blocks=1"]
    for kind in ("train", "valid"):
        command += [f"--{kind}_data_path_and_name_and_type"]
        command += [f"{tmp_path}/wav.scp,speech,sound"]
        command += [f"--{kind}_shape_file", str(tmp_path / "wav.scp")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    shapes = (tmp_path / "stats" / "train" / "speech_shape").read_text()
    assert shapes == "u0 8000\nu1 8000\n"
    assert (tmp_path / "stats" / "train" / "feats_lengths_stats.npz").exists()
