"""Regression of a teacher's layers: loss, targets, guards against collapse, teacher."""

import logging

import pytest
import torch
import torch.nn.functional as F
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from test_model import ANCHOR, SMALL, fix_draws, make_batch, make_model
from test_ranks import HALVES, SECONDS, masks, spawn

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.collapse import CollapseError
from espnet2_birq.pretraining.labels import VectorLabels
from espnet2_birq.pretraining.losses.regression import masked_regression, spread
from espnet2_birq.pretraining.views import normalize_over_time, parse_view

LATENT = {"name": "latent", "view": "teacher layers top 2", "labeller": "latent"}
PREDICTOR = {**LATENT, "labeller_conf": {"predictor": 24, "beta": 0.5}}


def make_optimizer(model, lr=3e-3, **conf):
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, **conf)
    model.count_updates_of(optimizer)
    return optimizer


def train(model, optimizer, updates, seed=0):
    history = []
    for update in range(updates):
        torch.manual_seed(1000 * seed + update)
        loss, stats, _ = model(*make_batch(seed=update % 5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(stats)
    return history


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_the_loss_is_the_plain_one(beta):
    torch.manual_seed(0)
    hidden = torch.randn(20, 5, requires_grad=True)
    head = torch.nn.Linear(5, 7)
    targets, valid = torch.randn(20, 7), torch.ones(20)
    valid[15:] = 0
    targets[3] = float("nan")
    total, tally = masked_regression(
        hidden, head(hidden), valid, VectorLabels(targets, beta), 0.3, torch.tensor(8.0)
    )
    rows = [i for i in range(15) if i != 3]
    plain = torch.zeros(())
    for row in rows:
        one, other = head(hidden[row]), targets[row]
        error = F.smooth_l1_loss(one, other, beta=beta) if beta else (one - other) ** 2
        plain = plain + error.mean()
    assert torch.allclose(total, 0.3 * plain / 8)
    assert tally.frames == 14 and torch.allclose(tally.loss, plain)
    expected = torch.autograd.grad(0.3 * plain / 8, hidden)[0]
    (found,) = torch.autograd.grad(total, hidden)
    assert torch.allclose(found, expected, atol=1e-7)
    assert torch.allclose(tally.grad_square, expected.square().sum())
    for sums, values in ((tally.targets, targets), (tally.predictions, head(hidden))):
        deviation = values[rows].std(dim=0, correction=0).mean()
        assert torch.allclose(spread(tally.frames, sums).float(), deviation, atol=1e-5)


def test_targets_are_the_mean_of_normalised_layers():
    """As data2vec's instance norm, for each utterance without its padding."""
    model = make_model([LATENT]).eval()
    speech, lengths = make_batch()
    batch = model._clean_batch(speech, lengths)
    found = model._views(batch, list(model.objectives), 0).whole(
        model.objectives[0].view
    )
    for row, (length, frames) in enumerate(zip(lengths, batch.frames.tolist())):
        alone = model._clean_batch(speech[row : row + 1, :length], lengths[row][None])
        outputs, _ = model.branches["teacher layer"].hidden_states(
            alone.xs, alone.lengths, {2: False, 3: False}
        )
        normed = [F.instance_norm(x.transpose(1, 2)) for x in outputs.values()]
        expected = torch.stack(normed).mean(dim=0).transpose(1, 2)[0]
        assert torch.allclose(found[row, :frames], expected[:frames], atol=1e-3)
        assert not found[row, frames:].any()


def test_the_norm_does_not_see_padding():
    torch.manual_seed(0)
    xs = 3.0 * torch.randn(2, 30, 4) + 7.0
    frames = torch.tensor([30, 12])
    normed = normalize_over_time(xs.bfloat16(), frames)
    xs[1, 12:] = 1e6
    again = normalize_over_time(xs.bfloat16(), frames)
    assert torch.equal(normed, again) and normed.dtype == torch.float32
    assert torch.allclose(again[1, :12].mean(dim=0), torch.zeros(4), atol=1e-5)
    deviation = again[1, :12].std(dim=0, correction=0)
    assert torch.allclose(deviation, torch.ones(4), atol=1e-4)


def test_views_of_several_layers():
    assert parse_view("teacher layers top 8", 12).layers == list(range(5, 13))
    assert parse_view("layers top 1", 12).layers == [12]
    for text in ("teacher layers top 3", "layers top 2 each"):
        assert str(parse_view(text.replace(" ", "  "), 12)) == text
    for text in ("layers top 13", "layers top 0"):
        with pytest.raises(ConfigError, match="the encoder has 12 layers"):
            parse_view(text, 12)
    with pytest.raises(ConfigError, match="unknown view 'layers 3'"):
        parse_view("layers 3", 12)


@pytest.mark.parametrize("row", [LATENT, PREDICTOR])
def test_it_learns_and_reports(row):
    model = make_model([row], teacher_conf=dict(decay=0.9)).train()
    history = train(model, make_optimizer(model), 60)
    early = sum(x["loss_latent"] for x in history[:5]) / 5
    late = sum(x["loss_latent"] for x in history[-5:]) / 5
    assert late < 0.95 * early
    assert history[-1]["target_std_latent"] > 0.5
    assert history[-1]["pred_std_latent"] > 0.01
    assert "acc_latent" not in history[-1] and "label_ppl_latent" not in history[-1]
    head = model.heads["latent"]
    assert len(head) == (1 if row is LATENT else 3)


def test_beside_an_anchor_it_has_its_share_of_the_gradient():
    model = make_model([ANCHOR, LATENT]).train()
    (stats,) = train(model, make_optimizer(model), 1)
    shares = [stats[f"grad_share_{name}"] for name in ("anchor", "latent")]
    assert min(shares) > 0.001 and torch.allclose(sum(shares), torch.tensor(1.0))
    total = 2.4 * stats["loss_anchor"] + stats["loss_latent"]
    assert torch.allclose(stats["loss"], total, atol=1e-5)


@pytest.mark.parametrize("stop", [False, True])
def test_a_collapse_is_named_within_200_updates(stop, caplog):
    model = make_model(
        [LATENT], teacher_conf=dict(decay=0.0), stop_at_collapse=stop
    ).train()
    # Without a lagging teacher and with strong weight decay, all frames become alike.
    optimizer = make_optimizer(model, lr=1e-2, weight_decay=30.0)
    with caplog.at_level(logging.WARNING):
        if stop:
            with pytest.raises(CollapseError, match="'latent' has collapsed: its"):
                train(model, optimizer, 200)
            return
        train(model, optimizer, 200)
    words = " ".join(caplog.messages)
    assert "objective 'latent' has collapsed: its predictions' standard" in words
    caplog.clear()
    model = make_model([LATENT], teacher_conf=dict(decay=0.99)).train()
    with caplog.at_level(logging.WARNING):
        train(model, make_optimizer(model), 60)
    assert not caplog.messages  # no other collapse is reported


def test_what_has_no_codes_is_not_asked_for_any():
    model = make_model([ANCHOR, LATENT])
    with pytest.raises(ConfigError, match="no objective 'latent' that makes labels"):
        model.label(*make_batch(), "latent")
    late = {**ANCHOR, "when": {"once": {"latent": 4}}}
    with pytest.raises(ConfigError, match="'latent' has no codes"):
        make_model([LATENT, late])
    with pytest.raises(ConfigError, match="beta is a number of 0 or more, got -1"):
        make_model([{**LATENT, "labeller_conf": {"beta": -1}}])
    with pytest.raises(ConfigError, match="beta is a number of 0 or more, got inf"):
        make_model([{**LATENT, "labeller_conf": {"beta": float("inf")}}])
    with pytest.raises(
        ConfigError, match="has vectors of 16 values by 0 hidden .* 1 x 32 codes"
    ):
        make_model([LATENT, {**ANCHOR, "head": "latent"}])


def test_a_teacher_equals_a_plain_loop_and_resumes_to_the_bit(tmp_path):
    conf = dict(teacher_conf=dict(decay=[[0, 0.5], [10, 0.9]]))
    model = make_model([LATENT], **conf).train()
    optimizer = make_optimizer(model)
    mine = [x.clone().double() for x in model.encoder.parameters()]
    for update in range(1, 5):
        train(model, optimizer, 1, seed=update)
        decay = 0.5 + 0.04 * update
        for one, other in zip(mine, model.encoder.parameters()):
            one.copy_(decay * one + (1 - decay) * other.detach().double())
    for one, other in zip(mine, model.teacher.network.parameters()):
        assert torch.allclose(one.float(), other, atol=1e-6)
    torch.save([model.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint")
    train(model, optimizer, 3, seed=9)
    resumed = make_model([LATENT], **conf).train()
    other_optimizer = make_optimizer(resumed)
    state, optimizer_state = torch.load(tmp_path / "checkpoint")
    resumed.load_state_dict(state)
    other_optimizer.load_state_dict(optimizer_state)
    train(resumed, other_optimizer, 3, seed=9)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_an_utterance_alone_equals_itself_in_a_padded_batch(monkeypatch):
    model = make_model([PREDICTOR]).eval()
    speech, lengths = make_batch()
    mask = torch.zeros(3, 39, dtype=torch.bool)
    mask[1, 3:9] = mask[1, 20:26] = True
    losses = []
    for rows in (slice(0, 3), slice(1, 2)):
        end = int(lengths[rows].max())
        with monkeypatch.context() as patch, torch.no_grad():
            part = mask[rows] if rows.start == 0 else mask[rows, :27]
            fix_draws(model, part, patch)
            losses.append(model(speech[rows, :end], lengths[rows])[0])
    assert torch.allclose(*losses, atol=1e-5)


def run_step(rows):
    torch.set_num_threads(1)
    objectives = [dict(name="anchor", labeller_conf=SMALL), PREDICTOR]
    model = make_model(objectives, EBranchformerEncoder).train()
    speech, lengths = make_batch(SECONDS)
    feats, frames = model._extract_feats(speech, lengths)
    model.double()
    model._extract_feats = lambda *_: (feats[rows].double(), frames[rows])
    mask = masks()[rows]
    model.masking.draw = lambda *_: mask
    model.masking.capacity = lambda *_: int(mask.sum()) + 3
    model.masking.noise_std = 0.0
    loss, stats, _ = model(speech[rows], lengths[rows])
    loss.sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.requires_grad}, stats


def test_two_ranks_equal_one(tmp_path):
    (one, stats), (other, same) = spawn(run_step, tmp_path / "rank", HALVES)
    threads = torch.get_num_threads()
    expected, joint = run_step(slice(0, 4))
    torch.set_num_threads(threads)
    for name, gradient in expected.items():
        mean = (one[name] + other[name]) / 2
        assert torch.allclose(mean, gradient, rtol=1e-5, atol=1e-7), name
    for key in ("loss_latent", "target_std_latent", "pred_std_latent"):
        assert stats[key] == same[key]
        assert torch.allclose(stats[key], joint[key], atol=1e-6), key
