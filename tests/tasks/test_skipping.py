"""Updates that cannot be made are named, counted and limited; NaN is never saved."""

import copy
import logging
import math

import pytest
import torch
from espnet2.train.reporter import Reporter
from trainings import options, write_data

from espnet2_birq.bin import ssl_train
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labellers.codebooks import MovingCodebooks
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.tasks.skipping import check_parameters, check_validation


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


CODES = {"labeller_conf": {"num_codebooks": 2, "codebook_size": 8}}
LAYERS = "teacher layers top 2 each"
FOLLOWING = [
    {"name": "rvq", "view": "input", "labeller": "residual", **CODES},
    {"name": "dinosr", "view": LAYERS, "labeller": "clusters", **CODES},
]


def test_codebooks_do_not_follow_what_no_update_was_made_of(folder, spoil, monkeypatch):
    """Neither a skipped update's batches nor an epoch's leftover one (accum_grad)."""
    spoil("u1")
    batches, first = [], []  # of each: its utterances, and what labellers observe
    forward, observe = BiRQModel._step, MovingCodebooks.observe

    def note_batch(self, speech, speech_lengths, utt_id, **given):
        if self.training:
            if not first:
                first.append(copy.deepcopy([x.labeller for x in self.objectives]))
            batches.append((utt_id, []))
        return forward(self, speech, speech_lengths, utt_id=utt_id, **given)

    def note(self, vectors, valid):
        if self.ready:
            batches[-1][1].append((vectors, valid))
        observe(self, vectors, valid)

    with monkeypatch.context() as patch:
        patch.setattr(BiRQModel, "_step", note_batch)
        patch.setattr(MovingCodebooks, "observe", note)
        conf = dict(accum_grad=2, num_iters_per_epoch=7, max_epoch=2)
        train(folder, objectives=FOLLOWING, **conf)
    starts = [*range(0, 6, 2), *range(7, 13, 2)]
    updates = [batches[start : start + 2] for start in starts]
    bad = [any("u1" in names for names, _ in update) for update in updates]
    # A skipped update, and a leftover batch, with an update after it that is made.
    assert len(batches) == 14 and bad[1:4] == [True, False, False]
    good = [update for update, spoiled in zip(updates, bad) if not spoiled]
    model = state_of(folder / "exp" / "2epoch.pth")
    assert model["updates"] == len(good)
    for number, labeller in enumerate(first[0]):
        for update in good:
            for _, seen in update:
                labeller.observe(*seen[number])
            labeller.step()
        for name in ("usage", "sums", "errors", "variances"):
            expected = model[f"objectives.{number}.labeller.{name}"]
            assert torch.equal(getattr(labeller, name), expected), name


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


def test_buffers_that_are_not_finite():
    """BatchNorm's statistics and codebooks are as good as lost, too."""
    model = torch.nn.BatchNorm1d(2)
    check_parameters(model)
    model.running_mean[1] = math.inf
    with pytest.raises(ConfigError, match="no longer finite .running_mean."):
        check_parameters(model)


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


def test_a_validation_of_which_half_is_finite():
    """It is reported; one that is mostly not finite stops the training."""
    reporter = Reporter()
    reporter.set_epoch(1)
    part = reporter.start_epoch("valid")
    for loss in (1.0, math.nan, 1.0, math.inf):
        part.register({"loss": loss})
        part.next()
    check_validation(part)
    part.register({"loss": math.nan})
    with pytest.raises(ConfigError, match="the loss of 3 of 5 batches is not finite"):
        check_validation(part)
