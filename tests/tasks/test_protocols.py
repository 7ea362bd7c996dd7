"""The recipes' fine-tuning configurations, compared with each other and pretraining."""

from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask as StockASRTask

from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.ssl import SSLTask

CONF = Path(__file__).resolve().parents[2] / "conf"
CORPORA = ["librispeech", "ami", "mini_librispeech"]
TOKENS = ["<blank>", "<unk>", "a", "<sos/eos>"]


def read(path: Path, task=ASRTask):
    args = task.get_parser().parse_args(
        ["--config", str(path), "--output_dir", "unused"]
    )
    args.token_list, args.token_type = TOKENS, "char"
    return args


def encoder_of(args, task=ASRTask):
    """Build the encoder at full size, but without values."""
    with torch.device("meta"):
        return task.build_model(args).encoder


def sizes(encoder):
    return {name: value.numel() for name, value in encoder.named_parameters()}


@pytest.mark.parametrize("corpus", CORPORA)
def test_sizes_are_those_of_pretraining(corpus):
    pretrained = sizes(
        encoder_of(read(CONF / corpus / "train_birq.yaml", SSLTask), SSLTask)
    )
    assert sizes(encoder_of(read(CONF / corpus / "train_asr.yaml"))) == pretrained
    strong = encoder_of(read(CONF / corpus / "train_asr_strong.yaml"))
    kept = len(strong.encoders)
    layers = len({name.split(".")[1] for name in pretrained if name[:9] == "encoders."})
    assert 0 < kept < layers
    above = tuple(f"encoders.{number}." for number in range(kept, layers))
    assert sizes(strong) == {
        name: size for name, size in pretrained.items() if not name.startswith(above)
    }


@pytest.mark.parametrize("corpus", CORPORA)
def test_protocols_share_features_and_augmentation(corpus):
    paper, strong, pretraining = (
        vars(read(CONF / corpus / f"train_{name}.yaml", task))
        for name, task in [
            ("asr", ASRTask),
            ("asr_strong", ASRTask),
            ("birq", SSLTask),
        ]
    )
    for key in ("frontend", "frontend_conf", "normalize", "normalize_conf"):
        assert paper[key] == strong[key] == pretraining[key], key
    assert paper["specaug_conf"] == strong["specaug_conf"]
    dropout = {"dropout_rate", "positional_dropout_rate"}  # 0 in mini's pretraining
    for key in paper["encoder_conf"].keys() - dropout:
        assert paper["encoder_conf"][key] == pretraining["encoder_conf"][key], key
    assert paper["max_epoch"] == 30 and paper["model_conf"]["ctc_weight"] == 1.0
    assert paper["optim"] == strong["optim"] == "adamw"
    assert paper["encoder_lr_decay"] == 1 and paper["freeze_encoder_updates"] == 0
    assert strong["encoder_lr_decay"] < 1
    assert 0 < strong["freeze_encoder_updates"] < 1  # for any amount of speech
    for one in (paper, strong):
        assert len(one["best_model_criterion"]) == 1


def test_own_small_one_is_the_papers_but_gentle():
    paper = yaml.safe_load((CONF / "mini_librispeech/train_asr.yaml").read_text())
    own = yaml.safe_load((CONF / "own/train_asr_small.yaml").read_text())
    assert 0 < own.pop("encoder_lr_decay") < 1
    assert 0 < own.pop("freeze_encoder_updates") < 1
    assert own == paper


@pytest.mark.parametrize("corpus", CORPORA)
def test_espnet_alone_reads_all_but_two_lines(corpus, tmp_path, capsys):
    strong = CONF / corpus / "train_asr_strong.yaml"
    with pytest.raises(SystemExit):
        read(strong, StockASRTask)
    said = capsys.readouterr().err
    assert "encoder_lr_decay" in said or "freeze_encoder_updates" in said
    lines = strong.read_text().splitlines()
    ours = ("encoder_lr_decay:", "freeze_encoder_updates:")
    kept = [line for line in lines if not line.startswith(ours)]
    assert len(kept) == len(lines) - 2
    (tmp_path / "stock.yaml").write_text("\n".join(kept))
    assert read(tmp_path / "stock.yaml", StockASRTask).decoder == "transformer"
    read(CONF / corpus / "train_asr.yaml", StockASRTask)


@pytest.mark.parametrize("corpus", CORPORA)
def test_strong_one_trains(corpus):
    args = read(CONF / corpus / "train_asr_strong.yaml")
    args.encoder_conf.update(output_size=16, linear_units=32)
    args.decoder_conf.update(linear_units=32)
    model = ASRTask.build_model(args).train()
    (optimizer,) = ASRTask.build_optimizers(args, model)
    one = torch.tensor([1])
    loss, stats, _ = model(torch.randn(1, 32000), 32000 * one, 2 * one[None], one)
    loss.backward()
    optimizer.step()
    layer = args.encoder_conf["interctc_layer_idx"][0]
    assert torch.isfinite(loss) and stats[f"loss_interctc_layer{layer}"] > 0
    assert stats["loss_att"] > 0
    rates = {group["lr"] for group in optimizer.param_groups}
    assert len(rates) == len(model.encoder.encoders) + 2  # input layers, other parts
