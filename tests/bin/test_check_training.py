"""The check that ESPnet's training command made an update."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import yaml

from espnet2_birq.bin import check_training

CONFIG = {
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 20},
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "rel_pos_type": "latest",
    },
    "decoder": None,
    "model_conf": {"ctc_weight": 1.0},
    "token_type": "char",
    "token_list": ["<blank>", "<unk>", "A", "B", "<sos/eos>"],
    "batch_type": "unsorted",
    "batch_size": 1,
    "num_workers": 0,
    "best_model_criterion": [["valid", "loss", "min"]],
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
}


@pytest.fixture
def asr_train(tmp_path):
    """Function that runs ESPnet's command on two utterances; returns its exit status."""
    with (tmp_path / "wav.scp").open("w") as scp:
        for name in ("u1", "u2"):
            noise = np.random.default_rng(0).standard_normal(16000) * 0.1
            soundfile.write(tmp_path / f"{name}.wav", noise, 16000)
            scp.write(f"{name} {tmp_path}/{name}.wav\n")
    (tmp_path / "shape").write_text("u1 16000\nu2 16000\n")
    (tmp_path / "text").write_text("u1 AB\nu2 BA\n")

    def start(**changes):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
        command = [sys.executable, "-m", "espnet2.bin.asr_train", "--config", "c.yaml"]
        for kind in ("train", "valid"):
            command += [f"--{kind}_shape_file", "shape"]
            for data in ("wav.scp,speech,sound", "text,text,text"):
                command += [f"--{kind}_data_path_and_name_and_type", data]
        command += ["--output_dir", "exp"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True).returncode

    return start


def test_training_that_learned(tmp_path, asr_train):
    assert asr_train(max_epoch=2, optim="adamw", optim_conf={"lr": 1e-3}) == 0
    check_training.main([str(tmp_path / "exp" / "valid.loss.ave.pth")])
    with pytest.raises(SystemExit, match="^error: .*valid.acc.ave.pth: training has"):
        check_training.main([str(tmp_path / "exp" / "valid.acc.ave.pth")])


@pytest.mark.parametrize(
    "changes, epoch",
    [
        (dict(accum_grad=3, max_epoch=2), 1),
        (dict(optim="sgd", optim_conf=dict(lr=1e38), accum_grad=2, max_epoch=3), 2),
    ],
    ids=["too few batches", "gradients that are no numbers"],
)
def test_training_without_an_update(tmp_path, asr_train, changes, epoch):
    # ESPnet reports success and writes a model.
    assert asr_train(**changes) == 0
    model = tmp_path / "exp" / "valid.loss.ave.pth"
    assert model.exists()
    words = f"^error: {model.parent}: no update was made in epoch {epoch}, where"
    with pytest.raises(SystemExit, match=words):
        check_training.main([str(model)])
