"""Choice of the faster matmul library and precision on this processor.

Both depend only on whether the processor has instructions that multiply in
bfloat16 (``torch.cpu.get_capabilities``), not on its vendor:

- precision, if ``cpu_bfloat16`` is auto: with these instructions bfloat16 has
  twice the rate of single precision, without them a third of it, or a fiftieth;
- library for single precision. PyTorch uses MKL, which on some of these processors
  (AMD's) selects its AVX2 kernels: less than half the rate of oneDNN on the newest,
  about the same on older ones. PyTorch includes oneDNN, but uses it only for
  convolutions and bfloat16. Here, ``linear`` uses it on these processors, and is
  ``torch.nn.functional.linear`` everywhere else: on GPUs, under autocast, in other
  precisions, and on all other processors, where MKL is as fast and, unlike oneDNN, has
  nothing to compile for a new batch length.

The choice is not made by timing: noise could flip it, and with it the last bits of a
resumed training. Measurements are in bench/README.md;
``python bench/products.py`` repeats them.
"""

import logging
from contextlib import nullcontext
from functools import cache

import torch
from torch.autograd.function import once_differentiable

from espnet2_birq.errors import ConfigError

# oneDNN needs contiguous rows, and copying a matrix with many columns for few rows to
# multiply costs more than the matmul: if any side is below this, MKL is faster.
MIN_SIDE = 32

# Instructions that multiply in bfloat16, named as in torch.cpu.get_capabilities(). Not
# avx_ne_convert, which only converts.
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # the last one is ARM's


@cache
def bfloat16_is_faster() -> bool:
    """Whether bfloat16 matmuls are faster than single precision.

    oneDNN claims support on every processor with AVX512, but without
    bfloat16 instructions it converts, at a third of the rate.
    """
    has = torch.cpu.get_capabilities()
    return onednn_has(torch.bfloat16) and any(has.get(name) for name in BFLOAT16)


def onednn_is_faster() -> bool:
    """Whether oneDNN is faster than MKL for single-precision matmuls."""
    return torch.backends.mkl.is_available() and bfloat16_is_faster()


def onednn_has(dtype: torch.dtype) -> bool:
    """Whether ``onednn`` supports this precision here, however slowly."""
    if not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return dtype in (torch.float32, torch.bfloat16)


@cache
def takes_bfloat16(setting: bool | str) -> bool:
    """Resolve ``cpu_bfloat16`` on this processor, logging it once.

    Args:
        setting: True, False or "auto".
    """
    faster = bfloat16_is_faster()
    if setting == "auto":
        name = "bfloat16" if faster else "single precision"
        has = "has" if faster else "has no"
        logging.info(f"cpu_bfloat16: {name}: the processor {has} instructions for it")
        return faster
    if setting and not faster:
        logging.warning(
            "cpu_bfloat16: true, but the processor has no instructions for it: this is "
            "several times slower than single precision, which auto would choose"
        )
    return bool(setting)


def check_precision(setting: bool | str):
    """Check ``cpu_bfloat16``.

    Raises:
        ConfigError: It is neither True nor False nor "auto".
    """
    if setting not in (True, False, "auto"):
        raise ConfigError(
            f"model_conf: cpu_bfloat16 is auto, true or false, got {setting!r}"
        )


def autocast(device: torch.device, setting: bool | str):
    """Return a context of bfloat16 autocast, if ``cpu_bfloat16`` says so on this device."""
    if device.type == "cpu" and takes_bfloat16(setting):
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute ``torch.nn.functional.linear`` with the faster library.

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
    """Compute ``a @ b`` of two matrices with the faster library, without gradients.

    Args:
        a: (M, K)
        b: (K, N)

    Returns:
        (M, N)
    """
    return onednn(a, b.t()) if _by_onednn(a, b.t()) else a @ b


def _by_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(*weight.shape, x.numel() // x.size(-1)) >= MIN_SIDE
        and not torch.is_autocast_enabled("cpu")
        and onednn_is_faster()
    )


def onednn(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute ``torch.nn.functional.linear`` of a matrix by oneDNN, without gradients.

    Args:
        x: (M, K)
        weight: (N, K)
        bias: (N,)

    Returns:
        (M, N)
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """y = x W' + b with its three matmuls by oneDNN."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = onednn(grad, weight.t())
        if ctx.needs_input_grad[1]:
            grad_weight = matmul(grad.t(), x)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias
