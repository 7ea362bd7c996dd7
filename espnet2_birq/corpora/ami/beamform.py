"""Beamforming of eight array microphones into one recording (microphone mdm8).

Published benchmarks use BeamformIt (C++). Without it, beamform() does the basic steps: it
estimates delays against a reference channel by GCC-PHAT, in windows of 500 ms every 250
ms; it keeps the previous delay where the correlation is weak; and it computes a weighted
sum. It has no n-best delays and no Viterbi search, so error rates may differ from
BeamformIt's.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.lib.stride_tricks import sliding_window_view

from espnet2_birq.datadir.audio import AudioInfo, probe
from espnet2_birq.datadir.files import whole_file
from espnet2_birq.errors import DataError

WINDOW = 0.5  # seconds; windows overlap by half
MAX_DELAY = 0.001  # seconds; AMI's arrays are 20 cm wide, which is 0.6 ms
NOISY_PERCENT = 10  # share of windows that keep the previous delay
WEIGHT_CHANGE = 0.05  # how fast channel weights adapt, per window
BLOCK_WINDOWS = 64  # windows in memory at a time: 16 s
REFERENCE_BLOCKS = 8  # blocks used to choose the reference channel
# Recordings of an array are of one device; a shorter one would cut all the others.
MAX_DIFFERENCE = 1.0  # seconds

# Settings of Kaldi's and ESPnet's AMI recipes that differ from BeamformIt's defaults.
BEAMFORMIT_CONFIG = {
    "scroll_size": 250,
    "window_size": 500,
    "nbest_amount": 4,
    "do_noise_threshold": 1,
    "noise_percent": 10,
    "trans_weight_multi": 25,
    "trans_weight_nbest": 25,
    "print_features": 1,
    "do_avoid_bad_frames": 1,
    "do_compute_reference": 1,
    "do_use_uem_file": 0,
    "do_adapt_weights": 1,
    "do_write_sph_files": 1,
}


@dataclass(frozen=True)
class _Windows:
    """Positions of the analysis windows; the first starts half a window early.

    Attributes:
        length: Window length in samples, even.
        count: Number of windows, such that two windows cover each sample.
        max_delay: Largest delay in samples.
    """

    length: int
    count: int
    max_delay: int

    @property
    def step(self) -> int:
        return self.length // 2

    def blocks(self) -> Iterator[range]:
        """Yield the window indices in blocks."""
        for first in range(0, self.count, BLOCK_WINDOWS):
            yield range(first, min(first + BLOCK_WINDOWS, self.count))


def probe_array(channels: Sequence[Path]) -> list[AudioInfo]:
    """Probe the recordings of an array.

    Raises:
        DataError: A recording is bad, sample rates differ, one is shorter than another
            by more than MAX_DIFFERENCE, or there is only one recording.
    """
    if len(channels) < 2:
        raise DataError(f"{channels[0]}: beamforming needs at least two recordings")
    first = probe(channels[0])
    infos = [first, *(probe(channel, first.sample_rate) for channel in channels[1:])]
    seconds = [info.seconds for info in infos]
    if max(seconds) - min(seconds) > MAX_DIFFERENCE:
        raise DataError(
            f"{channels[seconds.index(min(seconds))]}: has {min(seconds):.1f} s, another "
            f"recording of its array {max(seconds):.1f} s; download it again, or move it "
            "away, and the meeting is skipped"
        )
    return infos


def beamform(channels: Sequence[Path], dest: Path) -> None:
    """Beamform several recordings into one, window by window.

    Args:
        channels: Single-channel recordings of one array. Longer ones are cut to the
            length of the shortest, by at most MAX_DIFFERENCE.
        dest: 16-bit WAV file to write, complete or not at all.

    Raises:
        DataError: As in probe_array().
    """
    infos = probe_array(channels)
    rate, frames = infos[0].sample_rate, min(info.frames for info in infos)
    step = int(rate * WINDOW / 2)
    windows = _Windows(2 * step, -(-frames // step) + 1, int(rate * MAX_DELAY))
    files = [soundfile.SoundFile(channel) for channel in channels]
    try:
        delays, weights = _estimate(files, windows, frames)
        dest.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(dest) as part:
            _write_sum(files, windows, frames, delays, weights, part)
    finally:
        for file in files:
            file.close()


def run_beamformit(meeting: str, channels: Sequence[Path], dest: Path) -> None:
    """Beamform several recordings into one with the program BeamformIt.

    Args:
        meeting: Name of the meeting.
        channels: Recordings of one array.
        dest: WAV file to write, complete or not at all.

    Raises:
        DataError: As in probe_array(); or BeamformIt is not installed, or it fails.
            Its log is written next to `dest`.
    """
    probe_array(channels)
    if shutil.which("BeamformIt") is None:
        raise DataError(
            "BeamformIt is not on PATH; install it, or give --method python"
        )
    work = dest.with_name(f".{meeting}.beamformit")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    names = " ".join(channel.name for channel in channels)
    (work / "channels").write_text(f"{meeting} {names}\n")
    (work / "config").write_text(
        "".join(f"{key} = {value}\n" for key, value in BEAMFORMIT_CONFIG.items())
    )
    command = ["BeamformIt", "-s", meeting, "-c", str(work / "channels")]
    command += ["--config_file", str(work / "config")]
    command += ["--source_dir", str(channels[0].parent), "--result_dir", str(work)]
    log = dest.with_name(f"{meeting}.beamformit.log")
    with log.open("w") as stream:
        code = subprocess.run(command, stdout=stream, stderr=stream).returncode
    if code or not (work / f"{meeting}.wav").is_file():
        raise DataError(f"{meeting}: BeamformIt failed with status {code}; see {log}")
    (work / f"{meeting}.wav").rename(dest)
    shutil.rmtree(work)


def _read(
    files: Sequence[soundfile.SoundFile], first: int, last: int, frames: int
) -> np.ndarray:
    """Read samples [first, last) of all channels, padded with zeros beyond the ends."""
    samples = np.zeros((len(files), last - first), dtype=np.float32)
    begin, end = max(first, 0), min(last, frames)
    if begin < end:
        for row, file in zip(samples, files):
            file.seek(begin)
            row[begin - first : end - first] = file.read(end - begin, dtype="float32")
    return samples


def _spectra(
    files: Sequence[soundfile.SoundFile], windows: _Windows, block: range, frames: int
) -> np.ndarray:
    """Compute spectra (channel, window, frequency), normalised to magnitude 1 or 0."""
    first = (block.start - 1) * windows.step
    last = (block.stop - 2) * windows.step + windows.length
    samples = _read(files, first, last, frames)
    cut = sliding_window_view(samples, windows.length, axis=1)[:, :: windows.step]
    spectra = np.fft.rfft(cut, 2 * windows.length)
    return spectra / np.maximum(np.abs(spectra), 1e-8)


def _correlations(spectra: np.ndarray, reference: int, windows: _Windows) -> np.ndarray:
    """Correlate channels with the reference: (channel, window, delay -max to max)."""
    cross = spectra * np.conj(spectra[reference])
    lags = np.fft.irfft(cross)
    return np.concatenate(
        [lags[..., -windows.max_delay :], lags[..., : windows.max_delay + 1]], axis=-1
    )


def _choose_reference(
    files: Sequence[soundfile.SoundFile], windows: _Windows, frames: int
) -> int:
    """Return the channel that correlates best with the others, in sampled blocks."""
    blocks = list(windows.blocks())
    alike = np.zeros(len(files))
    for block in blocks[:: max(1, len(blocks) // REFERENCE_BLOCKS)]:
        spectra = _spectra(files, windows, block, frames)
        for channel in range(len(files)):
            alike[channel] += _correlations(spectra, channel, windows).max(-1).sum()
    return int(alike.argmax())


def _estimate(
    files: Sequence[soundfile.SoundFile], windows: _Windows, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate delays in samples, and weights that sum to 1: both (channel, window)."""
    reference = _choose_reference(files, windows, frames)
    delays = np.zeros((len(files), windows.count), dtype=int)
    peaks = np.zeros((len(files), windows.count))
    for block in windows.blocks():
        lags = _correlations(
            _spectra(files, windows, block, frames), reference, windows
        )
        delays[:, block.start : block.stop] = lags.argmax(-1) - windows.max_delay
        peaks[:, block.start : block.stop] = lags.max(-1)
    others = np.arange(len(files)) != reference
    noisy = peaks <= np.percentile(peaks[others], NOISY_PERCENT)
    weights = np.empty_like(peaks)
    weight = np.full(len(files), 1 / len(files))
    for window in range(windows.count):
        if window:
            held = noisy[:, window]
            delays[held, window] = delays[held, window - 1]
        # The reference's correlation with itself is meaningless: use the best other one.
        peak = peaks[:, window].clip(min=0)
        peak[reference] = peak[others].max()
        if peak.sum() > 0:
            weight = (1 - WEIGHT_CHANGE) * weight + WEIGHT_CHANGE * peak / peak.sum()
        weights[:, window] = weight
    return delays, weights


