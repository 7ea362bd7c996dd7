"""Faster versions of ESPnet's relative-position attention: same names, same output.

Scores are q_i . k_j + q_i . p_{i-j} (arXiv 1901.02860, section 3.3). The second term,
for positions, is one matmul with all distances, whose rows are then shifted relative
to each other. ESPnet does this in four score matrices and keeps three for the backward
pass. Here, shift, scale and padding are one copy, followed by

- on a GPU ``scaled_dot_product_attention``, with the positions as its additive mask:
  the memory-efficient kernel, the fastest one with a gradient for such a mask;
- on a CPU, which lacks such a kernel, a matmul accumulated on the positions, and a
  softmax.

A window restricts attention to blocks of frames, so that time and memory are linear,
not quadratic, in the length.
"""

import torch
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    MultiHeadedAttention,
    RelPositionMultiHeadedAttention,
)
from torch.autograd.function import once_differentiable
from torch.nn import functional

from espnet2_birq.errors import ConfigError


def fused(x: torch.Tensor) -> bool:
    """Whether attention uses ``scaled_dot_product_attention``."""
    return x.device.type != "cpu"


class FastRelPositionAttention(RelPositionMultiHeadedAttention):
    """Full or blockwise attention with relative positions.

    On a CPU without a window, attention weights are kept in ``self.attn``, as in
    ESPnet; a fused kernel has none. If a forward hook needs them in evaluation
    (ESPnet's attention plots, ``num_att_plot``), ESPnet's own forward runs.
    """

    window = None  # block length in frames; None: full attention

    def forward(self, query, key, value, pos_emb, mask):
        """Compute self-attention; see ESPnet's RelPositionMultiHeadedAttention.

        Args:
            query: (B, T, E).
            key: (B, T, E).
            value: (B, T, E).
            pos_emb: (1, 2 T - 1, E), for distances T - 1 down to 1 - T.
            mask: (B, 1, T), true at valid frames; None: all are valid.

        Returns:
            (B, T, E).
        """
        batch, length, _ = query.shape
        if mask is None:
            mask = query.new_ones((batch, 1, length), dtype=torch.bool)
        watched = self._forward_hooks and not self.training
        if self.zero_triu or (watched and (self.window or fused(query))):
            if self.window:
                mask = mask & block_mask(length, self.window, mask.device)
            return super().forward(query, key, value, pos_emb, mask)
        window = min(self.window or length, length)
        q, k, v = self.forward_qkv(query, key, value)  # (B, H, T, d)
        if window < length:
            q, k, v = (_in_blocks(x, window) for x in (q, k, v))  # (N, H, W, d)
            mask = functional.pad(mask, (0, -length % window)).reshape(-1, 1, window)
            pos_emb = pos_emb[:, length - window : length + window - 1]
        bias = self._position_scores(q, pos_emb, mask)  # (N, H, W, W)
        q = q + self.pos_bias_u[:, None].to(q.dtype)
        x = self._fused(q, k, v, bias) if fused(q) else self._eager(q, k, v, bias)
        x = x.transpose(1, 2).reshape(batch, -1, self.h * self.d_k)[:, :length]
        return self.linear_out(x)

    def _position_scores(self, q, pos_emb, mask):
        """Compute scaled position scores (N, H, W, W), very negative on padding."""
        p = pad_distances(self.linear_pos(pos_emb)[0]).unflatten(-1, (self.h, self.d_k))
        # One matmul per head for all utterances, without copies of its operands.
        q = q.transpose(1, 2) + self.pos_bias_v.to(q.dtype)  # (N, W, H, d)
        rows = q.flatten(0, 1).transpose(0, 1)  # (H, N W, d)
        scores = torch.bmm(rows, p.permute(1, 2, 0))  # (H, N W, 2 W - 1 or more)
        scores = scores.unflatten(1, q.shape[:2]).transpose(0, 1)
        padding = padding_scores(mask, scores.dtype)
        return shift_scores(scores, padding, self.d_k**-0.5)

    def _fused(self, q, k, v, bias):
        # The dropout layer's mode decides, not self's, as in ESPnet.
        rate = self.dropout.p if self.dropout.training else 0.0
        self.attn = None
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=rate
        )

    def _eager(self, q, k, v, bias):
        scores = torch.baddbmm(
            bias.flatten(0, 1),
            q.flatten(0, 1),
            k.flatten(0, 1).transpose(1, 2),
            alpha=self.d_k**-0.5,
        )
        # A local variable, since another thread may use the same model.
        attention = scores.view(bias.shape).softmax(dim=-1)
        self.attn = attention
        return torch.matmul(self.dropout(attention), v)


def limit_attention(encoder: torch.nn.Module, window: int) -> torch.nn.Module:
    """Restrict attention to blocks of frames.

    Args:
        encoder: Conformer or E-Branchformer with relative positions.
        window: Block length in encoder frames; blocks start at the first frame of an
            utterance.

    Returns:
        The same encoder, modified; parameters are unchanged.

    Raises:
        ConfigError: The window is not positive, or the encoder has another type of
            attention.
    """
    if window < 1:
        raise ConfigError("model_conf: attention_window must be positive, or null")
    parts = [x for x in encoder.modules() if isinstance(x, MultiHeadedAttention)]
    if not parts or not all(
        isinstance(x, RelPositionMultiHeadedAttention) and not x.zero_triu
        for x in parts
    ):
        raise ConfigError(
            "model_conf: attention_window needs an encoder of ESPnet's with relative "
            "positions (rel_pos_type: latest, pos_enc_layer_type: rel_pos, rel_selfattn"
            "); shaw_conformer has an attention_window of its own in encoder_conf"
        )
    for part in parts:
        part.__class__ = FastRelPositionAttention
        part.window = window
    return encoder


def block_mask(length: int, window: int, device=None) -> torch.Tensor:
    """Return (T, T) bool, True where a frame (row) may attend to another (column).

    Args:
        length: T, frames.
        window: Block length in frames.
        device: Device of the mask.
    """
    blocks = torch.arange(length, device=device) // window
    return blocks[:, None] == blocks


def padding_scores(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return an additive mask: 0 for valid frames, a large negative number for padding.

    Not minus infinity, for which a softmax over padding alone would give NaN.

    Args:
        mask: (B, 1, T) true at valid frames.
        dtype: Type of the scores.

    Returns:
        (B, 1, 1, T) mask.
    """
    least = torch.finfo(dtype).min / 2  # half: the sum must not be infinite
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, least
    )[:, None]


def _in_blocks(x, window):
    """Split (B, H, T, d) into (B T/W, H, W, d), copying only to pad the last block."""
    x = x.transpose(1, 2)  # (B, T, H, d), as it is in memory
    x = functional.pad(x, (0, 0, 0, 0, 0, -x.size(1) % window))
    return x.reshape(-1, window, *x.shape[2:]).transpose(1, 2)


# Row alignment, in elements, of an additive mask; otherwise PyTorch copies it.
ALIGNED = 16
# Rows of 16 bytes, in 16-bit elements: with others, matrix products run on slow kernels of
# a GPU (docs/benchmarks.md).
PRODUCT_ALIGNED = 8


def pad_distances(vectors: torch.Tensor) -> torch.Tensor:
    """Append rows of zeros to the vectors of 2 T - 1 distances, for aligned products.

    Args:
        vectors: (2 T - 1, d).

    Returns:
        (D, d), D being the next multiple of 8.
    """
    return functional.pad(vectors, (0, 0, 0, -vectors.size(0) % PRODUCT_ALIGNED))


def shift_scores(
    x: torch.Tensor, padding: torch.Tensor, factor: float = 1.0
) -> torch.Tensor:
    """Map scores by distance to scores by pairs of frames, in one copy.

    Args:
        x: (B, H, T, D), query i in rows, distances T - 1 down to 1 - T, and columns
            without effect from pad_distances.
        padding: (B, 1, 1, T) additive mask of the keys.
        factor: Scale of x.

    Returns:
        (B, H, T, T), element (i, j) with the score of distance i - j; aligned for the
        additive mask of the memory-efficient attention kernel.
    """
    return _Shift.apply(x, padding, factor)


class _Shift(torch.autograd.Function):
    """See shift_scores."""

    @staticmethod
    def forward(ctx, x, padding, factor):
        if x.stride()[2:] != (x.size(3), 1):
            x = x.contiguous()
        ctx.shape, ctx.strides, ctx.factor = x.shape, x.stride(), factor
        batch, heads, length, _ = x.shape
        row = length + -length % ALIGNED
        strides = (heads * length * row, length * row, row, 1)
        out = x.new_empty_strided((batch, heads, length, length), strides)
        return torch.add(padding, _shifted(x), alpha=factor, out=out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_x = grad.new_empty_strided(ctx.shape, ctx.strides).zero_()
        torch.mul(grad, ctx.factor, out=_shifted(grad_x))
        return grad_x, None, None


def _shifted(x):
    """View (B, H, T, D), D at least 2 T - 1, as (B, H, T, T).

    Row i begins at distance i, at offset T - 1 - i: a view with a row stride smaller
    by one.
    """
    size = (*x.shape[:3], x.size(2))
    strides = (*x.stride()[:2], x.size(3) - 1, 1)
    return torch.as_strided(x, size, strides, x.storage_offset() + x.size(2) - 1)
