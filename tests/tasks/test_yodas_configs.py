"""conf/yodas: values read by ESPnet, and a model for each configuration."""

from pathlib import Path

import pytest
import torch
import yaml

from espnet2_birq.tasks.ssl import SSLTask, encoder_choices

CONF = Path(__file__).resolve().parents[2] / "conf" / "yodas"
NAMES = ["train_birq", "train_birq_multilingual"]


def read(name):
    config = str(CONF / f"{name}.yaml")
    return SSLTask.get_parser().parse_args(["--config", config, "--output_dir", "x"])


@pytest.mark.parametrize("name", NAMES)
def test_size(name):
    args = read(name)
    encoder_class = encoder_choices.get_class(args.encoder)
    assert encoder_class.__module__.startswith("espnet2.")  # stock ESPnet
    with torch.device("meta"):
        encoder = encoder_class(args.frontend_conf["n_mels"], **args.encoder_conf)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert (
        f"about {round(count / 1e6)} M parameters"
        in (CONF / f"{name}.yaml").read_text()
    )
    assert len(args.best_model_criterion) == 1 and args.keep_nbest_models == 1


@pytest.mark.parametrize("name", NAMES)
def test_pretraining_starts(name):
    args = read(name)
    args.encoder_conf.update(output_size=16, linear_units=32, num_blocks=4)
    model = SSLTask.build_model(args).train()
    speech, lengths = torch.randn(2, 32000), torch.tensor([32000, 20000])
    model.prepare([dict(speech=speech, speech_lengths=lengths)])
    loss, stats, _ = model(speech, lengths)
    loss.backward()
    assert torch.isfinite(loss) and stats["loss_enhanced"] > 0


def test_multilingual_differs_in_batches_alone():
    one, many = (yaml.safe_load((CONF / f"{name}.yaml").read_text()) for name in NAMES)
    differing = {k for k in one.keys() | many.keys() if one.get(k) != many.get(k)}
    assert differing == {
        "iterator_type",
        "batch_type",
        "upsampling_factor",
        "dataset_scaling_factor",
        "min_batch_size",
        "drop_last_iter",
        "valid_iterator_type",
        "valid_batch_type",
        "valid_batch_bins",
    }
    args = read("train_birq_multilingual")
    assert (args.iterator_type, args.batch_type) == ("category", "catpow")
    assert (args.valid_iterator_type, args.valid_batch_type) == ("sequence", "numel")
