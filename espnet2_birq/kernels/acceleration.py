"""Faster versions of ESPnet's encoders: same parameters, same names, same output.

``accelerate`` replaces the ``forward`` methods of a built encoder's modules by changing
their classes to subclasses. Checkpoints are interchangeable with ESPnet's. Faster on a
CPU:

- linear layers, where MKL is slow (``products``);
- dropout: a 16-bit random number per value, four from one call of PyTorch's generator,
  instead of a call per value in a single thread;
- two-dimensional subsampling: channels last throughout, each of its convolution's three
  products in the layout in which oneDNN is fast;
- depthwise convolutions and the normalisation after them with channels last (``depthwise``);
- the conformer's pointwise convolutions as linear layers, without transposed copies.

On every device:

- attention with relative positions (``attention``).

On a GPU, everything else runs as in ESPnet.
"""

import logging
from contextlib import nullcontext

import torch
from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import (
    Conv2dSubsampling,
    _subsample_mask,
)
from torch.autograd.function import once_differentiable
from torch.nn import functional

from espnet2_birq.kernels.attention import FastRelPositionAttention
from espnet2_birq.kernels.depthwise import FastConv1d, batch_norm
from espnet2_birq.kernels.products import autocast, linear, matmul


def accelerate[M: torch.nn.Module](module: M) -> M:
    """Make an ESPnet encoder faster, logging attention that is not accelerated.

    Args:
        module: Conformer or E-Branchformer, or any module with their layers.

    Returns:
        The same module, modified.
    """
    accelerate_parts(module, FASTER)
    unchanged = {
        type(part).__name__
        for part in module.modules()
        if isinstance(part, MultiHeadedAttention) and type(part) not in FASTER.values()
    }
    if unchanged:
        logging.info(
            f"Attention as ESPnet has it ({', '.join(sorted(unchanged))}): only that "
            "of rel_pos_type: latest is accelerated"
        )
    return module


def accelerate_parts(module: torch.nn.Module, faster: dict[type, type]):
    """Replace the classes of submodules.

    Args:
        module: Module to modify.
        faster: Mapping from ESPnet's class to ours: FASTER or ON_GPU.
    """
    for part in module.modules():
        part.__class__ = faster.get(type(part), type(part))


def train_in_bfloat16(encoder: torch.nn.Module):
    """Make an ESPnet encoder train in bfloat16 autocast on a CPU, if that is faster.

    Args:
        encoder: Encoder, whose ``forward`` is replaced; its output stays in single
            precision.
    """
    forward = encoder.forward
    tables = [part for part in encoder.modules() if hasattr(part, "pe")]

    def mixed(*args, **kwargs):
        device = next(encoder.parameters()).device
        exact = [part.pe for part in tables]
        with autocast(device, "auto") if encoder.training else nullcontext():
            ys, *rest = forward(*args, **kwargs)
        if encoder.training:  # ESPnet rounds position tables to the input's precision
            for part, pe in zip(tables, exact):
                part.pe = pe
        if isinstance(ys, tuple):  # with layer outputs, for intermediate CTC
            ys = ys[0].float(), [(layer, xs.float()) for layer, xs in ys[1]]
        else:
            ys = ys.float()
        return ys, *rest

    encoder.forward = mixed


def _runs_here(x: torch.Tensor) -> bool:
    return x.device.type == "cpu"


class FastLinear(torch.nn.Linear):
    """Linear layer that uses the faster library."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See torch.nn.Linear."""
        return linear(x, self.weight, self.bias)


class FastDropout(torch.nn.Dropout):
    """Dropout with random bits drawn in bulk."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See torch.nn.Dropout. The rate is rounded to 1/65536."""
        dropped = round(self.p * 65536)
        if not self.training or dropped in (0, 65536) or x.device.type != "cpu":
            return super().forward(x)
        return _Dropout.apply(x, dropped)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dropped):
        bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
        bits.random_(-(2**63), None)
        # int16 is uniform on [-32768, 32768): drop its `dropped` lowest values.
        kept = bits.view(torch.int16)[: x.numel()].view(x.shape)
        mask = torch.empty(x.shape, dtype=torch.uint8)
        torch.ge(kept, dropped - 32768, out=mask)
        ctx.scale = 65536 / (65536 - dropped)
        ctx.save_for_backward(mask)
        return (x * mask).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (mask,) = ctx.saved_tensors
        return (grad * mask).mul_(ctx.scale), None


class FastConv2dSubsampling(Conv2dSubsampling):
    """Fourfold subsampling with channels last in memory."""

    def forward(self, x, x_mask, prefix_embeds=None):
        """See ESPnet's Conv2dSubsampling."""
        if not _runs_here(x) or prefix_embeds is not None:
            return super().forward(x, x_mask, prefix_embeds)
        first, _, second, _ = self.conv
        inputs = [x, first.weight, first.bias, second.weight, second.bias]
        if torch.is_autocast_enabled("cpu"):
            inputs = [i.to(torch.get_autocast_dtype("cpu")) for i in inputs]
        hs = _TwoConvolutions.apply(*inputs)
        batch, frames, bins, channels = hs.shape  # (B, T/4, F/4, C)
        # ESPnet's layer expects channels before bins: permute its weight, not the frames.
        weight = self.out.weight.view(-1, channels, bins).transpose(1, 2).flatten(1)
        hs = linear(hs.view(batch, frames, bins * channels), weight, self.out.bias)
        if x_mask is not None:
            x_mask = _subsample_mask(x_mask, frames, ((3, 2), (3, 2)))
        return self.pos_enc(hs), x_mask


