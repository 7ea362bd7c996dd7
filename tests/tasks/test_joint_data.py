"""Joint training from data to decoding with ESPnet, and data that cannot be used."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml
from test_joint import CONFIG

from espnet2_birq.bin.asr_train import main
from espnet2_birq.tasks.saving import Saver


@pytest.fixture
def data(tmp_path):
    """Folder with two labelled utterances and three without text."""
    for name, ids in (("labelled", "ab"), ("other", "xyz")):
        with (tmp_path / f"{name}.scp").open("w") as scp:
            for n, key in enumerate(ids):
                noise = np.random.default_rng(n).standard_normal(16000 + 800 * n) * 0.1
                soundfile.write(tmp_path / f"{key}.wav", noise, 16000)
                scp.write(f"{key} {tmp_path}/{key}.wav\n")
        shapes = [f"{key} {16000 + 800 * n}\n" for n, key in enumerate(ids)]
        (tmp_path / f"{name}_shape").write_text("".join(shapes))
    (tmp_path / "text").write_text("a AB\nb BA\n")
    return tmp_path


def options(data, **changes):
    conf = {
        **CONFIG,
        "batch_type": "unsorted",
        "batch_size": 1,
        "num_workers": 0,
        "max_epoch": 2,
        "optim": "adamw",
        "optim_conf": {"lr": 1e-3},
        "best_model_criterion": [["valid", "loss", "min"]],
        "num_att_plot": 0,
        "use_matplotlib": False,
        "use_tensorboard": False,
        "log_interval": 1,
        **changes,
    }
    (data / "joint.yaml").write_text(yaml.safe_dump(conf))
    found = ["--config", str(data / "joint.yaml"), "--output_dir", str(data / "exp")]
    for kind in ("train", "valid"):
        found += [f"--{kind}_shape_file", str(data / "labelled_shape")]
        for one in (f"{data}/labelled.scp,speech,sound", f"{data}/text,text,text"):
            found += [f"--{kind}_data_path_and_name_and_type", one]
    found += ["--unlabelled_shape_file", str(data / "other_shape")]
    other = f"{data}/other.scp,speech,sound"
    return [*found, "--unlabelled_data_path_and_name_and_type", other]


def test_train_resume_and_decode_with_espnet(data):
    whole = data / "exp"
    main(options(data))
    first = torch.load(whole / "2epoch.pth", weights_only=True)
    assert first["pretraining.updates"] == 4  # counted in labelled batches
    # An interrupted training, resumed, makes the same model.
    whole.rename(data / "whole")
    main(options(data, max_epoch=1))
    main([*options(data), "--resume", "true"])
    resumed = torch.load(whole / "2epoch.pth", weights_only=True)
    assert first.keys() == resumed.keys()
    assert all(torch.equal(first[key], resumed[key]) for key in first)
    command = [sys.executable, "-m", "espnet2.bin.asr_inference", "--output_dir", "dec"]
    command += ["--asr_train_config", "exp/config.yaml", "--ctc_weight", "1.0"]
    command += ["--beam_size", "2"]
    command += ["--asr_model_file", "exp/valid.loss.ave.pth", "--ngpu", "0"]
    command += ["--data_path_and_name_and_type", "other.scp,speech,sound"]
    found = subprocess.run(command, cwd=data, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    texts = (data / "dec" / "1best_recog" / "text").read_text().splitlines()
    assert [line.split()[0] for line in texts] == ["x", "y", "z"]


class Killed(BaseException):
    """What ends a training."""


def test_it_resumes_inside_an_epoch(data, monkeypatch):
    """Pairs of batches come from a generator, whose first ones have to be skipped."""
    given = [*options(data, barrier=0.5), "--save_updates", "1", "--resume", "true"]
    main(given)
    whole = torch.load(data / "exp" / "2epoch.pth", weights_only=True)
    (data / "exp").rename(data / "whole")
    save = Saver.save

    def end_after_it(self, parts, *rest, **finished):
        save(self, parts, *rest, **finished)
        if int(parts.model.updates) == 3:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Saver, "save", end_after_it)
        main(given)
    main(given)
    resumed = torch.load(data / "exp" / "2epoch.pth", weights_only=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x: (x / "text").unlink(), "text: no such file, the text: run the data"),
        (
            lambda x: (x / "text").write_text("a\nb \n"),
            "text: no utterance has a trans",
        ),
        (
            lambda x: (x / "text").write_bytes("a für\n".encode("latin-1")),
            "text: not readable as UTF-8 text",
        ),
        (
            lambda x: (x / "other.scp").unlink(),
            "other.scp: no such file, the unlabelled",
        ),
        (
            lambda x: (x / "labelled.scp").unlink(),
            "labelled.scp: no such file, the speech: run the data",
        ),
        (
            lambda x: (x / "text").write_text("a AB\n"),
            "text: has no text of 1 utterances .*, the first: b; make transcripts of",
        ),
        (
            lambda x: (x / "text").write_text("a AB\na AB\n"),
            "text: line 2: a occurs twice; make the list",
        ),
        (
            lambda x: (x / "other_shape").write_text("x\n"),
            "other_shape: line 1: x has no length",
        ),
        (
            lambda x: soundfile.write(x / "a.wav", np.ones(8000), 8000),
            "a.wav: sample rate is 8000 Hz, wanted 16000",
        ),
        (
            lambda x: soundfile.write(x / "x.wav", np.ones(8000), 8000),
            "x.wav: sample rate is 8000 Hz, wanted 16000",
        ),
    ],
)
def test_data_that_is_not_there(data, change, words):
    given = options(data)
    change(data)
    with pytest.raises(SystemExit, match=words):
        main(given)
    assert not (data / "exp" / "1epoch.pth").exists()


def test_splits_would_repeat_the_unlabelled_speech(data):
    with pytest.raises(SystemExit, match="leave out multiple_iterator"):
        main([*options(data), "--multiple_iterator", "true"])


def test_options_of_the_asr_model(data):
    words = "the configuration: not options of ESPnet's ASR model .*width_r"
    with pytest.raises(SystemExit, match=words):
        main(options(data, specaug="specaug", specaug_conf={}))


def test_bins_that_have_no_effect(data):
    with pytest.raises(SystemExit, match="unlabelled_batch_bins: batch_type unsorted"):
        main([*options(data), "--unlabelled_batch_bins", "40000"])
    counted = options(data, batch_type="numel", batch_bins=40000, max_epoch=1)
    main([*counted, "--unlabelled_batch_bins", "20000"])


@pytest.mark.parametrize("unlabelled", [True, False])
def test_epochs_of_varying_length_cannot_be_paired(data, unlabelled):
    """Without unlabelled speech, the checks of languages and ranks would be skipped."""
    drawn = ["--iterator_type", "category", "--batch_type", "catpow"]
    drawn += ["--valid_iterator_type", "sequence", "--valid_batch_type", "unsorted"]
    given = options(data) if unlabelled else options(data)[:-4]
    with pytest.raises(SystemExit, match="iterator_type category, epochs differ"):
        main([*given, *drawn])


@pytest.mark.parametrize(
    "name, value", [("penalty", "0.5"), ("save_minutes", "9"), ("barrier", "0.1")]
)
def test_options_of_joint_training_without_it(tmp_path, name, value):
    given = ["--output_dir", str(tmp_path), f"--{name}", value]
    with pytest.raises(SystemExit, match=f"error: {name} is for joint training"):
        main(given)


def test_unlabelled_speech_without_its_lengths(data):
    given = options(data)
    position = given.index("--unlabelled_shape_file")
    with pytest.raises(SystemExit, match="unlabelled_shape_file"):
        main(given[:position] + given[position + 2 :])


@pytest.mark.parametrize(
    "name, value", [("unlabelled_shape_file", None), ("unlabelled_batch_bins", "9")]
)
def test_options_of_unlabelled_speech_without_any(data, name, value):
    given = options(data, batch_type="numel")
    for option in ("data_path_and_name_and_type", "shape_file"):
        position = given.index(f"--unlabelled_{option}")
        del given[position : position + 2]
    given += [f"--{name}", value or f"{data}/other_shape"]
    with pytest.raises(
        SystemExit, match=f"error: {name}: without unlabelled_data_path"
    ):
        main(given)


def test_attention_of_a_joint_training_is_plotted(data):
    conf = {"cpu_bfloat16": True}
    given = options(
        data, num_att_plot=1, use_matplotlib=True, max_epoch=1, pretraining_conf=conf
    )
    main(given)
    assert list((data / "exp" / "att_ws").glob("?/*.png"))


def test_unlabelled_data_are_speech(data):
    more = f"{data}/text,text,text"
    with pytest.raises(SystemExit, match=f"{more}: unlabelled data is speech alone"):
        main([*options(data), "--unlabelled_data_path_and_name_and_type", more])


@pytest.mark.parametrize(
    "bad, why",
    [
        (lambda path: soundfile.write(path, np.ones((9000, 2)), 16000), "2 channels"),
        (lambda path: soundfile.write(path, np.ones(9000), 8000), "rates are mism"),
        (lambda path: soundfile.write(path, np.ones(200), 16000), "200 samples, fewer"),
        (
            lambda path: soundfile.write(path, np.full(9000, np.nan), 16000, "FLOAT"),
            "samples that are NaN",
        ),
        (lambda path: path.unlink(), "not readable"),
    ],
)
def test_labelled_audio_that_is_bad(data, bad, why):
    """It stands alone in its batch, in training and in validation."""
    bad(data / "b.wav")
    decoder = {"decoder": "transformer", "model_conf": {"ctc_weight": 0.5}}
    main(options(data, max_epoch=1, **decoder))
    (line,) = (data / "exp" / "bad_audio").read_text().splitlines()
    assert line.startswith("b ") and why in line
    state = torch.load(data / "exp" / "1epoch.pth", weights_only=True)
    assert all(x.isfinite().all() for x in state.values())
    with pytest.raises(
        SystemExit, match="error: utterance b: .* raise --max_bad_audio"
    ):
        more = ["--resume", "true", "--max_bad_audio", "0"]
        main([*options(data, **decoder), *more])
