"""Depthwise convolution along time with channels last in memory, fast on a CPU.

PyTorch's Conv1d takes channels first, for which its CPU library has no fast depthwise
kernel. With channels last it has one for y and for the gradient at x, which is such a
convolution, too; and K shifted products are faster than its gradient at the kernel.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

# For bfloat16, at most 16 channels, more than 30 frames and kernels of 15 and more, PyTorch's
# library never finishes generating its code (oneDNN of PyTorch 2.11). It takes as few at a
# time from wider layers, too, if its threads do not divide the batch.
LEAST_CHANNELS = 64


def depthwise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Convolve each channel along time with its own kernel, keeping the length.

    Args:
        x: (B, T, C), C at least LEAST_CHANNELS on a CPU.
        weight: (C, 1, K), K odd, as in Conv1d.
        bias: (C,)

    Returns:
        (B, T, C), in bfloat16 under autocast.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    return _Depthwise.apply(x, weight, bias)


class FastConv1d(torch.nn.Conv1d):
    """Convolution along time, faster if it is depthwise, wide, and keeps the length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See torch.nn.Conv1d; depthwise, (B, C, T) is a view with channels last."""
        (kernel,) = self.kernel_size
        if (
            x.device.type != "cpu"
            or x.dim() != 3
            or x.dtype not in (torch.float32, torch.bfloat16)
            or not self.groups == self.in_channels == self.out_channels
            or self.groups < LEAST_CHANNELS
            or self.stride != (1,)
            or self.dilation != (1,)
            or kernel % 2 == 0
            or self.padding != (kernel // 2,)
            or self.padding_mode != "zeros"
        ):
            return super().forward(x)
        return depthwise(x.transpose(1, 2), self.weight, self.bias).transpose(1, 2)


def batch_norm(norm: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Normalise (B, C, T) in the layout that it has; with channels last, as (B T, C)."""
    last = x.transpose(1, 2)
    if not last.is_contiguous():
        return norm(x)
    return norm(last.flatten(0, 1)).view_as(last).transpose(1, 2)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad, weight.flip(2), None)
        if ctx.needs_input_grad[1]:
            grad_weight = _kernel_gradient(x, grad, weight.size(2)).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 1))
        return grad_x, grad_weight, grad_bias


def _convolve(x, weight, bias):
    """Convolve (B, T, C), in bfloat16 only as many rows as the threads divide."""
    rest = x.size(0) % torch.get_num_threads() if x.dtype == torch.bfloat16 else 0
    if not rest:
        return _convolve_image(x, weight, bias)
    single = (z if z is None else z.float() for z in (x[-rest:], weight, bias))
    with torch.autocast("cpu", enabled=False):  # it would convert them back
        last = _convolve_image(*single).to(x.dtype)
    if rest == x.size(0):
        return last
    return torch.cat((_convolve_image(x[:-rest], weight, bias), last))


def _convolve_image(x, weight, bias):
    """Convolve (B, T, C) as an image of height 1, whose channels are last in memory."""
    image = x.contiguous().transpose(1, 2).unsqueeze(2)  # (B, C, 1, T)
    channels, _, kernel = weight.shape
    padding = (0, kernel // 2)
    y = functional.conv2d(
        image, weight.unsqueeze(2), bias, padding=padding, groups=channels
    )
    return y.squeeze(2).transpose(1, 2)


def _kernel_gradient(x, grad, kernel):
    """Compute the gradient (C, 1, K) at the kernel, in single precision or better."""
    half, time = kernel // 2, x.size(1)
    dtype = torch.promote_types(x.dtype, torch.float32)  # also faster than bfloat16
    padded = functional.pad(x.to(dtype), (0, 0, half, half))  # (B, T + K - 1, C)
    grad = grad.to(dtype)
    product = torch.empty_like(grad)  # once: new memory costs more than the sums
    sums = grad.new_empty(kernel, grad.size(2))
    for shift in range(kernel):
        torch.mul(padded[:, shift : shift + time], grad, out=product)
        torch.sum(product, (0, 1), out=sums[shift])
    return sums.T.unsqueeze(1)
