"""Attention with relative positions: ESPnet's numbers, on either path and in blocks."""

import copy
import logging

import pytest
import torch
from encoders import conformer, e_branchformer, outcome
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    RelPositionMultiHeadedAttention,
)
from espnet2.main_funcs.calculate_all_attentions import calculate_all_attentions
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from espnet2_birq.encoders.shaw_conformer import ShawConformerEncoder
from espnet2_birq.encoders.taps import DROPOUT, evaluating
from espnet2_birq.errors import ConfigError
from espnet2_birq.kernels import acceleration, attention
from espnet2_birq.kernels.acceleration import accelerate
from espnet2_birq.kernels.attention import FastRelPositionAttention, limit_attention

MAKERS = [conformer, e_branchformer]
LENGTHS = [[40], [98, 77, 8, 31], [203, 200]]


@pytest.fixture(params=["cpu", "gpu"])
def path(request, monkeypatch):
    """Either path, on this device."""
    monkeypatch.setattr(attention, "fused", lambda x: request.param == "gpu")
    return request.param


class InBlocks(RelPositionMultiHeadedAttention):
    """ESPnet's attention, with blocks expressed as a mask."""

    window = 0

    def forward(self, query, key, value, pos_emb, mask):
        seen = mask.new_zeros(query.size(1), query.size(1))
        for start in range(0, query.size(1), self.window):
            block = slice(start, start + self.window)
            seen[block, block] = True
        return super().forward(query, key, value, pos_emb, mask & seen)


def in_blocks(encoder, window):
    """Give a stock encoder such attention."""
    for part in encoder.modules():
        if type(part) is RelPositionMultiHeadedAttention:
            part.__class__, part.window = InBlocks, window
    return encoder


def assert_same(stock, fast, lengths, share, dtype=torch.float, device="cpu"):
    xs = torch.randn(len(lengths), max(lengths), 20, dtype=dtype, device=device)
    frames = torch.tensor(lengths, device=device)
    outcomes = [outcome(e.to(device), xs, frames) for e in (stock, fast)]
    for a, b in zip(*outcomes):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, rtol=0, atol=share * float(a.abs().max()))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_same_outputs_and_gradients(make, training, lengths, path):
    torch.manual_seed(0)
    stock = make().train(training)
    assert_same(stock, accelerate(copy.deepcopy(stock)), lengths, 1e-5)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("window", [1, 5, 16, 100])  # of 9 to 50 frames
