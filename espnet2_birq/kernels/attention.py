"""ESPnet's attention with relative positions, faster: same names, same output.

Scores are q_i . k_j + q_i . p_{i-j} (arXiv 1901.02860, section 3.3). The second term,
positions, is one product with all distances that occur, whose rows are then shifted
against each other. ESPnet makes four matrices of scores of it, one after the other, and
keeps three for the backward pass. Here the shift, the scale and the padding are one
copy, and what follows is

- on a GPU ``scaled_dot_product_attention``, with the positions as its additive mask:
  the memory-efficient kernel, the fastest one that has a gradient for such a mask;
- on a CPU, which has no such kernel, a product onto the positions and a softmax.

With a window, attention stays inside blocks of so many frames: time and memory grow
with the length, not with its square.
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
    """Whether attention goes through ``scaled_dot_product_attention``."""
    return x.device.type != "cpu"


class FastRelPositionAttention(RelPositionMultiHeadedAttention):
    """Attention with relative positions, to all frames or inside blocks.

    Attention weights are kept in ``self.attn``, as in ESPnet's, on a CPU without a
    window; a fused kernel has none. In evaluation, where a forward hook waits for them
    (ESPnet's pictures of attention, ``num_att_plot``), ESPnet's own forward runs.
    """

    window = None  # frames of a block; None: all frames

    def forward(self, query, key, value, pos_emb, mask):
        """Self-attention; see ESPnet's RelPositionMultiHeadedAttention.

        Args:
            query: (B, T, E).
            key: (B, T, E).
            value: (B, T, E).
            pos_emb: (1, 2 T - 1, E), of distances T - 1 down to 1 - T.
            mask: (B, 1, T), true where a frame is; None: everywhere.

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
        """Scaled scores of the positions, least where no frame is: (N, H, W, W)."""
        p = self.linear_pos(pos_emb)[0].unflatten(-1, (self.h, self.d_k))
        # One product a head for all utterances: none of its factors is copied.
        q = q.transpose(1, 2) + self.pos_bias_v.to(q.dtype)  # (N, W, H, d)
        rows = q.flatten(0, 1).transpose(0, 1)  # (H, N W, d)
        scores = torch.bmm(rows, p.permute(1, 2, 0))  # (H, N W, 2 W - 1)
        scores = scores.unflatten(1, q.shape[:2]).transpose(0, 1)
        padding = padding_scores(mask, scores.dtype)
        return shift_scores(scores, padding, self.d_k**-0.5)

    def _fused(self, q, k, v, bias):
        # The module's mode, not ours: labels are made with dropout in evaluation.
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
        self.attn = scores.view(bias.shape).softmax(dim=-1)
        return torch.matmul(self.dropout(self.attn), v)


def limit_attention(encoder: torch.nn.Module, window: int) -> torch.nn.Module:
    """Let each frame attend only to the frames of its own block.

    Args:
        encoder: A conformer or E-Branchformer with relative positions.
        window: Encoder frames of a block; the blocks of an utterance begin at its
            first frame.

    Returns:
        The same encoder, changed; its parameters are as they were.

    Raises:
        ConfigError: The window is not positive, or the encoder's attention is of
            another kind.
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
    """Which frames (rows) may attend to which (columns): (T, T) bool.

    Args:
        length: T.
        window: Frames of a block.
        device: Where to make it.
    """
    blocks = torch.arange(length, device=device) // window
    return blocks[:, None] == blocks


def padding_scores(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What to add to scores: 0 where a frame is, the least number where none is.

    Not minus infinity: where all is padding, a softmax would make NaN of it.

    Args:
        mask: (B, 1, T) true where a frame is.
        dtype: Of the scores.

    Returns:
        (B, 1, 1, T).
    """
    least = torch.finfo(dtype).min / 2  # half: the sum must not be infinite
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, least
    )[:, None]


def _in_blocks(x, window):
    """(B, H, T, d) to (B T/W, H, W, d), a copy only where the last block is padded."""
    x = x.transpose(1, 2)  # (B, T, H, d), as it is in memory
    x = functional.pad(x, (0, 0, 0, 0, 0, -x.size(1) % window))
    return x.reshape(-1, window, *x.shape[2:]).transpose(1, 2)


# Numbers by which rows of an additive mask must be apart, or PyTorch copies the mask.
ALIGNED = 16


def shift_scores(
    x: torch.Tensor, padding: torch.Tensor, factor: float = 1.0
) -> torch.Tensor:
    """Scores by distance to scores of pairs of frames, in one copy.

    Args:
        x: (B, H, T, 2 T - 1), query i in rows, distances T - 1 down to 1 - T.
        padding: (B, 1, 1, T), what to add for each key.
        factor: What to multiply x by.

    Returns:
        (B, H, T, T), (i, j) having the score of distance i - j; aligned as the
        memory-efficient attention kernel wants its additive mask.
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
    """(B, H, T, 2 T - 1) to a view of it (B, H, T, T).

    Row i begins at distance i, T - 1 - i places later: a view of memory whose rows are
    one number closer together than they were.
    """
    size = (*x.shape[:3], x.size(2))
    strides = (*x.stride()[:2], x.size(3) - 1, 1)
    return torch.as_strided(x, size, strides, x.storage_offset() + x.size(2) - 1)
