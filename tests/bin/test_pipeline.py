"""Commands one after the other on a few noises: statistics, training, labels, probe."""

import json
import logging
import shutil
import subprocess
import sys

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2_birq.bin import (
    check_handoff,
    dump_labels,
    frame_statistics,
    probe,
    ssl_train,
)
from espnet2_birq.ssl.frame_statistics import FrameStatistics
from espnet2_birq.ssl.masking import stack_frames
from espnet2_birq.tasks.ssl import SSLTask

FS = 16000
BOOK = {"codebook_size": 32, "codebook_dim": 4}
CONFIG = {
    "targets": [
        {"name": "anchor", "quantizer_conf": {**BOOK, "projection": "whitened"}},
        {
            "name": "enhanced",
            "layer": 1,
            "weight": 0.0,
            "quantizer_conf": {
                **BOOK,
                "projection": "whitened",
                "keep_gradient": False,
            },
        },
    ],
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 20, "fs": "16k"},
    "normalize_conf": {"norm_vars": True},
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2,
        "rel_pos_type": "latest",
    },
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
    """Eight utterances, a pretrained model, and the working directory among them."""
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
    frame_statistics.main(
        [*options(top, "birq.yaml", top), "--statistics", str(top / "statistics.npz")]
    )
    ssl_train.main(options(top, "birq.yaml", top / "ssl", statistics=True))
    yield top
    root.handlers, root.level = handlers, level


def options(top, config, out, statistics=False, labels=False):
    """Those of ssl_train; training data is the validation data, too."""
    data = top / "dump" / "raw" / "train"
    found = ["--config", str(top / config), "--output_dir", str(out), "--ngpu", "0"]
    for kind in ("train", "valid"):
        option = f"--{kind}_data_path_and_name_and_type"
        found += [option, f"{data}/wav.scp,speech,sound"]
        found += [f"--{kind}_shape_file", f"{data}/shape"]
        if labels:
            found += [option, f"{top}/labels/labels.scp,labels,kaldi_ark"]
    if statistics:
        found += ["--frame_statistics", str(top / "statistics.npz")]
    return found


