"""Vectors for k-means: MFCC, input frames, or the output of an encoder layer."""

from pathlib import Path

import torch
import torchaudio

from espnet2_birq import api
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.views import TOKENIZER, View, parse_view
from espnet2_birq.tasks.loading import to_device

MFCC = "mfcc"
COEFFICIENTS = 13


def load_source(path: Path, view: str, device: str) -> BiRQModel:
    """Load the model whose frames will be clustered.

    Args:
        path: Model, as for api.load(); or a configuration (.yaml), which suffices for
            vectors that do not depend on the encoder: MFCC and input frames.
        view: See source_vectors().
        device: "cpu" or "cuda".

    Raises:
        ConfigError: As in api.load(); or `view` is a layer, but `path` a configuration.
        DataError: As in api.load().
    """
    if path.suffix not in (".yaml", ".yml"):
        return api.load(path, device).model
    if view not in (MFCC, "input"):
        raise ConfigError(
            f"{path}: the {view} of an untrained model is of little use; give a model file, "
            f"or view {MFCC} or input"
        )
    return to_device(api.untrained(path), device)


@torch.no_grad()
def source_vectors(
    model: BiRQModel, view: str, speech: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the vectors of all encoder frames of clean speech.

    Args:
        model: Model in evaluation mode.
        view: ``mfcc``, or a view that objectives can have, except a file: ``input``,
            ``layer K``, ``layer P%``, ``teacher layer K``, ``tokenizer``.
        speech: (B, N) waveforms, padded with zeros.
        lengths: (B,) lengths in samples.

    Returns:
        (B, T', D) vectors, and (B,) lengths in encoder frames.

    Raises:
        ConfigError: The model has no such view.
    """
    if view != MFCC:
        return model.vectors(speech, lengths, _parse(model, view))
    like, frames = model.vectors(speech, lengths, parse_view("input", 1))
    step = model.subsampling
    shift = 1000 * model.frontend.hop_length / model.sample_rate
    found = like.new_zeros(len(speech), like.size(1), 3 * COEFFICIENTS)
    for row, (wave, samples, count) in enumerate(zip(speech, lengths, frames)):
        inputs = mfcc(wave[:samples], model.sample_rate, shift)
        chosen = inputs[step // 2 :: step][:count]
        found[row, : len(chosen)] = chosen
    return found, frames


def check_view(model: BiRQModel, view: str) -> None:
    """Check that a model has a view for source_vectors().

    Raises:
        ConfigError: The model has no such view.
    """
    if view != MFCC:
        _parse(model, view)


def _parse(model: BiRQModel, view: str) -> View:
    try:
        parsed = parse_view(view, len(model.encoder.encoders))
    except ConfigError as error:
        raise ConfigError(f"{error}; or {MFCC}") from error
    there = (*model.branches, "input") + (TOKENIZER,) * (model.tokenizer is not None)
    if parsed.kind not in there:
        raise ConfigError(
            f"view '{view}': this model has no such vectors; give {MFCC}, input or a "
            "layer"
        )
    return parsed


def mfcc(wave: torch.Tensor, rate: int, shift_ms: float) -> torch.Tensor:
    """Compute the vectors that HuBERT clusters first (arXiv 2106.07447, section IV-B).

    Args:
        wave: (N,) samples.
        rate: Sample rate in Hz.
        shift_ms: Frame shift in milliseconds.

    Returns:
        (T, 39): 13 coefficients, their first and their second differences.
    """
    kaldi = torchaudio.compliance.kaldi.mfcc(
        wave[None],
        sample_frequency=rate,
        frame_shift=shift_ms,
        num_ceps=COEFFICIENTS,
        use_energy=False,
        snip_edges=False,
    ).T  # (13, T)
    first = torchaudio.functional.compute_deltas(kaldi)
    second = torchaudio.functional.compute_deltas(first)
    return torch.cat([kaldi, first, second]).T
