"""save_pretrained and from_pretrained: equal numbers, no paths, a card, any loader."""

import re

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from planted import OBJECTIVES, RATE, write_experiment

from espnet2_birq.api import load
from espnet2_birq.consumers.hub import HubModel
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.tasks.ssl import SSLTask

WAVE = torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def exp(tmp_path):
    folder = tmp_path / "top" / "ssl_x_raw"
    write_experiment(folder, SSLTask, objectives=OBJECTIVES)
    (folder / "given.yaml").unlink()
    return folder


def same(a, b):
    for x, y in zip(a.extract_features(WAVE)[0], b.extract_features(WAVE)[0]):
        assert torch.equal(x, y)
    codes, others = a.labels(WAVE)[0], b.labels(WAVE)[0]
    assert all(torch.equal(codes[name], others[name]) for name in codes)


def test_round_trip(exp, tmp_path):
    model = HubModel.from_pretrained(str(exp))
    same(model, load(exp))
    model.save_pretrained(tmp_path / "mine")
    files = {path.name for path in (tmp_path / "mine").iterdir()}
    assert {"model.safetensors", "config.yaml", "README.md"} <= files
    same(HubModel.from_pretrained(str(tmp_path / "mine"), window=30.0), model)
    same(load(tmp_path / "mine"), model)
    same(load(tmp_path / "mine" / "model.safetensors"), model)
    assert str(tmp_path) not in (tmp_path / "mine" / "config.yaml").read_text()
    again = HubModel.from_pretrained(str(tmp_path / "mine"))
    again.save_pretrained(tmp_path / "again")
    same(load(tmp_path / "again"), model)


def test_batch_equals_single(exp):
    model = HubModel.from_pretrained(str(exp))
    (both, *_), frames = model.extract_features([WAVE[0], WAVE[1, :9999]])
    (alone, *_), one = model.extract_features([WAVE[1, :9999]])
    assert torch.allclose(both[1, : one[0]], alone[0], atol=1e-5)
    assert frames[1] == one[0]


def test_statistics_travel_with_it(tmp_path):
    stats = tmp_path / "feats_stats.npz"
    sums = {"sum": np.full(20, 3.0), "sum_square": np.full(20, 7.0)}
    np.savez(stats, count=np.array(2), **sums)
    options = {"normalize": "global_mvn", "normalize_conf": {"stats_file": str(stats)}}
    exp = tmp_path / "exp"
    write_experiment(exp, SSLTask, objectives=OBJECTIVES, **options)
    (exp / "given.yaml").unlink()
    model = HubModel.from_pretrained(str(exp))
    model.save_pretrained(tmp_path / "mine")
    stats.unlink()
    same(load(tmp_path / "mine"), model)
    again = HubModel.from_pretrained(str(tmp_path / "mine"))
    again.save_pretrained(tmp_path / "mine")  # in its own place
    same(load(tmp_path / "mine"), model)


def test_card_of_an_experiment(exp, tmp_path, monkeypatch):
    config = yaml.safe_load((exp / "config.yaml").read_text())
    config |= {"train_shape_file": [], "valid_shape_file": [], "config": "c.yaml"}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    values = "loss_anchor=2.0, acc_anchor=0.3, loss=2.0, total_count=4"
    (exp / "train.log").write_text(
        f"[x] 2026-01-01 00:00:00,000 (trainer:1) INFO: 1epoch:train:1-4batch: {values}\n"
        f"[x] 2026-01-01 00:01:00,000 (trainer:1) INFO: 1epoch results: [train] {values}, "
        f"[valid] {values}\n"
    )
    model = HubModel.from_pretrained(str(exp))
    model.license = "cc-by-4.0"
    model.save_pretrained(tmp_path / "mine")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.library_name == "espnet"
    assert "A speech encoder pretrained without text" in card.text
    # What the card says works with what is in its folder.
    (code,) = re.findall("```python\n(.*?)```", card.text, re.DOTALL)
    (convert,) = re.findall(r"`(torch.save\(.*\))`, then", card.text)
    monkeypatch.chdir(tmp_path)
    exec(code + convert, {"torch": torch, "speech": torch.randn(16000)})
    (file,) = re.findall(r"--pretrained_model\s+(\S+):encoder:encoder", card.text)
    found = torch.load(tmp_path / file)
    for name, expected in model.model.state_dict().items():
        assert torch.equal(found[name], expected)


def test_options_that_are_none(exp):
    with pytest.raises(ConfigError, match="no option 'windw'; .*device and window"):
        HubModel.from_pretrained(str(exp), windw=30.0)
    assert HubModel.from_pretrained(str(exp), proxies=None).window == 60.0


def test_errors_are_told(exp, tmp_path):
    model = HubModel.from_pretrained(str(exp))
    model.save_pretrained(tmp_path / "mine")
    file = tmp_path / "mine" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"model.safetensors: .*; copy it again"):
        load(tmp_path / "mine")
    with pytest.raises(ConfigError, match="not from from_pretrained"):
        HubModel(model.model).save_pretrained(tmp_path / "other")
    config = (exp / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="is an experiment's folder"):
        model.save_pretrained(exp)
    assert (exp / "config.yaml").read_text() == config


def test_a_tokenizer_travels_whole(tmp_path):
    own = dict(name="own", view="tokenizer", labeller="residual")
    own["labeller_conf"] = dict(num_codebooks=2, codebook_size=4)
    conf = dict(layers=1, estimator_layers=1, attention_heads=1, size=8)
    exp = tmp_path / "exp"
    write_experiment(exp, SSLTask, objectives=[own], tokenizer_conf=conf)
    (exp / "given.yaml").unlink()
    (file,) = exp.glob("*.pth")
    state = torch.load(file, weights_only=True)
    for name in state:  # as if trained
        if name.endswith(("started", "sums")):
            state[name] = torch.rand_like(state[name]) + 1
    torch.save(state, file)
    model = HubModel.from_pretrained(str(exp))
    model.save_pretrained(tmp_path / "mine")
    again = load(tmp_path / "mine")
    assert again.model.tokenizer.network.layers[0].self_attn.num_heads == 1
    same(again, model)