@pytest.mark.parametrize("lengths", LENGTHS)
def test_blocks_are_a_mask(make, window, lengths, path):
    torch.manual_seed(0)
    stock = make()
    blocks = limit_attention(accelerate(copy.deepcopy(stock)), window)
    assert_same(in_blocks(stock, window), blocks, lengths, 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_same_on_a_gpu(make, window, lengths, exact_products):
    torch.manual_seed(0)
    stock = make()
    fast = accelerate(copy.deepcopy(stock))
    if window:
        fast, stock = limit_attention(fast, window), in_blocks(stock, window)
    assert_same(stock, fast, lengths, 1e-4, device="cuda")


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("window", [None, 7])
def test_double_precision(make, window, path):
    torch.manual_seed(0)
    stock = make().double()
    fast = accelerate(copy.deepcopy(stock))
    if window:
        fast, stock = limit_attention(fast, window), in_blocks(stock, window)
    assert_same(stock, fast, [98, 60], 1e-12, torch.double)


def test_bfloat16_is_no_farther_from_single_precision(path):
    torch.manual_seed(0)
    stock = RelPositionMultiHeadedAttention(4, 64, 0.0)
    fast = copy.deepcopy(stock)
    fast.__class__ = FastRelPositionAttention
    xs, positions = torch.randn(8, 90, 64), torch.randn(1, 179, 64)
    mask = torch.arange(90) < torch.tensor([90, 70] * 4)[:, None]
    mask = mask[:, None]

    def numbers(module):
        module.zero_grad()
        inputs = xs.clone().requires_grad_()
        ys = module(inputs, inputs, inputs, positions, mask)
        ys[mask[:, 0]].square().sum().backward()
        gradients = [x.grad.flatten() for x in (inputs, *module.parameters())]
        return ys[mask[:, 0]].detach().float(), torch.cat(gradients)

    exact = numbers(stock)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = [numbers(module) for module in (stock, fast)]
    for a, *bs in zip(exact, *rounded):
        theirs, ours = (float((a - b).norm() / a.norm()) for b in bs)
        assert ours < 1.1 * theirs < 0.05


@pytest.mark.parametrize("window", [None, 4])
def test_an_utterance_of_padding_makes_no_nan(window, path):
    module = RelPositionMultiHeadedAttention(2, 16, 0.1)
    module.__class__, module.window = FastRelPositionAttention, window
    xs = torch.randn(3, 10, 16, requires_grad=True)
    mask = torch.arange(10) < torch.tensor([10, 3, 0])[:, None]
    ys = module(xs, xs, xs, torch.randn(1, 19, 16), mask[:, None])
    ys.square().sum().backward()
    assert ys.isfinite().all()
    assert all(x.grad.isfinite().all() for x in (xs, *module.parameters()))


def test_what_the_kernel_gets(monkeypatch):
    """The memory-efficient kernel uses a mask in place if it has the query's precision
    and aligned rows; PyTorch copies any other."""
    seen = []

    def kernel(q, k, v, attn_mask, dropout_p):
        seen.append((q, k, v, attn_mask, dropout_p))
        return q

    monkeypatch.setattr(attention, "fused", lambda x: True)
    monkeypatch.setattr(functional, "scaled_dot_product_attention", kernel)
    encoder = accelerate(conformer(attention_dropout_rate=0.25))
    xs, lengths = torch.randn(2, 203, 20), torch.tensor([203, 100])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(xs, lengths)
        limit_attention(encoder, 7)(xs, lengths)
        with evaluating(encoder, DROPOUT):
            encoder(xs, lengths)
    assert len(seen) == 6
    for q, k, v, bias, _ in seen:
        assert {x.dtype for x in (q, k, v, bias)} == {torch.bfloat16}
        assert q.requires_grad and bias.requires_grad
        assert bias.shape == (*q.shape[:-1], k.size(-2))
        assert bias.stride(-1) == 1 and bias.storage_offset() == 0
        assert all(stride % 16 == 0 for stride in bias.stride()[:-1])
        assert all(x.stride(-1) == 1 and x.stride(-2) % 8 == 0 for x in (q, k, v))
    assert [rate for *_, rate in seen] == 4 * [0.25] + 2 * [0.0]


def test_memory_is_linear_in_the_length(path):
    def kept(length, window):
        """Return the bytes that the forward pass keeps for the backward pass."""
        torch.manual_seed(0)
        module = RelPositionMultiHeadedAttention(2, 16, 0.1)
        module.__class__, module.window = FastRelPositionAttention, window
        xs = torch.randn(1, length, 16, requires_grad=True)
        positions, mask = torch.randn(1, 2 * length - 1, 16), xs.new_ones(1, 1, length)
        storages = {}

        def pack(x):
            storage = x.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            ys = module(xs, xs, xs, positions, mask.bool())
        return sum(storages.values()), ys

    short, long = (kept(length, 50)[0] for length in (400, 1600))
    assert long / short == pytest.approx(4, rel=0.1)
    short, long = (kept(length, None)[0] for length in (400, 1600))
    assert long / short > 10


@pytest.mark.parametrize("window", [None, 5])
def test_pictures_of_attention(window, path):
    """ESPnet plots the attention weights that a forward hook finds."""

    class Model(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def forward(self, speech, speech_lengths):
            return self.encoder(speech, speech_lengths)

    stock = conformer().eval()
    fast = accelerate(copy.deepcopy(stock))
    if window:
        fast, stock = limit_attention(fast, window), in_blocks(stock, window)
    lengths = torch.tensor([98, 60])
    batch = dict(speech=torch.randn(2, 98, 20), speech_lengths=lengths)
    theirs, ours = (calculate_all_attentions(Model(e), batch) for e in (stock, fast))
    assert len(ours) == 2 and list(ours) == list(theirs)
    for name, weights in ours.items():
        for one, other in zip(weights, theirs[name]):
            torch.testing.assert_close(one, other)


def test_checkpoints_go_both_ways():
    stock, fast = conformer(), limit_attention(accelerate(conformer()), 5)
    assert list(stock.state_dict()) == list(fast.state_dict())
    stock.load_state_dict(fast.state_dict())
    fast.load_state_dict(stock.state_dict())


def test_attention_that_stays_espnets_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        accelerate(conformer())
        assert not caplog.records
        legacy = conformer(rel_pos_type="legacy")
        caplog.clear()  # records of ESPnet
        accelerate(legacy)
    (record,) = caplog.records
    assert "LegacyRelPositionMultiHeadedAttention" in record.message


@pytest.mark.parametrize(
    "make, window, words",
    [
        (conformer, 0, "must be positive"),
        (lambda: conformer(rel_pos_type="legacy"), 5, "rel_pos_type: latest"),
        (lambda: conformer(zero_triu=True), 5, "rel_pos_type: latest"),
        (
            lambda: ShawConformerEncoder(20, 16, 2, 32, 2),
            5,
            "attention_window of its own in encoder_conf",
        ),
    ],
)
def test_windows_that_do_not_fit(make, window, words):
    with pytest.raises(ConfigError, match=words):
        limit_attention(make(), window)


class Products(TorchDispatchMode):
    """Records the row strides of the operands and results of matrix products."""

    def __init__(self):
        super().__init__()
        self.strides = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            for x in (*args[:2], result):
                rows, columns = x.stride()[-2:]
                self.strides.add(max(rows, columns) if 1 in (rows, columns) else 0)
        return result


def shaw():
    """Make this project's encoder."""
    return ShawConformerEncoder(20, 32, 4, 64, 2, max_position=30)


@pytest.mark.parametrize("make", [*MAKERS, shaw])
@pytest.mark.parametrize("frames", [203, 400])
def test_products_are_aligned(make, frames, monkeypatch):
    """On a GPU, products run many times slower if rows do not start at 16 bytes."""
    monkeypatch.setattr(attention, "fused", lambda x: True)
    monkeypatch.setattr(acceleration, "_runs_here", lambda x: False)
    monkeypatch.setattr(
        functional, "scaled_dot_product_attention", lambda q, k, v, **_: q + v
    )
    encoder = accelerate(make())
    xs = torch.randn(2, frames, 20, requires_grad=True)
    with Products() as products, torch.autocast("cpu", dtype=torch.bfloat16):
        out = encoder(xs, torch.tensor([frames, frames - 7]))[0]
        out.float().square().sum().backward()
    assert products.strides and not [x for x in products.strides if x % 8 or not x]
