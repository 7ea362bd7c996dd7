"""Recognition and pretraining in one training: loss, schedules, files."""

import pytest
import torch
from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from planted import ENCODER

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.tasks.joint import JointTask

OBJECTIVES = [
    {"name": "anchor", "labeller_conf": {"codebook_size": 16, "codebook_dim": 4}},
    {
        "name": "enhanced",
        "view": "layer 1",
        "labeller_conf": {"codebook_size": 16, "codebook_dim": 4},
    },
]
CONFIG = {
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 20},
    "encoder": "conformer",
    "encoder_conf": {
        **ENCODER,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
    },
    "normalize": "utterance_mvn",
    "decoder": None,
    "model_conf": {"ctc_weight": 1.0},
    "masking_conf": {"mask_prob": 0.03},
    "pretraining_conf": {"cpu_bfloat16": False, "diagnose_every": 0},
    "token_type": "char",
    "token_list": ["<blank>", "<unk>", "A", "B", "<sos/eos>"],
    "objectives": OBJECTIVES,
}
SPEECH = dict(
    speech=0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0)),
    speech_lengths=torch.tensor([16000, 12000]),
)
BATCH = dict(
    SPEECH,
    text=torch.tensor([[2, 3, 2], [3, 2, -1]]),
    text_lengths=torch.tensor([3, 2]),
)
OTHERS = {
    "unlabelled_speech": 0.1
    * torch.randn(3, 20000, generator=torch.Generator().manual_seed(1)),
    "unlabelled_speech_lengths": torch.tensor([20000, 15000, 11000]),
    "unlabelled_utt_id": ["x", "y", "z"],
}


FUSED = {
    "frontend_conf": {
        "frontends": [
            {"frontend_type": "default", "n_mels": 20, "n_fft": 512, "hop_length": 160}
        ]
    }
}


def build(**changes):
    torch.manual_seed(0)
    args = JointTask.get_parser().parse_args(["--output_dir", "-"])
    vars(args).update({**CONFIG, **changes})
    return JointTask.build_model(args)