def _write_sum(
    files: Sequence[soundfile.SoundFile],
    windows: _Windows,
    frames: int,
    delays: np.ndarray,
    weights: np.ndarray,
    dest: Path,
) -> None:
    length, step, margin = windows.length, windows.step, windows.max_delay
    # Triangular windows that sum to 1 where they overlap.
    ramp = (np.arange(step) + 0.5) / step
    fade = np.concatenate([ramp, ramp[::-1]]).astype(np.float32)
    tail = np.zeros(step, dtype=np.float32)
    written = -step  # the first half window is before the recording's start
    with soundfile.SoundFile(
        dest, "w", files[0].samplerate, 1, "PCM_16", format="WAV"
    ) as out:
        for block in windows.blocks():
            first = (block.start - 1) * step - margin
            last = (block.stop - 2) * step + length + margin
            samples = _read(files, first, last, frames)
            for number, window in enumerate(block):
                total = np.zeros(length, dtype=np.float32)
                for row, delay, weight in zip(
                    samples, delays[:, window], weights[:, window]
                ):
                    begin = margin + number * step + delay
                    total += np.float32(weight) * row[begin : begin + length]
                total *= fade
                ready, tail = total[:step] + tail, total[step:]
                out.write(ready[max(0, -written) : max(0, frames - written)])
                written += step
