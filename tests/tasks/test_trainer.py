"""A training that learns nothing fails, before its start if possible."""

import argparse
import logging
from contextlib import nullcontext

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.bin.split_scps import main as split_scps

from espnet2_birq.bin import ssl_train
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.tasks.checks import UNSUPPORTED, check_trainer

CONFIG = {
    "objectives": [
        {"name": "anchor", "labeller_conf": {"codebook_size": 32, "codebook_dim": 4}}
    ],
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 20},
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 1,
        "rel_pos_type": "latest",
    },
    "batch_type": "unsorted",
    "batch_size": 2,
    "max_epoch": 2,
    "num_workers": 0,
    "optim": "adamw",
    "best_model_criterion": [["valid", "total_count", "max"]],
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
}


@pytest.fixture
def train(tmp_path):
    """Function that trains on three batches of noise in tmp_path/exp."""
    generator = np.random.default_rng(0)
    with (tmp_path / "wav.scp").open("w") as scp, (tmp_path / "shape").open("w") as out:
        for name in ("u1", "u2", "u3", "u4", "u5", "u6"):
            path = tmp_path / f"{name}.wav"
            soundfile.write(path, generator.standard_normal(8000) * 0.1, 16000)
            scp.write(f"{name} {path}\n")
            out.write(f"{name} 8000\n")

    def start(parts=tmp_path, **changes):
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
        options = ["--config", str(tmp_path / "c.yaml"), "--ngpu", "0"]
        options += ["--output_dir", str(tmp_path / "exp"), "--resume", "true"]
        for kind, folder in (("train", parts), ("valid", tmp_path)):
            options += [f"--{kind}_shape_file", f"{folder}/shape"]
            options += [f"--{kind}_data_path_and_name_and_type"]
            options += [f"{folder}/wav.scp,speech,sound"]
        ssl_train.main(options)

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield start
    root.handlers, root.level = handlers, level


def models(folder):
    return sorted(path.name for path in (folder / "exp").glob("*.pth"))


@pytest.mark.parametrize("changes", [{}, {"num_iters_per_epoch": 5, "accum_grad": 6}])
def test_too_few_batches_for_an_update(tmp_path, train, changes):
    changes = {"accum_grad": 4, **changes}
    batches = changes.get("num_iters_per_epoch", 3)
    words = f"an epoch of {batches} batches has no update with accum_grad"
    with pytest.raises(SystemExit, match=f"^ssl_train: error: {words}"):
        train(**changes)
    assert models(tmp_path) == []
    train(**{**changes, "accum_grad": batches, "max_epoch": 1})
    assert "valid.total_count.ave.pth" in models(tmp_path)


def test_an_objective_that_starts_after_the_end(train, caplog):
    anchor = CONFIG["objectives"][0]
    kind = {**anchor, "view": "input", "labeller": "random_projection"}
    late = [{**kind, "name": f"late{x}", "when": {"start": x}} for x in (5, 6)]
    train(objectives=[anchor, *late])
    found = [
        x.getMessage() for x in caplog.records if "never trained" in x.getMessage()
    ]
    assert found == [
        "Objective 'late6' is never trained: it starts at update 6, and 2 epochs have 6 "
        "updates"
    ]


def test_too_few_batches_in_parts(tmp_path, train):
    """With --num_splits_ssl, the number of batches is not known beforehand."""
    scps = ["--scps", str(tmp_path / "wav.scp"), str(tmp_path / "shape")]
    split_scps([*scps, "--num_splits", "3", "--output_dir", str(tmp_path / "parts")])
    with pytest.raises(SystemExit, match="^ssl_train: error: epoch 1: no update"):
        train(tmp_path / "parts", multiple_iterator=True, accum_grad=4)
    assert models(tmp_path) == []


def test_a_model_that_diverges(tmp_path, train):
    """ESPnet would stop at the first epoch without an update and report success."""
    diverging = {"optim_conf": {"lr": 1e30}, "max_epoch": 4, "accum_grad": 3}
    words = "^ssl_train: error: validation: the loss of 3 of 3 batches is not finite"
    for _ in range(2):  # a repetition does not resume after the failure
        with pytest.raises(SystemExit, match=words):
            train(**diverging)
        assert models(tmp_path) == ["progress.pth"]


