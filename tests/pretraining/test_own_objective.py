"""The worked example of docs/own_objective.md, as printed there."""

import re
import sys

import pytest
import torch
import yaml
from checkout import ROOT
from test_model import SMALL, make_batch, make_model

from espnet2_birq.errors import ConfigError

PAGE = (ROOT / "docs" / "own_objective.md").read_text(encoding="utf-8")


def block(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Write the page's module where Python finds it; return its configuration."""
    folder = tmp_path / "local"
    folder.mkdir()
    (folder / "kmeans.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("local", "local.kmeans"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    rows = yaml.safe_load(block("yaml"))["objectives"]
    rows[0]["labeller_conf"] = SMALL
    rows[1].update(labeller_conf={"codebook_size": 8}, when={"start": 1})
    return rows


def test_it_learns_reports_and_resumes(rows):
    model = make_model(rows).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.count_updates_of(optimizer)
    # Into how many clusters noise is put depends on the masks drawn.
    torch.manual_seed(0)
    history = []
    for update in range(40):
        loss, stats, _ = model(*make_batch())
        assert ("loss_clusters" in stats) == (update > 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(stats)
    assert history[-1]["label_ppl_clusters"] > 1.5
    assert history[-1]["loss_clusters"] < history[1]["loss_clusters"]
    state = model.state_dict()
    assert "objectives.1.labeller.sums" in state
    resumed = make_model(rows)
    resumed.load_state_dict(state)
    codes, frames = resumed.eval().label(*make_batch(), "clusters")
    assert torch.equal(codes, model.eval().label(*make_batch(), "clusters")[0])
    assert codes.shape == (1, 3, 39) and frames.tolist() == [39, 27, 17]


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
    (tmp_path / "local" / "kmeans.py").write_text(VECTORS)
    for conf in ({}, {"predictor": 4}):
        rows[1].update(labeller="local.kmeans:Vectors", labeller_conf=conf, when={})
        model = make_model(rows).train()
        loss, stats, _ = model(*make_batch())
        loss.backward()
        assert stats["loss_clusters"] > 0
        assert stats["target_std_clusters"].isfinite()
    rows[1].update(labeller="local.kmeans:Unsized", labeller_conf={})
    with pytest.raises(ConfigError, match="codebook_size of Unsized is a whole number"):
        make_model(rows)


@pytest.mark.parametrize(
    "name, words",
    [
        ("local.kmeans:KMeans", "no attribute 'KMeans'"),
        ("local.nothing:KMeans", "No module named 'local.nothing'"),
        ("subprocess:Popen", "is not a Labeller"),
        ("kmeans", "unknown labeller 'kmeans', use one of .* or module:Class"),
    ],
)
def test_wrong_names(rows, name, words):
    rows[1]["labeller"] = name
    with pytest.raises(ConfigError, match=words):
        make_model(rows)
