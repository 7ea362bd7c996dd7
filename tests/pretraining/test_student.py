"""Heads on the student's layers, one for each codebook (SpidR)."""

import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from test_model import ENHANCED, make_batch, make_model
from test_ranks import SECONDS
from test_residual import make_optimizer, prepared_model, train

from espnet2_birq.encoders.taps import encode, encode_up_to, listening_to
from espnet2_birq.errors import ConfigError

SPIDR = {
    "name": "spidr",
    "view": "teacher layers top 2 each",
    "labeller": "clusters",
    "student": "each",
    "labeller_conf": {"num_codebooks": 2, "codebook_size": 8},
}


@pytest.mark.parametrize("encoder", [ConformerEncoder, EBranchformerEncoder])
@pytest.mark.parametrize("accelerate", [True, False])
def test_the_layers_are_those_of_a_pass_that_stops_there(encoder, accelerate):
    model = make_model([SPIDR], encoder, accelerate=accelerate).eval()
    feats, lengths = model._extract_feats(*make_batch())
    with listening_to(model.encoder, [1, 3]) as outputs:
        encode(model.encoder, feats, lengths)
    expected = encode_up_to(model.encoder, feats, lengths, [1, 3])
    for one, other in zip((outputs[1], outputs[3]), expected):
        assert torch.allclose(one, other, atol=1e-5)
    with listening_to(model.encoder, []) as outputs:
        encode(model.encoder, feats, lengths)  # the hooks are gone
    assert not outputs


def test_each_head_predicts_from_its_layer():
    """Compute the loss by hand: cross-entropy of head n on the student's layer n."""
    model = prepared_model(objectives=[SPIDR]).eval()
    # New, it hardly changes the last layer's output, which a norm of its own ends.
    torch.nn.init.constant_(model.encoder.after_norm.weight, 2.0)
    seen = {}
    encode_masked = model._encode_masked

    def spy(batch, mask, rows):
        seen["hidden"], seen["rows"] = encode_masked(batch, mask, rows), rows
        return seen["hidden"]

    model._encode_masked = spy
    batch = make_batch(SECONDS)
    _, stats, _ = model(*batch)
    codes, _ = model.label(*batch, "spidr")
    valid, losses = seen["rows"].valid > 0, []
    for head, layer, made in zip(model.heads["spidr"], (2, 3), codes):
        logits = head(seen["hidden"].layers[layer])[valid]
        wanted = made.flatten()[seen["rows"].index][valid]
        losses.append(torch.nn.functional.cross_entropy(logits, wanted))
    assert torch.allclose(stats["loss_spidr"], sum(losses) / 2, atol=1e-5)
    assert not torch.allclose(seen["hidden"].layers[3], seen["hidden"].last)


def test_lower_heads_do_not_teach_higher_layers():
    model = prepared_model(objectives=[SPIDR])
    torch.nn.init.zeros_(model.heads["spidr"][1].weight)  # no gradient below it
    model(*make_batch(SECONDS))[0].backward()
    blocks = model.encoder.encoders
    assert max(float(p.grad.abs().max()) for p in blocks[1].parameters()) > 0
    assert max(float(p.grad.abs().max()) for p in blocks[2].parameters()) == 0
    # With several ranks, DDP waits for the gradient of every parameter.
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_it_learns():
    model = prepared_model(objectives=[SPIDR], teacher_conf=dict(decay=0.9))
    history = train(model, make_optimizer(model), 15, seed=1)
    assert history[-1]["loss_spidr"] < history[0]["loss_spidr"]
    assert history[-1]["level2_usage_spidr"] > 0.5


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            [{**SPIDR, "student": "all"}],
            "student is last, or each with a view of layers",
        ),
        ([{**SPIDR, "view": "input"}], "got 'each' with view 'input'"),
        (
            [{**SPIDR, "view": "teacher layers top 1 each"}],
            "a codebook for each layer of view 'teacher layers top 1 each'; "
            "num_codebooks is 2, not 1",
        ),
        (
            [SPIDR, {**SPIDR, "name": "dinosr", "student": "last", "head": "spidr"}],
            "head 'spidr': objectives 'spidr' and 'dinosr' see different layers",
        ),
    ],
)
def test_errors(rows, message):
    with pytest.raises(ConfigError, match=message):
        make_model(rows)


def test_one_layer_alone():
    """For example, BiRQ's head on the label layer itself."""
    row = {**ENHANCED, "head": "own", "student": "each"}
    loss, stats, _ = make_model([row])(*make_batch())
    assert stats["loss_enhanced"] > 0 and loss.isfinite()
