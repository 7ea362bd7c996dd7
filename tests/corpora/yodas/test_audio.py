"""Sample rates, levels and cuts."""

import io

import numpy as np
import pytest
import soundfile

from espnet2_birq.corpora.yodas.audio import level, quiet_pieces, to_int16


def tone(hertz, seconds=2.0, rate=24000):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(seconds * rate) / rate)


@pytest.mark.parametrize("hertz", [50, 1000, 7000])
def test_resampling_keeps_tones(hertz):
    samples = to_int16(tone(hertz).astype(np.float32), 24000, 16000) / 32768
    wanted = tone(hertz, rate=16000)
    assert len(samples) == len(wanted)
    middle = slice(800, -800)  # filters ring where the tone is switched on
    error = samples[middle] - wanted[middle]
    assert level(error) - level(wanted) < -80


@pytest.mark.parametrize("hertz", [8500, 9000, 11500])
def test_resampling_suppresses_aliases(hertz):
    samples = to_int16(tone(hertz).astype(np.float32), 24000, 16000) / 32768
    assert level(samples[800:-800]) - level(tone(hertz)) < -80


def test_same_rate_is_kept_and_full_scale_clipped():
    samples = np.array([0.5, -1.0, 1.0, 1.7, 1 / 32768], np.float32)
    assert to_int16(samples, 16000, 16000).tolist() == [16384, -32768, 32767, 32767, 1]


def test_level():
    assert level(tone(100)) == pytest.approx(-9.03, abs=0.01)
    assert level(np.zeros(10, np.float32)) == -np.inf


def test_pieces_are_cut_where_it_is_quiet_and_lose_nothing():
    rng = np.random.default_rng(0)
    samples = rng.integers(-9000, 9000, 10 * 8000).astype(np.int16)
    for second in (1.7, 3.2, 4.3):
        start = int(second * 8000)
        samples[start : start + 1000] //= 1000
    stream = io.BytesIO()
    soundfile.write(stream, samples, 8000, format="FLAC")
    stream.seek(0)
    with soundfile.SoundFile(stream) as audio:
        pieces = list(quiet_pieces(audio, 2.0))
    joined = np.concatenate([piece for _, piece in pieces])
    assert np.array_equal(np.rint(joined * 32768), samples)
    assert all(len(piece) <= 16000 for _, piece in pieces)
    starts = [start / 8000 for start, _ in pieces]
    for second, start in zip((1.7, 3.2, 4.3), starts[1:]):
        assert second < start < second + 0.125
