"""Conformer matching the parameter counts of the BiRQ paper.

    frames -> stack 2 -> linear -> [block] x K

    block: x + FFN/2 -> x + attention -> x + convolution -> x + FFN/2 -> LayerNorm

The paper (arXiv 2509.15430) gives depths, sizes in millions, and an attention window.
The conformer of IBM's Granite speech models (arXiv 2505.08699), by partly the same
authors, has exactly these sizes: 5 x 1024 is 137.4 M, 10 x 768 is 154.9 M, 10 x 1024 is
274.7 M. This module follows that model's public description; we infer that BiRQ used
it.

It differs from ESPnet's ConformerEncoder in having no LayerNorm after the last block's
own, Shaw's relative positions (arXiv 1803.02155), a convolution module of twice the
width, optional block attention, and 50 instead of 25 frames per second.
"""

import torch
import torch.nn.functional as F
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from typeguard import typechecked

from espnet2_birq.encoders.taps import padding_mask
from espnet2_birq.errors import ConfigError
from espnet2_birq.kernels.attention import (
    pad_distances,
    padding_scores,
    shift_scores,
)
from espnet2_birq.kernels.depthwise import batch_norm


def relative_logits(
    queries: torch.Tensor, table: torch.Tensor, padding: torch.Tensor, factor: float
) -> torch.Tensor:
    """Compute Shaw's position term q_i . e_{i-j} of the attention logits.

    This is one matmul with the vectors of all distances, whose rows are then shifted
    relative to each other, without a (T, T, d) tensor or a gather.

    Args:
        queries: (B, H, T, d) queries.
        table: (2 M + 1, d) vectors, distance i - j in row i - j + M; distances
            beyond +-M use the vector of +-M.
        padding: (B, 1, 1, T) additive mask of the keys.
        factor: Scale of the term.

    Returns:
        (B, H, T, T) logits, query i in rows and key j in columns.
    """
    length, furthest = queries.size(2), table.size(0) // 2
    distances = torch.arange(length - 1, -length, -1, device=table.device)
    vectors = table[distances.clamp(-furthest, furthest) + furthest]  # (2T - 1, d)
    return shift_scores(queries @ pad_distances(vectors).T, padding, factor)


