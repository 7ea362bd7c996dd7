"""Training on labels from disk: several streams, ESPnet's own labels, faults."""

import importlib.util
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
import yaml
from espnet2.bin import split_scps
from sklearn.cluster import MiniBatchKMeans

from espnet2_birq.bin import dump_labels, fit_kmeans, ssl_train
from espnet2_birq.relabelling.store import write_labels

TRAINING = {
    "batch_type": "unsorted",
    "batch_size": 4,
    "max_epoch": 1,
    "num_workers": 0,
    "optim": "adamw",
    "best_model_criterion": [["valid", "total_count", "max"]],
    "num_att_plot": 0,
}


@pytest.fixture(scope="module")
def labels(folder):
    """Folder with 10 clusters of the upper layer in labels/, 4 of the lower in low/."""
    for name, view, clusters in (("labels", "layer 2", 10), ("low", "layer 1", 4)):
        common = ["--model", f"{folder}/exp/model.pth"]
        common += ["--data", f"{folder}/wav.scp,speech,sound"]
        km = f"{folder}/{name}.npz"
        more = ["--view", view, "--clusters", str(clusters), "--out", km]
        fit_kmeans.main([*common, *more])
        dump_labels.main([*common, "--kmeans", km, "--out", f"{folder}/{name}"])
    return folder


def given(name="given", view="labels", size=10):
    conf = {"codebook_size": size}
    return {"name": name, "view": view, "labeller": "given", "labeller_conf": conf}


def train(folder, out, objectives, *streams, shapes=None, options=()):
    """Train for an epoch on streams FILE,NAME,TYPE; return the epoch's statistics."""
    config = yaml.safe_load((folder / "exp" / "config.yaml").read_text())
    kept = {key: config[key] for key in ("frontend_conf", "encoder_conf")}
    out.mkdir(exist_ok=True)
    (out / "train.yaml").write_text(
        yaml.safe_dump({**TRAINING, **kept, "objectives": objectives})
    )
    command = ["--config", str(out / "train.yaml"), "--output_dir", str(out / "exp")]
    command += ["--ngpu", "0", *options]
    for mode in ("train", "valid"):
        files = [f"{folder}/wav.scp,speech,sound", *streams]
        shape = f"{folder}/shape"
        if mode == "train" and shapes is not None:
            files, shape = shapes
        for file in files:
            command += [f"--{mode}_data_path_and_name_and_type", file]
        command += [f"--{mode}_shape_file", shape]
    ssl_train.main(command)
    state = torch.load(out / "exp" / "checkpoint.pth", weights_only=False)
    return state["reporter"]["stats"][1]["train"]


def scp(folder, name="labels"):
    return f"{folder}/{name}/labels.scp"


def test_two_streams(labels, tmp_path):
    rows = [given(), given("low", "labels low", 4)]
    streams = f"{scp(labels)},labels,kaldi_ark", f"{scp(labels, 'low')},low,kaldi_ark"
    stats = train(labels, tmp_path, rows, *streams)
    assert 4 < stats["label_ppl_given"] < 10  # of ten
    assert 2 < stats["label_ppl_low"] < 4  # of four


def test_splits_of_labels_go_with_those_of_speech(labels, tmp_path):
    scps = [str(labels / "wav.scp"), scp(labels), str(labels / "shape")]
    splits = ["--num_splits", "3", "--output_dir", str(tmp_path / "splits")]
    split_scps.main(["--scps", *scps, *splits])
    parts = tmp_path / "splits"
    files = [f"{parts}/wav.scp,speech,sound", f"{parts}/labels.scp,labels,kaldi_ark"]
    stats = train(
        labels,
        tmp_path,
        [given()],
        f"{scp(labels)},labels,kaldi_ark",
        shapes=(files, f"{parts}/shape"),
        options=["--multiple_iterator", "true"],
    )
    assert stats["label_ppl_given"] > 4


