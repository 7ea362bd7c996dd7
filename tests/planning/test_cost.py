"""Costs counted on fake tensors equal those of a real step."""

import pytest
import torch
from planted import CONFORMER
from torch.utils.flop_counter import FlopCounterMode

from espnet2_birq.errors import ConfigError
from espnet2_birq.kernels import products
from espnet2_birq.planning.cost import (
    FakeModel,
    active_sets,
    count_parameters,
    counted,
    optimizer_numbers,
    plain_args,
)
from espnet2_birq.pretraining.objective import BEST_RQ, BIRQ
from espnet2_birq.pretraining.when import When
from espnet2_birq.tasks.ssl import SSLTask

SECOND = 16000
SHAW = dict(output_size=32, linear_units=64, num_blocks=3, attention_heads=2)
E_BRANCHFORMER = dict(
    output_size=32, linear_units=64, cgmlp_linear_units=64, num_blocks=3
)

TEACHER = dict(
    teacher_conf={},
    objectives=[BIRQ[0], dict(BIRQ[1], view="teacher layer 70%", gradient=0)],
)
RESIDUAL = dict(
    objectives=[
        dict(
            name=view.split()[0],
            view=view,
            labeller="residual",
            labeller_conf=dict(num_codebooks=2, codebook_size=16),
        )
        for view in ("input", "layer 2", "teacher layer 2")
    ]
)

LATENT = dict(
    objectives=[
        BIRQ[0],
        dict(
            name="latent",
            view="teacher layers top 2",
            labeller="latent",
            labeller_conf=dict(predictor=48),
        ),
    ]
)

TURNS = dict(
    objectives=[
        dict(
            name="bridle",
            view="tokenizer",
            labeller="residual",
            labeller_conf=dict(num_codebooks=2, codebook_size=16),
        )
    ],
    tokenizer_conf=dict(layers=2, attention_heads=2, size=16, when={}),
)

CLUSTERS = dict(
    objectives=[
        BIRQ[0],
        dict(
            name="dinosr",
            view="teacher layers top 2 each",
            labeller="clusters",
            labeller_conf=dict(num_codebooks=2, codebook_size=16),
        ),
    ]
)


SPIDR = dict(objectives=[BIRQ[0], dict(CLUSTERS["objectives"][1], student="each")])


def make_args(encoder="conformer", conf=CONFORMER, objectives=BIRQ, **rest):
    args = SSLTask.get_parser().parse_args(["--output_dir", "-"])
    args.encoder, args.encoder_conf, args.objectives = encoder, dict(conf), objectives
    vars(args).update(rest)
    return args


def real_step(args, utterances, seconds):
    model = SSLTask.build_model(plain_args(args, gpu=False)).train()
    speech = torch.randn(utterances, round(seconds * SECOND))
    lengths = torch.full((utterances,), speech.size(1))
    model.prepare([dict(speech=speech, speech_lengths=lengths)])
    # Checks of values are impossible on fake tensors; they are 2 % of so small a step.
    model.checks.on = False
    return model, lambda: model(speech, lengths)[0].backward()


@pytest.mark.parametrize(
    "encoder, conf, rest",
    [
        ("conformer", CONFORMER, {}),
        ("conformer", CONFORMER, dict(model_conf=dict(attention_window=20))),
        ("conformer", CONFORMER, TEACHER),
        ("conformer", CONFORMER, RESIDUAL),
        ("conformer", CONFORMER, LATENT),
        ("conformer", CONFORMER, CLUSTERS),
        ("conformer", CONFORMER, SPIDR),
        ("conformer", CONFORMER, TURNS),
        ("shaw_conformer", SHAW, {}),
        ("e_branchformer", E_BRANCHFORMER, {}),
    ],
)
def test_fake_step_is_the_real_one(encoder, conf, rest):
    args = make_args(encoder, conf, **rest)
    fake = FakeModel(args, gpu=False)
    cost = fake.count_step(2, 3 * SECOND)
    model, step = real_step(args, 2, 3)
    assert fake.parameters == count_parameters(model, model)
    trained = (p for p in model.parameters() if p.requires_grad)
    assert fake.parameters.all == sum(parameter.numel() for parameter in trained)
    with counted() as meter:
        step()
    assert cost.flops == meter.flops > 0
    assert cost.moved == pytest.approx(meter.moved, rel=0.02)
    # The real step's peak also includes parameters that existed before.
    assert cost.peak == pytest.approx(meter.peak, rel=0.2)


