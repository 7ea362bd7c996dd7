"""The SSL task: a model from arguments, and one-line errors for wrong ones."""

import argparse

import pytest
import yaml

from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.ssl import SSLTask


def parse(*options) -> argparse.Namespace:
    small = ["output_size=16", "linear_units=16", "num_blocks=2", "rel_pos_type=latest"]
    options = [*options, "--output_dir", "unused"]
    for conf in small:
        options += ["--encoder_conf", conf]
    return SSLTask.get_parser().parse_args(options)


def test_defaults_are_birq_on_a_stock_conformer():
    model = SSLTask.build_model(parse())
    assert [one.name for one in model.objectives] == ["anchor", "enhanced"]
    assert type(model.encoder).__name__ == "ConformerEncoder"
    assert model.specaug is None
    assert model.objectives[0].labeller.codebook.shape == (1, 8192, 16)


def test_frame_shift_comes_from_the_frontend():
    # 128 samples at 16 kHz are 8 ms, 32 ms after conv2d; 400 ms are 12.5 such frames.
    assert SSLTask.build_model(parse()).masking.span == 12
    ten = parse("--frontend_conf", "hop_length=160", "--frontend_conf", "fs=16k")
    assert SSLTask.build_model(ten).masking.span == 10


@pytest.mark.parametrize(
    "options, words",
    [
        (["--masking_conf", "mask_probb=0.1"], "mask_probb"),
        (["--encoder_conf", "num_blokcs=3"], "num_blokcs"),
        (["--model_conf", "bf16=true"], "bf16"),
        (["--model_conf", "label_every=2"], "label_every"),
        (["--target_branch_conf", "utterance=2"], "utterance"),
        (
            ["--target_branch_conf", "utterances=0"],
            "utterances is a whole number of 1 or more",
        ),
        (
            ["--model_conf", "diagnose_every=-1"],
            "diagnose_every is a whole number of 0 or more, got -1",
        ),
        (["--model_conf", "attention_window=0"], "attention_window must be positive"),
    ],
)
def test_unknown_keys(options, words):
    with pytest.raises(ConfigError, match=words):
        SSLTask.build_model(parse(*options))


def test_unknown_class_in_yaml(tmp_path):
    # ESPnet does not check names that come from a YAML file.
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"encoder": "konformer"}))
    with pytest.raises(ConfigError, match="unknown encoder 'konformer', use one of"):
        SSLTask.build_model(parse("--config", str(tmp_path / "c.yaml")))


def test_attention_window_and_fused_optimizer_come_from_the_command_line():
    options = ["--model_conf", "attention_window=20", "--optim", "adamw"]
    args = parse(*options, "--optim_conf", "fused=true")
    model = SSLTask.build_model(args)
    assert [block.self_attn.window for block in model.encoder.encoders] == [20, 20]
    (optimizer,) = SSLTask.build_optimizers(args, model)
    assert all(group["fused"] for group in optimizer.param_groups)


def test_waveforms_alone_are_asked_for():
    assert SSLTask.required_data_names() == ("speech",)
    assert SSLTask.optional_data_names() == (
        "labels",
    )  # for objectives of labels from disk
