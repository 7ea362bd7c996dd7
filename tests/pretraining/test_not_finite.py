"""One bad sample or one overflow costs one update and leaves nothing behind."""

import gc
import logging
import weakref

import pytest
import torch
from test_model import ANCHOR, ENHANCED, SMALL, make_batch, make_model

from espnet2_birq.pretraining.checks import _Question

WHITENED = {**ENHANCED, "labeller_conf": {**SMALL, "projection": "whitened"}}
NAMES = ["good-1", "bad", "good-2"]


def bad_batch(value):
    speech, lengths = make_batch()
    speech[1, 500] = value
    return speech, lengths


def step(model, batch, names=NAMES):
    model.zero_grad()
    loss, _, _ = model(*batch, utt_id=names)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    return norm.isfinite()  # only then ESPnet makes the update


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("objectives", [[ANCHOR], [ANCHOR, WHITENED]])
def test_a_bad_sample(objectives, value, caplog):
    model = make_model(objectives).train()
    with caplog.at_level(logging.WARNING):
        assert not step(model, bad_batch(value))
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    assert "bad" in caplog.text and "not finite" in caplog.text
    caplog.clear()
    assert step(model, make_batch())
    assert not caplog.messages


@pytest.mark.parametrize("objectives", [[ANCHOR], [ANCHOR, WHITENED]])
def test_an_overflow_inside_the_encoder(objectives):
    model = make_model(objectives).train()
    assert step(model, make_batch())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    block = model.encoder.encoders[0]
    hook = block.register_forward_pre_hook(
        lambda _, args: ((args[0][0] * torch.inf, args[0][1]), *args[1:])
    )
    assert not step(model, make_batch())
    hook.remove()
    for name, buffer in model.named_buffers():
        if "running_" in name or "whitening" in name:
            assert torch.equal(buffer, before[name]), name
    assert step(model, make_batch())


def test_a_bad_sample_of_validation_is_not_blamed_for_a_skipped_update(caplog):
    model = make_model([ANCHOR]).eval()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        model(*bad_batch(torch.nan), utt_id=NAMES)
    assert "bad; the validation leaves this batch out" in caplog.text
    assert model.checks.take_not_finite() == []
    model.train()
    step(model, bad_batch(torch.nan))
    assert model.checks.take_not_finite() == ["bad"]


def test_checks_whose_results_are_read_later_do_not_keep_their_batches(monkeypatch):
    """As on a GPU, where 50 of them wait."""
    model = make_model([ANCHOR]).train()
    checks = model.checks
    monkeypatch.setattr(
        checks, "_ask", lambda *question: checks.asked.append(_Question(*question))
    )
    kept = []
    features = model._extract_feats

    def spy(*batch):
        xs, lengths = features(*batch)
        kept.append(weakref.ref(xs))
        return xs, lengths

    monkeypatch.setattr(model, "_extract_feats", spy)
    for _ in range(3):
        step(model, make_batch())
    gc.collect()
    assert len(checks.asked) == 3 and not any(ref() is not None for ref in kept)


def test_evaluation_of_a_bad_sample_changes_nothing(caplog):
    model = make_model([ANCHOR, WHITENED]).train()
    step(model, make_batch())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        model(*bad_batch(torch.nan), utt_id=NAMES)
    assert "bad" in caplog.text
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name