def test_turns_are_averaged():
    """The tokenizer learns in one of four steps."""
    conf = TURNS["tokenizer_conf"]
    costs = [
        FakeModel(make_args(**{**TURNS, "tokenizer_conf": {**conf, "when": when}}))
        .count_step(2, 3 * SECOND)
        .flops
        for when in ({}, {"every": 4}, {"stop": 1})
    ]
    always, turns, never = costs
    assert turns == pytest.approx(0.25 * always + 0.75 * never)
    assert always > 1.3 * never


def test_flops_are_those_of_pytorchs_counter(monkeypatch):
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)  # not counted
    # Without depthwise convolutions, whose gradient it counts wrongly.
    args = make_args(conf=dict(CONFORMER, use_cnn_module=False))
    model, step = real_step(args, 1, 2)
    with FlopCounterMode(display=False) as counter:
        with counted() as meter:
            step()
    assert meter.flops == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_flops_of_a_depthwise_convolution():
    layer = torch.nn.Conv1d(8, 8, 3, padding=1, groups=8)
    x = torch.randn(2, 8, 10, requires_grad=True)
    with counted() as meter:
        layer(x).sum().backward()
    assert meter.flops == 3 * 2 * x.numel() * 3  # output, both gradients; kernel 3


def test_peak_of_a_known_computation():
    x = torch.randn(1000)
    with counted() as meter:
        y = x + 1  # 4000 bytes
        z = y * 2  # 8000 bytes alive
        del y
        _ = z + 1  # 8000 bytes alive again
    assert meter.peak == 8000
    assert meter.moved == 3 * 8000


def test_label_pass_costs_its_share():
    # 1 + k / K forward and backward passes, less the first layers' gradient
    conf = dict(SHAW, num_blocks=10, output_size=64, linear_units=256)
    small = dict(codebook_size=16)
    both = [dict(one, labeller_conf=small) for one in BIRQ]
    one = [dict(one, labeller_conf=small) for one in BEST_RQ]
    birq = FakeModel(make_args("shaw_conformer", conf, both)).count_step(1, 80000)
    best_rq = FakeModel(make_args("shaw_conformer", conf, one)).count_step(1, 80000)
    assert birq.flops / best_rq.flops == pytest.approx(1.7, abs=0.02)
    both[1]["gradient"] = 0
    cut = FakeModel(make_args("shaw_conformer", conf, both)).count_step(1, 80000)
    assert cut.flops / best_rq.flops == pytest.approx(1.23, abs=0.02)


def test_rare_labels_cost_their_share_on_average():
    def cost(objectives, when=None, **conf):
        few = [dict(one, labeller_conf=dict(codebook_size=16)) for one in objectives]
        few[-1]["when"] = when
        args = make_args(objectives=few, target_branch_conf=conf, accum_grad=2)
        return FakeModel(args).count_step(4, 3 * SECOND)

    every, never = cost(BIRQ), cost(BEST_RQ)
    rare = cost(BIRQ, when={"every": 4, "start": 3})
    assert rare.flops == pytest.approx((every.flops + 3 * never.flops) / 4, rel=1e-3)
    assert rare.moved == pytest.approx((every.moved + 3 * never.moved) / 4, rel=1e-2)
    assert rare.peak == every.peak > never.peak
    half = cost(BIRQ, utterances=2)
    assert half.flops == pytest.approx((every.flops + never.flops) / 2, rel=0.1)
    assert half.flops < every.flops and half.peak < every.peak


def test_a_late_start_and_an_early_stop_cost_nothing_in_the_other_updates():
    both = [dict(one, labeller_conf=dict(codebook_size=16)) for one in BIRQ]

    def flops(when, updates):
        both[1]["when"] = when
        fake = FakeModel(make_args(objectives=both))
        return fake.count_step(2, 3 * SECOND, updates=updates).flops

    on, off = flops({}, range(40)), flops({"start": 40}, range(40))
    assert on > 1.3 * off
    assert flops({"start": 30}, range(40)) == pytest.approx(
        (3 * off + on) / 4, rel=1e-6
    )
    assert flops({"stop": 30}, range(40)) == pytest.approx((off + 3 * on) / 4, rel=1e-6)


