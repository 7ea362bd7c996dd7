"""relabel.sh: the configurations of iterations, and options that it refuses."""

import subprocess
import sys

import pytest
import torch
import yaml
from checkout import ROOT

from espnet2_birq.planning.configured import parse_config
from espnet2_birq.tasks.ssl import SSLTask


@pytest.mark.parametrize("method", ["data2vec", "dinosr", "spidr", "bridle", "birq"])
def test_iterations_after_any_method(tmp_path, method):
    """Teacher and tokenizer belong to objectives that labels from disk replace."""
    labels = tmp_path / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "codebook_size").write_text("16\n")
    before = ROOT / f"conf/tuning/train_{method}_c2.yaml"
    if method != "birq":
        conf = yaml.safe_load(before.read_text())
        assert {"teacher_conf", "tokenizer_conf"} & conf.keys()
    values = {
        "python": sys.executable,
        "labels_dir": tmp_path / "labels",
        "train_set": "train",
        "config": tmp_path / "labels/train.yaml",
        "train_config": before,
    }
    given = "".join(f"{name}={value}\n" for name, value in values.items())
    script = f"set -eu\n{given}. {ROOT}/egs2/TEMPLATE/ssl1/relabel.sh\nwrite_config\n"
    subprocess.run(["bash", "-c", script], check=True)
    args = parse_config(tmp_path / "labels/train.yaml", ["--ngpu", "0"])
    with torch.device("meta"):
        model = SSLTask.build_model(args)
    assert [one.name for one in model.objectives] == ["given"]


def test_normalised_input_for_k_means():
    options = ["--features_km", "input", "--feats_normalize", "global_mvn"]
    folder = ROOT / "egs2/mini_an4/ssl1"
    done = subprocess.run(
        ["./run.sh", *options, "--n_clusters", "8", "--dry_run", "true"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert (
        "input cannot be clustered with --feats_normalize" in done.stdout + done.stderr
    )
