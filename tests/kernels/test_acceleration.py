"""Accelerated encoders compute the same as ESPnet's."""

import copy

import pytest
import torch
from encoders import conformer, e_branchformer, outcome

from espnet2_birq.kernels import products
from espnet2_birq.kernels.acceleration import FastDropout, accelerate


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def library(request, monkeypatch):
    """Either CPU library, on any processor."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param)


@pytest.mark.parametrize("make", [conformer, e_branchformer])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [[40], [98, 77, 8, 31], [203, 200]])
def test_same_outputs_and_gradients(make, training, lengths, library):
    torch.manual_seed(0)
    stock = make().train(training)
    fast = accelerate(copy.deepcopy(stock))
    xs = torch.randn(len(lengths), max(lengths), 20)
    outcomes = [outcome(e, xs, torch.tensor(lengths)) for e in (stock, fast)]
    for a, b in zip(*outcomes):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(a.abs().max()))


def test_checkpoints_go_both_ways():
    stock, fast = conformer(), accelerate(conformer())
    assert list(stock.state_dict()) == list(fast.state_dict())
    stock.load_state_dict(fast.state_dict())
    fast.load_state_dict(stock.state_dict())


def test_double_precision(library):
    torch.manual_seed(0)
    stock = conformer().double()
    fast = accelerate(copy.deepcopy(stock))
    xs, lengths = torch.randn(2, 60, 20).double(), torch.tensor([60, 50])
    for a, b in zip(*(outcome(e, xs, lengths) for e in (stock, fast))):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(a.abs().max()))


def test_bfloat16_is_no_farther_from_single_precision(library):
    torch.manual_seed(0)
    stock = conformer()
    fast = accelerate(copy.deepcopy(stock))
    xs, lengths = torch.randn(4, 160, 20), torch.tensor([160, 150, 90, 20])
    exact = outcome(copy.deepcopy(stock), xs, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = [outcome(e, xs, lengths) for e in (stock, fast)]
    for a, *bs in zip(exact, *rounded):
        theirs, ours = (float((a - b).norm() / a.norm()) for b in bs)
        assert ours < 1.5 * theirs < 0.1


@pytest.mark.parametrize("shape", [(64, 48, 40), (3, 48, 40), (64, 9, 40)])
def test_linear_and_its_gradients(shape, library):
    torch.manual_seed(0)
    rows, inner, columns = shape
    x = torch.randn(2, rows, inner, requires_grad=True)
    layer = torch.nn.Linear(inner, columns)
    ys = products.linear(x, layer.weight, layer.bias), layer(x)
    torch.testing.assert_close(*ys)
    factors = torch.randn_like(ys[0])
    inputs = [x, *layer.parameters()]
    for a, b in zip(*(torch.autograd.grad((y * factors).sum(), inputs) for y in ys)):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_dropout():
    layer = FastDropout(0.1)
    x = torch.full((1001, 1003), 2.0, requires_grad=True)  # not a multiple of four
    torch.manual_seed(3)
    y = layer(x)
    kept = y != 0
    # 1e6 draws: the share's standard deviation is 3e-4
    assert abs(kept.float().mean() - 0.9) < 2e-3
    for half in (kept[:, ::2], kept[::2]):  # all positions alike
        assert abs(half.float().mean() - 0.9) < 3e-3
    # neighbours, which share a random draw, are independent
    assert abs((kept[:, 1:] & kept[:, :-1]).float().mean() - 0.81) < 3e-3
    assert torch.allclose(y[kept], torch.tensor(2 / 0.9), rtol=1e-4)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad != 0, kept)
    assert torch.allclose(grad[kept], torch.tensor(1 / 0.9), rtol=1e-4)
    torch.manual_seed(3)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("rate", [1e-6, 0.99999, 0.9999999])
def test_dropout_of_almost_none_or_all(rate):
    y = FastDropout(rate)(torch.ones(1000))
    assert y.isfinite().all() and (y == 0).all() == (rate > 0.5)
