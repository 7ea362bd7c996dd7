"""A tokenizer and the encoder in turns (BRIDLE): loss, turns, ranks, checkpoints."""

import copy

import pytest
import torch
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from test_model import ANCHOR, ENHANCED, make_batch, make_model
from test_ranks import HALVES, SECONDS, spawn
from test_residual import (
    make_codebooks,
    make_labeller,
    make_optimizer,
    plain,
    prepared_model,
    train,
)

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.tokenizer import FrameTransformer, straight_through
from espnet2_birq.pretraining.views import View

CODES = dict(num_codebooks=2, codebook_size=8)
BRIDLE = dict(name="bridle", view="tokenizer", labeller="residual", labeller_conf=CODES)
CONF = dict(layers=1, estimator_layers=1, attention_heads=2, size=12)
ALWAYS = {**CONF, "when": {}}
# The encoder learns in two updates, then the tokenizer in one.
TURN = {**BRIDLE, "when": dict(every=3, length=2)}
TURNS = {**CONF, "when": dict(start=2, every=3)}


def tokenizer_model(objectives=(BRIDLE,), conf=ALWAYS, **more):
    return prepared_model(objectives=list(objectives), tokenizer_conf=conf, **more)


# ---------------------------------------------------------------------- the loss
def test_quantization_has_the_gradient_of_the_identity():
    books = make_codebooks()
    labeller = make_labeller(codebooks=books)
    vectors = torch.randn(50, 6, requires_grad=True)
    made, distance = straight_through(labeller, vectors)
    codes, expected = plain(vectors.detach(), books)
    assert torch.allclose(made.detach().double(), torch.tensor(expected), atol=1e-5)
    weights = torch.randn(50, 6)
    (gradient,) = torch.autograd.grad((made * weights).sum(), vectors)
    assert torch.equal(gradient, weights)
    # Distance and gradient, level by level, with codes as constants.
    _, distance = straight_through(labeller, vectors)
    (gradient,) = torch.autograd.grad(distance.sum(), vectors)
    left, by_hand, slope = vectors.detach().clone(), 0.0, 0.0
    for level in range(3):
        left = left - books[level][torch.tensor(codes[level])]
        by_hand, slope = by_hand + left.square().mean(dim=1) / 3, slope + 2 * left / 18
    assert torch.allclose(distance.detach(), by_hand, atol=1e-5)
    assert torch.allclose(gradient, slope, atol=1e-5)


def plain_target(network, layer, feats, lengths):
    """Return a layer's output of one utterance, from a pass through all layers."""
    seen = []
    keep = lambda block, args, output: seen.append(output[0][0])  # noqa: E731
    with network.encoders[layer - 1].register_forward_hook(keep):
        network(feats, lengths)
    return seen[0][0]


@pytest.mark.parametrize("target", ["layer 100%", "teacher layer 2"])
@torch.no_grad()
def test_the_loss_is_that_of_the_frames_one_by_one(target):
    """The teacher's layer is one that no objective has."""
    model = tokenizer_model(conf={**ALWAYS, "target": target}).eval()
    network, layer = model.encoder, 3
    if "teacher" in target:
        network, layer = model.teacher.network, 2
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    tokenizer, labeller = model.tokenizer, model.objectives[0].labeller
    speech, lengths = make_batch(SECONDS)
    _, stats, _ = model(speech, lengths)
    errors, distances = [], []
    for wave, length in zip(speech, lengths):
        alone = wave[None, :length], length[None]
        inputs, frames = model.vectors(*alone, View("input"))
        target = plain_target(network, layer, *model._extract_feats(*alone))
        inputs, number = inputs[:, : int(frames)], int(frames)
        (z,) = tokenizer(inputs, frames)
        made = labeller._quantize(z)[1]
        estimate = tokenizer.output(tokenizer.estimator(made[None], frames))[0]
        books = labeller.codebooks()
        for row in range(number):
            one, other = estimate[row].double(), target[row].double()
            norms = float(one.norm() * other.norm())
            errors.append(1.0 - float(one @ other) / norms)
            left, far = z[row], 0.0
            for book in books:
                left = left - min(book, key=lambda code: (left - code).norm())
                far += float(left.square().mean()) / len(books)
            distances.append(far)
    assert len(errors) == 39 + 27 + 39 + 17
    assert float(stats["distillation"]) == pytest.approx(
        sum(errors) / len(errors), abs=1e-5
    )
    assert float(stats["commitment"]) == pytest.approx(
        sum(distances) / len(distances), abs=1e-5
    )


def test_the_loss_is_added_with_its_weights():
    conf = {**ALWAYS, "weight": [[0, 0.2], [10, 0.4]], "commitment": 0.5}
    model = tokenizer_model(conf=conf)
    model._update = 5
    loss, stats, _ = model(*make_batch(SECONDS))
    own = 0.3 * (stats["distillation"] + 0.5 * stats["commitment"])
    assert torch.allclose(loss.detach(), stats["loss_bridle"] + own, atol=1e-5)
    assert torch.equal(stats["loss"], loss.detach())


