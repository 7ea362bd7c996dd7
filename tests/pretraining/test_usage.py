"""Entropy of code usage against its definition by autograd."""

import pytest
import torch
from test_model import ANCHOR, ENHANCED, GUMBEL, make_batch, make_model

from espnet2_birq.pretraining.labels import SoftLabels
from espnet2_birq.pretraining.losses.usage import usage_entropy


def make_labels(frames=30, codes=11, dim=3, books=2):
    torch.manual_seed(0)
    double = dict(dtype=torch.float64)
    return [
        SoftLabels(
            points=torch.randn(frames, dim, **double).requires_grad_(),
            code_weight=torch.randn(codes, dim, **double),
            code_bias=torch.randn(codes, **double),
            valid=(torch.rand(frames) < 0.7).double(),
        )
        for _ in range(books)
    ]


def plain(labels):
    entropies = []
    for x in labels:
        scores = x.points @ x.code_weight.T + x.code_bias
        q = scores.softmax(dim=1)[x.valid.bool()].mean(dim=0)
        entropies.append(torch.special.entr(q).sum())
    return torch.stack(entropies).mean()


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_value_and_gradient_equal_those_of_autograd(chunk):
    labels = make_labels()
    points = [x.points for x in labels]
    ours, theirs = usage_entropy(labels, chunk_numbers=11 * chunk), plain(labels)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    one = torch.autograd.grad(1.7 * ours, points)
    other = torch.autograd.grad(1.7 * theirs, points)
    for x, y in zip(one, other):
        assert torch.allclose(x, y, rtol=0, atol=1e-12)


def test_nothing_of_size_frames_by_codes_is_kept():
    labels = make_labels(frames=500, codes=900)
    saved = []
    pack = lambda x: saved.append(x.numel()) or x  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        usage_entropy(labels).backward()
    assert 0 < sum(saved) < 500 * 900 / 10


def test_the_loss_is_less_by_it_and_its_gradient_is_no_part_of_the_label_s(monkeypatch):
    """With the label's gradient stopped, only the entropy trains the layers below."""
    monkeypatch.setattr(GUMBEL, torch.zeros_like)

    def step(**conf):
        model = make_model([ANCHOR, {**ENHANCED, "head": "own", **conf}]).train()
        torch.manual_seed(1)
        loss, stats, _ = model(*make_batch())
        model.zero_grad()
        loss.backward()
        gradient = model.encoder.encoders[1].feed_forward.w_1.weight.grad.clone()
        return loss.detach(), stats, gradient

    loss, stats, cut = step(gradient=0)
    assert "use_ppl_enhanced" not in stats
    less, stats, spread = step(gradient=0, diversity=0.3)
    entropy = stats["use_ppl_enhanced"].log()
    assert torch.allclose(less, loss - 0.3 * entropy, atol=1e-5)
    _, _, twice = step(gradient=0, diversity=0.6)
    assert torch.allclose(twice - cut, 2 * (spread - cut), atol=1e-6)
    assert (spread - cut).abs().max() > 1e-5
    _, _, whole = step(gradient=1, diversity=0.3)
    _, _, kept = step(gradient=1)
    assert torch.allclose(whole - kept, spread - cut, atol=1e-6)


def test_its_share_does_not_depend_on_the_size_of_the_batch_or_the_mask():
    """Repeated frames have the same entropy, and half the gradient each."""
    (one,) = make_labels(books=1)
    double = one._replace(
        points=one.points.detach().repeat(2, 1).requires_grad_(),
        valid=one.valid.repeat(2),
    )
    assert torch.allclose(usage_entropy([one]), usage_entropy([double]), atol=1e-12)
    (single,) = torch.autograd.grad(usage_entropy([one]), one.points)
    (both,) = torch.autograd.grad(usage_entropy([double]), double.points)
    assert torch.allclose(both[:30] + both[30:], single, atol=1e-12)
