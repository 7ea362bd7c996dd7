"""Audio of YODAS: conversion to one channel and rate; cutting at quiet places."""

from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

_WINDOW = 0.1  # seconds; length of the quiet places where recordings are cut
SHORTEST_LIMIT = 0.3  # seconds; half of a piece must be longer than a quiet place


def read_mono(audio: soundfile.SoundFile, frames: int = -1) -> np.ndarray:
    """Read from the file's current position, averaging channels.

    Args:
        audio: Open audio file.
        frames: Number of samples per channel; -1 reads to the end.

    Returns:
        float32 samples, full scale 1, shape (samples,).
    """
    samples = audio.read(frames, dtype="float32", always_2d=True)
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def level(samples: np.ndarray) -> float:
    """Compute the level in dB relative to full scale; -inf for digital silence."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return 10 * float(np.log10(power)) if power else -np.inf


def to_int16(samples: np.ndarray, rate: int, fs: int) -> np.ndarray:
    """Convert to another sample rate and to 16 bits.

    Args:
        samples: float32 samples, full scale 1, shape (samples,).
        rate: Sample rate of `samples` in Hz.
        fs: Sample rate of the output in Hz.

    Returns:
        int16 samples, clipped at full scale.
    """
    if rate != fs:
        samples = soxr.resample(samples, rate, fs, quality="HQ")
    # Rounded here, because soxr adds random dither to integer output.
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def quiet_pieces(
    audio: soundfile.SoundFile, longest: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a recording at quiet places, with one piece in memory at a time.

    A piece ends in the middle of the quietest tenth of a second in its second half.

    Args:
        audio: Open audio file, at its start.
        longest: Maximum length of a piece in seconds, at least SHORTEST_LIMIT.

    Yields:
        Offset of the piece in samples, and its float32 samples.
    """
    limit = int(longest * audio.samplerate)
    start, rest = 0, np.zeros(0, np.float32)
    while True:
        samples = np.concatenate([rest, read_mono(audio, limit - len(rest))])
        if len(samples) < limit:
            if len(samples):
                yield start, samples
            return
        cut = _quietest(samples, int(_WINDOW * audio.samplerate))
        yield start, samples[:cut]
        start, rest = start + cut, samples[cut:]


def _quietest(samples: np.ndarray, window: int) -> int:
    half = len(samples) // 2
    energy = np.cumsum(np.square(samples[half:], dtype=np.float64))
    return half + int(np.argmin(energy[window:] - energy[:-window])) + window // 2 + 1
