"""Long audio in overlapping windows, so memory does not grow with its length.

    samples   ----------------------------------------------------------
    windows   [ core  |context]
                  [context| core |context]
                              [context| core  ]

Features equal those of one pass: an STFT frame sees only its own samples, and utterance
normalisation uses the statistics of the whole recording. The encoder's output is exact
with blockwise attention, where a frame depends on a known number of blocks. Full
attention is limited to the window.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.layers.utterance_mvn import UtteranceMVN

from espnet2_birq.encoders.frontend import feature_frames
from espnet2_birq.encoders.taps import subsampling_factor, time_convolutions
from espnet2_birq.errors import ConfigError

PIECE = 6000  # feature frames in memory while statistics are computed

# Reads samples [start, stop) of a recording, (stop - start,) float32.
Read = Callable[[int, int], torch.Tensor]


class LongAudio:
    """Normalised features of any part of a recording, equal to those of one pass.

    Args:
        read: Reader of the recording's samples.
        samples: Length of the recording in samples.
        frontend: ESPnet's default frontend.
        normalize: Normalisation of the features.
        device: Device of `frontend` and `normalize`.

    Raises:
        ConfigError: The frontend has no centred STFT.
    """

    def __init__(
        self,
        read: Read,
        samples: int,
        frontend: torch.nn.Module,
        normalize: torch.nn.Module | None,
        device: torch.device,
    ):
        stft = getattr(frontend, "stft", None)
        if stft is None or not getattr(stft, "center", False):
            raise ConfigError("long audio needs a frontend with a centred STFT")
        self._read, self._samples, self._device = read, samples, device
        self._frontend, self._normalize = frontend, normalize
        self._hop = stft.hop_length
        # Frames at the ends of a piece whose STFT reaches beyond the piece.
        self._spoiled = math.ceil(stft.n_fft / stft.hop_length)
        self.frames = feature_frames(frontend, samples)  # T
        self._moments: tuple[torch.Tensor, torch.Tensor] | None = None

    def features(self, start: int, stop: int) -> torch.Tensor:
        """Return (1, stop - start, D) features of frames [start, stop)."""
        feats = self._raw(start, stop)
        norm = self._normalize
        if isinstance(norm, UtteranceMVN):
            if self._moments is None:
                self._moments = self._measure(norm.eps)
            mean, std = self._moments
            if norm.norm_means:
                feats = feats - mean
            return feats / std if norm.norm_vars else feats
        if norm is not None:  # frame by frame
            lengths = torch.tensor([feats.size(1)], device=self._device)
            feats, _ = norm(feats, lengths)
        return feats

    def _raw(self, start: int, stop: int) -> torch.Tensor:
        first = max(0, start - self._spoiled)
        last = min(self._samples, (stop + self._spoiled) * self._hop)
        speech = self._read(first * self._hop, last)[None]
        speech = speech.to(self._device, torch.float32)
        lengths = torch.tensor([speech.size(1)], device=self._device)
        with torch.autocast(self._device.type, enabled=False):
            feats, _ = self._frontend(speech, lengths)
        return feats[:, start - first : stop - first]

    def _measure(self, least: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation (D,) of the whole recording."""
        total = squares = shift = torch.zeros((), dtype=torch.float64)
        for start in range(0, self.frames, PIECE):
            feats = self._raw(start, min(start + PIECE, self.frames))[0].double()
            if start == 0:
                shift = feats.mean(dim=0)  # keeps the difference of sums accurate
            total = total + (feats - shift).sum(dim=0)
            squares = squares + (feats - shift).pow(2).sum(dim=0)
        offset = total / self.frames
        variance = (squares / self.frames - offset.pow(2)).clamp(min=0.0)
        std = variance.sqrt().clamp(min=least)
        return (shift + offset).float(), std.float()


class Window(NamedTuple):
    """Encoder frames [first, last), of which [begin, end) are kept."""

    first: int
    begin: int
    end: int
    last: int


def plan_windows(frames: int, longest: int, context: int, step: int = 1):
    """Cut a recording into windows.

    Args:
        frames: T', encoder frames of the recording.
        longest: Maximum frames per window; exceeded if the context requires it.
        context: Frames on either side that are computed but not kept.
        step: Windows start at multiples of this many frames.

    Yields:
        Windows in order; each frame of the recording is kept in exactly one.
    """
    context = math.ceil(context / step) * step
    core = max((longest - 2 * context) // step, math.ceil(context / step), 1) * step
    for begin in range(0, frames, core):
        end = min(begin + core, frames)
        yield Window(max(0, begin - context), begin, end, min(end + context, frames))


def input_frames(encoder: AbsEncoder, window: Window) -> tuple[int, int]:
    """Return the input frames [start, stop) from which a window's frames are computed."""
    length = window.last - window.first
    for kernel, stride in reversed(time_convolutions(encoder)):
        length = (length - 1) * stride + kernel
    start = window.first * subsampling_factor(encoder)
    return start, start + length


def attention_block(encoder: AbsEncoder) -> int | None:
    """Return the block length of an encoder's attention in frames; None if full."""
    sizes = {getattr(part, "window", None) for part in encoder.modules()} - {None}
    return sizes.pop() if sizes else None


def reach(encoder: AbsEncoder, block: int) -> int:
    """Return how far an output frame of blockwise attention sees, in frames.

    In each layer, convolutions see some frames beyond a block, and attention extends
    these to whole blocks.
    """
    beyond = sum(
        part.kernel_size[0] // 2
        for part in encoder.encoders[0].modules()
        if isinstance(part, torch.nn.Conv1d)
    )
    return len(encoder.encoders) * math.ceil(beyond / block) * block


def windows_of(
    encoder: AbsEncoder, frames: int, longest: int, context: int
) -> Iterator[Window]:
    """Cut a recording into windows, exact if the encoder's attention is blockwise.

    Args:
        encoder: ESPnet encoder.
        frames: T', encoder frames of the recording.
        longest: Maximum frames per window, as in plan_windows().
        context: Frames on either side, for full attention.
    """
    block = attention_block(encoder)
    if block is None:
        return plan_windows(frames, longest, context)
    return plan_windows(frames, longest, reach(encoder, block), block)
