"""The model on random waveforms: what is predicted, learned and invariant."""

import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.utterance_mvn import UtteranceMVN

from espnet2_birq import products
from espnet2_birq.encoder.layers import encoder_lengths
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.ssl.masking import stack_frames
from espnet2_birq.ssl.model import BiRQModel
from espnet2_birq.ssl.target import BEST_RQ, parse_targets

SMALL = {"codebook_size": 32, "codebook_dim": 4}
ANCHOR = dict(name="anchor", quantizer_conf=SMALL)
ENHANCED = dict(name="enhanced", layer=2, quantizer_conf=SMALL)


def make_model(targets, encoder=ConformerEncoder, input_layer="conv2d", **conf):
    torch.manual_seed(0)
    encoder = encoder(
        input_size=20,
        output_size=16,
        attention_heads=2,
        linear_units=32,
        num_blocks=3,
        input_layer=input_layer,
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
        **({"rel_pos_type": "latest"} if encoder is ConformerEncoder else {}),
    )
    return BiRQModel(
        frontend=DefaultFrontend(n_fft=512, win_length=400, hop_length=160, n_mels=20),
        specaug=None,
        normalize=UtteranceMVN(norm_vars=True),
        encoder=encoder,
        targets=parse_targets(targets, num_blocks=3),
        masking_conf=dict(mask_prob=0.03),
        **{"cpu_bfloat16": False, **conf},  # the same numbers on every processor
    )


