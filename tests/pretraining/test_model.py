"""The model on random waveforms: predictions, learning, invariances."""

import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.layers.utterance_mvn import UtteranceMVN

from espnet2_birq.encoders.taps import encoder_lengths
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.kernels import products
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import BEST_RQ, parse_objectives
from espnet2_birq.pretraining.views import Batch, MaskedRows, stack_frames

SMALL = {"codebook_size": 32, "codebook_dim": 4}
ANCHOR = dict(name="anchor", labeller_conf=SMALL)
ENHANCED = dict(name="enhanced", view="layer 2", labeller_conf=SMALL)


def make_model(
    objectives,
    encoder=ConformerEncoder,
    input_layer="conv2d",
    specaug=None,
    stochastic_depth_rate=0.0,
    **conf,
):
    options = dict(rel_pos_type="latest", stochastic_depth_rate=stochastic_depth_rate)
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
        **(options if encoder is ConformerEncoder else {}),
    )
    return BiRQModel(
        frontend=DefaultFrontend(n_fft=512, win_length=400, hop_length=160, n_mels=20),
        specaug=specaug,
        normalize=UtteranceMVN(norm_vars=True),
        encoder=encoder,
        objectives=parse_objectives(objectives, num_blocks=3),
        masking_conf=dict(mask_prob=0.03),
        **{"cpu_bfloat16": False, **conf},  # equal results on all processors
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
@pytest.mark.parametrize("objectives", [[ANCHOR], [ANCHOR, ENHANCED]])
def test_forward_and_backward(encoder, input_layer, objectives):
    model = make_model(objectives, encoder, input_layer)
    loss, stats, weight = model(*make_batch())
    loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in model.parameters()
        if parameter.requires_grad
    )
    total = sum(t.weight.at(0) * stats[f"loss_{t.name}"] for t in model.objectives)
    assert torch.allclose(loss.detach(), total, atol=1e-5)
    assert 0 < stats["mask_share"] < 1 and weight > 0


def test_gradient_reaches_the_label_path_unless_cut():
    """Use only the enhanced objective, and detach the masked side."""

    def label_gradient(**conf):
        model = make_model([{**ENHANCED, **conf}])
        # Both sides share the encoder, so watch the hidden states behind the labels.
        seen = []
        hidden_states = model.branch.hidden_states

        def spy(*args):
            outputs, labelled = hidden_states(*args)
            seen.append(outputs[2])
            return outputs, labelled

        model.branch.hidden_states = spy
        torch.manual_seed(0)
        loss, _, _ = model(*make_batch())
        if not seen[0].requires_grad:
            return None
        (gradient,) = torch.autograd.grad(loss, seen[0])
        return gradient

    whole = label_gradient()
    assert whole.abs().max() > 0
    assert label_gradient(gradient=0) is None
    assert torch.allclose(label_gradient(gradient=0.1), 0.1 * whole, atol=1e-9)


def directional_derivatives(gradient):
    """Return finite differences and autograd's slope for layers below the label layer."""
    enhanced = {**ENHANCED, "weight": 1.0, "gradient": gradient, "head": "own"}
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
    measured, slope = directional_derivatives(gradient=1)
    assert measured == pytest.approx(slope, rel=1e-5)
    # With the gradient cut, labels still depend on the parameters, but the slope omits it.
    measured, slope = directional_derivatives(gradient=0)
    assert measured != pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("encoder", [ConformerEncoder, EBranchformerEncoder])
def test_checkpointed_label_pass_keeps_less_and_has_the_same_gradients(encoder):
    outcomes = []
    for checkpointed in (False, True):
        model = make_model(
            [ANCHOR, ENHANCED],
            encoder,
            target_branch_conf=dict(checkpoint=checkpointed),
        ).train()
        kept = {}  # storage to bytes

        def pack(tensor, kept=kept):
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
    labeller = model.objectives[0].labeller
    label = labeller.label
    labeller.label = lambda x, update: label(seen.setdefault("vectors", x), update)
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
    """Changes of masked input frames affect labels, but never predictions."""
    model = make_model([ANCHOR]).eval()
    feats, lengths = model._extract_feats(*make_batch())
    mask = model.masking.draw(torch.tensor([39, 26, 16]), 39)
    hidden = mask.repeat_interleave(4, dim=1)
    hidden = torch.nn.functional.pad(hidden, (0, feats.size(1) - hidden.size(1)))
    changed = feats + 5.0 * hidden[:, :, None]
    outputs = []
    rows = MaskedRows(*model.masking.gather_index(mask))
    for xs in (feats, changed):
        torch.manual_seed(1)  # the same noise
        batch = Batch(xs, lengths, torch.tensor([39, 26, 16]), 39)
        outputs.append(model._encode_masked(batch, mask, rows).last)
    assert torch.equal(*outputs)


def test_evaluation_is_repeatable_and_leaves_the_random_state_alone():
    model = make_model([ANCHOR, ENHANCED]).eval()
    state = torch.get_rng_state()
    one, two = model(*make_batch())[0], model(*make_batch())[0]
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    model.train()
    assert not torch.equal(model(*make_batch())[0], model(*make_batch())[0])


