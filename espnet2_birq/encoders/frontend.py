"""What ESPnet's frontend needs for features that do not depend on the batch."""

from contextlib import contextmanager

import torch
from espnet2.layers import global_mvn, log_mel, stft, utterance_mvn

from espnet2_birq.encoders.taps import padding_mask


def mirror_ends(
    speech: torch.Tensor, lengths: torch.Tensor, frontend: torch.nn.Module
) -> torch.Tensor:
    """Continue each utterance by its mirror image, as torch.stft does with the longest.

    A centred STFT reflects the signal at its ends. In a padded batch the last frame of
    a shorter utterance sees zeros instead: on white noise it differs by three standard
    deviations, and through the normalisation over the utterance all frames do by 0.1.
    With this, features are those of the utterance alone, as in recognition.

    Args:
        speech: (B, N) waveforms, padded with zeros.
        lengths: (B,) samples.
        frontend: With an ESPnet ``stft`` inside, centred or not; if not, or if there is
            none, the waveforms come back as they are.

    Returns:
        (B, N + n_fft // 2).
    """
    stft = getattr(frontend, "stft", None)
    if stft is None or not getattr(stft, "center", False):
        return speech
    half = stft.n_fft // 2
    speech = torch.nn.functional.pad(speech, (0, half))
    steps = torch.arange(half, device=speech.device)
    inside = (lengths[:, None] - 2 - steps).clamp(min=0)
    return speech.scatter(1, lengths[:, None] + steps, speech.gather(1, inside))


@contextmanager
def linear_padding():
    """While this lasts, ESPnet's features take their padding from ``padding_mask``.

    The same features, without matrices of all pairs of input frames and without waiting
    for a GPU.
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
    """In the place of ``make_pad_mask``: (B, 1, ..., T, ..., 1), T at length_dim."""
    mask = padding_mask(lengths, xs.size(length_dim)).to(xs.device)
    shape = [1] * xs.dim()
    shape[0], shape[length_dim] = mask.shape
    return mask.view(shape)
