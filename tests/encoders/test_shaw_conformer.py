"""The paper's encoder: its size, its attention against a plain version, its padding."""

import pytest
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError

from espnet2_birq.encoders.shaw_conformer import ShawConformerEncoder, relative_logits
from espnet2_birq.encoders.taps import (
    DROPOUT,
    encode_up_to,
    encoder_lengths,
    evaluating,
    subsampling_factor,
)
from espnet2_birq.errors import ConfigError

LENGTHS = torch.tensor([61, 40, 23])
SMALL = dict(
    input_size=6,
    output_size=16,
    attention_heads=2,
    linear_units=32,
    num_blocks=3,
    cnn_module_kernel=5,
    max_position=8,
)


def make_encoder(**conf) -> ShawConformerEncoder:
    torch.manual_seed(0)
    encoder = ShawConformerEncoder(**{**SMALL, **conf})
    for block in encoder.encoders:  # large enough to affect the output
        torch.nn.init.normal_(block.attention.positions.weight)
    # One training step changes BatchNorm's statistics from their initial values.
    encoder.train()(torch.randn(3, 61, 6), LENGTHS)
    return encoder.eval()


@pytest.mark.parametrize(
    "blocks, size, millions", [(5, 1024, 137.4), (10, 768, 154.9), (10, 1024, 274.7)]
)
def test_the_papers_parameter_counts(blocks, size, millions):
    with torch.device("meta"):
        encoder = ShawConformerEncoder(
            80, size, linear_units=4 * size, num_blocks=blocks
        )
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("length", [1, 2, 5, 9, 20])
def test_relative_logits_against_the_plain_version(length):
    furthest = 4
    queries = torch.randn(2, 3, length, 7, dtype=torch.double, requires_grad=True)
    table = torch.randn(2 * furthest + 1, 7, dtype=torch.double, requires_grad=True)
    frames = torch.arange(length)
    distances = (frames[:, None] - frames[None]).clamp(-furthest, furthest)
    vectors = table[distances + furthest]  # (T, T, d)
    plain = torch.einsum("bhid,ijd->bhij", queries, vectors)
    padding = torch.zeros(2, 1, 1, length, dtype=torch.double)
    padding[1, ..., -1] = -3.0
    plain = 0.5 * plain + padding
    fast = relative_logits(queries, table, padding, 0.5)
    torch.testing.assert_close(fast, plain)
    weights = torch.randn_like(plain)
    for one, other in zip(
        torch.autograd.grad((fast * weights).sum(), (queries, table)),
        torch.autograd.grad((plain * weights).sum(), (queries, table)),
    ):
        torch.testing.assert_close(one, other)