def test_gradients_that_are_no_numbers(tmp_path, train, monkeypatch):
    train(max_epoch=1)
    before = models(tmp_path)
    step = BiRQModel._step

    def spoiled(self, *args, **kwargs):
        loss, *rest = step(self, *args, **kwargs)
        return loss * torch.nan, *rest

    monkeypatch.setattr(BiRQModel, "_step", spoiled)
    with pytest.raises(SystemExit, match="^ssl_train: error: epoch 2: no update"):
        train(max_epoch=2)
    assert models(tmp_path) == before


def test_utterances_without_audio(tmp_path, train):
    with (tmp_path / "shape").open("a") as shape:
        shape.write("u7 8000\nu8 8000\n")
    words = "wav.scp: has no speech of 2 utterances .*, the first: u7"
    with pytest.raises(SystemExit, match=f"^ssl_train: error: .*{words}"):
        train()
    assert models(tmp_path) == []


@pytest.mark.parametrize("distributed", [False, True])
def test_noise_that_differs_between_processes_is_refused(distributed):
    args = argparse.Namespace(
        grad_noise=True,
        distributed=distributed,
        optim_conf={},
        scheduler_conf={},
        iterator_type="sequence",
        train_dtype="float32",
        **dict.fromkeys(UNSUPPORTED, False),
    )
    refused = pytest.raises(
        ConfigError, match="^grad_noise: .* drift apart; leave it out"
    )
    with refused if distributed else nullcontext():
        check_trainer(args)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"iterator_type": "chunk"}, "iterator_type chunk: .* without lengths"),
        ({"optim_conf": {"lr": "1e-3"}}, "lr is the text '1e-3' .YAML reads"),
        ({"scheduler_conf": {"max_lr": "1e-3"}}, "max_lr is the text '1e-3' .YAML"),
        ({"train_dtype": "float64"}, "train_dtype float64: parameters are trained in"),
    ],
)
def test_options_that_cannot_be(changes, words):
    args = argparse.Namespace(
        **{
            "optim_conf": {},
            "scheduler_conf": {},
            "iterator_type": "sequence",
            "train_dtype": "float32",
            **changes,
        },
        **dict.fromkeys(["grad_noise", *UNSUPPORTED], False),
    )
    with pytest.raises(ConfigError, match=words):
        check_trainer(args)


def test_deepspeed_is_refused(tmp_path, train):
    with pytest.raises(SystemExit, match="^ssl_train: error: use_deepspeed"):
        train(use_deepspeed=True, deepspeed_config="x.json")
    assert not (tmp_path / "exp").exists()


def test_a_finished_training_with_other_options(tmp_path, train):
    """Nothing is left to train, and config.yaml would describe another model."""
    train(max_epoch=1)
    config = (tmp_path / "exp/config.yaml").read_bytes()
    before = models(tmp_path)
    other = {**CONFIG["frontend_conf"], "hop_length": 80}
    words = r"exp: this training is finished.*frontend_conf.hop_length \(160 -> 80\)"
    with pytest.raises(SystemExit, match=words):
        train(max_epoch=1, frontend_conf=other)
    assert (tmp_path / "exp/config.yaml").read_bytes() == config
    assert models(tmp_path) == before
    train(max_epoch=1, log_interval=7, keep_nbest_models=2)  # without effect
    train(max_epoch=2, grad_clip=4.0)  # goes on
    assert "2epoch.pth" in models(tmp_path)


def test_from_the_parameters_of_another_training(tmp_path, train):
    """Its updates do not count: schedules begin anew."""
    train(max_epoch=1)
    (tmp_path / "exp").rename(tmp_path / "other")
    train(max_epoch=1, init_param=[str(tmp_path / "other/1epoch.pth")])
    model = torch.load(tmp_path / "exp/1epoch.pth", weights_only=True)
    assert model["updates"] == 3
