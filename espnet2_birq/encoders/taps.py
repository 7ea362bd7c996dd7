"""Hidden states and lengths of ESPnet's encoders, without changing the encoders.

For encoders consisting of ``embed`` (input layer), ``encoders`` (blocks) and
an optional final normalisation: ConformerEncoder, EBranchformerEncoder and our
ShawConformerEncoder.
"""

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.legacy.nets.pytorch_backend.transformer.attention import (
    LegacyRelPositionMultiHeadedAttention,
)
from espnet2.legacy.nets.pytorch_backend.transformer.embedding import (
    ConvolutionalPositionalEmbedding,
)
from espnet2.legacy.nets.pytorch_backend.transformer.multi_layer_conv import (
    Conv1dLinear,
    MultiLayeredConv1d,
)
from torch.utils.checkpoint import checkpoint


def time_convolutions(encoder: AbsEncoder) -> list[tuple[int, int]]:
    """Return kernel size and stride in time of the input layer's convolutions.

    Args:
        encoder: ESPnet encoder whose input layer is one of the
            ConvXdSubsampling classes, or has no convolution (``linear``, ``null``).

    Returns:
        ``[(kernel, stride), ...]`` in order; empty without subsampling.
    """
    convolutions = getattr(encoder.embed, "conv", None)
    if convolutions is None:
        return []
    return [
        (layer.kernel_size[0], layer.stride[0])
        for layer in convolutions
        if isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d))
    ]


def subsampling_factor(encoder: AbsEncoder) -> int:
    """Return input frames per encoder frame, e.g. 4 for ``input_layer: conv2d``."""
    factor = 1
    for _, stride in time_convolutions(encoder):
        factor *= stride
    return factor


def encoder_lengths(encoder: AbsEncoder, lengths: torch.Tensor) -> torch.Tensor:
    """Compute output lengths without running the encoder.

    This allows drawing masks at the encoder rate.

    Args:
        encoder: ESPnet encoder.
        lengths: (B,) lengths in input frames.

    Returns:
        (B,) lengths in encoder frames.
    """
    for kernel, stride in time_convolutions(encoder):
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    return lengths.clamp(min=0)


# ESPnet's layers whose output for speech depends on the padding behind it: relative
# positions counted from the end of the padding, and convolutions that see it.
SEE_PADDING = (
    LegacyRelPositionMultiHeadedAttention,
    ConvolutionalPositionalEmbedding,
    Conv1dLinear,
    MultiLayeredConv1d,
)


def layers_that_see_padding(module: torch.nn.Module) -> list[str]:
    """Return the sorted class names of layers whose output depends on padding.

    Args:
        module: Module, e.g. an encoder.
    """
    found = {type(x).__name__ for x in module.modules() if isinstance(x, SEE_PADDING)}
    return sorted(found)


def batch_limit(module: torch.nn.Module, size: int) -> int:
    """Return how many utterances may share a batch without changing each other's outputs.

    Args:
        module: Module, e.g. an encoder, in evaluation mode.
        size: The most utterances, at least 1.

    Returns:
        `size`, or 1 if there are layers that see padding.
    """
    return 1 if layers_that_see_padding(module) else size


def padding_mask(lengths: torch.Tensor, frames: int) -> torch.Tensor:
    """Return (B, T) bool, True on padding.

    ESPnet's ``make_pad_mask`` compares all pairs of frames, which takes 3.6 GB three
    times over for ten minutes of speech, and reads lengths from the GPU.

    Args:
        lengths: (B,) lengths in frames.
        frames: T, padded length.
    """
    return torch.arange(frames, device=lengths.device) >= lengths[:, None]