class FrameStacking(torch.nn.Module):
    """Input layer: stack n frames and project them; an incomplete tail is dropped.

    Implemented as an equivalent convolution with kernel and stride n, from which
    ``taps`` reads lengths and frame rate as from ESPnet's input layers.

    Arguments are those of ShawConformerEncoder, ``frames`` being ``input_stack``.
    """

    def __init__(self, input_size: int, output_size: int, frames: int):
        super().__init__()
        self.frames = frames
        self.conv = torch.nn.Sequential(
            torch.nn.Conv1d(input_size, output_size, frames, stride=frames)
        )

    def forward(
        self, xs: torch.Tensor, masks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stack; xs (B, T, D), masks (B, 1, T) -> (B, T // n, E), (B, 1, T // n).

        Raises:
            TooShortUttError: T < n; ESPnet's decoding reports and skips these.
        """
        if xs.size(1) < self.frames:
            raise TooShortUttError(
                f"has {xs.size(1)} frames and needs {self.frames}",
                xs.size(1),
                self.frames,
            )
        xs = self.conv(xs.transpose(1, 2)).transpose(1, 2)
        # A stack that includes padding is the tail of its utterance.
        return xs, masks[:, :, self.frames - 1 :: self.frames]


class ShawAttention(torch.nn.Module):
    """Full or blockwise multi-head self-attention with relative positions.

    Arguments are those of ShawConformerEncoder, ``window`` being ``attention_window``.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        dropout_rate: float,
        attention_dropout_rate: float,
        max_position: int,
        window: int | None,
    ):
        super().__init__()
        self.heads = heads
        self.window = window
        self.norm = torch.nn.LayerNorm(size)
        self.query = torch.nn.Linear(size, size, bias=False)
        self.key_value = torch.nn.Linear(size, 2 * size, bias=False)
        self.positions = torch.nn.Embedding(2 * max_position + 1, size // heads)
        # Small, so that attention is initially content-based.
        torch.nn.init.normal_(self.positions.weight, std=0.02)
        self.output = torch.nn.Linear(size, size)
        self.dropout = torch.nn.Dropout(dropout_rate)
        # A module, so that taps.evaluating finds it.
        self.attention_dropout = torch.nn.Dropout(attention_dropout_rate)

    def forward(self, xs: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Attend; xs (B, T, E), masks (B, 1, T) true at valid frames -> (B, T, E)."""
        batch, length, size = xs.shape
        window = min(self.window or length, length)
        padding = -length % window
        xs = F.pad(self.norm(xs), (0, 0, 0, padding))
        # N blocks of W frames: (N, W, E), key masks (N, 1, W)
        xs = xs.reshape(-1, window, size)
        masks = F.pad(masks, (0, padding)).reshape(-1, 1, window)
        queries = self._split(self.query(xs))
        keys, values = map(self._split, self.key_value(xs).chunk(2, dim=-1))
        scale = (size // self.heads) ** -0.5
        least = padding_scores(masks, queries.dtype)
        # (N, H, W, W)
        bias = relative_logits(queries, self.positions.weight, least, scale)
        dropout = self.attention_dropout
        xs = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=bias,
            dropout_p=dropout.p if dropout.training else 0.0,
        )  # (N, H, W, d)
        xs = xs.transpose(1, 2).reshape(batch, length + padding, size)[:, :length]
        return self.dropout(self.output(xs))

    def _split(self, xs: torch.Tensor) -> torch.Tensor:
        """(N, W, E) -> (N, H, W, d)."""
        return xs.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class ConvolutionModule(torch.nn.Module):
    """Gated pointwise, depthwise and pointwise convolution along time.

    Arguments are those of ShawConformerEncoder.
    """

    def __init__(self, size: int, kernel: int, expansion: int, dropout_rate: float):
        super().__init__()
        inner = expansion * size
        self.norm = torch.nn.LayerNorm(size)
        self.gated = torch.nn.Linear(size, 2 * inner)
        self.depthwise = torch.nn.Conv1d(
            inner, inner, kernel, padding=kernel // 2, groups=inner, bias=False
        )
        self.batch_norm = torch.nn.BatchNorm1d(inner)
        self.output = torch.nn.Linear(inner, size)
        self.dropout = torch.nn.Dropout(dropout_rate)

    def forward(self, xs: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Convolve; xs (B, T, E), masks (B, 1, T) true at valid frames -> (B, T, E)."""
        xs = F.glu(self.gated(self.norm(xs)), dim=-1).transpose(1, 2)  # (B, 2E, T)
        # As without padding, the last frames must see zeros.
        xs = self.depthwise(xs.masked_fill(~masks, 0.0))
        xs = F.silu(batch_norm(self.batch_norm, xs)).transpose(1, 2)
        return self.dropout(self.output(xs))


class ShawConformerBlock(torch.nn.Module):
    """Half-step feed-forward, attention, convolution, half-step feed-forward, LayerNorm."""

    def __init__(
        self,
        size: int,
        linear_units: int,
        dropout_rate: float,
        attention: ShawAttention,
        convolution: ConvolutionModule,
    ):
        super().__init__()
        self.first, self.last = (
            torch.nn.Sequential(
                torch.nn.LayerNorm(size),
                torch.nn.Linear(size, linear_units),
                torch.nn.SiLU(),
                torch.nn.Dropout(dropout_rate),
                torch.nn.Linear(linear_units, size),
                torch.nn.Dropout(dropout_rate),
            )
            for _ in range(2)
        )
        self.attention = attention
        self.convolution = convolution
        self.norm = torch.nn.LayerNorm(size)

    def forward(
        self, xs: torch.Tensor, masks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the block; xs (B, T, E), masks (B, 1, T) -> the same shapes."""
        xs = xs + 0.5 * self.first(xs)
        xs = xs + self.attention(xs, masks)
        xs = xs + self.convolution(xs, masks)
        xs = xs + 0.5 * self.last(xs)
        return self.norm(xs), masks


class ShawConformerEncoder(AbsEncoder):
    """Conformer with Shaw's relative positions; see the module's diagram.

    The defaults are those of the paper's largest encoder, with full attention.

    Args:
        input_size: D, size of an input frame.
        output_size: E, size of an encoder frame.
        attention_heads: H, a divisor of E.
        linear_units: Width of the feed-forward modules.
        num_blocks: K, depth.
        dropout_rate: Dropout after feed-forward, attention and convolution modules.
        attention_dropout_rate: Dropout of the attention weights.
        cnn_module_kernel: Kernel size of the depthwise convolution, odd.
        conv_expansion: Width of the depthwise convolution, in multiples of E.
        max_position: Largest distance, in encoder frames, with its own vector.
        attention_window: Block length, in encoder frames, to which attention is
            restricted; None: full attention.
        input_stack: n, input frames per encoder frame.
        interctc_layer_idx: Blocks, counted from 1, with an intermediate CTC loss in
            ESPnet's ASR model (``interctc_weight``).

    Raises:
        ConfigError: Inconsistent sizes.

    Example:
        >>> encoder = ShawConformerEncoder(80, 64, linear_units=256, num_blocks=2)
        >>> xs, lengths, _ = encoder(torch.randn(1, 99, 80), torch.tensor([99]))
        >>> xs.shape, lengths
        (torch.Size([1, 49, 64]), tensor([49]))
    """

    @typechecked
    def __init__(
        self,
        input_size: int,
        output_size: int = 1024,
        attention_heads: int = 8,
        linear_units: int = 4096,
        num_blocks: int = 10,
        dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        cnn_module_kernel: int = 15,
        conv_expansion: int = 2,
        max_position: int = 512,
        attention_window: int | None = None,
        input_stack: int = 2,
        interctc_layer_idx: list[int] = [],  # noqa: B006  as in ESPnet's encoders
    ):
        super().__init__()
        for wrong, message in (
            (output_size % attention_heads, "attention_heads must divide output_size"),
            (cnn_module_kernel % 2 == 0, "cnn_module_kernel must be odd"),
            (input_stack < 1, "input_stack must be positive"),
            (
                attention_window is not None and attention_window < 1,
                "attention_window must be positive, or null for all frames",
            ),
            (
                any(not 0 < layer < num_blocks for layer in interctc_layer_idx),
                f"interctc_layer_idx must lie in 1 to {num_blocks - 1}",
            ),
        ):
            if wrong:
                raise ConfigError(f"encoder_conf: {message}")
        self._output_size = output_size
        self.interctc_layer_idx = interctc_layer_idx
        self.embed = FrameStacking(input_size, output_size, input_stack)
        self.encoders = torch.nn.ModuleList(
            ShawConformerBlock(
                output_size,
                linear_units,
                dropout_rate,
                ShawAttention(
                    output_size,
                    attention_heads,
                    dropout_rate,
                    attention_dropout_rate,
                    max_position,
                    attention_window,
                ),
                ConvolutionModule(
                    output_size, cnn_module_kernel, conv_expansion, dropout_rate
                ),
            )
            for _ in range(num_blocks)
        )

    def output_size(self) -> int:
        """Return E, the size of an encoder frame."""
        return self._output_size

    def forward(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: torch.Tensor | None = None,
        ctc: torch.nn.Module | None = None,
        return_all_hs: bool = False,
    ):
        """Encode.

        Args:
            xs_pad: (B, T, D) input frames; values in the padding have no effect.
            ilens: (B,) lengths in input frames.
            prev_states: Unused; for ESPnet's signature.
            ctc: Unused; for ESPnet's signature.
            return_all_hs: Whether to also return the outputs of all blocks.

        Returns:
            (B, T // n, E) encoder frames, (B,) lengths, None. As in ESPnet's
            ConformerEncoder, the first is a pair with ``return_all_hs`` (second
            part: list of all K outputs) or with ``interctc_layer_idx`` (second part:
            list of (layer, output)).

        Raises:
            TooShortUttError: T < n.
        """
        masks = ~padding_mask(ilens, xs_pad.size(1))[:, None, :]
        xs, masks = self.embed(xs_pad, masks.to(xs_pad.device))
        outputs = []
        for layer, block in enumerate(self.encoders, start=1):
            xs, masks = block(xs, masks)
            if layer in self.interctc_layer_idx:
                outputs.append((layer, xs))
            elif return_all_hs and not self.interctc_layer_idx:
                outputs.append(xs)
        lengths = masks.squeeze(1).sum(1)
        return ((xs, outputs) if outputs else xs), lengths, None
