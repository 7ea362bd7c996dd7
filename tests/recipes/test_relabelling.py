"""Iterations of birq.sh: train, label with the model, train on the labels."""

import re

import numpy as np
import pytest
import yaml
from checkout import copy_checkout, run
from espnet2.train.dataset import ESPnetDataset

OPTIONS = ["--features_km", "none enhanced 1", "--n_clusters", "8"]
SETS = "train_nodev", "train_dev"


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ssl(tmp_path_factory, an4_tarball):
    """mini_an4/ssl1 after iterations 0, 1 and 2, with lists in two parts."""
    top = copy_checkout(tmp_path_factory.mktemp("checkout"), an4_tarball.parents[3])
    ssl = top / "egs2" / "mini_an4" / "ssl1"
    short = ["--ssl_args", "--max_epoch 1 --num_workers 0", "--num_splits_ssl", "2"]
    run(["./run.sh", *OPTIONS, *short, "--train_stop_iter", "2"], ssl)
    return ssl


def read(ssl, iteration, name):
    scp = ssl / "dump/labels" / f"train_birq_raw_iter{iteration}" / name / "labels.scp"
    dataset = ESPnetDataset([(str(scp), "labels", "kaldi_ark")])
    return {key: dataset[key][1]["labels"] for key in dataset}


def test_iterations(ssl, monkeypatch):
    """Each has the previous model's labels for all utterances, and learns them."""
    monkeypatch.chdir(ssl)
    for iteration, size in ((1, 64), (2, 8)):
        for name in SETS:
            labels = read(ssl, iteration, name)
            lines = (ssl / "dump/raw" / name / "wav.scp").read_text().splitlines()
            assert list(labels) == [line.split()[0] for line in lines]
            codes = np.concatenate(list(labels.values()))
            assert 0 <= codes.min() and codes.max() < size and len(set(codes)) > 3
        exp = ssl / "exp" / f"ssl_train_birq_raw_iter{iteration}"
        assert (exp / "valid.total_count.ave.pth").exists()
        config = yaml.safe_load((exp / "config.yaml").read_text())
        (given,) = config["objectives"]
        assert given == {"name": "given", "labeller_conf": {"codebook_size": size}}
        assert config["multiple_iterator"]  # lists in parts
        assert re.search("loss_given=[0-9]", (exp / "train.log").read_text())
        resume = (exp / "run.sh").read_text()
        assert f"--stage 7 --train_start_iter {iteration} " in resume


def test_nothing_is_made_twice(ssl):
    """The same command goes through all iterations and makes nothing again."""
    labels = ssl / "dump/labels"
    made = [*labels.rglob("*.npz"), *labels.rglob("labels.*.ark")]
    assert len(made) == 1 + 4  # k-means of iteration 2; two sets each
    before = {path: path.stat().st_mtime_ns for path in made}
    short = ["--ssl_args", "--max_epoch 1 --num_workers 0", "--num_splits_ssl", "2"]
    options = [*OPTIONS, *short, "--stage", "5", "--train_stop_iter", "2"]
    said = run(["./run.sh", *options], ssl).stdout
    assert said.count("Training completed") == 3 and said.count("Stage 5: Labels") == 2
    assert {path: path.stat().st_mtime_ns for path in made} == before


def fails(ssl, *options):
    done = run(["./run.sh", *OPTIONS, *options], ssl, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout, done.stdout
    assert "completed" not in done.stdout
    return done.stdout


def test_labels_that_are_not_whole_or_of_another_model(ssl):
    later = ["--stage", "7", "--train_start_iter", "1", "--train_stop_iter", "1"]
    folder = ssl / "dump/labels/train_birq_raw_iter1"
    # As after an interruption: an archive, but no list
    scp = folder / "train_nodev" / "labels.scp"
    scp.rename(folder / "kept")
    said = fails(ssl, *later)
    assert f"no dump/labels/{scp.relative_to(folder.parent)}: run stage 5" in said
    (folder / "kept").rename(scp)
    config = ssl / "exp/ssl_train_birq_raw/config.yaml"
    before = config.read_text()
    config.write_text(before + "# changed\n")
    said = fails(ssl, *later)
    assert "config.yaml has changed since dump/labels/train_birq_raw_iter1/" in said
    assert "run stage 5 --train_start_iter 1 again" in said
    config.write_text(before)
    said = fails(ssl, *later, "--train_start_iter", "3", "--train_stop_iter", "3")
    assert "no dump/labels/train_birq_raw_iter3/train.yaml: run stage 5 first" in said


def test_k_means_of_mfcc_to_begin_with(ssl):
    """HuBERT's iteration 0 has labels without a model."""
    options = ["--features_km", "mfcc", "--ssl_tag", "mfcc", "--stage", "5"]
    args = ["--ssl_args", "--max_epoch 1 --num_workers 0", "--n_clusters", "8"]
    run(["./run.sh", *options, *args], ssl)
    about = np.load(ssl / "dump/labels/mfcc/kmeans.npz")
    assert about["centroids"].shape == (8, 39)
    assert "loss_given=" in (ssl / "exp/ssl_mfcc/train.log").read_text()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--train_start_iter", "2", "--train_stop_iter", "1"], "the second not below"),
        (["--features_km", "6"], "iteration 0 has no model before: give none, mfcc"),
        (
            ["--features_km", "none", "--train_stop_iter", "1"],
            "labels of iteration 1 are of something",
        ),
        (
            ["--features_km", "none 6,7", "--train_stop_iter", "1"],
            "'6,7' is none, mfcc",
        ),
        (
            ["--features_km", "none 1 enhanced", "--train_stop_iter", "2"],
            "'enhanced': the model of iteration 1 has the objective given alone",
        ),
        (["--n_clusters", "many"], "--n_clusters 'many': give numbers"),
        (["--relabel_config", "no.yaml"], "--relabel_config 'no.yaml': no such file"),
        (
            ["--stage", "5", "--train_start_iter", "4", "--train_stop_iter", "4"],
            "iter3/valid.total_count.ave.pth: run stage 7, of iteration 3, first",
        ),
        (
            ["--stage", "5", "--train_start_iter", "1", "--train_stop_iter", "1"]
            + ["--features_km", "none 7", "--ssl_args", "--num_workers 0"],
            "'layer 7' is not among the encoder's layers 1 to 2",
        ),
    ],
)
def test_options_that_cannot_be(ssl, options, words):
    assert words in fails(ssl, *options)
