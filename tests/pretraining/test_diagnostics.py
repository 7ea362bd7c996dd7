"""Windows of counts, and gradients by path, against plain formulas."""

import copy

import numpy as np
import pytest
import torch
from test_model import ANCHOR, ENHANCED, make_batch, make_model
from torch._subclasses.fake_tensor import FakeTensorMode

from espnet2_birq.pretraining.diagnostics import Windows, slide
from espnet2_birq.pretraining.losses import cross_entropy
from espnet2_birq.pretraining.statistics import perplexity


def draw(frames, size, seed=0):
    codes = torch.randint(
        size, (frames,), generator=torch.Generator().manual_seed(seed)
    )
    return codes, torch.bincount(codes, minlength=size).float()


def test_a_window_of_batches_has_the_perplexity_of_their_union():
    # 50 batches of 100 frames, each of which can use at most 100 of the 1000 codes.
    batches = [draw(100, 1000, seed) for seed in range(50)]
    windows = Windows()
    for _, counts in batches:
        window = windows.add("anchor", 0, counts)
        windows.add("anchor", 1, torch.ones(3))  # another codebook's
    counts = np.bincount(torch.cat([x for x, _ in batches]), minlength=1000) / 5000
    expected = np.exp(-(counts[counts > 0] * np.log(counts[counts > 0])).sum())
    assert perplexity(window).item() == pytest.approx(expected, rel=1e-4)
    means = np.mean([perplexity(counts).item() for _, counts in batches])
    assert means < 101 < 800 < expected


def test_a_window_forgets():
    window = None
    for code, batches in ((0, 100), (1, 400)):  # 100 frames per batch
        for _ in range(batches):
            counts = torch.zeros(2)
            counts[code] = 100
            window = slide(window, counts, frames=10_000)
        assert window.sum().item() == pytest.approx(10_000, rel=1e-3)
        if code == 0:
            assert perplexity(window).item() == pytest.approx(1.0)
    # Four windows later, exp(-4) of the counts is left.
    assert window[0].item() == pytest.approx(10_000 * np.exp(-4), rel=0.05)


def test_a_batch_larger_than_the_window_stays_whole():
    window = slide(draw(50, 4)[1], draw(5000, 4)[1], frames=100)
    assert window.tolist() == draw(5000, 4)[1].tolist()


def test_nothing_asks_a_device_for_a_value():
    """Reading a value of a fake tensor raises (see test_no_waiting)."""
    with FakeTensorMode():
        windows = Windows()
        for _ in range(2):
            window = windows.add("anchor", 0, torch.ones(8192))
        assert perplexity(window).shape == ()


def make_model_like(model, objectives):
    other = make_model(objectives, diagnose_every=0)
    other.encoder.load_state_dict(model.encoder.state_dict())
    for name, head in other.heads.items():
        head.load_state_dict(model.heads[name].state_dict())
    return other.train()


def plain_gradient(model, objectives):
    """Return the gradients of the lower layers for some objectives, by parameter."""
    other = make_model_like(model, objectives)
    torch.manual_seed(3)
    other(*make_batch())[0].backward()
    grads = {name: x.grad for name, x in other.encoder.named_parameters()}
    lower = ("embed.", "encoders.0.", "encoders.1.")
    return {n: g for n, g in grads.items() if n.startswith(lower) and g is not None}


def norm(gradients):
    return torch.cat([g.flatten() for g in gradients.values()]).norm().item()


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_paths_are_parts_of_the_gradient_of_a_step(factor, monkeypatch):
    monkeypatch.setattr(cross_entropy, "gumbel_like", torch.zeros_like)
    anchor = {**ANCHOR, "weight": 1.0}
    enhanced = {**ENHANCED, "weight": 1.0, "head": "own", "gradient": factor}
    model = make_model([anchor, enhanced], diagnose_every=1).train()
    start = copy.deepcopy(model.state_dict())
    model.updates += 1
    torch.manual_seed(3)
    _, stats, _ = model(*make_batch())
    model.load_state_dict(start)
    whole = plain_gradient(model, [enhanced])
    cut = plain_gradient(model, [{**enhanced, "gradient": 0}])
    apart = {name: whole[name] - cut.get(name, 0) for name in whole}
    assert stats["path_label_enhanced"] == pytest.approx(norm(apart), rel=1e-4)
    assert stats["path_pred_enhanced"] == pytest.approx(norm(cut), rel=1e-4)
    alone = plain_gradient(model, [anchor])
    assert stats["path_pred_anchor"] == pytest.approx(norm(alone), rel=1e-4)
    assert "path_label_anchor" not in stats


def test_noise_of_the_labels_is_no_gradient_through_them():
    """Both losses whose difference is measured have the same noise."""
    anchor = {**ANCHOR, "weight": 1.0}
    found = {}
    for factor in (1.0, 1e-6):
        enhanced = {**ENHANCED, "weight": 1.0, "head": "own", "gradient": factor}
        model = make_model([anchor, enhanced], diagnose_every=1).train()
        model.updates += 1
        torch.manual_seed(3)
        found[factor] = float(model(*make_batch())[1]["path_label_enhanced"])
    assert found[1e-6] < 1e-4 * found[1.0]


def test_looking_changes_nothing_and_is_as_rare_as_asked():
    losses, seen = [], []
    for every in (0, 2):
        model = make_model([ANCHOR, ENHANCED], diagnose_every=every).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.count_updates_of(optimizer)
        torch.manual_seed(5)
        for _ in range(6):
            for _ in range(2):  # batches of an update
                loss, stats, _ = model(*make_batch())
                loss.backward()
                losses.append(loss.item())
                seen.append("path_label_enhanced" in stats)
            optimizer.step()
            optimizer.zero_grad()
    assert losses[:12] == losses[12:]
    assert not any(seen[:12])
    # After 2 and 4 updates, in the first batch of the next one.
    assert [number for number, one in enumerate(seen[12:]) if one] == [4, 8]


@pytest.mark.parametrize("conf", [dict(gradient=0), dict(gradient=0, diversity=0.1)])
def test_without_a_gradient_there_is_nothing_to_see(conf):
    model = make_model([ANCHOR, {**ENHANCED, **conf}], diagnose_every=1).train()
    model.updates += 1
    _, stats, _ = model(*make_batch())
    assert not any(key.startswith("path_") for key in stats)


def test_with_activations_that_are_computed_again():
    model = make_model(
        [ANCHOR, ENHANCED], diagnose_every=1, target_branch_conf=dict(checkpoint=True)
    ).train()
    other = make_model([ANCHOR, ENHANCED], diagnose_every=1).train()
    found = []
    for one in (model, other):
        one.updates += 1
        torch.manual_seed(0)
        loss, stats, _ = one(*make_batch())
        loss.backward()
        found.append(
            (stats["path_label_enhanced"], next(one.encoder.embed.parameters()).grad)
        )
    assert torch.allclose(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1])
