"""The hand-off check: complete, partial, empty, and with different features."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.tasks.asr import ASRTask
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from espnet2.train.reporter import Reporter
from planted import ENCODER

from espnet2_birq.bin import check_handoff
from espnet2_birq.config import read_config
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.ssl import SSLTask
from espnet2_birq.transfer import init_param

COMMON = {
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 20},
    "normalize": "utterance_mvn",
    "normalize_conf": {"norm_vars": True},
    "encoder": "conformer",
    "encoder_conf": ENCODER,
}


def write_experiment(folder: Path, task, options, name="model.pth") -> Path:
    """Write a model and its config.yaml, as a training run leaves them."""
    folder.mkdir()
    config = folder / "given.yaml"
    config.write_text(yaml.safe_dump(options))
    args = task.get_parser().parse_args(
        ["--config", str(config), "--output_dir", str(folder)]
    )
    torch.manual_seed(len(folder.name))
    torch.save(task.build_model(args).state_dict(), folder / name)
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    return folder / name


@pytest.fixture
def ssl_model(tmp_path):
    return write_experiment(tmp_path / "ssl", SSLTask, COMMON)


def write_asr(tmp_path, init_param, **changes) -> Path:
    options = {
        **COMMON,
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0},
        "token_type": "char",
        "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"],
        "init_param": init_param,
        **changes,
    }
    return write_experiment(tmp_path / "asr", ASRTask, options)


def test_complete_handoff(tmp_path, ssl_model, capsys):
    asr = write_asr(tmp_path, [f"{ssl_model}:encoder:encoder"])
    check_handoff.main([str(ssl_model), str(asr)])
    output = capsys.readouterr().out
    number = len(
        [k for k in torch.load(ssl_model, weights_only=True) if k[:8] == "encoder."]
    )
    assert f"encoder tensors from pretraining: {number} of {number} " in output
    assert "frontend and normalize are the same" in output
    check_handoff.main([str(ssl_model), str(asr.parent / "config.yaml")])


def test_complete_handoff_of_our_encoder(tmp_path, capsys):
    shape = {"output_size": 16, "linear_units": 16, "num_blocks": 2}
    ours = {"encoder": "shaw_conformer", "encoder_conf": shape}
    model = write_experiment(tmp_path / "ssl", SSLTask, {**COMMON, **ours})
    asr = write_asr(tmp_path, [f"{model}:encoder:encoder"], **ours)
    check_handoff.main([str(model), str(asr)])
    assert "from pretraining: 68 of 68 " in capsys.readouterr().out


def fails(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as error:
        check_handoff.main([str(argument) for argument in arguments])
    assert error.value.code not in (0, None)
    return capsys.readouterr().out + str(error.value.code)


def test_wrong_key_that_espnet_swallows(tmp_path, ssl_model, capsys):
    asr = write_asr(tmp_path, [f"{ssl_model}:encodr:encoder"])
    output = fails(capsys, ssl_model, asr)
    assert "encoder tensors from pretraining: 0 of" in output
    assert "encoder.after_norm.weight" in output


def test_no_init_param(tmp_path, ssl_model, capsys):
    assert "0 of" in fails(capsys, ssl_model, write_asr(tmp_path, []))


def test_part_of_the_encoder_is_named(tmp_path, ssl_model, capsys):
    spec = f"{ssl_model}:encoder:encoder:encoder.after_norm"
    output = fails(capsys, ssl_model, write_asr(tmp_path, [spec]))
    assert "not from pretraining: 2" in output
    assert "encoder.after_norm.bias" in output


def test_other_features_are_named(tmp_path, ssl_model, capsys):
    asr = write_asr(
        tmp_path,
        [f"{ssl_model}:encoder:encoder"],
        normalize_conf={"norm_vars": False},
        frontend_conf={**COMMON["frontend_conf"], "hop_length": 128},
    )
    output = fails(capsys, ssl_model, asr)
    assert "  frontend" in output and "  normalize" in output


def average(folder: Path, epochs: int) -> Path:
    """Average the models of some epochs, as ESPnet does at the end of training."""
    reporter = Reporter()
    state = torch.load(folder / "model.pth", weights_only=True)
    for epoch in range(1, epochs + 1):
        reporter.set_epoch(epoch)
        with reporter.observe("valid") as observed:
            observed.register({"loss": torch.tensor(1.0)})
            observed.next()
        trained = {
            key: value + epoch / 100 if key.startswith("encoder.encoders") else value
            for key, value in state.items()
        }
        torch.save(trained, folder / f"{epoch}epoch.pth")
    average_nbest_models(folder, reporter, [("valid", "total_count", "max")], [epochs])
    return folder / "valid.total_count.ave.pth"


@pytest.mark.parametrize("epochs", [1, 3, 5, 10])
def test_averaged_model(tmp_path, ssl_model, epochs, capsys):
    averaged = average(ssl_model.parent, epochs)
    melmat = "frontend.logmel.melmat"
    one, other = (
        torch.load(path, weights_only=True)[melmat] for path in (ssl_model, averaged)
    )
    # Even the mean of equal numbers is rounded.
    assert torch.equal(one, other) == (epochs == 1)
    asr = write_asr(tmp_path, [f"{averaged}:encoder:encoder"])
    check_handoff.main([str(averaged), str(asr)])
    assert "frontend and normalize are the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        dict(fmin=20),
        dict(n_mels=21),
        dict(n_fft=1024),
        dict(window="hamming"),
        dict(hop_length=161),
        dict(fs=16100),
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_frontend_is_refused(tmp_path, ssl_model, change, capsys):
    averaged = average(ssl_model.parent, 3)
    asr = write_asr(
        tmp_path,
        [f"{averaged}:encoder:encoder"],
        frontend_conf={**COMMON["frontend_conf"], **change},
        ignore_init_mismatch=True,
    )
    output = fails(capsys, averaged, asr)
    assert "differs between the two models" in output and "  frontend" in output


def global_mvn(folder: Path, offset: float, **conf):
    """Write statistics as collect_stats does; return the options that use them."""
    folder.mkdir(exist_ok=True)
    mean = np.linspace(-3, 3, 20) + offset
    np.savez(
        folder / "feats_stats.npz",
        count=100,
        sum=100 * mean,
        sum_square=100 * (mean**2 + 2),
    )
    conf["stats_file"] = str(folder / "feats_stats.npz")
    return {"normalize": "global_mvn", "normalize_conf": conf}


def test_global_mvn_with_the_same_statistics(tmp_path, capsys):
    settings = global_mvn(tmp_path / "one", 0.0)
    model = write_experiment(tmp_path / "ssl", SSLTask, {**COMMON, **settings})
    averaged = average(model.parent, 3)
    settings = global_mvn(tmp_path / "copy", 0.0)
    asr = write_asr(tmp_path, [f"{averaged}:encoder:encoder"], **settings)
    check_handoff.main([str(averaged), str(asr)])
    assert "frontend and normalize are the same" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        lambda top: global_mvn(top / "other", 0.01),
        lambda top: global_mvn(top / "other", 0.0, norm_vars=False),
        lambda top: {"normalize": "utterance_mvn", "normalize_conf": {}},
        lambda top: {"normalize": None},
    ],
    ids=["other statistics", "no variances", "utterance_mvn", "none"],
)
def test_other_normalization_is_refused(tmp_path, settings, capsys):
    own = global_mvn(tmp_path / "one", 0.0)
    model = write_experiment(tmp_path / "ssl", SSLTask, {**COMMON, **own})
    asr = write_asr(tmp_path, [f"{model}:encoder:encoder"], **settings(tmp_path))
    output = fails(capsys, model, asr)
    assert "  normalize" in output and "  frontend" not in output


def test_moved_experiment_finds_its_statistics(tmp_path, capsys, monkeypatch):
    """Statistics next to config.yaml take precedence over the recorded path."""
    monkeypatch.chdir(tmp_path)
    settings = global_mvn(Path("exp"), 0.0)
    model = write_experiment(tmp_path / "exp/ssl", SSLTask, {**COMMON, **settings})
    (tmp_path / "exp" / "feats_stats.npz").rename(model.parent / "feats_stats.npz")
    settings = global_mvn(tmp_path / "asr_stats", 0.0)
    asr = write_asr(tmp_path, [f"{model}:encoder:encoder"], **settings)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    check_handoff.main([str(model), str(asr)])
    assert "frontend and normalize are the same" in capsys.readouterr().out


def test_deeper_asr_encoder(tmp_path, ssl_model, capsys):
    conf = {**COMMON["encoder_conf"], "num_blocks": 3}
    asr = write_asr(
        tmp_path,
        [f"{ssl_model}:encoder:encoder"],
        encoder_conf=conf,
        ignore_init_mismatch=True,
    )
    assert "encoder.encoders.2." in fails(capsys, ssl_model, asr)


def spec_of(ssl_model, num_blocks):
    conf = {**COMMON["encoder_conf"], "num_blocks": num_blocks}
    return init_param(ssl_model, argparse.Namespace(encoder_conf=conf))


def test_top_layers_may_be_dropped(tmp_path, capsys):
    # Layer 1 of 11 is kept, whose number is a prefix of that of a dropped one, 10.
    conf = {**COMMON["encoder_conf"], "num_blocks": 11}
    options = {**COMMON, "encoder_conf": conf}
    ssl_model = write_experiment(tmp_path / "ssl", SSLTask, options)
    assert spec_of(ssl_model, 11) == f"{ssl_model}:encoder:encoder"
    kept = {**conf, "num_blocks": 2}
    asr = write_asr(tmp_path, [spec_of(ssl_model, 2)], encoder_conf=kept)
    check_handoff.main([str(ssl_model), str(asr)])
    output = capsys.readouterr().out
    assert "without: 9 (2, 3, 4, 5, 6, 7, 8, 9, 10; " in output
    # ESPnet alone loads the kept tensors unchanged.
    model = ASRTask.build_model(read_config(asr))
    load_pretrained_model(spec_of(ssl_model, 2), model, ignore_init_mismatch=False)
    source = torch.load(ssl_model, weights_only=True)
    state = model.state_dict()
    kept = [name for name in state if name.startswith("encoder.")]
    assert any(name.startswith("encoder.encoders.1.") for name in kept)
    assert all(torch.equal(state[name], source[name]) for name in kept)


def test_a_layer_in_the_middle_may_not_be_missing(tmp_path, ssl_model, capsys):
    spec = f"{ssl_model}:encoder:encoder:encoder.encoders.0."
    output = fails(capsys, ssl_model, write_asr(tmp_path, [spec]))
    assert "not from pretraining" in output and "encoder.encoders.0." in output


def test_layers_that_pretraining_has_not(ssl_model):
    with pytest.raises(ConfigError, match="has 2 encoder layers, the ASR .* needs 3"):
        spec_of(ssl_model, 3)


def test_a_model_of_another_kind_or_file(tmp_path, ssl_model, capsys):
    output = fails(capsys, ssl_model, ssl_model)
    assert "config.yaml: is not of an ASR model" in output and "\n" not in output
    asr = write_asr(tmp_path, [f"{ssl_model}:encoder:encoder"])
    state = torch.load(asr, weights_only=True)
    others = {
        "has no tensors of": {"ctc.ctc_lo.bias": torch.zeros(4)},
        "is of another shape": {name: x[..., None] for name, x in state.items()},
    }
    for words, tensors in others.items():
        torch.save(tensors, asr)
        with pytest.raises(SystemExit, match=words):
            check_handoff.main([str(ssl_model), str(asr)])


def test_missing_files_are_one_line(tmp_path, ssl_model, capsys):
    output = fails(capsys, tmp_path / "no.pth", tmp_path / "x.pth")
    assert "no.pth: no such file" in output and "\n" not in output
    asr = write_asr(tmp_path, [f"{tmp_path}/gone.pth:encoder:encoder"])
    assert "gone.pth: init_param of" in fails(capsys, ssl_model, asr)


def test_an_asr_model_of_another_size_is_reported_not_computed_with(
    tmp_path, ssl_model, capsys
):
    larger = {"encoder_conf": {**ENCODER, "linear_units": 32}}
    asr = write_asr(tmp_path, [], **larger)
    with pytest.raises(SystemExit) as stop:
        check_handoff.main([str(ssl_model), str(asr)])
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert "encoder tensors from pretraining: 0 of" in printed.out
