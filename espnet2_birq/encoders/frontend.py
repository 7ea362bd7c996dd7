"""Encoder input: ESPnet's features, independent of the batch, or vectors."""

from contextlib import contextmanager
from typing import Any

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.layers import global_mvn, log_mel, stft, utterance_mvn

from espnet2_birq.encoders.taps import padding_mask
from espnet2_birq.errors import DataError


class FeatureInput(AbsFrontend):
    """Frontend that passes vectors through, the counterpart of ESPnet's ``input_size``.

    Args:
        size: D, size of the vectors.
    """

    hop_length = 1  # input vectors per output vector

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def output_size(self) -> int:
        """Return D."""
        return self.size

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (B, T, D) vectors and (B,) lengths unchanged.

        Raises:
            DataError: The input is not a sequence of vectors of this size.
        """
        if input.dim() != 3 or input.size(2) != self.size:
            raise DataError(
                f"speech is of shape {tuple(input.shape)}, but input_size is {self.size}: "
                f"give sequences of vectors of {self.size} values"
            )
        return input, input_lengths


def feature_frames(frontend: torch.nn.Module, samples: int) -> int:
    """Return T, the number of feature frames of a waveform; 0 or less if it has none.

    Args:
        frontend: ESPnet frontend with an STFT, or with a hop length.
        samples: Length of the waveform.
    """
    stft: Any = getattr(frontend, "stft", None)
    if stft is None:
        return samples // int(frontend.hop_length) + 1  # type: ignore[arg-type]
    beyond = 2 * (stft.n_fft // 2) if stft.center else 0
    return (samples + beyond - stft.n_fft) // stft.hop_length + 1


def mirror_ends(
    speech: torch.Tensor, lengths: torch.Tensor, frontend: torch.nn.Module
) -> torch.Tensor:
    """Extend each utterance by reflection, as torch.stft does for the longest.

    A centred STFT reflects the signal at its ends. In a padded batch, the last frame of
    a shorter utterance sees zeros instead: on white noise, it differs by three standard
    deviations and, through utterance normalisation, all frames differ by 0.1. With
    reflection, features equal those of the utterance alone, as in recognition.

    Args:
        speech: (B, N) waveforms, padded with zeros.
        lengths: (B,) lengths in samples.
        frontend: Frontend; without a centred ESPnet ``stft``, the waveforms are
            returned unchanged.

    Returns:
        (B, N + n_fft // 2) waveforms.
    """
    stft = getattr(frontend, "stft", None)
    if stft is None or not getattr(stft, "center", False):
        return speech
    half = stft.n_fft // 2
    speech = torch.nn.functional.pad(speech, (0, half))
    steps = torch.arange(half, device=speech.device)
    inside = (lengths[:, None] - 2 - steps).clamp(min=0)
    return speech.scatter(1, lengths[:, None] + steps, speech.gather(1, inside))


def mirrored_feats(
    frontend: torch.nn.Module, speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute features that do not depend on the rest of the batch.

    Args:
        frontend: ESPnet frontend.
        speech: (B, N) waveforms, padded with zeros, the longest of N samples.
        lengths: (B,) lengths in samples.

    Returns:
        (B, T, D) features and (B,) lengths in frames; without the frames of the reflection,
        T is that of N samples.
    """
    extended = mirror_ends(speech, lengths, frontend)
    feats, frames = frontend(extended, lengths)
    if extended is not speech:
        feats = feats[:, : feature_frames(frontend, speech.size(1))]
    return feats, frames


@contextmanager
def linear_padding():
    """Make ESPnet's feature modules use ``padding_mask`` in this context.

    Features are the same, but computed without matrices of all pairs of input frames
    and without GPU synchronisation.
    """
    modules = (global_mvn, log_mel, stft, utterance_mvn)
    before = [module.make_pad_mask for module in modules]
    for module in modules:
        module.make_pad_mask = _mask_like
    try:
        yield
    finally:
        for module, function in zip(modules, before):
            module.make_pad_mask = function


def _mask_like(lengths, xs, length_dim):
    """Replace ``make_pad_mask``: (B, 1, ..., T, ..., 1), T at length_dim."""
    mask = padding_mask(lengths, xs.size(length_dim)).to(xs.device)
    shape = [1] * xs.dim()
    shape[0], shape[length_dim] = mask.shape
    return mask.view(shape)