@pytest.mark.parametrize("updates", [range(1), range(100), range(37, 90)])
def test_updates_by_what_is_active_in_them(updates):
    whens = [When(stop=40), When(start=30, every=4, length=3), When(every=6, stop=1000)]
    found = {}
    for update in updates:
        on = tuple(when.includes(update) for when in whens)
        first, number = found.get(on, (update, 0))
        found[on] = first, number + 1
    assert sorted(active_sets(whens, updates)) == sorted(found.values())
    assert active_sets([When()], range(10**15)) == [(0, 10**15)]


def test_frozen_parameters_cost_no_gradient():
    small = [dict(BEST_RQ[0], labeller_conf=dict(codebook_size=16))]
    plain = FakeModel(make_args(objectives=small))
    frozen = FakeModel(make_args(objectives=small, freeze_param=["encoder"]))
    assert frozen.parameters.encoder == 0 < frozen.parameters.heads
    cost, less = (model.count_step(2, 3 * SECOND) for model in (plain, frozen))
    assert less.flops < 0.45 * cost.flops and less.peak < 0.6 * cost.peak
    names = {name for name, p in plain.whole.named_parameters() if p.requires_grad}
    part = FakeModel(make_args(objectives=small, freeze_param=["encoder.encoders.1"]))
    kept = {name for name, p in part.whole.named_parameters() if p.requires_grad}
    assert kept and names - kept == {
        name for name in names if name.startswith("encoder.encoders.1.")
    }
    with pytest.raises(ConfigError, match="has no parameters nothing; its parts are"):
        FakeModel(make_args(objectives=small, freeze_param=["nothing"]))


def test_half_precision_halves_what_is_kept():
    small = [dict(BEST_RQ[0], labeller_conf=dict(codebook_size=16))]
    half, single = (
        FakeModel(make_args("shaw_conformer", SHAW, small, use_amp=use_amp))
        for use_amp in (True, False)
    )
    ratio = [model.count_step(4, 160000).peak for model in (half, single)]
    assert 0.5 < ratio[0] / ratio[1] < 0.75
    costs = [model.count_step(4, 160000).flops for model in (half, single)]
    assert costs[0] == costs[1]


def test_memory_of_attention():
    """On a GPU, our attention keeps one matrix of scores in half precision, ESPnet's
    three in more; in blocks, memory is linear in the length."""
    small = [dict(BEST_RQ[0], labeller_conf=dict(codebook_size=16))]

    def peaks(*seconds, **conf):
        args = make_args(objectives=small, model_conf=conf, use_amp=True)
        model = FakeModel(args)
        return [model.count_step(1, x * SECOND).peak for x in seconds]

    plain, ours = peaks(60, 120, accelerate=False), peaks(60, 120)
    blocks = peaks(60, 120, attention_window=100)
    frames = 120 * 25
    matrices = 3 * 2 * frames**2  # layers, heads
    assert plain[1] - ours[1] > 4 * matrices  # bytes
    assert ours[1] > 2.5 * ours[0]
    assert blocks[1] == pytest.approx(2 * blocks[0], rel=0.02)


def test_nothing_is_allocated_for_a_large_model():
    # 10 layers of 4096: 4 G parameters, 18 GB
    conf = dict(SHAW, num_blocks=10, output_size=4096, linear_units=16384)
    model = FakeModel(make_args("shaw_conformer", conf, use_amp=True))
    assert model.parameters.encoder > 4e9
    assert model.count_step(64, 160000).flops > 1e15


@pytest.mark.parametrize("projection", ["pca", "whitened"])
def test_labels_from_disk_and_from_statistics(projection):
    given = dict(name="given", labeller_conf=dict(codebook_size=50))
    anchor = dict(name="anchor", labeller_conf=dict(projection=projection))
    model = FakeModel(make_args(objectives=[given, anchor]))
    assert model.count_step(2, 2 * SECOND).flops > 0


@pytest.mark.parametrize("optim, numbers", [("adamw", 2), ("sgd", 0)])
def test_numbers_of_the_optimizer(optim, numbers):
    args = make_args(optim=optim, optim_conf=dict(lr=0.1))
    assert optimizer_numbers(args) == numbers