def plain_attention(attention, xs, valid, window):
    """Softmax of (q_i . k_j + q_i . e_{i-j}) / sqrt(d), frame by frame; xs (T, E)."""
    frames = attention.norm(xs)
    heads, table = attention.heads, attention.positions.weight
    furthest, width = len(table) // 2, xs.size(1) // heads
    queries = attention.query(frames).view(-1, heads, width)
    keys, values = attention.key_value(frames).view(-1, 2, heads, width).unbind(1)
    rows = []
    for i in range(len(xs)):
        seen = [j for j in range(len(xs)) if valid[j] and j // window == i // window]
        distances = torch.tensor([max(-furthest, min(furthest, i - j)) for j in seen])
        terms = keys[seen] + table[distances + furthest][:, None]  # (S, H, d)
        logits = torch.einsum("hd,shd->hs", queries[i], terms) / width**0.5
        rows.append(torch.einsum("hs,shd->hd", logits.softmax(-1), values[seen]))
    return attention.output(torch.stack(rows).flatten(1))


@pytest.mark.parametrize("window", [None, 7, 20, 100])
def test_attention_against_the_plain_version(window):
    attention = make_encoder(attention_window=window).encoders[0].attention
    xs, masks = torch.randn(2, 20, 16), torch.ones(2, 1, 20, dtype=torch.bool)
    masks[1, :, 17:] = False
    output = attention(xs, masks)
    for row in range(2):
        expected = plain_attention(attention, xs[row], masks[row, 0], window or 20)
        torch.testing.assert_close(output[row], expected, atol=1e-5, rtol=1e-5)


def test_blocks_of_the_window_do_not_see_each_other_in_attention():
    attention = make_encoder(attention_window=5).encoders[0].attention
    xs, masks = torch.randn(1, 20, 16), torch.ones(1, 1, 20, dtype=torch.bool)
    other = xs.clone()
    other[:, 12] += 1.0  # in the block of frames 10 to 14
    changed = (attention(xs, masks) != attention(other, masks)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("garbage", [0.0, 100.0])
def test_padding_never_matters(window, garbage):
    encoder = make_encoder(attention_window=window)
    xs = torch.randn(3, 61, 6)
    for row, length in enumerate(LENGTHS):
        xs[row, length:] = garbage
    outputs, lengths, _ = encoder(xs, LENGTHS)
    assert lengths.tolist() == [30, 20, 11]
    assert torch.isfinite(outputs).all()  # even where all of a block is padding
    for row, length in enumerate(LENGTHS):
        alone, _, _ = encoder(xs[row : row + 1, :length], length[None])
        torch.testing.assert_close(
            outputs[row, : lengths[row]], alone[0], atol=1e-5, rtol=0.0
        )


def test_layers_understands_it():
    encoder = make_encoder()
    xs = torch.randn(3, 61, 6)
    (last, expected), lengths, _ = encoder(xs, LENGTHS, return_all_hs=True)
    assert subsampling_factor(encoder) == 2
    assert encoder_lengths(encoder, LENGTHS).tolist() == lengths.tolist()
    second, third = encode_up_to(encoder, xs, LENGTHS, [2, 3])
    assert torch.equal(second, expected[1])
    assert torch.equal(third, last) and torch.equal(expected[2], last)
    assert not torch.equal(second, third)


def test_three_frames_can_be_stacked():
    encoder = make_encoder(input_stack=3)
    outputs, lengths, _ = encoder(torch.randn(3, 61, 6), LENGTHS)
    assert outputs.shape == (3, 20, 16)
    assert lengths.tolist() == [20, 13, 7]
    assert encoder_lengths(encoder, LENGTHS).tolist() == [20, 13, 7]


@pytest.mark.parametrize("kind", ["dropout_rate", "attention_dropout_rate"])
def test_dropout_off_reaches_every_dropout(kind):
    encoder = make_encoder(**{"dropout_rate": 0.0, kind: 0.5}).train()
    xs = torch.randn(3, 61, 6)
    with evaluating(encoder, DROPOUT):
        one, two = (encode_up_to(encoder, xs, LENGTHS, [2])[0] for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, encode_up_to(encoder, xs, LENGTHS, [2])[0])


def test_every_parameter_gets_a_gradient():
    encoder = make_encoder(attention_window=7).train()
    encoder(torch.randn(3, 61, 6), LENGTHS)[0].square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_bfloat16_autocast():
    encoder = make_encoder(attention_window=7)
    xs = torch.randn(3, 61, 6)
    expected, lengths, _ = encoder(xs, LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, _, _ = encoder(xs, LENGTHS)
    assert torch.isfinite(outputs).all()
    difference = (outputs[0] - expected[0]).abs().mean() / expected[0].abs().mean()
    assert 1e-4 < difference < 0.05


def test_intermediate_ctc_outputs():
    encoder = make_encoder(interctc_layer_idx=[2])
    xs = torch.randn(3, 61, 6)
    (last, [(layer, second)]), _, _ = encoder(xs, LENGTHS, ctc=None)
    assert layer == 2
    assert torch.equal(second, encode_up_to(encoder, xs, LENGTHS, [2])[0])
    assert not torch.equal(second, last)


def test_too_short():
    with pytest.raises(TooShortUttError):
        make_encoder()(torch.randn(1, 1, 6), torch.tensor([1]))


@pytest.mark.parametrize(
    "conf, words",
    [
        ({"attention_heads": 3}, "attention_heads must divide"),
        ({"cnn_module_kernel": 4}, "cnn_module_kernel must be odd"),
        ({"input_stack": 0}, "input_stack must be positive"),
        ({"attention_window": 0}, "attention_window must be positive"),
        ({"interctc_layer_idx": [3]}, "interctc_layer_idx must lie in 1 to 2"),
    ],
)
def test_settings_that_do_not_fit(conf, words):
    with pytest.raises(ConfigError, match=words):
        ShawConformerEncoder(**{**SMALL, **conf})