def test_labels_of_espnet_s_own_script(folder, tmp_path, an4_tarball):
    """dump_km_label.py labels MFCC, 100 per second; its text is read unchanged."""
    script = an4_tarball.parents[2] / "TEMPLATE/asr1/pyscripts/feats/dump_km_label.py"
    draw = np.random.default_rng(0).standard_normal((300, 39)).astype(np.float32) * 20
    kmeans = MiniBatchKMeans(12, n_init=1, random_state=0).fit(draw)
    joblib.dump(kmeans, tmp_path / "km.mdl")
    text = tmp_path / "pseudo_labels.txt"
    command = [sys.executable, str(script), "--km_path", f"{tmp_path}/km.mdl"]
    command += ["--online_feature_extract", "true", "--feature_conf", "{type=mfcc}"]
    command += ["--utt2num_samples", f"{folder}/shape", "--in_filetype", "sound"]
    command += [f"scp:{folder}/wav.scp", f"ark,t:{text}"]
    if importlib.util.find_spec("h5py") is None:  # imported but unused for text
        (tmp_path / "h5py.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    # As in perform_kmeans.sh
    lines = text.read_text().replace(" [ ", " ").replace(" ]", "")
    text.write_text("".join(sorted(lines.splitlines(True))))
    row = given("km", "labels km every 4", 12)
    stats = train(folder, tmp_path, [row], f"{text},km,text_int")
    assert stats["label_ppl_km"] > 1.5


def fails(*arguments, **more):
    with pytest.raises(SystemExit) as caught:
        train(*arguments, **more)
    said = str(caught.value)
    assert said.startswith("ssl_train: error: ") and "\n" not in said
    return said


def test_a_stream_that_is_missing_or_too_many(labels, tmp_path):
    file = f"{scp(labels)},labels,kaldi_ark"
    rows = [given(), given("low", "labels low", 4)]
    said = fails(labels, tmp_path, rows, file)
    assert "view 'labels low': give these labels, --train_data_path_" in said
    said = fails(labels, tmp_path, [given()])
    assert "view 'labels': give these" in said and "labels.scp,labels,kaldi_ark" in said
    more = f"{scp(labels)},lwo,kaldi_ark"
    said = fails(labels, tmp_path, [given()], file, more)
    assert f"{more}: no objective has view 'labels lwo'" in said


def test_a_file_that_is_missing_or_no_numbers(labels, tmp_path):
    said = fails(labels, tmp_path, [given()], f"{tmp_path}/no.scp,labels,npy")
    assert f"{tmp_path}/no.scp: no such file, the labels: make these labels" in said
    text = tmp_path / "text"
    text.write_text("u00 1 2\n")
    said = fails(labels, tmp_path, [given()], f"{text},labels,text")
    assert f"{text},labels,text: type text is words" in said and "text_int" in said
    said = fails(labels, tmp_path, [given()], f"{text},labels,kaldi_ark")
    assert f"{text}: line 1: no archive '1 2'" in said and "text_int" in said
    said = fails(labels, tmp_path, [given()], f"{scp(labels)},labels,text_int")
    assert f"{scp(labels)}: line 1: no integers" in said and "kaldi_ark" in said
    said = fails(labels, tmp_path, [given()], f"{text},labels,text_int")
    assert f"{text}: has no labels of 11 utterances" in said and "dump_labels" in said
    lines = [f"u{n:02} 0.5 1.5" for n in range(12)]
    text.write_text("\n".join(lines) + "\n")
    said = fails(labels, tmp_path, [given()], f"{text},labels,text_float")
    assert f"{text}: u00: labels are a row of integers" in said


def test_labels_of_another_rate(labels, tmp_path):
    """50 labels for 25 frames per second: the error names both rates, the remedy works."""
    draw = np.random.default_rng(0)
    twice = [(f"u{n:02}", draw.integers(0, 10, 48 + 5 * n)) for n in range(12)]
    write_labels(tmp_path / "labels.1.ark", twice, 10, 50.0)
    file = f"{tmp_path}/labels.1.scp,fast,kaldi_ark"
    said = fails(labels, tmp_path, [given(view="labels fast")], file)
    assert f"{tmp_path}/labels.1.scp: u00: 48 labels (50.0 a second) for 24" in said
    assert "(25.0 a second): these are 2 for each; view 'labels fast every 2'" in said
    train(labels, tmp_path / "fits", [given(view="labels fast every 2")], file)
    said = fails(labels, tmp_path, [given(view="labels fast every 4")], file)
    assert "for 24 encoder frames" in said


def test_a_code_out_of_range(labels, tmp_path):
    file = f"{scp(labels)},labels,kaldi_ark"
    said = fails(labels, tmp_path, [given(size=3)], file)
    assert f"{scp(labels)}: u00: labels from " in said
    assert "but codebook_size is 3: labels are 0 to 2, or -1" in said
