"""Bad audio is skipped and named; a batch is never empty."""

import logging

import numpy as np
import pytest
import soundfile
import torch
import yaml
from planted import ENCODER

from espnet2_birq.bin import ssl_train
from espnet2_birq.errors import DataError
from espnet2_birq.tasks.bad_audio import BadAudio
from espnet2_birq.tasks.collate import SpeechCollateFn
from espnet2_birq.tasks.ssl import SSLTask

FS = 16000
BOOK = {"codebook_size": 16, "codebook_dim": 4}
CONFIG = {
    "objectives": [
        {"name": "anchor", "labeller_conf": BOOK},
        {
            "name": "enhanced",
            "view": "layer 1",
            "labeller_conf": {**BOOK, "projection": "whitened"},
        },
    ],
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 20, "fs": "16k"},
    "encoder_conf": ENCODER,
    "batch_type": "unsorted",
    "batch_size": 2,
    "max_epoch": 1,
    "num_workers": 0,
    "optim": "adamw",
    "best_model_criterion": [["valid", "total_count", "max"]],
    "num_att_plot": 0,
    "max_bad_audio": 0.6,
}


def utterance(name, samples=FS, bad=None, labels=25):
    """Make noise with one bad sample, and labels that identify the utterance."""
    wave = np.random.default_rng(len(name)).normal(0.0, 0.1, samples)
    if bad is not None:
        wave[samples // 3] = bad
    label = int(name[1:]) + 1
    arrays = {"speech": wave.astype(np.float32), "labels": np.full(labels, label)}
    return name, arrays


def warnings_of(caplog):
    return [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_utterances_go_with_their_labels(bad, caplog):
    collate = SpeechCollateFn()
    data = [utterance("u0", 900), utterance("u1", bad=bad), utterance("u2", 700)]
    ids, batch = collate(data)
    assert ids == ["u0", "u2"]
    assert batch["speech"].shape == (2, 900) and batch["speech"].isfinite().all()
    assert batch["speech_lengths"].tolist() == [900, 700]
    assert batch["labels"][:, 0].tolist() == [1, 3]
    for _ in range(2):
        assert collate(data)[0] == ids
    (warning,) = warnings_of(caplog)  # one warning for three occurrences
    assert "utterance u1 is left out of its batch: samples that are NaN" in warning
    collate([utterance("u0"), utterance("u7", bad=bad)])
    assert (
        "u7" in warnings_of(caplog)[1] and "bad utterance 2" in warnings_of(caplog)[1]
    )


def test_good_utterances_are_as_they_are():
    data = [utterance("u0", 900), utterance("u1", 700)]
    _, batch = SpeechCollateFn()(data)
    for row, (_, arrays) in zip(batch["speech"], data):
        wave = arrays["speech"]
        assert np.array_equal(row[: len(wave)], wave) and not row[len(wave) :].any()


def test_a_batch_is_never_empty(tmp_path):
    """A rank still makes a step if its part of a batch is one bad utterance."""
    options = ["--output_dir", str(tmp_path), "--model_conf", "attention_window=null"]
    args = SSLTask.get_parser().parse_args(options)
    vars(args).update(CONFIG, model_conf={})
    model = SSLTask.build_model(args)
    collate = SSLTask.build_collate_fn(args, train=True)
    for one in (utterance("u0", 2 * FS, bad=np.nan), utterance("u1", 30, bad=np.inf)):
        ids, batch = collate([one])
        assert ids == [one[0]]
        assert batch["speech"].std() > 0 and batch["speech"].isfinite().all()
        assert batch["speech"].shape[1] == max(FS, len(one[1]["speech"]))
        assert (batch["labels"] == -1).all()
        loss, _, weight = model(**batch)
        loss.backward()
        assert loss.isfinite() and weight > 0
    assert all(x.grad.isfinite().all() for x in model.parameters())


def test_more_bad_data_than_the_share_stop_training():
    collate = SpeechCollateFn(BadAudio(most=0.05))
    collate([utterance("u0"), utterance("u1")])
    for number in range(2, 7):  # 5 are allowed in the first 100
        collate([utterance(f"u{number}", bad=np.nan)])
    with pytest.raises(DataError, match=r"utterance u9: samples .* 6 of the 8 utt"):
        collate([utterance("u9", bad=np.nan)])
    collate = SpeechCollateFn(BadAudio(most=0.05))
    for number in range(400):
        collate([utterance(f"u{number}", bad=np.nan if number % 25 == 0 else None)])


def two_channels(name):
    _, arrays = utterance(name)
    arrays["speech"] = np.stack([arrays["speech"]] * 2, axis=1)
    return name, arrays


@pytest.mark.parametrize(
    "one, why",
    [
        (two_channels("u3"), "has 2 channels"),
        (utterance("u3", 0), "no samples"),
        (utterance("u3", 6399), "6399 samples, fewer than 6400"),
        (utterance("u3", 40001), "40001 samples, a whole batch has 40000"),
        (utterance("u3", bad=np.nan), "samples that are NaN"),
    ],
)
def test_what_is_bad(one, why, tmp_path):
    collate = SpeechCollateFn(BadAudio(tmp_path, shortest=6400, longest=40000))
    good = [utterance("u0", 6400), utterance("u1", 40000)]
    assert collate([*good, one])[0] == ["u0", "u1"]
    assert (tmp_path / "bad_audio").read_text().startswith(f"u3 {why}")
    ids, batch = collate([one])
    assert ids == ["u3"] and (batch["labels"] == -1).all()
    assert batch["speech"].shape[1] <= 40000


def test_the_list_is_continued(tmp_path):
    """Other processes and later runs append to it, each utterance once."""
    for _ in range(3):
        collate = SpeechCollateFn(BadAudio(tmp_path))
        for name in ("u1", "u2", "u1"):
            collate([utterance("u0"), utterance(name, 0)])
    assert (tmp_path / "bad_audio").read_text() == "u1 no samples\nu2 no samples\n"


@pytest.fixture
def prepared(tmp_path):
    """Options for training on six utterances."""
    scp, shapes = [], []
    for number in range(6):
        path = tmp_path / f"u{number}.wav"
        noise = np.random.default_rng(number).normal(0.0, 0.1, FS)
        soundfile.write(path, noise, FS, "FLOAT")
        scp.append(f"u{number} {path}\n")
        shapes.append(f"u{number} {FS}\n")
    (tmp_path / "wav.scp").write_text("".join(scp))
    (tmp_path / "shape").write_text("".join(shapes))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    options = ["--config", str(tmp_path / "c.yaml"), "--ngpu", "0"]
    options += ["--output_dir", str(tmp_path / "exp")]
    for kind in ("train", "valid"):
        option = f"--{kind}_data_path_and_name_and_type"
        options += [option, f"{tmp_path}/wav.scp,speech,sound"]
        options += [f"--{kind}_shape_file", f"{tmp_path}/shape"]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield options
    root.handlers, root.level = handlers, level


def spoil(path, value=np.nan):
    samples, rate = soundfile.read(path)
    samples[1234] = value
    soundfile.write(path, samples, rate, "FLOAT")


def test_training_with_a_bad_utterance_in_each_place(prepared, tmp_path, caplog):
    for number in (1, 2, 3):  # all of the second batch is bad
        spoil(tmp_path / f"u{number}.wav")
    ssl_train.main(prepared)
    left_out = {line.split()[1] for line in warnings_of(caplog) if "left out" in line}
    assert left_out == {"u1", "u2", "u3"}
    state = torch.load(tmp_path / "exp" / "latest.pth")
    assert all(value.isfinite().all() for value in state.values())
    stats = torch.load(tmp_path / "exp" / "checkpoint.pth", weights_only=False)
    loss = stats["reporter"]["stats"][1]["train"]["loss"]
    assert 0 < loss < 10


def spoil_files(folder):
    """Write bad files of five kinds, u1 to u5; u0, which is probed first, stays good."""
    soundfile.write(folder / "u1.wav", np.zeros((FS, 2)), FS)
    soundfile.write(folder / "u2.wav", np.zeros(FS), 8000)
    (folder / "u3.wav").write_bytes(b"")
    content = (folder / "u4.wav").read_bytes()
    (folder / "u4.wav").write_bytes(b"RIFX" + content[4:])
    (folder / "u5.wav").unlink()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_files_that_cannot_be_used(prepared, tmp_path, workers, caplog):
    """Files of each kind are left out, so that only u0 is trained on."""
    spoil_files(tmp_path)
    more = ["--num_workers", workers, "--max_bad_audio", "0.9"]
    ssl_train.main([*prepared, *more])
    lines = (tmp_path / "exp" / "bad_audio").read_text().splitlines()
    why = dict(line.split(" ", 1) for line in lines)
    assert sorted(why) == ["u1", "u2", "u3", "u4", "u5"]
    assert why["u1"] == "has 2 channels"
    assert "Sampling rates are mismatched: 16000 != 8000" in why["u2"]
    assert all(why[name].startswith("not readable (") for name in ("u3", "u4", "u5"))
    assert (tmp_path / "exp" / "1epoch.pth").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_too_many_files_that_cannot_be_used(prepared, tmp_path, workers):
    """Errors found by a worker process of PyTorch are one line, too."""
    spoil_files(tmp_path)
    options = [*prepared, "--num_workers", workers, "--max_bad_audio", "0.02"]
    with pytest.raises(SystemExit) as caught:
        ssl_train.main(options)
    said = str(caught.value)
    assert said.startswith("ssl_train: error: utterance u")
    assert "raise --max_bad_audio" in said and "\n" not in said
    # The first file's rate is checked before anything is built.
    soundfile.write(tmp_path / "u0.wav", np.zeros(8000), 8000)
    with pytest.raises(
        SystemExit, match="u0.wav: sample rate is 8000 Hz, wanted 16000"
    ):
        ssl_train.main(options)
