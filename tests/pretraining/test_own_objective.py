"""The worked example of docs/own_objective.md, as printed there."""

import re
import sys

import pytest
import torch
import yaml
from checkout import ROOT
from test_model import SMALL, make_batch, make_model

from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.configured import parse_config
from espnet2_birq.planning.joint import fake_model

PAGE = (ROOT / "docs" / "own_objective.md").read_text(encoding="utf-8")


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Write the page's module where Python finds it; return its configuration."""
    (tmp_path / "planes.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "planes", raising=False)
    rows = yaml.safe_load(block("yaml"))["objectives"]
    rows[0]["labeller_conf"] = SMALL
    rows[1].update(labeller_conf={"bits": 3}, when={"start": 1})
    return rows


@pytest.mark.parametrize("half", [False, True])
def test_it_learns_reports_and_resumes(rows, half):
    model = make_model(rows, cpu_bfloat16=half).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.count_updates_of(optimizer)
    # Into how many clusters noise is put depends on the masks drawn.
    torch.manual_seed(0)
    history = []
    for update in range(40):
        loss, stats, _ = model(*make_batch())
        assert ("loss_sides" in stats) == (update > 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(stats)
    assert history[-1]["label_ppl_sides"] > 1.5
    assert history[-1]["loss_sides"] < history[1]["loss_sides"]
    state = model.state_dict()
    assert "objectives.1.labeller.mean" in state
    resumed = make_model(rows, cpu_bfloat16=half)
    resumed.load_state_dict(state)
    codes, frames = resumed.eval().label(*make_batch(), "sides")
    assert torch.equal(codes, model.eval().label(*make_batch(), "sides")[0])
    assert codes.shape == (1, 3, 39) and frames.tolist() == [39, 27, 17]


def test_its_cost_is_planned(rows, tmp_path):
    """By tensors without values."""
    conf = yaml.safe_load((ROOT / "conf/mini_an4/train_birq.yaml").read_text())
    costs = []
    for objectives in (rows[:1], rows):
        (tmp_path / "c.yaml").write_text(
            yaml.safe_dump({**conf, "objectives": objectives})
        )
        args = parse_config(tmp_path / "c.yaml", [])
        costs.append(fake_model(args).count_step(2, 48000).flops)
    assert 0 < costs[0] < costs[1]


VECTORS = """
from espnet2_birq.pretraining.labellers import Labeller
from espnet2_birq.pretraining.labels import HardLabels, VectorLabels


class Vectors(Labeller):
    discrete = False

    def __init__(self, input_size, running, predictor=0):
        super().__init__()
        self.vector_size, self.predictor = input_size // 2, predictor

    def label(self, vectors, update=0):
        return [VectorLabels(vectors.detach()[:, : self.vector_size])]


class Unsized(Labeller):
    def __init__(self, input_size, running):
        super().__init__()

    def label(self, vectors, update=0):
        return [HardLabels(vectors[:, 0].long())]
"""


def test_labels_that_are_vectors(rows, tmp_path):
    (tmp_path / "planes.py").write_text(VECTORS)
    for conf in ({}, {"predictor": 4}):
        rows[1].update(labeller="planes:Vectors", labeller_conf=conf, when={})
        model = make_model(rows).train()
        loss, stats, _ = model(*make_batch())
        loss.backward()
        assert stats["loss_sides"] > 0
        assert stats["target_std_sides"].isfinite()
    rows[1].update(labeller="planes:Unsized", labeller_conf={})
    with pytest.raises(ConfigError, match="codebook_size of Unsized is a whole number"):
        make_model(rows)


@pytest.mark.parametrize(
    "name, words",
    [
        ("planes:KMeans", "no attribute 'KMeans'"),
        (
            "nothing.kmeans:KMeans",
            "No module named 'nothing'; put its folder on PYTHONPATH",
        ),
        ("subprocess:Popen", "is not a Labeller"),
        ("planes", "unknown labeller 'planes', use one of .* or module:Class"),
    ],
)
def test_wrong_names(rows, name, words):
    rows[1]["labeller"] = name
    with pytest.raises(ConfigError, match=words):
        make_model(rows)
