"""Eight microphones -> one: the beamformed recordings of the microphone mdm8.

BeamformIt (C++) makes those of the published benchmarks. Without it, beamform() does
the same in outline: delays by GCC-PHAT against a reference channel in windows of 500 ms
every 250 ms, which are held where the correlation is weak, and a weighted sum. It is
not BeamformIt: no n-best delays, no Viterbi search. Error rates of the two may differ.
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
from espnet2_birq.errors import DataError

WINDOW = 0.5  # seconds; a new window begins every half of it
MAX_DELAY = 0.001  # seconds: AMI's arrays measure 20 cm, 0.6 ms
NOISY_PERCENT = 10  # of the windows, in which a channel's delay is held
WEIGHT_CHANGE = 0.05  # of a channel's weight, from window to window
BLOCK_WINDOWS = 64  # that are in memory at a time: 16 s
REFERENCE_BLOCKS = 8  # from which the reference channel is chosen

# What differs from BeamformIt's defaults in the AMI recipes of Kaldi and ESPnet.
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
    """Where the windows of some recordings lie. The first begins half of one early.

    Attributes:
        length: Of a window, in samples; even.
        count: How many cover all samples twice.
        max_delay: In samples.
    """

    length: int
    count: int
    max_delay: int

    @property
    def step(self) -> int:
        return self.length // 2

    def blocks(self) -> Iterator[range]:
        """Go through the windows, some at a time."""
        for first in range(0, self.count, BLOCK_WINDOWS):
            yield range(first, min(first + BLOCK_WINDOWS, self.count))


def probe_array(channels: Sequence[Path]) -> list[AudioInfo]:
    """Probe the recordings of an array.

    Raises:
        DataError: A recording is bad, or the rates differ, or there is only one.
    """
    if len(channels) < 2:
        raise DataError(f"{channels[0]}: beamforming wants at least two recordings")
    first = probe(channels[0])
    return [first, *(probe(channel, first.sample_rate) for channel in channels[1:])]


def beamform(channels: Sequence[Path], dest: Path) -> None:
    """Make one recording of several, window by window.

    Args:
        channels: Recordings of one array, each with one channel. If their lengths
            differ, the shortest counts.
        dest: WAV file to write, with 16 bits a sample; there whole or not at all.

    Raises:
        DataError: As probe_array().
    """
    infos = probe_array(channels)
    rate, frames = infos[0].sample_rate, min(info.frames for info in infos)
    step = int(rate * WINDOW / 2)
    windows = _Windows(2 * step, -(-frames // step) + 1, int(rate * MAX_DELAY))
    files = [soundfile.SoundFile(channel) for channel in channels]
    try:
        delays, weights = _estimate(files, windows, frames)
        part = dest.with_name(f".{dest.name}.part")
        dest.parent.mkdir(parents=True, exist_ok=True)
        _write_sum(files, windows, frames, delays, weights, part)
    finally:
        for file in files:
            file.close()
    part.rename(dest)


def run_beamformit(meeting: str, channels: Sequence[Path], dest: Path) -> None:
    """Make one recording of several with the program BeamformIt.

    Args:
        meeting: Name of the meeting.
        channels: Recordings of one array.
        dest: WAV file to write; there whole or not at all.

    Raises:
        DataError: As probe_array(); or BeamformIt is not installed or fails: its
            messages are beside `dest`.
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
    """Read samples first to last of all channels, with zeros outside of 0 to frames."""
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
    """Compute (channel, window, frequency), phases only: of size 1 or 0."""
    first = (block.start - 1) * windows.step
    last = (block.stop - 2) * windows.step + windows.length
    samples = _read(files, first, last, frames)
    cut = sliding_window_view(samples, windows.length, axis=1)[:, :: windows.step]
    spectra = np.fft.rfft(cut, 2 * windows.length)
    return spectra / np.maximum(np.abs(spectra), 1e-8)


def _correlations(spectra: np.ndarray, reference: int, windows: _Windows) -> np.ndarray:
    """Correlate all channels with one: (channel, window, delay -max to +max)."""
    cross = spectra * np.conj(spectra[reference])
    lags = np.fft.irfft(cross)
    return np.concatenate(
        [lags[..., -windows.max_delay :], lags[..., : windows.max_delay + 1]], axis=-1
    )


def _choose_reference(
    files: Sequence[soundfile.SoundFile], windows: _Windows, frames: int
) -> int:
    """Find the channel that is most alike to the others, in blocks spread evenly."""
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
    """Estimate delays in samples and weights of sum 1, each (channel, window)."""
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
        # The reference's correlation with itself tells nothing: it counts as the best.
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
    # Triangles, which add up to 1 wherever two windows overlap.
    ramp = (np.arange(step) + 0.5) / step
    fade = np.concatenate([ramp, ramp[::-1]]).astype(np.float32)
    tail = np.zeros(step, dtype=np.float32)
    written = -step  # the first half window lies before the recording
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