def test_the_encoder_gets_no_gradient_from_its_own_estimate():
    """Not even where labels of the target's layer have one: it would make itself easy."""
    model = tokenizer_model([BRIDLE, {**ENHANCED, "view": "layer 3"}])
    views = model._views(model._clean_batch(*make_batch(SECONDS)), model.objectives, 0)
    loss, _ = model.tokenizer.loss(views, 0)
    assert views.whole(View("layer", 3)).requires_grad
    loss.backward()
    assert all(x.grad is None or not x.grad.any() for x in model.encoder.parameters())
    assert all(x.grad.any() for x in model.tokenizer.output.parameters())


def test_in_evaluation_its_weight_is_the_last():
    """Validation losses of all epochs are comparable, as those of objectives."""
    conf = {**ALWAYS, "weight": [[0, 0.2], [10, 0.4]]}
    model = tokenizer_model(conf=conf).eval()
    model._update = 5
    loss, stats, _ = model(*make_batch(SECONDS))
    own = 0.4 * (
        stats["distillation"] + model.tokenizer.commitment * stats["commitment"]
    )
    assert torch.allclose(loss.detach(), stats["loss_bridle"] + own, atol=1e-5)


def test_a_sequence_does_not_see_its_padding_or_its_batch():
    torch.manual_seed(0)
    network = FrameTransformer(5, 8, 2, 2).train()
    long, short = torch.randn(1, 40, 5), torch.randn(1, 17, 5)
    padded = torch.cat([short, 9.0 * torch.ones(1, 23, 5)], dim=1)
    both = network(torch.cat([long, padded]), torch.tensor([40, 17]))
    assert torch.allclose(both[0], network(long, torch.tensor([40]))[0], atol=1e-5)
    alone = network(short, torch.tensor([17]))[0]
    assert torch.allclose(both[1, :17], alone, atol=1e-5)
    nothing = network(padded, torch.tensor([0]))  # too short for a frame
    assert nothing.isfinite().all()


# ----------------------------------------------------------------------- turns
def parts_of(model):
    """Copy the state of all parts that learn."""
    parts = {"labels": model.objectives, "tokenizer": model.tokenizer}
    parts |= {"encoder": model.encoder, "heads": model.heads}
    return {
        part: {name: x.clone() for name, x in module.state_dict().items()}
        for part, module in parts.items()
    }


def moved(before, after):
    return {
        part
        for part in before
        if any(not torch.equal(x, after[part][k]) for k, x in before[part].items())
    }


def test_in_turns_one_learns_and_the_other_rests():
    """The resting part is bit-identical, despite momentum and weight decay."""
    model = tokenizer_model([TURN], TURNS)
    optimizer, found = make_optimizer(model), []
    for number in range(6):
        before = parts_of(model)
        (stats,) = train(model, optimizer, 1, seed=number)
        found.append(moved(before, parts_of(model)))
        assert ("distillation" in stats) == (number % 3 == 2)
        assert ("loss_bridle" in stats) == (number % 3 != 2)
    encoder, tokenizer = {"encoder", "heads"}, {"tokenizer", "labels"}
    assert found == 2 * [encoder, encoder, tokenizer]


def test_beside_the_encoder_the_tokenizer_learns_in_every_nth_update():
    model = tokenizer_model(conf=CONF)  # default: every 4th
    optimizer, found = make_optimizer(model), []
    for number in range(5):
        before = parts_of(model)
        train(model, optimizer, 1, seed=number)
        found.append(moved(before, parts_of(model)))
    both, alone = {"encoder", "heads", "tokenizer", "labels"}, {"encoder", "heads"}
    assert found == [both, alone, alone, alone, both]


def test_labels_stay_while_the_encoder_learns():
    model = tokenizer_model([TURN], TURNS)
    optimizer = make_optimizer(model)

    def codes():
        made = model.eval().label(*make_batch(SECONDS), "bridle")[0]
        model.train()
        return made

    first = codes()
    train(model, optimizer, 2, seed=1)
    assert torch.equal(codes(), first)
    train(model, optimizer, 1, seed=2)
    assert not torch.equal(codes(), first)


def test_it_learns_what_the_encoder_says():
    model = tokenizer_model(conf={**ALWAYS, "weight": 1.0})
    history = train(model, make_optimizer(model), 40, seed=1)
    first, last = history[0], history[-1]
    assert last["distillation"] < 0.5 * first["distillation"]
    assert last["loss_bridle"] < first["loss_bridle"]
    assert last["level1_usage_bridle"] > 0.5
    assert last["level2_error_bridle"] < last["level1_error_bridle"] < 1
    _, stats, _ = model.eval()(*make_batch(SECONDS))
    assert stats["distillation"] < 0.5 * first["distillation"]


def test_codebooks_do_not_observe_padding():
    """Else codes would move to silence that is not there, most in uneven batches."""
    model = tokenizer_model()
    model(*make_batch(SECONDS))
    observed = model.objectives[0].labeller.observed
    assert observed.counts.sum(dim=1).tolist() == 2 * [39 + 27 + 39 + 17]
    total = 0.0
    for wave, length in zip(*make_batch(SECONDS)):
        inputs, frames = model.vectors(wave[None, :length], length[None], View("input"))
        total = total + model.tokenizer.vectors(inputs, frames)[0, : int(frames)].sum(0)
    assert torch.allclose(observed.sums[0].sum(dim=0), total, atol=1e-3)


