"""Matrix products in single precision, by the faster of PyTorch's two CPU libraries.

PyTorch's CPU products go through MKL, which takes its slower kernels on processors of
AMD: less than half of the rate that oneDNN reaches there, which is in PyTorch too but
serves only convolutions and bfloat16 by default (bench/README.md has the rates). Here
``linear`` goes through oneDNN where that is so, and is ``torch.nn.functional.linear``
everywhere else: on GPUs, under autocast, in other precisions, on other processors.
"""

from functools import cache
from pathlib import Path
from typing import Optional

import torch
from torch.autograd.function import once_differentiable

# oneDNN wants rows in memory, and a copy of a matrix with many columns and few rows to
# multiply costs more than the product: where any side is below this, MKL is faster.
MIN_SIDE = 32


@cache
def mkl_is_slow() -> bool:
    """Whether this processor is one on which oneDNN has the faster products."""
    cpuinfo = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and cpuinfo.is_file()
        and "AuthenticAMD" in cpuinfo.read_text()
    )


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """The same as ``torch.nn.functional.linear``.

    Args:
        x: (..., K)
        weight: (N, K)
        bias: (N,)

    Returns:
        (..., N)
    """
    if not _by_onednn(x, weight):
        return torch.nn.functional.linear(x, weight, bias)
    y = _Linear.apply(x.reshape(-1, x.size(-1)), weight, bias)
    return y.view(*x.shape[:-1], -1)


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The same as ``a @ b`` of two matrices, without gradients.

    Args:
        a: (M, K)
        b: (K, N)

    Returns:
        (M, N)
    """
    return _onednn(a, b.t()) if _by_onednn(a, b.t()) else a @ b


def _by_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(*weight.shape, x.numel() // x.size(-1)) >= MIN_SIDE
        and not torch.is_autocast_enabled("cpu")
        and mkl_is_slow()
    )


def _onednn(x, weight, bias=None):
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """y = x W' + b with its three products by oneDNN."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _onednn(grad, weight.t())
        if ctx.needs_input_grad[1]:
            grad_weight = matmul(grad.t(), x)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias
