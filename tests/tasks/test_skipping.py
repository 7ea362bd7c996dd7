"""Updates that cannot be made are named, counted and limited; NaN is never saved."""

import logging
import math

import pytest
import torch
from trainings import options, write_data

from espnet2_birq.bin import ssl_train
from espnet2_birq.pretraining.model import BiRQModel


@pytest.fixture
def folder(tmp_path):
    write_data(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield tmp_path
    root.handlers, root.level = handlers, level


@pytest.fixture
def spoil(monkeypatch):
    """Make hidden states of an utterance infinite, as by overflow, not bad audio."""
    encode = BiRQModel._encode_masked

    def spoiled(name, training=True):
        def instead(self, batch, mask, rows):
            hidden = encode(self, batch, mask, rows)
            if self.training == training and name in ("all", *batch.utterances):
                hidden = hidden._replace(last=hidden.last * torch.inf)
            return hidden

        monkeypatch.setattr(BiRQModel, "_encode_masked", instead)

    return spoiled


def train(folder, out="exp", **changes):
    changes = {"max_epoch": 1, "accum_grad": 1, "num_iters_per_epoch": 8, **changes}
    ssl_train.main(options(folder, folder / out, **changes))


def state_of(path):
    return torch.load(path, weights_only=True)


def test_the_utterance_is_named_and_counted(folder, spoil, caplog):
    spoil("u3")
    with caplog.at_level(logging.WARNING):
        train(folder)
    lines = (folder / "exp" / "skipped_updates").read_text().splitlines()
    # Eight iterations are two rounds of four batches, one of which has u3.
    assert len(lines) == 2
    assert all(line.split()[0] == "1" and "u3" in line.split()[2:] for line in lines)
    model = state_of(folder / "exp" / "1epoch.pth")
    assert model["updates"] == 6
    assert all(x.isfinite().all() for x in model.values() if x.is_floating_point())
    said = [x for x in caplog.messages if "the update is skipped (1 in a row)" in x]
    assert len(said) == 2 and all("u3" in x for x in said)


def test_too_many_in_a_row(folder, spoil):
    train(folder)
    before = {x.name: x.read_bytes() for x in (folder / "exp").glob("*.pth")}
    spoil("all")
    words = "^ssl_train: error: epoch 2, batch 6: 3 updates in a row were skipped"
    with pytest.raises(SystemExit, match=words):
        train(folder, max_epoch=2, accum_grad=2, max_skipped_updates=3)
    after = {x.name: x.read_bytes() for x in (folder / "exp").glob("*.pth")}
    assert after == before


def test_a_model_that_is_not_finite_is_not_saved(folder, monkeypatch):
    train(folder)
    before = (folder / "exp" / "progress.pth").read_bytes()
    step = torch.optim.AdamW.step

    def broken(self, *args, **kwargs):
        step(self, *args, **kwargs)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(math.nan)

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    words = "^ssl_train: error: the model is no longer finite"
    with pytest.raises(SystemExit, match=words):
        train(folder, max_epoch=2, save_updates=1)
    assert (folder / "exp" / "progress.pth").read_bytes() == before
    assert not (folder / "exp" / "2epoch.pth").exists()


def test_validation_that_is_not_finite(folder, spoil, caplog):
    spoil("u3", training=False)
    train(folder)
    assert "validation: the loss of 1 of 4 batches is not finite" in caplog.text
    spoil("all", training=False)
    with pytest.raises(
        SystemExit, match="^ssl_train: error: validation: the loss of 4"
    ):
        train(folder, max_epoch=2)
    assert not (folder / "exp" / "2epoch.pth").exists()
