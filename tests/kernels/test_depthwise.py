"""Depthwise convolution with channels last computes the same as torch.nn.Conv1d."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from espnet2_birq.kernels.depthwise import FastConv1d, batch_norm, depthwise


def make(channels=72, kernel=7, **conf):
    torch.manual_seed(0)
    conf = {"padding": kernel // 2, "groups": channels, **conf}
    stock = torch.nn.Conv1d(channels, channels, kernel, **conf)
    fast = copy.deepcopy(stock)
    fast.__class__ = FastConv1d
    return stock, fast


def outcome(layer, x):
    """Return output and gradients of a weighted sum."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel()).view_as(y)
    return y.detach(), *torch.autograd.grad(
        (y * weights).sum(), [x, *layer.parameters()]
    )


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("kernel", [1, 3, 31])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("length", [1, 5, 80])
def test_same_output_and_gradients(kernel, bias, length):
    layers = make(kernel=kernel, bias=bias)
    last = torch.randn(3, length, 72)  # channels last, as in the encoders
    for x in (last.transpose(1, 2), last.transpose(1, 2).contiguous()):
        for a, b in zip(*(outcome(layer, x) for layer in layers)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    y = layers[1](last.transpose(1, 2))
    assert y.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("batch", [1, 4, 5])
def test_bfloat16_is_no_farther_from_single_precision(batch, two_threads):
    stock, fast = make(kernel=31)
    x = torch.randn(batch, 200, 72).transpose(1, 2)
    exact = outcome(stock, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = [outcome(layer, x) for layer in (stock, fast)]
    assert fast(x).dtype == torch.float32 and rounded[1][0].dtype == torch.bfloat16
    for a, *bs in zip(exact, *rounded):
        theirs, ours = (float((a - b).norm() / a.norm()) for b in bs)
        assert 0 < ours < 1.2 * theirs < 0.02


@pytest.mark.parametrize(
    "conf",
    [
        {"stride": 2},
        {"dilation": 2},
        {"padding": 0},
        {"groups": 1},
        {"groups": 12},
        {"channels": 48},
        {"kernel": 4},
        {"padding_mode": "circular"},
    ],
)
def test_other_convolutions_are_pytorchs(conf):
    stock, fast = make(**conf)
    x = torch.randn(2, stock.in_channels, 40)
    for one in (x, x.double()):
        layers = (layer.to(one.dtype) for layer in (stock, fast))
        for a, b in zip(*(outcome(layer, one) for layer in layers)):
            assert torch.equal(a, b)


SHAPES = """
import sys
import torch
sys.path.insert(0, {tests!r})
from test_depthwise import make, outcome
for threads, batch in (1, 1), (2, 5), (2, 1), (3, 4):
    torch.set_num_threads(threads)
    for kernel in (15, 31, 63):
        for length in (30, 31, 61, 368, 400):
            print(threads, batch, kernel, length, flush=True)
            fast = make(channels={channels}, kernel=kernel)[1]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outcome(fast, torch.randn(batch, length, {channels}).transpose(1, 2))
print("done", flush=True)
"""


@pytest.mark.parametrize("channels", [16, 64, 144, 250])
def test_no_shape_hangs(channels):
    """In a process of its own, since the library would never return.

    Not a fork: autograd refuses one once this process has run a backward pass with
    several threads.
    """
    code = SHAPES.format(tests=str(Path(__file__).parent), channels=channels)
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    assert child.stdout.endswith("done\n"), child.stdout + child.stderr


def test_gradient_by_finite_differences():
    torch.manual_seed(0)
    shapes = (2, 9, 4), (4, 1, 5), (4,)
    inputs = [torch.randn(x, dtype=torch.float64, requires_grad=True) for x in shapes]
    assert torch.autograd.gradcheck(depthwise, inputs)


@pytest.mark.parametrize("training", [True, False])
def test_normalisation_in_either_layout(training):
    """The same output, gradients and running statistics."""
    torch.manual_seed(0)
    norms = [torch.nn.BatchNorm1d(24).train(training) for _ in range(3)]
    last = torch.randn(3, 50, 24)
    views = last.transpose(1, 2), last.transpose(1, 2).contiguous()
    expected = outcome(norms[0], views[1])
    for norm, x in zip(norms[1:], views):
        layer = torch.nn.Module()
        layer.norm = norm
        layer.forward = lambda x, norm=norm: batch_norm(norm, x)
        for a, b in zip(expected, outcome(layer, x)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(norms[0].buffers(), norm.buffers()):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