def test_objectives_that_name_a_head_share_it():
    assert set(make_model([ANCHOR, ENHANCED]).heads) == {"codes"}
    own = {**ENHANCED, "head": "own"}
    assert set(make_model([ANCHOR, own]).heads) == {"codes", "own"}
    larger = {**ENHANCED, "labeller_conf": {**SMALL, "codebook_size": 64}}
    with pytest.raises(
        ConfigError, match="'codes'.*1 x 32 codes, 'enhanced' has 1 x 64"
    ):
        make_model([ANCHOR, larger])
    assert len(make_model([ANCHOR, {**larger, "head": "own"}]).heads) == 2


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


def test_features_and_labels_of_the_input_do_not_depend_on_autocast():
    """In bfloat16, which use_amp may choose, features would be of three digits."""
    model, batch = make_model([ANCHOR]).eval(), make_batch()
    outside = model._extract_feats(*batch)[0], model.label(*batch, "anchor")[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = model._extract_feats(*batch)[0], model.label(*batch, "anchor")[0]
    assert all(torch.equal(one, other) for one, other in zip(inside, outside))


def loss_with(setting):
    loss, *_ = make_model([ANCHOR], cpu_bfloat16=setting).eval()(*make_batch())
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
    dict(name="anchor", labeller_conf=BOOKS),
    {**ENHANCED, "labeller_conf": {**BOOKS, "projection": "whitened"}},
    {**ENHANCED, "name": "other", "labeller": "gumbel_softmax", "head": "other"},
]


GUMBEL = "espnet2_birq.pretraining.losses.cross_entropy.gumbel_like"


def fix_draws(model, mask, monkeypatch):
    """Remove all randomness: a given mask, no masking noise, no Gumbel noise."""
    monkeypatch.setattr(model.masking, "draw", lambda lengths, frames: mask)
    monkeypatch.setattr(model.masking, "capacity", lambda *_: int(mask.sum()))
    model.masking.noise_std = 0.0
    monkeypatch.setattr(GUMBEL, torch.zeros_like)


@pytest.mark.parametrize("encoder", [ConformerEncoder, EBranchformerEncoder])
def test_an_utterance_alone_equals_itself_in_a_padded_batch(encoder, monkeypatch):
    """Labels and loss are the same for the same masked frames."""
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
    """An update is an optimizer step, of any number of batches."""
    enhanced = {**ENHANCED, "weight": [[0, 0.0], [2, 1.0]]}
    model = make_model([ANCHOR, enhanced])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model.count_updates_of(optimizer)
    weights = []
    # ESPnet carries an epoch's last batches into the first update of the next one, and
    # skips updates with a gradient that is not finite.
    for batches in (2, 3, 1):
        for _ in range(batches):
            _, stats, _ = model(*make_batch())
            rest = stats["loss"] - 2.4 * stats["loss_anchor"]
            weights.append((rest / stats["loss_enhanced"]).item())
        optimizer.step()
    assert weights == pytest.approx([0.0, 0.0, 0.5, 0.5, 0.5, 1.0], abs=1e-4)
    resumed = make_model([ANCHOR, enhanced])
    resumed(*make_batch())
    resumed.load_state_dict(model.state_dict())
    assert resumed.update_number() == 3


def gradients_of(model, seed=3):
    torch.manual_seed(seed)
    loss, stats, _ = model(*make_batch())
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, stats


def test_an_update_without_an_objective_is_a_step_of_the_others():
    own_head = {**ENHANCED, "name": "own", "labeller": "gumbel_softmax", "head": "own"}
    every = [dict(row, when={"every": 2}) for row in (ENHANCED, own_head)]
    rare, plain = make_model([ANCHOR, *every]), make_model([ANCHOR])
    plain.encoder.load_state_dict(rare.encoder.state_dict())
    plain.heads.load_state_dict(rare.heads.state_dict(), strict=False)
    for update in range(3):
        for model in (rare, plain):
            model._update = update
        gradients, stats = gradients_of(rare)
        assert ("loss_enhanced" in stats) == (update != 1) and "loss_anchor" in stats
        if update == 1:
            expected, _ = gradients_of(plain)
            for name, gradient in expected.items():
                assert torch.allclose(gradients[name], gradient, atol=1e-6), name
            # Other ranks wait for a gradient of every head.
            assert not gradients["heads.own.0.weight"].any()
    rare.eval()
    rare._update = 1
    assert "loss_enhanced" in rare(*make_batch())[1]  # all are active in evaluation


