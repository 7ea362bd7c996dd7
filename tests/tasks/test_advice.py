"""Warnings about options of a training that are allowed, but unusual."""

import argparse
from pathlib import Path

import pytest
import torch
import yaml
from planted import OBJECTIVES, write_experiment
from trainings import CONFIG, Training, write_data

from espnet2_birq.config import sampling_rate
from espnet2_birq.experiments.spec import merge, read_spec
from espnet2_birq.planning.configured import parse_config
from espnet2_birq.tasks.advice import (
    FITTING,
    averaging_warning,
    share_warning,
    size_warning,
    speech_hours,
)
from espnet2_birq.tasks.loading import load_model
from espnet2_birq.tasks.ssl import SSLTask

ROOT = Path(__file__).parents[2]


def residual(**conf) -> dict:
    codes = {"num_codebooks": 2, "codebook_size": 8, **conf}
    return {
        "name": "residual",
        "view": "input",
        "labeller": "residual",
        "labeller_conf": codes,
    }


def clusters(**conf) -> dict:
    codes = {"num_codebooks": 1, "codebook_size": 8, **conf}
    view = "teacher layers top 2"
    return {
        "name": "clusters",
        "view": view,
        "labeller": "clusters",
        "labeller_conf": codes,
    }


def encoder(parameters: float) -> torch.nn.Module:
    return torch.nn.Linear(int(parameters), 1, bias=False, device="meta")


@pytest.mark.parametrize(
    "parameters, hours, words",
    [
        (4.6e6, 5, None),
        (4.6e6, 960, "4.6 M parameters is small for 960 hours"),
        (83e6, 5, "83.0 M parameters is large for 5 hours of speech; usual are 20 to"),
        (83e6, 960, None),
        (155e6, 100, "155.0 M parameters is large for 100 hours"),
        (155e6, 5000, None),
    ],
)
def test_warning(parameters, hours, words):
    warning = size_warning(encoder(parameters), hours)
    assert warning is None if words is None else words in warning


def test_every_amount_has_a_size():
    for hours in (0.1, 5, 50, 500, 5000, 50000):
        assert any(low <= hours <= high for _, low, high in FITTING)


def test_recipes_are_of_a_usual_size():
    hours = {"mini_librispeech": 5, "ami": 100, "librispeech": 960, "yodas": 5000}
    for corpus, amount in hours.items():
        path = ROOT / "conf" / corpus / "train_birq.yaml"
        args = parse_config(path, ["--ngpu", "0"])
        with torch.device("meta"):
            model = SSLTask.build_model(args)
        assert size_warning(model.encoder, amount) is None, corpus


LONGEST = {"mini_synth": 8, "matrix": 8, "evidence": 20}  # seconds; of LibriSpeech 24.5


def test_a_batch_holds_the_longest_utterance():
    """Otherwise it is left out, and training stops if there are many (max_bad_audio)."""
    checked = set()
    for path in sorted((ROOT / "conf").glob("*/*.yaml")):
        conf = yaml.safe_load(path.read_text())
        if "objectives" in conf and conf.get("batch_type") == "numel":
            rate = sampling_rate(conf.get("frontend_conf"))
            longest = LONGEST.get(path.parent.name, 24.5)
            assert conf["batch_bins"] >= longest * rate, path
            checked.add(path.name)
    assert {"train_asr_joint.yaml", "train_birq.yaml", "pretrain.yaml"} < checked
    spec = read_spec(ROOT / "bench" / "joint.yaml")
    base = yaml.safe_load(spec.finetune_config.read_text())
    for system in spec.systems:
        assert merge(base, system.finetune or {})["batch_bins"] == 320000, system.name


def test_hours_of_lists_in_parts(tmp_path):
    whole = tmp_path / "speech_shape"
    whole.write_text("a 16000\nb 32000,1\n")
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "split.0").write_text("a 16000\n")
    (parts / "split.1").write_text("b 32000\n")
    args = argparse.Namespace(frontend_conf={}, input_size=None)
    for path in (whole, parts):
        args.train_shape_file = [str(path)]
        assert speech_hours(args) == pytest.approx(3 / 3600)
    args.input_size = 16
    assert speech_hours(args) is None


@pytest.mark.parametrize("corpus", ["yodas", "librispeech", "mini_librispeech"])
@pytest.mark.parametrize("processes", [1, 4, 8])
def test_small_parts_of_batches(corpus, processes):
    args = parse_config(ROOT / "conf" / corpus / "train_birq.yaml", ["--ngpu", "0"])
    warning = share_warning(args, processes)
    if corpus != "yodas" or processes < 8:
        assert warning is None
        return
    assert "Each of 8 GPUs gets 50 s of speech at a time, and 4 batches" in warning
    assert "--batch_bins 25600000 --accum_grad 1" in warning
    args.batch_bins, args.accum_grad = 25600000, 1  # as advised
    assert share_warning(args, processes) is None


@pytest.mark.parametrize(
    "rows, kept, warned",
    [
        ([residual(decay=0.99), OBJECTIVES[0]], 3, "residual"),
        ([clusters(reseed=0.01)], [1, 5], "clusters"),
        ([residual(decay=0.99)], 1, None),
        ([residual(decay=1)], 5, None),
        ([residual(reseed=0)], 5, None),
        (OBJECTIVES, 5, None),
    ],
)
def test_averages_of_codes_that_are_replaced(tmp_path, rows, kept, warned):
    model = load_model(write_experiment(tmp_path / "exp", SSLTask, objectives=rows))
    warning = averaging_warning(model, kept)
    if warned is None:
        assert warning is None
    else:
        assert warning.startswith(f"{warned}: ") and "keep_nbest_models" in warning


def test_training_warns(tmp_path):
    write_data(tmp_path)
    training = Training(tmp_path, tmp_path / "exp", max_epoch=1, num_iters_per_epoch=2)
    assert training.run() == 0
    assert "M parameters is" not in training.text()
    assert "depends on the padding" not in training.text()
    conf = {**CONFIG["encoder_conf"], "linear_units": 330_000, "rel_pos_type": "legacy"}
    training = Training(
        tmp_path,
        tmp_path / "large",
        max_epoch=1,
        num_iters_per_epoch=2,
        encoder_conf=conf,
    )
    assert training.run() == 0, training.text()[-2000:]
    assert "M parameters is large for 0.00" in training.text()
    seeing = "LegacyRelPositionMultiHeadedAttention: what such layers of ESPnet make of"
    assert seeing in training.text()