def run(model, **batch):
    """Run with the same masks, noise and BatchNorm statistics each time."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.reset_running_stats()
    batch = {key: x.clone() if torch.is_tensor(x) else x for key, x in batch.items()}
    return model(**batch)


def gradients(model, **batch):
    model.zero_grad()
    loss, stats, _ = run(model, **batch)
    loss.backward()
    return loss.detach(), stats, [p.grad.clone() for p in model.encoder.parameters()]


def test_gradient_is_the_sum_of_both():
    model = build(supervised_weight=0.7, penalty=0.3)
    loss, stats, both = gradients(model, **BATCH, **OTHERS)
    expected = 0.7 * stats["loss_supervised"] + 0.3 * stats["loss_pretraining"]
    torch.testing.assert_close(loss, expected)
    parts = []
    for supervised, penalty in ((1.0, 0.0), (0.0, 1.0)):
        alone = build(supervised_weight=supervised, penalty=penalty)
        parts.append(gradients(alone, **BATCH, **OTHERS)[2])
    for total, upper, lower in zip(both, *parts):
        torch.testing.assert_close(
            total, 0.7 * upper + 0.3 * lower, rtol=1e-3, atol=1e-6
        )


def test_both_losses_count_by_default():
    # CTC is a sum over tokens: with equal weights, the other loss would hardly matter.
    generator = torch.Generator().manual_seed(0)
    letters = [chr(ord("a") + number) for number in range(26)]
    tokens = {"token_list": ["<blank>", "<unk>", *letters, "<sos/eos>"]}
    batch = dict(
        speech=0.1 * torch.randn(1, 12 * 16000, generator=generator),
        speech_lengths=torch.tensor([12 * 16000]),
        text=torch.randint(2, 28, (1, 150), generator=generator),
        text_lengths=torch.tensor([150]),
    )
    norms = []
    for only in ({"penalty": 0.0}, {"supervised_weight": 0.0}):
        grads = gradients(build(**tokens, **only), **batch)[2]
        norms.append(torch.stack([grad.norm() for grad in grads]).norm().item())
    assert 1 / 20 < norms[0] / norms[1] < 20


def test_gradient_by_finite_differences():
    model = build(supervised_weight=0.7, penalty=0.3)
    pretraining = model.pretraining
    feats, lengths = pretraining._extract_feats(
        OTHERS["unlabelled_speech"], OTHERS["unlabelled_speech_lengths"]
    )  # always computed in single precision
    pretraining._extract_feats = lambda *_: (feats.double(), lengths)
    model.double()
    batch = {
        key: x.double() if torch.is_tensor(x) and x.is_floating_point() else x
        for key, x in {**BATCH, **OTHERS}.items()
    }
    gradients(model, **batch)
    # Leave out the convolutions below, whose ReLU is not differentiable everywhere.
    parameters = [*model.encoder.embed.out.parameters()]
    parameters += model.encoder.encoders.parameters()
    grads = [p.grad for p in parameters]
    generator = torch.Generator().manual_seed(1)
    steps = [torch.randn(p.shape, generator=generator).double() for p in parameters]
    losses = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            for p, step in zip(parameters, steps):
                p += sign * 1e-4 * step
            losses.append(run(model, **batch)[0].item())
            for p, step in zip(parameters, steps):
                p -= sign * 1e-4 * step
    slope = (losses[0] - losses[1]) / 2e-4
    expected = sum((grad * step).sum() for grad, step in zip(grads, steps))
    assert slope == pytest.approx(expected.item(), rel=1e-3)


def test_pretraining_alone_is_the_pretraining_task():
    # With the same parameters and noise, G and its gradient are BiRQModel's.
    model = build(supervised_weight=0.0, penalty=1.0)
    loss, _, grads = gradients(model, **BATCH, **OTHERS)
    pretraining: BiRQModel = model.pretraining
    pretraining.zero_grad()
    alone = run(
        pretraining,
        speech=OTHERS["unlabelled_speech"],
        speech_lengths=OTHERS["unlabelled_speech_lengths"],
    )[0]
    alone.backward()
    torch.testing.assert_close(loss, alone.detach())
    for grad, p in zip(grads, pretraining.encoder.parameters()):
        torch.testing.assert_close(grad, p.grad, rtol=1e-4, atol=1e-7)


def test_what_has_no_weight_rests():
    """Momentum does not move the modules of a loss whose weight is 0."""
    model = build(supervised_weight=[[1, 0.0], [2, 1.0]], penalty=[[3, 0.5], [4, 0.0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    model.count_updates_of(optimizer)
    moved = []
    for _ in range(6):
        before = [x.detach().clone() for x in (model.ctc.ctc_lo.weight, head_of(model))]
        optimizer.zero_grad()
        run(model, **BATCH)[0].backward()
        optimizer.step()
        after = (model.ctc.ctc_lo.weight, head_of(model))
        moved.append([not torch.equal(x, y) for x, y in zip(before, after)])
    assert moved == [[0, 1]] * 2 + [[1, 1]] * 2 + [[1, 0]] * 2


def test_an_attention_model_explores_without_ctc():
    decoder = dict(num_blocks=1, linear_units=16, attention_heads=2)
    model = build(
        model_conf={"ctc_weight": 0.0},
        decoder="transformer",
        decoder_conf=decoder,
        supervised_weight=[[1, 0.0], [2, 1.0]],
    )
    assert model.ctc is None
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.count_updates_of(optimizer)
    moved = []
    for _ in range(3):
        before = model.decoder.output_layer.weight.detach().clone()
        optimizer.zero_grad()
        run(model, **BATCH)[0].backward()
        optimizer.step()
        moved.append(not torch.equal(before, model.decoder.output_layer.weight))
    assert moved == [False, False, True]


def test_the_tokenizer_rests_in_a_supervised_finish():
    own = dict(name="own", view="tokenizer", labeller="residual")
    own["labeller_conf"] = dict(num_codebooks=1, codebook_size=4)
    model = build(
        objectives=[own],
        tokenizer_conf=dict(layers=1, estimator_layers=1, attention_heads=2, size=8)
        | dict(when=dict(every=1)),
        penalty=[[1, 1.0], [2, 0.0]],
    )
    model.prepare([{**SPEECH, **OTHERS}] * 20)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    model.count_updates_of(optimizer)
    moved = []
    for _ in range(4):
        before = [x.detach().clone() for x in model.pretraining.tokenizer.parameters()]
        optimizer.zero_grad()
        run(model, **BATCH)[0].backward()
        optimizer.step()
        after = model.pretraining.tokenizer.parameters()
        moved.append(any(not torch.equal(x, y) for x, y in zip(before, after)))
    assert moved == [True, True, False, False]


def head_of(model):
    return next(model.pretraining.heads.parameters())


def test_weights_follow_the_updates():
    model = build(supervised_weight=[[1, 0.0], [2, 1.0]], penalty=[[2, 0.5], [3, 0.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model.count_updates_of(optimizer)
    seen = []
    for _ in range(4):
        optimizer.zero_grad()
        loss, stats, _ = run(model, **BATCH)
        loss.backward()
        # Every parameter has a gradient, as required by distributed training.
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        seen.append(("loss_supervised" in stats, "loss_pretraining" in stats))
        optimizer.step()
    explores, joint, finishes = (False, True), (True, True), (True, False)
    assert seen == [explores, explores, joint, finishes]
    model.eval()
    loss, stats, _ = run(model, **BATCH)
    assert loss == stats["loss_supervised"]  # for any weights
    assert "loss_pretraining" in stats


@pytest.mark.parametrize("barrier", [0.0, 0.4, 3.0])
def test_the_barrier_is_that_of_a_plain_version(barrier):
    """Compare with two backward passes on lists of numbers, and check the descent of G."""
    supervised, penalty = 0.7, 1.0
    model = build(supervised_weight=supervised, penalty=penalty, barrier=barrier)
    loss, stats, both = gradients(model, **BATCH, **OTHERS)
    flat = []
    for weights in ((supervised, 0.0), (0.0, 1.0)):
        alone = build(supervised_weight=weights[0], penalty=weights[1])
        parts = gradients(alone, **BATCH, **OTHERS)[2]
        flat.append([float(x) for part in parts for x in part.flatten().double()])
    f, g = flat
    square = sum(x * x for x in g)
    gamma = max(barrier - sum(x * y for x, y in zip(f, g)) / square, 0.0)
    assert float(stats["gamma"]) == pytest.approx(gamma, rel=1e-3, abs=1e-5)
    expected = supervised * stats["loss_supervised"] + gamma * stats["loss_pretraining"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    total = [float(x) for part in both for x in part.flatten().double()]
    for one, x, y in zip(total, f, g):
        assert one == pytest.approx(x + gamma * y, rel=1e-2, abs=1e-5)
    # A step descends G at least as fast as the barrier demands, and exactly as fast if
    # gamma has to enforce it.
    descent = sum(x * y for x, y in zip(total, g)) / square
    assert descent >= barrier - 1e-3
    if gamma > 0:
        assert descent == pytest.approx(barrier, abs=1e-3)


def test_the_barrier_in_each_phase():
    model = build(
        supervised_weight=[[0, 0.0], [1, 1.0]],
        penalty=[[1, 0.5], [2, 0.0]],
        barrier=0.6,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model.count_updates_of(optimizer)
    seen = []
    for _ in range(3):
        optimizer.zero_grad()
        loss, stats, _ = run(model, **BATCH)
        loss.backward()
        optimizer.step()
        seen.append(stats.get("gamma"))
    assert seen[0] == pytest.approx(0.5 * 0.6)  # without F, gamma is beta
    assert seen[1] >= 0 and seen[2] is None


@pytest.mark.parametrize("barrier", [-0.1, float("inf")])
def test_a_barrier_that_cannot_be(barrier):
    with pytest.raises(ConfigError, match="barrier is a number of 0 or more"):
        build(barrier=barrier)


def test_a_name_that_another_loss_has():
    row = {"view": "input", "labeller": "random_projection"}
    taken = [{"name": "ctc", **row, "labeller_conf": {"codebook_size": 8}}]
    with pytest.raises(ConfigError, match="'ctc': loss_ctc is another loss"):
        build(objectives=taken)


def test_intermediate_ctc():
    model = build(
        encoder_conf={**CONFIG["encoder_conf"], "interctc_layer_idx": [1]},
        model_conf={"ctc_weight": 1.0, "interctc_weight": 0.3},
    )
    for mode in (True, False):
        loss, stats, _ = run(model.train(mode), **BATCH)
        assert loss.isfinite() and "loss_interctc_layer1" in stats


def test_both_weights_zero():
    """At some time, which a training may reach only after days."""
    falling = [[7, 1.0], [8, 0.0]]
    for supervised, update in ((0.0, 8), ([[8, 0.0], [9, 1.0]], 8)):
        with pytest.raises(ConfigError, match=f"are both 0 in update {update}: noth"):
            build(supervised_weight=supervised, penalty=falling)
    build(supervised_weight=[[7, 0.0], [8, 1.0]], penalty=falling)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(preencoder="linear"), "preencoder"),
        (
            dict(
                encoder_conf={
                    **CONFIG["encoder_conf"],
                    "interctc_layer_idx": [1],
                    "interctc_use_conditioning": True,
                },
                model_conf={"ctc_weight": 1.0, "interctc_weight": 0.3},
            ),
            "interctc_use_conditioning: an encoder that depends",
        ),
        (dict(accelerate="auto"), "accelerate is for"),
        (dict(pretraining_conf={"stop": 1}), "stop"),
        (dict(penalty=[[5, 1.0], [3, 0.0]]), "schedule"),
        (dict(encoder="rnn", encoder_conf={}), "encoder: RNNEncoder has no list of"),
        (dict(frontend="fused", **FUSED), "frontend: FusedFrontends does not tell"),
        (
            dict(
                objectives=[
                    dict(
                        name="own",
                        view="labels",
                        labeller="given",
                        labeller_conf=dict(codebook_size=7),
                    )
                ]
            ),
            "labels 'labels' are read from disk",
        ),
        (
            dict(objectives=[dict(name="given", labeller_conf=dict(codebook_size=7))]),
            "labels 'labels' are read from disk",
        ),
    ],
)
def test_bad_configurations(changes, words):
    with pytest.raises(ConfigError, match=words):
        build(**changes)


def test_files_have_espnets_names_once():
    model = build()
    state = model.state_dict()
    args = JointTask.get_parser().parse_args(["--output_dir", "-"])
    vars(args).update(CONFIG)
    stock = ESPnetASRTask.build_model(args)
    ours = {key for key in state if key.startswith("pretraining.")}
    assert state.keys() - ours == stock.state_dict().keys()
    assert not any(".encoder." in key or ".frontend." in key for key in ours)
    assert any("labeller.codebook" in key for key in ours)
    other = build()
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(state)  # strict
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert other.pretraining.encoder is other.encoder


def test_a_barrier_of_nothing():
    with pytest.raises(
        ConfigError, match="barrier is 0, and so is supervised_weight in"
    ):
        build(supervised_weight=[[3, 0.0], [4, 1.0]], penalty=1.0, barrier=0.0)
    model = build(supervised_weight=1.0, penalty=1.0, barrier=0.5)
    model.encoder.requires_grad_(False)  # freeze_param: [encoder]
    with pytest.raises(ConfigError, match="barrier compares gradients of the encoder"):
        run(model, **BATCH)


def test_batch_norm_outlives_labelled_speech_that_is_not_finite():
    model = build(supervised_weight=1.0, penalty=1.0).train()
    speech = BATCH["speech"].clone()
    speech[0, 500] = float("inf")
    loss, _, _ = run(model, **{**BATCH, "speech": speech}, **OTHERS)
    assert not loss.isfinite()
    found = [x for name, x in model.named_buffers() if "running_" in name]
    assert found and all(x.isfinite().all() for x in found)
