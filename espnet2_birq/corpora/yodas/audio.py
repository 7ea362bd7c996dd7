"""Audio of YODAS: one channel, one sample rate; long recordings cut at quiet places."""

from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

_WINDOW = 0.1  # seconds over which quiet is looked for


def read_mono(audio: soundfile.SoundFile, frames: int = -1) -> np.ndarray:
    """Read from where the file stands, channels averaged.

    Args:
        audio: An open file.
        frames: How many samples of a channel; -1 reads to the end.

    Returns:
        float32 samples of one channel, full scale 1.
    """
    samples = audio.read(frames, dtype="float32", always_2d=True)
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def level(samples: np.ndarray) -> float:
    """Compute the level of samples in dB below full scale; -inf for digital silence."""
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    return 10 * float(np.log10(power)) if power else -np.inf


def to_int16(samples: np.ndarray, rate: int, fs: int) -> np.ndarray:
    """Convert to another sample rate and to 16 bits.

    Args:
        samples: float32 samples of one channel, full scale 1.
        rate: Their rate in Hz.
        fs: The wanted rate in Hz.

    Returns:
        int16 samples. What exceeds full scale is clipped.
    """
    if rate != fs:
        samples = soxr.resample(samples, rate, fs, quality="HQ")
    # Own rounding: soxr adds random dither when it is asked for integers.
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def quiet_pieces(
    audio: soundfile.SoundFile, longest: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a recording at quiet places, holding one piece in memory at a time.

    A piece ends in the middle of the quietest tenth of a second of its second half.

    Args:
        audio: An open file, at its begin.
        longest: Limit of a piece in seconds.

    Yields:
        First sample's place in the recording, and the piece's samples (float32).
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
