"""conf/tuning: the paper's experiments, as ESPnet reads them, and their sizes."""

from pathlib import Path

import pytest
import torch

from espnet2_birq.encoder.shaw_conformer import ShawConformerEncoder
from espnet2_birq.ssl.target import parse_targets
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.ssl import SSLTask

TUNING = Path(__file__).resolve().parents[2] / "conf" / "tuning"
PAPER = {  # millions of parameters, label layer, attention window, utterances a batch
    "c1": (137.4, 4, None, 64),
    "c2": (154.9, 7, None, 64),
    "c3": (274.7, 7, 200, 128),
}


def read(name: str, task):
    config = str(TUNING / f"train_{name}.yaml")
    return task.get_parser().parse_args(["--config", config, "--output_dir", "x"])


@pytest.mark.parametrize("name", PAPER)
def test_pretraining_of_the_paper(name):
    args = read(f"birq_{name}", SSLTask)
    millions, label_layer, window, utterances = PAPER[name]
    assert args.encoder == "shaw_conformer"
    with torch.device("meta"):
        encoder = ShawConformerEncoder(
            args.frontend_conf["n_mels"], **args.encoder_conf
        )
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)
    assert encoder.encoders[0].attention.window == window
    anchor, enhanced = parse_targets(args.targets, len(encoder.encoders))
    assert (anchor.source, anchor.weight.at(0)) == ("input", 2.4)
    assert (enhanced.source, enhanced.weight.at(0)) == (label_layer, 0.1)
    # ESPnet's YAML reader takes 1e-4 without a dot for a string.
    assert args.optim == "adamw" and args.optim_conf["lr"] == 1e-4
    # Utterances of 12.3 s, LibriSpeech's mean, in an update.
    seconds = args.batch_bins * args.accum_grad / 16000
    assert seconds / 12.3 == pytest.approx(utterances, rel=0.05)
    assert len(args.best_model_criterion) == 1
    assert args.keep_nbest_models == 1


@pytest.mark.parametrize("name", PAPER)
def test_pretraining_starts(name):
    # The configuration itself, but for the size of the encoder.
    args = read(f"birq_{name}", SSLTask)
    args.encoder_conf.update(output_size=16, linear_units=32)
    model = SSLTask.build_model(args).train()
    loss, stats, _ = model(torch.randn(2, 32000), torch.tensor([32000, 20000]))
    loss.backward()
    assert torch.isfinite(loss) and stats["loss_enhanced"] > 0
    assert len(model.encoder.encoders) == (5 if name == "c1" else 10)
    optimizer = SSLTask.build_optimizers(args, model)[0]
    assert optimizer.param_groups[0]["lr"] == 1e-4


def test_fine_tuning_of_c2_fits_its_pretraining():
    ssl, asr = read("birq_c2", SSLTask), read("asr_c2", ASRTask)
    for key in ("frontend", "frontend_conf", "normalize", "normalize_conf"):
        assert getattr(ssl, key) == getattr(asr, key), key
    assert (ssl.encoder, ssl.encoder_conf) == (asr.encoder, asr.encoder_conf)
    assert asr.max_epoch == 30 and asr.model_conf["ctc_weight"] == 1.0
    assert len(asr.best_model_criterion) == 1
    assert asr.keep_nbest_models == 5
    asr.encoder_conf.update(output_size=16, linear_units=32)
    asr.token_list, asr.token_type = ["<blank>", "<unk>", "a", "<sos/eos>"], "char"
    model = ASRTask.build_model(asr).train()
    one = torch.tensor([1])
    loss, _, _ = model(torch.randn(1, 32000), 32000 * one, 2 * one[None], one)
    assert torch.isfinite(loss)