class _TwoConvolutions(torch.autograd.Function):
    """Two 3 x 3 convolutions of stride 2 with ReLU: (B, T, F) to (B, T/4, F/4, C).

    Channels are last throughout. The first convolution, over nine values, is a matmul.
    For the second, oneDNN is fast except for the weight gradient. This is computed as
    nine matmuls, one per kernel position, of the output's gradient with that position's
    input (every second row and column).
    """

    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2):
        patches = _patches(x)
        hs = linear(patches, weight1.flatten(1), bias1).relu_()
        hs = hs.view(len(x), *_halves(x), -1).permute(0, 3, 1, 2)  # (B, C, T/2, F/2)
        ys = functional.conv2d(hs, _channels_last(weight2), bias2, stride=2).relu_()
        ctx.save_for_backward(x, hs, ys, weight1, weight2)
        return ys.permute(0, 2, 3, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, hs, ys, weight1, weight2 = ctx.saved_tensors
        grad = _channels_last(grad.permute(0, 3, 1, 2))
        grad = torch.ops.aten.threshold_backward(grad, ys, 0)
        rows, columns = grad.shape[2:]
        # Copied once, as oneDNN would for each of nine products; (D, B T/4 F/4)
        flat = grad.permute(1, 0, 2, 3).flatten(1).contiguous()
        grad_weight2 = torch.empty_like(weight2)
        for i in range(3):
            for j in range(3):
                seen = hs[:, :, i : i + 2 * rows : 2, j : j + 2 * columns : 2]
                seen = seen.permute(0, 2, 3, 1).flatten(0, 2)
                grad_weight2[:, :, i, j] = matmul(flat, seen)
        grad_hs = _input_gradient(grad, hs, _channels_last(weight2))
        grad_hs = torch.ops.aten.threshold_backward(grad_hs, hs, 0)
        grad_x = None
        if ctx.needs_input_grad[0]:  # x has learned replacements of masked frames
            grad_x = _input_gradient(grad_hs, x[:, None], weight1)[:, 0]
        grad_hs = grad_hs.permute(0, 2, 3, 1).flatten(0, 2)  # (B T/2 F/2, C)
        # In this order the long side is the inner dimension: 8 times faster.
        grad_weight1 = (_patches(x).t() @ grad_hs).t().reshape(weight1.shape)
        grad_bias2 = grad.sum((0, 2, 3))
        return grad_x, grad_weight1, grad_hs.sum(0), grad_weight2, grad_bias2


def _input_gradient(grad, x, weight):
    """Gradient of a convolution of stride 2 at its input x, both (B, C, T, F)."""
    # Not torch.nn.grad.conv2d_input, which ignores the memory layout of x.
    grad_x, _, _ = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        bias_sizes=None,
        stride=[2, 2],
        padding=[0, 0],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=[True, False, False],
    )
    return grad_x


def _halves(x):
    return [(side - 1) // 2 for side in x.shape[1:]]


def _patches(x):
    """Unfold the inputs of a 3 x 3 convolution of stride 2: (B, T, F) to (B T/2 F/2, 9)."""
    return x.unfold(1, 3, 2).unfold(2, 3, 2).flatten(3).flatten(0, 2)


def _channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


class FastConvolutionModule(ConvolutionModule):
    """The conformer's convolution module with channels last throughout."""

    def forward(self, x, mask_pad=None):
        """See ESPnet's ConvolutionModule."""
        if not _runs_here(x):
            return super().forward(x, mask_pad)
        first, second = self.pointwise_conv1, self.pointwise_conv2
        x = linear(x, first.weight.squeeze(2), first.bias)  # (B, T, 2 C)
        x = functional.glu(x, dim=2)
        if mask_pad is not None and mask_pad.shape[1:] == (1, x.size(1)):
            # As mask_padded_frames, whose result has channels first in memory
            x = x.masked_fill(mask_pad.transpose(1, 2).eq(0), 0.0)
        x = self.depthwise_conv(x.transpose(1, 2))  # (B, C, T)
        x = self.activation(batch_norm(self.norm, x)).transpose(1, 2)
        return linear(x, second.weight.squeeze(2), second.bias)


# Faster on a GPU, too.
ON_GPU: dict[type, type] = {RelPositionMultiHeadedAttention: FastRelPositionAttention}
FASTER: dict[type, type] = {
    **ON_GPU,
    torch.nn.Linear: FastLinear,
    torch.nn.Conv1d: FastConv1d,
    torch.nn.Dropout: FastDropout,
    Conv2dSubsampling: FastConv2dSubsampling,
    ConvolutionModule: FastConvolutionModule,
}