def test_labels_of_some_utterances_are_those_of_a_smaller_batch(monkeypatch):
    """The enhanced loss is that of a batch of the chosen utterances."""
    speech, lengths = make_batch()
    mask = torch.zeros(3, 39, dtype=torch.bool)
    mask[0, 3:9] = mask[1, 8:20] = mask[2, 5:11] = True
    seen = []
    conf = dict(utterances=2)
    some = make_model([ANCHOR, ENHANCED], target_branch_conf=conf).train()
    blocks = some.encoder.encoders[0]
    blocks.register_forward_hook(lambda _, args, out: seen.append(len(args[0][0])))
    whole = make_model([ANCHOR, ENHANCED]).train()
    for module in (*some.modules(), *whole.modules()):  # so that only the rows differ
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
        some._update += 1
        ours, all_of_them, alone = results
        assert torch.allclose(ours["loss_enhanced"], alone["loss_enhanced"], atol=1e-5)
        assert torch.allclose(ours["loss_anchor"], all_of_them["loss_anchor"])
        assert not torch.allclose(ours["loss_enhanced"], all_of_them["loss_enhanced"])
    assert seen == [2, 3, 1, 3]  # label pass, masked pass


def test_specaug_may_mask_but_not_shift_the_input_against_its_labels():
    with pytest.raises(ConfigError, match="apply_time_warp: false"):
        make_model([ANCHOR], specaug=SpecAug(apply_time_mask=False))
    make_model([ANCHOR], specaug=SpecAug(apply_time_warp=False, apply_time_mask=False))


def spy(label, seen):
    """Wrap a labeller's method so that the sum of what it labels is kept."""

    def wrapped(vectors, update):
        seen.append(vectors.sum())
        return label(vectors, update)

    return wrapped


SPECAUG = dict(apply_time_warp=False, apply_freq_mask=True, apply_time_mask=True)
SPECAUG |= dict(freq_mask_width_range=[10, 15], time_mask_width_range=[20, 30])


@pytest.mark.parametrize("copies", [1, 2])
def test_specaug_leaves_the_labels_clean(copies, monkeypatch):
    """ESPnet's masks in place, which would reach the labels and break their gradient."""
    seen = []
    for specaug in (None, SpecAug(**SPECAUG)):
        conf = dict(specaug=specaug, target_branch_conf=dict(copies=copies))
        model = make_model([ANCHOR, {**ENHANCED, "gradient": 1.0}], **conf).train()
        labeller = model.objectives[0].labeller
        monkeypatch.setattr(labeller, "label", spy(labeller.label, seen))
        model.masking.draw = lambda frames, padded: torch.ones(3, 39) > 0
        model(*make_batch())[0].backward()
    assert torch.allclose(*torch.stack(seen).view(2, copies))


def test_evaluation_is_without_specaug():
    """Else validation losses would be those of another task than without it."""
    models = [make_model([ANCHOR], specaug=x) for x in (None, SpecAug(**SPECAUG))]
    assert torch.equal(*(model.eval()(*make_batch())[0] for model in models))


@pytest.mark.parametrize("utterances, every", [(2, 1), (2, 2), (4, 2), (3, 3), (2, 4)])
def test_all_utterances_get_labels_in_turn(utterances, every):
    """Also if layers are needed in every n-th update only."""
    model = make_model(
        [ENHANCED], target_branch_conf=dict(utterances=utterances)
    ).train()
    counts = torch.zeros(4)
    for update in range(0, 200 * every, every):
        counts[model.branch._rows(4, update)] += 1
    assert counts.min() > 0.8 * counts.mean()


def test_stochastic_depth_is_off_where_labels_are_made():
    model = make_model([ENHANCED], stochastic_depth_rate=0.5).train()
    seen = []
    labeller = model.objectives[0].labeller
    labeller.observe = lambda vectors, valid: seen.append(vectors)
    mask = torch.zeros(3, 39, dtype=torch.bool)
    mask[:, 3:9] = True
    model.masking.draw = lambda lengths, frames: mask
    for norm in model.encoder.modules():  # statistics would change between steps
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.momentum = 0.0
    for _ in range(4):
        model(*make_batch())
    assert all(torch.equal(one, seen[0]) for one in seen)


def test_utterances_too_short_for_the_encoder_are_named():
    model = make_model([ANCHOR, ENHANCED]).train()
    speech, lengths = torch.randn(2, 600), torch.tensor([600, 400])
    for names, words in ((["a", "b"], "frame: a, b "), ([], r"frame \(up to 600 ")):
        with pytest.raises(DataError, match=f"too short for one encoder {words}"):
            model(speech, lengths, utt_id=names)
    # BatchNorm has no variance of one frame in all.
    batch = torch.randn(1, 1280), torch.tensor([1280])
    with pytest.raises(DataError, match="too short for two encoder frames in all: c"):
        model(*batch, utt_id=["c"])
    model.eval()(*batch)
    model.train()(*(x.repeat_interleave(2, dim=0) for x in batch))
    # Next to a longer utterance, they merely have no labels.
    speech, lengths = make_batch((1.0, 0.03))
    loss, _, _ = model(speech, lengths, utt_id=["long", "short"])
    assert loss.isfinite()


@pytest.mark.parametrize("objectives", [BEST_RQ, [ANCHOR, ENHANCED]])
def test_loss_starts_at_the_logarithm_of_the_codebook_and_falls(objectives):
    model = make_model([{**one, "labeller_conf": SMALL} for one in objectives])
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
