"""Commands in sequence on some noise: training, labels, probe, moved folders."""

import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.train.dataset import ESPnetDataset
from planted import ENCODER

from espnet2_birq.api import load
from espnet2_birq.bin import check_handoff, dump_labels, probe, ssl_train
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.views import stack_frames

FS = 16000
BOOK = {"codebook_size": 32, "codebook_dim": 4}
CONFIG = {
    "objectives": [
        {"name": "anchor", "labeller_conf": {**BOOK, "projection": "whitened"}},
        {
            "name": "enhanced",
            "view": "layer 1",
            "weight": 0.0,
            "gradient": 0,
            "labeller_conf": {**BOOK, "projection": "whitened"},
        },
    ],
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 20, "fs": "16k"},
    "normalize_conf": {"norm_vars": True},
    "encoder_conf": ENCODER,
    "batch_type": "unsorted",
    "batch_size": 4,
    "max_epoch": 1,
    "num_workers": 0,
    "optim": "adamw",
    "best_model_criterion": [["valid", "total_count", "max"]],
    "num_att_plot": 0,
}
SPOKEN = ["AB", "BA", "ABBA", "BAAB", "A", "B", "AAB", "BBA"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with eight utterances and a model pretrained on them."""
    top = tmp_path_factory.mktemp("pipeline")
    data = top / "dump" / "raw" / "train"
    data.mkdir(parents=True)
    generator = np.random.default_rng(0)
    files = {name: open(data / name, "w") for name in ("wav.scp", "shape", "text")}
    for number, text in enumerate(SPOKEN):
        samples = 16000 + 1600 * number
        noise = generator.standard_normal(samples) * 0.1
        soundfile.write(top / f"u{number}.wav", noise, 16000)
        print(f"u{number} {top}/u{number}.wav", file=files["wav.scp"])
        print(f"u{number} {samples}", file=files["shape"])
        print(f"u{number} {text}", file=files["text"])
    for file in files.values():
        file.close()
    (top / "birq.yaml").write_text(yaml.safe_dump(CONFIG))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ssl_train.main(options(top, "birq.yaml", top / "ssl"))
    yield top
    root.handlers, root.level = handlers, level


MODEL = "valid.total_count.ave.pth"


def options(top, config, out, labels=False):
    """Return options of ssl_train; training data also serve for validation."""
    data = top / "dump" / "raw" / "train"
    found = ["--config", str(top / config), "--output_dir", str(out), "--ngpu", "0"]
    for kind in ("train", "valid"):
        option = f"--{kind}_data_path_and_name_and_type"
        found += [option, f"{data}/wav.scp,speech,sound"]
        found += [f"--{kind}_shape_file", f"{data}/shape"]
        if labels:
            found += [option, f"{top}/labels/labels.scp,labels,kaldi_ark"]
    return found


def read_labels(folder):
    """Return a mapping from utterance to labels."""
    dataset = ESPnetDataset([(f"{folder}/labels.scp", "labels", "kaldi_ark")])
    return {name: dataset[name][1]["labels"] for name in dataset}


def wave(folder, number):
    """Return the arguments of a model: one utterance."""
    samples, _ = soundfile.read(folder / f"u{number}.wav", dtype="float32")
    return torch.from_numpy(samples)[None], torch.tensor([len(samples)])


@torch.no_grad()
def test_the_input_is_whitened_by_moments_of_the_training_data(folder):
    """Moments are those of all utterances' frames, taken before the first update."""
    model = load(folder / "ssl" / MODEL).model
    frames = []
    for number in range(8):
        xs, _ = model._extract_feats(*wave(folder, number))
        frames.append(stack_frames(xs, 4, (xs.size(1) - 3) // 4)[0])
    frames = torch.cat(frames).double()
    labeller = model.objectives[0].labeller
    assert torch.allclose(labeller.mean.double(), frames.mean(dim=0), atol=0.02)
    (points,) = labeller.points(frames.float())
    assert (torch.cov(points.T) - torch.eye(4)).abs().max() < 0.1


def test_a_model_s_labels_become_the_next_one_s_target(folder, caplog):
    model = folder / "ssl" / "valid.total_count.ave.pth"
    data = folder / "dump" / "raw" / "train" / "wav.scp"
    common = ["--model", str(model), "--data", f"{data},speech,sound"]
    dump_labels.main([*common, "--out", str(folder / "labels")])
    labels = read_labels(folder / "labels")
    assert [len(labels[f"u{n}"]) for n in range(8)] == [
        24 + (5 * n + 1) // 2 for n in range(8)
    ]
    # Utterances labelled one at a time have the same codes.
    codes, _ = load(model).labels(*wave(folder, 3))
    assert np.array_equal(codes["enhanced"][0, 0].numpy(), labels["u3"])
    assert len(set(labels["u3"])) > 3
    # Train a new model on the labels of the first one only.
    given = {"name": "given", "labeller_conf": {"codebook_size": 32}}
    config = {**CONFIG, "objectives": [given], "max_epoch": 1}
    (folder / "given.yaml").write_text(yaml.safe_dump(config))
    out = folder / "second"
    ssl_train.main(options(folder, "given.yaml", out, labels=True))
    stats = torch.load(out / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    assert 2.5 < stats[1]["train"]["loss_given"] < 4.5  # near ln 32
    assert stats[1]["train"]["label_ppl_given"] > 3
    with pytest.raises(SystemExit, match="dump_labels: error: no objective 'nope'"):
        dump_labels.main([*common, "--objective", "nope", "--out", str(folder / "no")])


def test_a_checkpoint_holds_all_that_labels_depend_on(folder):
    state = torch.load(folder / "ssl" / "latest.pth")
    for name in ("codebook", "projection", "mean"):
        assert f"objectives.0.labeller.{name}" in state
    whitening = "objectives.1.labeller.whitening."
    assert state[f"{whitening}batches"] == state["updates"] == 2
    assert {f"{whitening}mean", f"{whitening}covariance"} <= state.keys()


LABEL = """
import sys
import soundfile, torch
from espnet2_birq.api import load
model = load(sys.argv[1])
samples, _ = soundfile.read(sys.argv[2], dtype="float32")
speech = torch.from_numpy(samples)[None], torch.tensor([len(samples)])
labels = list(model.labels(*speech)[0].values())
torch.save([*labels, *model.extract_features(*speech, [0, 1, 2])[0]], sys.argv[3])
"""


def test_a_model_is_a_file(folder, tmp_path):
    """Labels stay the same: moved, in another process, packed, after another training."""
    own = tmp_path / "moved" / "somewhere else"
    own.mkdir(parents=True)
    for name in (MODEL, "config.yaml"):
        shutil.copy(folder / "ssl" / name, own)
    shutil.copy(folder / "u5.wav", tmp_path)
    model = load(folder / "ssl" / MODEL)
    speech = wave(folder, 5)
    expected = list(model.labels(*speech)[0].values())
    expected += model.extract_features(*speech, [0, 1, 2])[0]

    def check(path):
        out = tmp_path / "labels.pt"
        command = [sys.executable, "-c", LABEL, str(path), "u5.wav", str(out)]
        subprocess.run(command, check=True, cwd=tmp_path)
        for one, other in zip(torch.load(out), expected, strict=True):
            assert torch.equal(one, other)

    check(own / MODEL)
    shutil.make_archive(str(tmp_path / "packed"), "zip", own)
    check(tmp_path / "packed.zip")
    # Another training in the same folder has no effect on the first model.
    config = {**CONFIG, "objectives": CONFIG["objectives"][:1], "seed": 5}
    (folder / "other.yaml").write_text(yaml.safe_dump(config))
    ssl_train.main(options(folder, "other.yaml", folder / "other"))
    check(folder / "ssl" / MODEL)


def test_models_that_cannot_be_loaded(folder, tmp_path):
    for name in (MODEL, "config.yaml"):
        shutil.copy(folder / "ssl" / name, tmp_path)
    whole = (tmp_path / MODEL).read_bytes()
    for content, words in ((b"", "is empty"), (whole[:5000], "is cut short")):
        (tmp_path / MODEL).write_bytes(content)
        with pytest.raises(DataError, match=f"{MODEL}: {words}"):
            load(tmp_path / MODEL)
    torch.save({"weight": torch.zeros(3)}, tmp_path / MODEL)
    with pytest.raises(DataError, match=f"{MODEL}: .*Missing key"):
        load(tmp_path / MODEL)
    (tmp_path / MODEL).write_bytes(whole)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config["objectives"][0]["labeller_conf"]["seed"] = 7
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=f"{MODEL}: .*seed=7.*seed=0"):
        load(tmp_path / MODEL)
    with pytest.raises(ConfigError, match="nope.pth: no such file"):
        load(tmp_path / "nope.pth")


def test_probe(folder):
    data = str(folder / "dump" / "raw" / "train")
    model = folder / "ssl" / "valid.total_count.ave.pth"
    small = ["--train", data, "--test", data, "--hidden", "8"]
    results = []
    for number, (encoder, updates) in enumerate(
        [
            (["--model", str(model)], 20),
            (["--model", str(model)], 100),
            (["--model", str(folder / "ssl" / "config.yaml")], 20),
        ]
    ):
        out = folder / f"probe{number}"
        more = ["--updates", str(updates), "--out", str(out)]
        probe.main([*encoder, *small, *more])
        results.append(json.loads((out / "probe.json").read_text()))
    few, many, untrained = results
    assert many["train_loss"] < few["train_loss"]
    assert untrained["train_loss"] != few["train_loss"]
    assert abs(sum(many["layer_weights"]) - 1) < 0.01 and len(few["layer_weights"]) == 2
    assert many["cer"]["train"]["utterances"] == 8
    with pytest.raises(SystemExit, match="probe: error: .*nope.pth: no such file"):
        probe.main(["--model", "nope.pth", "--out", "no", *small])


def test_probe_refuses_test_sets_before_training(folder, tmp_path):
    data = folder / "dump" / "raw" / "train"
    model = folder / "ssl" / "valid.total_count.ave.pth"
    (tmp_path / "train").symlink_to(data)
    for more, words in (
        (
            [data, tmp_path / "train"],
            "results of two test sets would be in .*/out/train",
        ),
        ([data, tmp_path / "nope"], "nope/wav.scp: no such file; give another --test"),
    ):
        command = [
            "--model",
            model,
            "--train",
            data,
            "--out",
            tmp_path / "out",
            "--test",
        ]
        with pytest.raises(SystemExit, match=f"probe: error: .*{words}"):
            probe.main([str(x) for x in [*command, *more]])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def spoiled(folder, tmp_path):
    """The same data with a NaN in u3, possible only in floating-point files."""
    data = tmp_path / "dump" / "raw" / "train"
    shutil.copytree(folder / "dump" / "raw" / "train", data)
    samples, rate = soundfile.read(folder / "u3.wav")
    samples[999] = np.nan
    soundfile.write(tmp_path / "u3.wav", samples, rate, "FLOAT")
    scp = (data / "wav.scp").read_text()
    (data / "wav.scp").write_text(scp.replace(f"{folder}/u3", f"{tmp_path}/u3"))
    return tmp_path


def test_labels_of_a_bad_utterance_are_none(folder, spoiled, caplog):
    common = ["--model", str(folder / "ssl" / "latest.pth"), "--out", f"{spoiled}/out"]
    data = spoiled / "dump/raw/train/wav.scp"
    dump_labels.main([*common, "--data", f"{data},speech,sound"])
    found = read_labels(spoiled / "out")
    clean = folder / "dump/raw/train/wav.scp"
    common[-1] = f"{spoiled}/clean"
    dump_labels.main([*common, "--data", f"{clean},speech,sound"])
    for name, labels in read_labels(spoiled / "clean").items():
        expected = np.full_like(labels, -1) if name == "u3" else labels
        assert np.array_equal(found[name], expected)
    (warning,) = [x.message for x in caplog.records if "without a label" in x.message]
    assert "1 utterances" in warning and warning.endswith(" u3")
    # So are those of one with several channels.
    soundfile.write(spoiled / "u3.wav", np.zeros((FS, 2)), FS)
    dump_labels.main([*common, "--data", f"{data},speech,sound"])
    assert set(read_labels(spoiled / "clean")["u3"]) == {-1}
    assert "wav.scp: u3 is left out: has 2 channels" in caplog.text
    # If the first file of a list cannot be used, it is an error.
    (data.parent / "wav.scp").write_text(f"u3 {spoiled}/u3.wav\n")
    with pytest.raises(SystemExit, match="dump_labels: error: .*u3.wav: has 2 chan"):
        dump_labels.main([*common, "--data", f"{data},speech,sound"])
    soundfile.write(spoiled / "u3.wav", np.zeros(8000), 8000)
    with pytest.raises(
        SystemExit, match="u3.wav: sample rate is 8000 Hz, wanted 16000"
    ):
        dump_labels.main([*common, "--data", f"{data},speech,sound"])


def test_moments_of_the_input_leave_out_a_bad_utterance(folder, spoiled, caplog):
    shutil.copy(folder / "birq.yaml", spoiled)
    projections = []
    data = spoiled / "dump/raw/train"
    for name in ("with", "without"):
        ssl_train.main(options(spoiled, "birq.yaml", spoiled / name))
        state = torch.load(spoiled / name / "latest.pth")
        projections.append(state["objectives.0.labeller.projection"])
        assert all(x.isfinite().all() for x in state.values())
        for file in ("wav.scp", "shape"):
            lines = (data / file).read_text().splitlines(True)
            rest = [line for line in lines if line[:2] != "u3"]
            (data / file).write_text("".join(rest))
    assert "utterance u3 is left out of its batch: samples that are NaN" in caplog.text
    assert torch.allclose(*projections, atol=1e-3)


def test_probe_names_bad_audio(folder, spoiled):
    data = str(spoiled / "dump" / "raw" / "train")
    command = ["--model", str(folder / "ssl" / "latest.pth"), "--out", f"{spoiled}/out"]
    command += ["--train", data, "--test", data]
    with pytest.raises(
        SystemExit, match="probe: error: .*/u3.wav: samples that are NaN"
    ):
        probe.main(command)
    assert not (spoiled / "out").exists()


@pytest.fixture
def stopped(folder, tmp_path):
    """A copy of the pretraining experiment, and the options that resume it."""
    shutil.copytree(folder / "ssl", tmp_path / "ssl", symlinks=True)
    command = options(folder, "birq.yaml", tmp_path / "ssl")
    return tmp_path / "ssl", [*command, "--resume", "true"]


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share, words", [(0, "is empty"), (0.99, "is cut short")])
def test_a_checkpoint_that_is_not_whole(stopped, share, words):
    exp, command = stopped
    cut(exp / "checkpoint.pth", share)
    with pytest.raises(SystemExit) as caught:
        ssl_train.main(command)
    assert str(caught.value) == (
        f"ssl_train: error: {exp}/checkpoint.pth: {words}: training cannot be resumed; "
        "move it and progress.pth away: training then begins anew, with --init_param "
        f"{exp}/1epoch.pth from its last whole model"
    )
    # Follow the advice of the message.
    for name in ("checkpoint.pth", "progress.pth"):
        (exp / name).unlink()
    before = torch.load(exp / "1epoch.pth")
    ssl_train.main([*command, "--init_param", f"{exp}/1epoch.pth"])
    after = torch.load(exp / "1epoch.pth")
    # Schedules restart, as ESPnet's learning rate does.
    assert after["updates"] == before["updates"] > 0
    weight = "encoder.encoders.0.feed_forward.w_1.weight"
    assert 0 < (after[weight] - before[weight]).abs().max() < 0.1


def test_a_model_of_an_epoch_that_is_not_whole(stopped):
    exp, command = stopped
    whole = torch.load(exp / "1epoch.pth")
    cut(exp / "1epoch.pth")
    with pytest.raises(SystemExit, match="1epoch.pth: is cut short; ESPnet") as caught:
        ssl_train.main(command)
    # Follow the advice of the message.
    remedy = str(caught.value).partition("make it of the checkpoint: ")[2]
    subprocess.run(remedy.replace("python3", sys.executable), shell=True, check=True)
    made = torch.load(exp / "1epoch.pth")
    assert all(torch.equal(whole[key], made[key]) for key in whole)
    ssl_train.main(command)


def test_models_that_are_not_whole_are_named(folder, stopped):
    model = stopped[0] / "1epoch.pth"
    data = folder / "dump" / "raw" / "train"
    out = ["--model", str(model), "--out", str(stopped[0] / "out")]
    wanted = f"error: {model}: is cut short; copy it again"
    cut(model)
    with pytest.raises(SystemExit, match=wanted):
        dump_labels.main([*out, "--data", f"{data}/wav.scp,speech,sound"])
    with pytest.raises(SystemExit, match=wanted):
        probe.main([*out, "--train", str(data), "--test", str(data)])
    with pytest.raises(SystemExit, match=wanted):
        ssl_train.main(
            [*stopped[1], "--resume", "false", "--init_param", f"{model}:a:a"]
        )
    with pytest.raises(SystemExit, match=wanted):
        check_handoff.main([str(model), str(stopped[0] / "config.yaml")])
