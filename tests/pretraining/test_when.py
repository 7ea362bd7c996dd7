"""Activation of objectives: in some updates, or after another has been learned."""

import pytest
import torch
from test_model import ANCHOR, ENHANCED, SMALL, make_batch, make_model

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.views import all_rows
from espnet2_birq.tasks.saving import Parts

LAST = dict(name="last", head="last", labeller="random_projection")


@pytest.mark.parametrize(
    "when, updates",
    [
        (dict(start=2), [2, 3, 4, 5, 6]),
        (dict(stop=3), [0, 1, 2]),
        (dict(start=1, stop=6, every=2), [1, 3, 5]),
        (dict(start=1, every=3, length=2), [1, 2, 4, 5]),
    ],
)
def test_when(when, updates):
    model = make_model([ANCHOR, {**ENHANCED, "when": when}])
    objective = model.objectives[1]
    assert [x for x in range(7) if objective.when.includes(x)] == updates


@pytest.mark.parametrize("fused", [False, True])
def test_updates_that_the_loss_scale_skips_do_not_count(fused):
    """GradScaler steps a fused optimizer then, too, and lets it skip."""
    model = make_model([ANCHOR]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    model.count_updates_of(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for scale in (1.0, torch.inf, 1.0, torch.inf):
        loss = model(*make_batch())[0]
        scaler.scale(scale * loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert model.update_number() == int(model.updates) == 2
    # The scale is part of the state of a training.
    other = torch.amp.GradScaler("cpu")
    Parts(model, [optimizer], [None], other).load(
        Parts(model, [optimizer], [None], scaler).state()
    )
    assert other.get_scale() == scaler.get_scale() == 2.0


def test_an_objective_begins_once_another_predicts_many_codes(caplog):
    caplog.set_level("INFO")
    late = {**ENHANCED, "head": "own", "weight": [[0, 0.0], [4, 0.4]]}
    late["when"] = dict(once={"anchor": 5.0}, every=2)
    late["labeller_conf"] = {**SMALL, "temperature": [[0, 2.0], [4, 1.0]]}
    model = make_model([ANCHOR, late]).train()
    enhanced = model.objectives[1]
    values = {"pred_ppl_anchor": torch.tensor(4.0)}
    for update in range(100):  # the mean over 50 steps decides
        assert not enhanced.is_on(update)
        values["pred_ppl_anchor"] = torch.tensor(4.0 if update < 50 else 5.5)
        model.starts.watch(values, update)
    assert "'enhanced' begins at update 100: pred_ppl_anchor was 5.5" in caplog.text
    on = [update for update in range(90, 108) if enhanced.is_on(update)]
    assert on == [100, 102, 104, 106]
    weights = [enhanced.weight_at(update) for update in (0, 100, 102, 104, 999)]
    assert weights == pytest.approx([0, 0, 0.2, 0.4, 0.4])
    batch = model._clean_batch(*make_batch())
    views = model._views(batch, [enhanced], 100)
    temperatures = [
        enhanced.labels(views, all_rows(batch), update, observe=False)[0].temperature
        for update in (100, 102, 104, 999)
    ]
    assert temperatures == pytest.approx([2.0, 1.5, 1.0, 1.0])
    # A resumed training remembers the start, even if the condition no longer holds.
    other = make_model([ANCHOR, late]).train()
    assert other.objectives[1].age(104) is None
    other.load_state_dict(model.state_dict())
    assert other.objectives[1].age(104) == 4
    other.starts.watch({"pred_ppl_anchor": torch.tensor(1.0)}, 105)
    assert other.objectives[1].is_on(106)
    model._update = 99
    assert "loss_enhanced" not in model(*make_batch())[1]
    model._update = 102
    assert "loss_enhanced" in model(*make_batch())[1]


def test_steps_without_a_perplexity_do_not_delay_the_beginning():
    """NaN, as no frame had a label: as 0, it would halve the mean."""
    late = {**ENHANCED, "head": "own", "when": {"once": {"anchor": 5.0}}}
    model = make_model([ANCHOR, late]).train()
    for update in range(50):
        value = 6.0 if update % 2 else float("nan")
        model.starts.watch({"pred_ppl_anchor": torch.tensor(value)}, update)
    assert model.objectives[1].age(50) == 0


def test_validation_losses_can_be_compared_while_a_weight_rises():
    rising = {**ENHANCED, "head": "own", "weight": [[0, 0.0], [100, 0.5]]}
    falling = {**ANCHOR, "weight": [[0, 2.0], [50, 1.0]]}
    model = make_model([falling, rising]).eval()
    losses = {}
    for update in (0, 50, 1000):
        model._update = update
        loss, stats, _ = model(*make_batch())
        losses[update] = loss.item()
        assert loss.item() == pytest.approx(
            stats["loss_anchor"].item() + 0.5 * stats["loss_enhanced"].item(), rel=1e-5
        )
    assert losses[0] == losses[50] == losses[1000]
    model.train()._update = 0
    torch.manual_seed(0)
    loss, stats, _ = model(*make_batch())
    assert loss.item() == pytest.approx(2 * stats["loss_anchor"].item(), rel=1e-5)


def test_a_chain_of_conditions():
    """The statistics of an objective that still waits are missing."""
    middle = {**ENHANCED, "head": "own", "when": {"once": {"anchor": 5.0}}}
    last = {**middle, **LAST, "when": {"once": {"enhanced": 5.0}}}
    model = make_model([ANCHOR, middle, last]).train()
    values = {"pred_ppl_anchor": torch.tensor(6.0)}
    for update in range(150):
        if model.objectives[1].is_on(update):
            values["pred_ppl_enhanced"] = torch.tensor(6.0)
        model.starts.watch(values, update)
    assert [one.age(150) for one in model.objectives] == [150, 100, 50]
    # A training from this model's parameters waits anew.
    model.begin()
    assert [one.age(0) for one in model.objectives] == [0, None, None]


def test_conditions_in_a_circle():
    one = {**ENHANCED, "when": {"once": {"last": 5.0}}}
    last = {**ENHANCED, **LAST, "when": {"once": {"enhanced": 5.0}}}
    with pytest.raises(ConfigError, match="enhanced for last for enhanced"):
        make_model([ANCHOR, one, last])


def test_a_head_rests_with_its_objectives():
    """Momentum and weight decay do not move it."""
    stopped = {**ENHANCED, "head": "own", "when": {"stop": 2}}
    model = make_model([ANCHOR, stopped]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    model.count_updates_of(optimizer)
    heads = []
    for _ in range(4):
        optimizer.zero_grad()
        model(*make_batch())[0].backward()
        optimizer.step()
        heads.append({n: x.detach().clone() for n, x in model.heads.named_parameters()})
    for name in heads[0]:
        assert not torch.equal(heads[0][name], heads[1][name])
        assert torch.equal(heads[1][name], heads[3][name]) is name.startswith("own.")


@pytest.mark.parametrize(
    "once, message",
    [
        ({"nobody": 5}, "once names another objective, not 'nobody'"),
        ({"enhanced": 5}, "once names another objective, not 'enhanced'"),
        ({"anchor": 0.5}, "once is {objective: perplexity"),
        ({"anchor": True}, "once is {objective: perplexity"),
        ({"anchor": float("inf")}, "once is {objective: perplexity"),
        (["anchor"], "once is {objective: perplexity"),
    ],
)
def test_conditions_that_cannot_be(once, message):
    with pytest.raises(ConfigError, match=message):
        make_model([ANCHOR, {**ENHANCED, "when": {"once": once}}])


def test_something_is_predicted_before_a_condition_is_met():
    row = {**ANCHOR, "when": {"start": 5}}
    with pytest.raises(ConfigError, match="none is on in update 0"):
        make_model([row, {**ENHANCED, "when": {"once": {"anchor": 5}}}])


def test_turns_leave_no_update_without_an_objective():
    long = {**ANCHOR, "when": {"every": 125_000, "length": 100_000}}
    other = {"start": 100_000, "every": 125_000, "length": 25_000}
    make_model([long, {**ENHANCED, "when": other}])
    with pytest.raises(ConfigError, match="none is on in update 124999"):
        make_model([long, {**ENHANCED, "when": {**other, "length": 24_999}}])


@pytest.mark.parametrize(
    "when",
    [dict(every=0), dict(length=0), dict(every=2, length=3), dict(start=-1)]
    + [
        dict(start=10**20),
        dict(stop=10**20),
        dict(every=10**20),
        dict(start=2**63 - 1),
    ],
)
def test_turns_that_cannot_be(when):
    with pytest.raises(ConfigError, match="objective 'anchor': when is {start"):
        make_model([{**ANCHOR, "when": when}])