@torch.no_grad()
def test_frame_statistics_are_those_of_the_frames(folder):
    model, _ = SSLTask.build_model_from_file(
        folder / "ssl" / "config.yaml", folder / "ssl" / "latest.pth"
    )
    frames = []
    for number in range(8):
        wave, _ = soundfile.read(folder / f"u{number}.wav", dtype="float32")
        xs, _ = model._extract_feats(
            torch.from_numpy(wave)[None], torch.tensor([len(wave)])
        )
        frames.append(stack_frames(xs, 4, xs.size(1) // 4)[0])
    frames = torch.cat(frames).double()
    statistics = FrameStatistics.load(folder / "statistics.npz")
    assert statistics.frames == len(frames)
    assert np.allclose(statistics.mean, frames.mean(dim=0), atol=1e-6)
    expected = torch.cov(frames.T, correction=0)
    assert np.allclose(statistics.covariance, expected, atol=1e-5)
    (points,) = model.quantizers["anchor"].points(frames)
    assert (torch.cov(points.T, correction=0) - torch.eye(4)).abs().max() < 1e-3


def test_a_model_s_labels_become_the_next_one_s_target(folder, caplog):
    model = folder / "ssl" / "valid.total_count.ave.pth"
    data = folder / "dump" / "raw" / "train" / "wav.scp"
    common = ["--model", str(model), "--data", f"{data},speech,sound"]
    dump_labels.main([*common, "--out", str(folder / "labels")])
    labels = kaldiio.load_scp(str(folder / "labels" / "labels.scp"))
    assert [len(labels[f"u{n}"]) for n in range(8)] == [
        24 + (5 * n + 1) // 2 for n in range(8)
    ]
    # One at a time, by hand: the same codes.
    loaded, _ = SSLTask.build_model_from_file(folder / "ssl" / "config.yaml", model)
    loaded.eval()
    (target,) = [target for target in loaded.targets if target.name == "enhanced"]
    wave, _ = soundfile.read(folder / "u3.wav", dtype="float32")
    codes, _ = dump_labels.label_batch(
        loaded, target, torch.from_numpy(wave)[None], torch.tensor([len(wave)])
    )
    assert np.array_equal(codes[0].numpy(), labels["u3"])
    assert len(set(labels["u3"])) > 3
    # Nothing but the labels of the first model, and weights of its own
    given = {"name": "given", "quantizer_conf": {"codebook_size": 32}}
    config = {**CONFIG, "targets": [given], "max_epoch": 1}
    (folder / "given.yaml").write_text(yaml.safe_dump(config))
    out = folder / "second"
    ssl_train.main(options(folder, "given.yaml", out, labels=True))
    stats = torch.load(out / "checkpoint.pth", weights_only=False)["reporter"]["stats"]
    assert 2.5 < stats[1]["train"]["loss_given"] < 4.5  # near ln 32
    assert stats[1]["train"]["label_ppl_given"] > 3
    with pytest.raises(
        SystemExit, match="dump_labels: error: --target nope: the model's"
    ):
        dump_labels.main([*common, "--target", "nope", "--out", str(folder / "no")])


def test_a_resumed_model_has_the_same_quantizers_and_statistics(folder):
    one = torch.load(folder / "ssl" / "latest.pth")
    assert not [key for key in one if "codebook" in key or "projection" in key]
    assert one["quantizers.enhanced.whitening.batches"] == one["steps"] == 2
    models = [
        SSLTask.build_model_from_file(
            folder / "ssl" / "config.yaml", folder / "ssl" / name
        )[0]
        for name in ("latest.pth", "valid.total_count.ave.pth")
    ]
    for name in ("anchor", "enhanced"):
        first, second = (model.quantizers[name] for model in models)
        assert torch.equal(first.codebook, second.codebook)
        assert torch.equal(first.projection, second.projection)


def test_probe(folder):
    data = str(folder / "dump" / "raw" / "train")
    model = folder / "ssl" / "valid.total_count.ave.pth"
    small = ["--train", data, "--test", data, "--hidden", "8"]
    results = []
    for number, (encoder, updates) in enumerate(
        [
            (["--model", str(model)], 20),
            (["--model", str(model)], 100),
            (["--config", str(folder / "ssl" / "config.yaml")], 20),
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


@pytest.fixture
def spoiled(folder, tmp_path):
    """The same data with a NaN in u3, which files of floating point alone can hold."""
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
    found = kaldiio.load_scp(f"{spoiled}/out/labels.scp")
    clean = folder / "dump/raw/train/wav.scp"
    common[-1] = f"{spoiled}/clean"
    dump_labels.main([*common, "--data", f"{clean},speech,sound"])
    for name, labels in kaldiio.load_scp(f"{spoiled}/clean/labels.scp").items():
        expected = np.full_like(labels, -1) if name == "u3" else labels
        assert np.array_equal(found[name], expected)
    (warning,) = [x.message for x in caplog.records if "without a label" in x.message]
    assert "1 utterances" in warning and warning.endswith(" u3")
    # Another rate, and several channels, are errors that name the audio.
    soundfile.write(spoiled / "u3.wav", np.zeros((FS, 2)), FS)
    with pytest.raises(
        SystemExit, match="dump_labels: error: utterance u3: has 2 chan"
    ):
        dump_labels.main([*common, "--data", f"{data},speech,sound"])
    assert not (spoiled / "clean/labels.scp").exists()  # the ark behind it is another
    (data.parent / "wav.scp").write_text(f"u3 {spoiled}/u3.wav\n")
    soundfile.write(spoiled / "u3.wav", np.zeros(8000), 8000)
    with pytest.raises(
        SystemExit, match="u3.wav: sample rate is 8000 Hz, wanted 16000"
    ):
        dump_labels.main([*common, "--data", f"{data},speech,sound"])


def test_frame_statistics_leave_out_a_bad_utterance(folder, spoiled, caplog):
    shutil.copy(folder / "birq.yaml", spoiled)
    command = [*options(spoiled, "birq.yaml", spoiled), "--statistics"]
    frame_statistics.main([*command, f"{spoiled}/with.npz"])
    assert "utterance u3 is left out: samples that are NaN" in caplog.text
    data = spoiled / "dump/raw/train/wav.scp"
    rest = [line for line in data.read_text().splitlines(True) if line[:2] != "u3"]
    data.write_text("".join(rest))
    frame_statistics.main([*command, f"{spoiled}/without.npz"])
    one, two = (FrameStatistics.load(f"{spoiled}/{x}.npz") for x in ("with", "without"))
    assert np.array_equal(one.covariance, two.covariance) and one.frames == two.frames


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
    """A copy of the pretraining, and the options that resume it."""
    shutil.copytree(folder / "ssl", tmp_path / "ssl", symlinks=True)
    command = options(folder, "birq.yaml", tmp_path / "ssl", statistics=True)
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
        "move it away: training then begins anew, with --init_param "
        f"{exp}/1epoch.pth from its last whole model"
    )
    # As it says
    (exp / "checkpoint.pth").unlink()
    before = torch.load(exp / "1epoch.pth")["steps"]
    ssl_train.main([*command, "--init_param", f"{exp}/1epoch.pth"])
    assert torch.load(exp / "1epoch.pth")["steps"] == 2 * before


def test_a_model_of_an_epoch_that_is_not_whole(stopped):
    exp, command = stopped
    whole = torch.load(exp / "1epoch.pth")
    cut(exp / "1epoch.pth")
    with pytest.raises(SystemExit, match="1epoch.pth: is cut short; ESPnet") as caught:
        ssl_train.main(command)
    # As it says
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
