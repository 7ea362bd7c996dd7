"""conf/ami: readable by ESPnet, and consistent in pretraining and fine-tuning."""

from pathlib import Path

import pytest
import torch

from espnet2_birq.pretraining.objective import parse_objectives
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.ssl import SSLTask

CONF = Path(__file__).resolve().parents[2] / "conf" / "ami"


def read(name: str, task):
    config = str(CONF / f"train_{name}.yaml")
    return task.get_parser().parse_args(["--config", config, "--output_dir", "x"])


def small(args):
    args.encoder_conf.update(output_size=16, linear_units=32, attention_heads=2)
    return args


@pytest.mark.parametrize("name", ["birq", "best_rq"])
def test_pretraining_starts(name):
    args = read(name, SSLTask)
    rows = parse_objectives(args.objectives, args.encoder_conf["num_blocks"])
    views = ["input", "layer 8"][: 2 if name == "birq" else 1]
    assert [str(row.view) for row in rows] == views
    assert len(args.best_model_criterion) == args.keep_nbest_models == 1
    model = SSLTask.build_model(small(args))
    optimizer = SSLTask.build_optimizers(args, model)[0]
    assert optimizer.param_groups[0]["lr"] == 5e-4


def test_configurations_differ_in_objectives_alone():
    birq, best_rq = (vars(read(name, SSLTask)) for name in ("birq", "best_rq"))
    assert {k for k in birq if birq[k] != best_rq[k]} == {"objectives", "config"}


def test_size_that_is_told():
    args = read("best_rq", SSLTask)
    with torch.device("meta"):
        encoder = SSLTask.build_model(args).encoder
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert f"{count / 1e6:.0f} M parameters" in (CONF / "train_birq.yaml").read_text()


def test_fine_tuning_fits_pretraining():
    ssl, asr = read("birq", SSLTask), read("asr", ASRTask)
    for key in ("frontend", "frontend_conf", "normalize", "normalize_conf"):
        assert getattr(ssl, key) == getattr(asr, key), key
    assert (ssl.encoder, ssl.encoder_conf) == (asr.encoder, asr.encoder_conf)
    assert asr.max_epoch == 30 and asr.model_conf["ctc_weight"] == 1.0
    asr.token_list, asr.token_type = ["<blank>", "<unk>", "a", "<sos/eos>"], "char"
    model = ASRTask.build_model(small(asr)).train()
    one = torch.tensor([1])
    loss, _, _ = model(torch.randn(1, 32000), 32000 * one, 2 * one[None], one)
    assert torch.isfinite(loss)