# ------------------------------------------------------- ranks and checkpoints
def run_updates(rows):
    torch.set_num_threads(1)
    model = tokenizer_model([TURN], TURNS, rows=rows, encoder=EBranchformerEncoder)
    batches = [make_batch(SECONDS, seed=seed) for seed in range(4)]
    features = [model._extract_feats(*batch) for batch in batches]
    model.double()
    # Not Adam, whose updates hardly depend on the size of a gradient.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.count_updates_of(optimizer)
    several, found = torch.distributed.is_initialized(), []
    for number, ((feats, frames), batch) in enumerate(zip(features, batches)):
        generator = torch.Generator().manual_seed(number)
        mask = torch.rand(4, 39, generator=generator) < 0.3
        lengths = torch.tensor([39, 27, 39, 17])
        mask = (mask & (torch.arange(39) < lengths[:, None]))[rows]
        given = feats[rows].double(), frames[rows]
        model._extract_feats = lambda *_, given=given: given
        model.masking.draw = lambda *_, mask=mask: mask
        model.masking.capacity = lambda *_, mask=mask: int(mask.sum()) + 3
        model.masking.noise_std = 0.0
        loss, stats, weight = model(batch[0][rows], batch[1][rows])
        found.append({x: float(stats[x]) for x in OF_TOKENIZER if x in stats})
        if several:  # as in espnet2/train/trainer.py
            total = weight.clone()
            torch.distributed.all_reduce(total)
            loss = loss * weight / total * torch.distributed.get_world_size()
        loss.backward()
        if several:
            for parameter in model.parameters():  # a missing gradient would hang
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict(), found


OF_TOKENIZER = ("distillation", "commitment")


def test_two_ranks_equal_one(tmp_path):
    threads = torch.get_num_threads()
    (one, seen), (other, _) = spawn(run_updates, tmp_path / "rank", HALVES)
    whole, expected = run_updates(slice(0, 4))
    torch.set_num_threads(threads)
    assert [len(x) for x in expected] == [0, 0, 2, 0]  # see TURNS
    assert seen[2] == pytest.approx(expected[2], rel=1e-4)
    for name, value in whole.items():
        assert torch.equal(one[name], other[name]), name
        assert torch.allclose(value, one[name], atol=2e-5), name


def test_a_resumed_training_is_the_same_to_the_bit():
    whole = tokenizer_model([TURN], TURNS)
    optimizer = make_optimizer(whole)
    train(whole, optimizer, 4, seed=1)
    resumed = make_model([TURN], tokenizer_conf=TURNS).train()
    other = make_optimizer(resumed)
    resumed.load_state_dict(whole.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.unprepared == []
    train(whole, optimizer, 4, seed=2)
    train(resumed, other, 4, seed=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    batch = make_batch(SECONDS)
    codes, frames = whole.eval().label(*batch, "bridle")
    assert codes.shape == (2, 4, 39) and frames.tolist() == [39, 27, 39, 17]
    assert torch.equal(codes, resumed.eval().label(*batch, "bridle")[0])


# ------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    "rows, conf, message",
    [
        ([ANCHOR], CONF, "no objective has view 'tokenizer'"),
        ([BRIDLE, {**BRIDLE, "name": "two"}], CONF, "'two': one objective has view"),
        (
            [{**BRIDLE, "labeller": "random_projection", "labeller_conf": {}}],
            CONF,
            "'bridle': one objective has view 'tokenizer', with labeller residual",
        ),
        (
            [BRIDLE],
            {**CONF, "layers": 0},
            "layers, estimator_layers, size and attention_heads are 1",
        ),
        ([BRIDLE], {**CONF, "attention_heads": 3}, "divides the encoder's output_size"),
        ([BRIDLE], {**CONF, "attention_heads": 0}, "attention_heads are 1 or more"),
        ([BRIDLE], {**CONF, "attention_heads": -4}, "attention_heads are 1 or more"),
        ([BRIDLE], {**CONF, "target": "input"}, "target 'input' is no layer"),
        ([BRIDLE], {**CONF, "target": "layer 9"}, "not among the encoder's layers"),
        ([BRIDLE], {**CONF, "when": {"often": 1}}, "unknown key of 'when' 'often'"),
        (
            [BRIDLE],
            {**CONF, "when": {"once": {"bridle": 4}}},
            "once is for objectives",
        ),
        (
            [{**BRIDLE, "when": {"start": 9}}],
            {**CONF, "when": {"start": 2}},
            "none is on in update 0",
        ),
    ],
)
def test_errors(rows, conf, message):
    with pytest.raises(ConfigError, match=message):
        make_model(rows, tokenizer_conf=conf)


def test_codebooks_are_not_there_yet():
    model = make_model([BRIDLE], tokenizer_conf=ALWAYS).train()
    assert model.unprepared == ["bridle"]
    with pytest.raises(DataError, match="computed from training data by k-means"):
        model(*make_batch(SECONDS))