def make_batch(seconds=(1.6, 1.1, 0.7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([int(16000 * s) for s in seconds])
    speech = torch.randn(len(seconds), int(lengths.max()), generator=generator)
    for row, length in zip(speech, lengths):
        row[length:] = 0
    return 0.1 * speech, lengths


@pytest.mark.parametrize("encoder", [ConformerEncoder, EBranchformerEncoder])
@pytest.mark.parametrize("input_layer", ["conv2d", "conv2d2"])
@pytest.mark.parametrize("targets", [[ANCHOR], [ANCHOR, ENHANCED]])
def test_forward_and_backward(encoder, input_layer, targets):
    model = make_model(targets, encoder, input_layer)
    loss, stats, weight = model(*make_batch())
    loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in model.parameters()
        if parameter.requires_grad
    )
    total = sum(t.weight.at(0) * stats[f"loss_{t.name}"] for t in model.targets)
    assert torch.allclose(loss.detach(), total, atol=1e-5)
    assert 0 < stats["mask_share"] < 1 and weight > 0


def test_gradient_reaches_the_label_path_unless_cut():
    """Only the enhanced target, and the masked side frozen out of the graph."""

    def label_gradient(**conf):
        enhanced = {**ENHANCED, "quantizer_conf": {**SMALL, **conf}}
        model = make_model([enhanced])
        # Both sides share the encoder: watch the vectors the labels are made of.
        seen = []
        quantizer = model.quantizers["enhanced"]
        quantizer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        loss, _, _ = model(*make_batch())
        (vectors,) = seen
        if not vectors.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(loss, vectors)
        return gradient

    assert label_gradient().abs().max() > 0
    assert label_gradient(keep_gradient=False) is None


def directional_derivatives(keep_gradient):
    """By finite differences and by autograd, along layers below the label layer."""
    conf = {**SMALL, "keep_gradient": keep_gradient, "seed": 1}
    enhanced = {**ENHANCED, "weight": 1.0, "quantizer_conf": conf}
    model = make_model([ANCHOR, enhanced])
    speech, lengths = make_batch()
    feats, frames = model._extract_feats(speech, lengths)
    model = model.double().eval()  # the same mask and noise at every call
    model._extract_feats = lambda *_: (feats.double(), frames)
    generator = torch.Generator().manual_seed(0)
    chosen = list(model.encoder.encoders[:2].parameters())
    direction = [
        torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in chosen
    ]
    loss = model(speech, lengths)[0].sum()
    gradients = torch.autograd.grad(loss, chosen, allow_unused=True)
    slope = sum((g * v).sum() for g, v in zip(gradients, direction) if g is not None)
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, v in zip(chosen, direction):
                parameter += sign * step * v
            values.append(model(speech, lengths)[0].item())
            for parameter, v in zip(chosen, direction):
                parameter -= sign * step * v
    return (values[0] - values[1]) / (2 * step), slope.item()


def test_finite_differences_through_the_label_layer():
    measured, slope = directional_derivatives(keep_gradient=True)
    assert measured == pytest.approx(slope, rel=1e-5)
    # Labels move with the parameters all the same; cut, the gradient leaves that out.
    measured, slope = directional_derivatives(keep_gradient=False)
    assert measured != pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("encoder", [ConformerEncoder, EBranchformerEncoder])
def test_checkpointed_label_pass_keeps_less_and_has_the_same_gradients(encoder):
    outcomes = []
    for checkpointed in (False, True):
        model = make_model(
            [ANCHOR, ENHANCED], encoder, checkpoint_labels=checkpointed
        ).train()
        kept = {}  # storage to bytes

        def pack(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.nbytes
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, _, _ = model(*make_batch())
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        statistics = [b for b in model.encoder.buffers() if b.is_floating_point()]
        outcomes.append(([loss, *gradients, *statistics], sum(kept.values())))
    (plain, much), (checkpointed, little) = outcomes
    torch.testing.assert_close(plain, checkpointed)
    assert little < 0.8 * much


def test_anchor_labels_are_those_of_the_clean_input_under_the_mask():
    model = make_model([ANCHOR]).eval()
    seen = {}
    quantizer = model.quantizers["anchor"]
    quantizer.register_forward_pre_hook(lambda _, args: seen.update(vectors=args[0]))
    draw = model.masking.draw

    def spy(*args):
        seen["mask"] = draw(*args)
        return seen["mask"]

    model.masking.draw = spy
    speech, lengths = make_batch()
    model(speech, lengths)
    feats, _ = model._extract_feats(speech, lengths)
    stacked = stack_frames(feats, 4, seen["mask"].size(1))
    clean = stacked[seen["mask"]]
    assert torch.equal(seen["vectors"][: len(clean)], clean)
    _, expected, _ = model.encoder(feats, torch.tensor([161, 111, 71]))
    assert not seen["mask"][torch.arange(3), expected.clamp(max=38)][1:].any()


def test_prediction_sees_the_masked_input_only():
    """Changing what lies under the mask changes labels, never predictions."""
    model = make_model([ANCHOR]).eval()
    feats, lengths = model._extract_feats(*make_batch())
    mask = model.masking.draw(torch.tensor([39, 26, 16]), 39)
    hidden = mask.repeat_interleave(4, dim=1)
    hidden = torch.nn.functional.pad(hidden, (0, feats.size(1) - hidden.size(1)))
    changed = feats + 5.0 * hidden[:, :, None]
    outputs = []
    index, _ = model.masking.gather_index(mask)
    for xs in (feats, changed):
        torch.manual_seed(1)  # the same noise
        outputs.append(model._encode_masked(xs, lengths, mask, index))
    assert torch.equal(*outputs)


def test_evaluation_is_repeatable_and_leaves_the_random_state_alone():
    model = make_model([ANCHOR, ENHANCED]).eval()
    state = torch.get_rng_state()
    one, two = model(*make_batch())[0], model(*make_batch())[0]
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    model.train()
    assert not torch.equal(model(*make_batch())[0], model(*make_batch())[0])


def test_a_shared_codebook_means_a_shared_head():
    other = {**ENHANCED, "quantizer_conf": {**SMALL, "seed": 1}}
    assert len(make_model([ANCHOR, ENHANCED]).heads) == 1
    assert len(make_model([ANCHOR, other]).heads) == 2


def test_no_attribute_shadows_the_names_that_are_handed_over():
    names = {key.split(".")[0] for key in make_model([ANCHOR, ENHANCED]).state_dict()}
    for word in ("frontend", "normalize", "encoder", "preencoder", "specaug"):
        assert not [name for name in names if name.startswith(word) and name != word]


def test_bfloat16_changes_the_loss_little_and_labels_of_the_input_not_at_all():
    model = make_model([ANCHOR]).eval()
    loss, stats, _ = model(*make_batch())
    model.cpu_bfloat16 = True
    low, low_stats, _ = model(*make_batch())
    assert loss.dtype == low.dtype == torch.float32
    assert torch.allclose(loss, low, rtol=2e-2) and not torch.equal(loss, low)
    assert torch.equal(stats["label_ppl_anchor"], low_stats["label_ppl_anchor"])


def loss_with(setting):
    (loss, *_) = make_model([ANCHOR], cpu_bfloat16=setting).eval()(*make_batch())
    return loss


@pytest.mark.parametrize("has_it", [True, False])
def test_bfloat16_is_taken_where_the_processor_has_it(has_it, monkeypatch):
    monkeypatch.setattr(products, "bfloat16_is_faster", lambda: has_it)
    products.takes_bfloat16.cache_clear()
    assert torch.equal(loss_with("auto"), loss_with(has_it))
    assert not torch.equal(loss_with("auto"), loss_with(not has_it))
    products.takes_bfloat16.cache_clear()
    with pytest.raises(ConfigError, match="cpu_bfloat16 is auto, true or false"):
        make_model([ANCHOR], cpu_bfloat16="Auto")


BOOKS = {**SMALL, "num_codebooks": 2}
MANY = [
    dict(name="anchor", quantizer_conf=BOOKS),
    {**ENHANCED, "quantizer_conf": {**BOOKS, "projection": "whitened"}},
    {**ENHANCED, "name": "other", "source": "layer", "quantizer": "gumbel_softmax"},
]


def fix_draws(model, mask, monkeypatch):
    """No random number left: this mask, no masking noise, no Gumbel noise."""
    monkeypatch.setattr(model.masking, "draw", lambda lengths, frames: mask)
    monkeypatch.setattr(model.masking, "capacity", lambda *_: int(mask.sum()))
    model.masking.noise_std = 0.0
    monkeypatch.setattr("espnet2_birq.ssl.loss.gumbel_like", torch.zeros_like)


@pytest.mark.parametrize("encoder", [ConformerEncoder, EBranchformerEncoder])
def test_an_utterance_alone_equals_itself_in_a_padded_batch(encoder, monkeypatch):
    """The same labels and the same loss at the same masked frames."""
    model = make_model(MANY, encoder).eval()
    speech, lengths = make_batch()
    for place in (0, 1, 2):
        alone = speech[place : place + 1, : lengths[place]]
        frames = int(encoder_lengths(model.encoder, lengths[place] // 160 + 1))
        mask = torch.zeros(3, 39, dtype=torch.bool)
        mask[place, 3:9] = mask[place, frames - 4 : frames] = True
        results = []
        for batch, one in (
            ((speech, lengths), mask),
            ((alone, lengths[place : place + 1]), mask[place : place + 1, :frames]),
        ):
            with monkeypatch.context() as patch, torch.no_grad():
                fix_draws(model, one, patch)
                results.append(model(*batch))
        (loss, stats, _), (other_loss, other_stats, _) = results
        assert torch.allclose(loss, other_loss, rtol=0, atol=1e-5)
        for key in stats:
            if key != "mask_share":
                assert torch.allclose(stats[key], other_stats[key], atol=1e-5), key


def test_schedules_count_updates_and_survive_a_resume():
    enhanced = {**ENHANCED, "weight": [[0, 0.0], [2, 1.0]]}
    model = make_model([ANCHOR, enhanced], accum_grad=2)
    weights = []
    for _ in range(5):
        _, stats, _ = model(*make_batch())
        rest = stats["loss"] - 2.4 * stats["loss_anchor"]
        weights.append((rest / stats["loss_enhanced"]).item())
    assert weights == pytest.approx([0.0, 0.0, 0.5, 0.5, 1.0], abs=1e-4)
    resumed = make_model([ANCHOR, enhanced], accum_grad=2)
    resumed(*make_batch())
    resumed.load_state_dict(model.state_dict())
    assert resumed._update() == 2


def gradients_of(model, seed=3):
    torch.manual_seed(seed)
    loss, stats, _ = model(*make_batch())
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, stats


def test_an_update_without_label_pass_is_a_step_of_the_other_targets():
    own_head = {**ENHANCED, "name": "own", "quantizer_conf": {**SMALL, "seed": 1}}
    own_head.update(source="layer", quantizer="gumbel_softmax")
    rare = make_model([ANCHOR, ENHANCED, own_head], label_every=2, accum_grad=2).train()
    plain = make_model([ANCHOR, ENHANCED, own_head]).train()
    plain.targets = plain.targets[:1]  # the same start, without these targets
    plain.collapse.names = ["anchor"]
    for model in (rare, plain):
        model.load_state_dict({**model.state_dict(), "steps": torch.tensor(2.0)})
    for _ in range(2):  # the update's two steps
        gradients, stats = gradients_of(rare)
        expected, _ = gradients_of(plain)
        assert "loss_enhanced" not in stats and "loss_anchor" in stats
        for name, gradient in expected.items():
            assert torch.allclose(gradients[name], gradient, rtol=0, atol=1e-6), name
    assert "loss_enhanced" in gradients_of(rare)[1]


def test_rare_labels_weigh_more_in_training_and_as_ever_in_evaluation():
    model = make_model([ANCHOR, ENHANCED], label_every=3).train()
    weights = []
    for _ in range(6):
        stats = gradients_of(model)[1]
        rest = (stats["loss"] - 2.4 * stats["loss_anchor"]).item()
        weights.append(rest / stats.get("loss_enhanced", torch.tensor(1.0)).item())
    assert weights == pytest.approx([0.3, 0, 0, 0.3, 0, 0], abs=1e-4)
    model(*make_batch())  # the next update would be one without
    model.eval()
    stats = model(*make_batch())[1]
    expected = 2.4 * stats["loss_anchor"] + 0.1 * stats["loss_enhanced"]
    assert torch.allclose(stats["loss"], expected, atol=1e-5)


def test_labels_of_some_utterances_are_those_of_a_smaller_batch(monkeypatch):
    """The enhanced loss is that of the chosen utterances by themselves."""
    speech, lengths = make_batch()
    mask = torch.zeros(3, 39, dtype=torch.bool)
    mask[0, 3:9] = mask[1, 8:20] = mask[2, 5:11] = True
    seen = []
    some = make_model([ANCHOR, ENHANCED], label_utterances=2).train()
    blocks = some.encoder.encoders[0]
    blocks.register_forward_hook(lambda _, args, out: seen.append(len(args[0][0])))
    whole = make_model([ANCHOR, ENHANCED]).train()
    for module in (*some.modules(), *whole.modules()):  # only the rows differ
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.Dropout)):
            module.eval()
    for chosen in ([0, 2], [1]):
        results = []
        for model, rows in ((some, mask), (whole, mask), (whole, None)):
            if rows is None:
                rows = torch.zeros_like(mask)
                rows[chosen] = mask[chosen]
            with monkeypatch.context() as context:
                fix_draws(model, rows, context)
                results.append(gradients_of(model)[1])
        ours, all_of_them, alone = results
        assert torch.allclose(ours["loss_enhanced"], alone["loss_enhanced"], atol=1e-5)
        assert torch.allclose(ours["loss_anchor"], all_of_them["loss_anchor"])
        assert not torch.allclose(ours["loss_enhanced"], all_of_them["loss_enhanced"])
    assert seen == [2, 3, 1, 3]  # label pass, masked pass


@pytest.mark.parametrize(
    "targets, conf, words",
    [
        ([ENHANCED], dict(label_every=2), "leaves updates without a target"),
        ([ANCHOR], dict(label_every=0), "label_every is 1 or more"),
        ([ANCHOR], dict(label_utterances=-1), "label_utterances is 1 or more"),
    ],
)
def test_wrong_numbers_of_labels(targets, conf, words):
    with pytest.raises(ConfigError, match=words):
        make_model(targets, **conf)


def test_labels_from_disk():
    """They are predicted where they are; a wrong rate and none at all are named."""
    given = dict(name="given", quantizer_conf=dict(codebook_size=7))
    model = make_model([given])
    speech, lengths = make_batch()
    labels = torch.randint(7, (3, 40))
    labels[0] = -1
    _, stats, _ = model(speech, lengths, labels=labels, labels_lengths=None)
    assert 0 < stats["loss_given"] and "hit_given" not in stats
    same = torch.full((3, 40), 5)
    _, stats, _ = model(speech, lengths, labels=same)
    assert stats["label_ppl_given"] == pytest.approx(1.0)
    with pytest.raises(DataError, match="80 labels for 39 encoder frames"):
        model(speech, lengths, labels=torch.zeros(3, 80))
    with pytest.raises(DataError, match="a target has source 'disk'"):
        model(speech, lengths)


@pytest.mark.parametrize("targets", [BEST_RQ, [ANCHOR, ENHANCED]])
def test_loss_starts_at_the_logarithm_of_the_codebook_and_falls(targets):
    targets = [{**target, "quantizer_conf": SMALL} for target in targets]
    model = make_model(targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = make_batch()
    history = []
    for _ in range(60):
        loss, stats, _ = model(*batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(stats["loss_anchor"].item())
    assert abs(history[0] - torch.tensor(32.0).log()) < 0.6
    assert sum(history[-10:]) / 10 < history[0] - 0.3