def encode(
    encoder: AbsEncoder, xs: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Compute the encoder's output (B, T', E), without those for intermediate CTC.

    Args:
        encoder: ESPnet encoder.
        xs: (B, T, D) input frames.
        lengths: (B,) lengths in input frames.
    """
    given = {}
    if "masks" in inspect.signature(encoder.forward).parameters:
        given["masks"] = padding_mask(lengths, xs.size(1)).to(xs.device)
    ys = encoder(xs, lengths, **given)[0]
    return ys[0] if isinstance(ys, tuple) else ys


@contextmanager
def listening_to(encoder: AbsEncoder, layers: Iterable[int]):
    """Keep the outputs of some blocks of the encoder's next forward pass.

    Args:
        encoder: ESPnet encoder.
        layers: Blocks, counted from 1.

    Yields:
        Mapping from block to (B, T', E) output, filled by the forward pass.
    """
    outputs: dict[int, torch.Tensor] = {}

    def keep(layer):
        def hook(block, args, output):
            xs = output[0]  # with relative positions (hidden states, positions)
            outputs[layer] = xs[0] if isinstance(xs, tuple) else xs

        return hook

    blocks = encoder.encoders
    hooks = [blocks[x - 1].register_forward_hook(keep(x)) for x in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def encode_up_to(
    encoder: AbsEncoder,
    xs: torch.Tensor,
    lengths: torch.Tensor,
    layers: list[int],
    recompute_in: Callable[[], AbstractContextManager] | None = None,
) -> list[torch.Tensor]:
    """Compute outputs of some blocks, without running later blocks.

    The values equal ``encoder(xs, lengths, return_all_hs=True)[0][1][k - 1]``, at the
    cost of max(layers) blocks. A BiRQ step thus costs 1 + k/K BEST-RQ steps instead
    of 2.

    Args:
        encoder: ESPnet encoder.
        xs: (B, T, D) input frames.
        lengths: (B,) lengths in input frames.
        layers: Blocks to return, counted from 1.
        recompute_in: Factory of a context for activation checkpointing, in which
            blocks are recomputed in the backward pass; it must restore
            the modes (training or evaluation) of this call.

    Returns:
        One (B, T', E) tensor for each of ``layers``, in their order.
    """
    masks = ~padding_mask(lengths, xs.size(1))[:, None, :].to(xs.device)
    if time_convolutions(encoder):
        xs, masks = encoder.embed(xs, masks)
    else:
        xs = encoder.embed(xs)
    outputs = {}
    for number, block in enumerate(encoder.encoders[: max(layers)], start=1):
        if recompute_in is None:
            xs, masks = block(xs, masks)
        else:
            xs, masks = checkpoint(
                block,
                xs,
                masks,
                use_reentrant=False,
                context_fn=lambda: (nullcontext(), _Again(recompute_in)),
            )
        # With relative positions a block's output is (hidden states, positions).
        outputs[number] = xs[0] if isinstance(xs, tuple) else xs
    return [outputs[layer] for layer in layers]


class _Again:
    """A re-enterable context, for repeated backward passes."""

    def __init__(self, make: Callable[[], AbstractContextManager]):
        self.make = make
        self.entered: list[AbstractContextManager] = []

    def __enter__(self):
        self.entered.append(self.make())
        return self.entered[-1].__enter__()

    def __exit__(self, *error):
        return self.entered.pop().__exit__(*error)


DROPOUT = torch.nn.modules.dropout._DropoutNd
BATCH_NORM = torch.nn.modules.batchnorm._BatchNorm


@contextmanager
def evaluating(module: torch.nn.Module, *kinds: type[torch.nn.Module]):
    """Switch ``module``, or its layers of some kinds, to evaluation mode.

    Args:
        module: Module, e.g. an encoder.
        *kinds: Layer classes such as ``DROPOUT`` or ``BATCH_NORM``; none: all layers.
            Blocks count as layers: with ``stochastic_depth_rate``, ESPnet's blocks
            skip themselves in training mode.
    """
    switched = [
        layer
        for layer in module.modules()
        if isinstance(layer, kinds or torch.nn.Module) and layer.training
    ]
    for layer in switched:
        layer.training = False
    try:
        yield
    finally:
        for layer in switched:
            layer.training = True


class RunningStatistics:
    """Snapshot of BatchNorm's running statistics, taken on construction.

    Args:
        module: Module, e.g. an encoder.
    """

    def __init__(self, module: torch.nn.Module):
        self.norms = [x for x in module.modules() if isinstance(x, BATCH_NORM)]
        self.kept = [
            [x if x is None else x.clone() for x in pair] for pair in self._read()
        ]

    @contextmanager
    def restored(self):
        """Restore the snapshot within a context; may be called repeatedly."""
        now = self._read()
        self._write(self.kept)
        try:
            yield
        finally:
            self._write(now)

    def _read(self) -> list:
        return [(norm.running_mean, norm.running_var) for norm in self.norms]

    def _write(self, statistics: list):
        for norm, (mean, variance) in zip(self.norms, statistics):
            norm.running_mean, norm.running_var = mean, variance
