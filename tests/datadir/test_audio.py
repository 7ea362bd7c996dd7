"""Audio files: headers, and all kinds of damage."""

import struct

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin import check_data
from espnet2_birq.datadir.audio import (
    AudioInfo,
    probe,
    probe_apart,
    probe_command,
    probe_entry,
)
from espnet2_birq.errors import DamagedAudioError, DataError, LfsPointerError

FS = 16000
FORMATS = {"flac": "FLAC", "wav": "WAV", "sph": "NIST"}
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


def write_noise(path, seconds=1.5, fs=FS, channels=1):
    """Write white noise, which is hardly compressible, unlike silence."""
    shape = (int(seconds * fs), channels)
    noise = np.random.default_rng(0).normal(0.0, 0.1, shape)
    kind = FORMATS[path.suffix[1:]]
    soundfile.write(path, noise, fs, format=kind, subtype="PCM_16")
    return path


def error_of(path, fs=None):
    """Probe a bad file; check that the error is one line that names it."""
    with pytest.raises(DataError) as caught:
        probe(path, fs)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert ";" in message  # cause; remedy
    return message


@pytest.mark.parametrize("suffix", FORMATS)
def test_header_is_read(tmp_path, suffix):
    path = write_noise(tmp_path / f"a.{suffix}", 1.5, 8000)
    assert probe(path) == probe(path, 8000) == AudioInfo(8000, 12000)
    assert probe(path).seconds == 1.5


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_cut_file_is_truncated(tmp_path, suffix, share):
    path = write_noise(tmp_path / f"a.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in error_of(path)


def test_large_wav_is_truncated(tmp_path):
    """RF64, the WAV of more than 4 GB, has its length in another chunk."""
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(FS), FS, format="RF64", subtype="PCM_16")
    assert probe(path) == AudioInfo(FS, FS)
    path.write_bytes(path.read_bytes()[:-2])
    assert "truncated" in error_of(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_last_sample_missing_is_truncated(tmp_path, suffix):
    path = write_noise(tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[:-2])
    assert "truncated" in error_of(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_shorter_than_the_tail_that_is_read(tmp_path, suffix):
    path = write_noise(tmp_path / f"a.{suffix}", 0.01)
    assert probe(path).frames == 160


def test_wav_of_unknown_length_is_not_truncated(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    content = path.read_bytes()
    at = content.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFFFFF - 36):  # of ffmpeg, of sox
        path.write_bytes(content[:at] + struct.pack("<I", size) + content[at + 4 :])
        assert probe(path).frames == 24000


def test_wav_with_other_chunks_before_the_data(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    content = path.read_bytes()
    at = content.index(b"data")
    chunk = b"junk" + struct.pack("<I", 3) + b"abc\0"  # padded to an even length
    whole = content[:at] + chunk + content[at:]
    size = struct.pack("<I", len(whole) - 8)
    path.write_bytes(b"RIFF" + size + whole[8:])
    assert probe(path).frames == 24000
    path.write_bytes((b"RIFF" + size + whole[8:])[:-100])
    assert "truncated" in error_of(path)


def test_missing_file(tmp_path):
    assert "no such audio file" in error_of(tmp_path / "gone.flac")


def test_zero_length_file(tmp_path):
    (tmp_path / "a.flac").touch()
    assert "zero-length" in error_of(tmp_path / "a.flac")


def test_lfs_pointer(tmp_path):
    path = tmp_path / "a.flac"
    path.write_text(LFS_POINTER)
    assert "git lfs pull" in error_of(path)
    with pytest.raises(LfsPointerError):
        probe(path)


def test_not_audio(tmp_path):
    path = tmp_path / "a.flac"
    path.write_text("<html>404 Not Found</html>")
    assert "not readable as audio" in error_of(path)


def test_flac_of_unknown_length(tmp_path):
    path = write_noise(tmp_path / "a.flac")
    content = bytearray(path.read_bytes())
    # The number of samples has 36 bits, from the middle of byte 21 of the file on.
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert "its header has no length" in error_of(path)


# libsndfile writes no FLAC header at all if there are no samples.
@pytest.mark.parametrize("suffix", ["wav", "sph"])
def test_no_samples(tmp_path, suffix):
    assert "holds no samples" in error_of(write_noise(tmp_path / f"a.{suffix}", 0))


def test_other_rate(tmp_path):
    path = write_noise(tmp_path / "a.wav", fs=8000)
    message = error_of(path, FS)
    assert "8000 Hz" in message and "16000 Hz" in message
    assert "--" not in message  # an option would be that of another command


@pytest.mark.parametrize("suffix", FORMATS)
def test_several_channels(tmp_path, suffix):
    message = error_of(write_noise(tmp_path / f"a.{suffix}", channels=2))
    assert "has 2 channels, wanted one" in message and "remix 1" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 1e300])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_samples_that_are_not_finite(tmp_path, subtype, value):
    path = tmp_path / "a.wav"
    samples = np.zeros(3 << 20)  # more than is read at a time
    samples[-5] = value
    soundfile.write(path, samples, FS, subtype=subtype)
    assert "NaN, infinite or beyond 1e+10" in error_of(path)
    samples[-5] = 32768.0  # beyond full scale, but features can still be computed
    soundfile.write(path, samples, FS, subtype=subtype)
    assert probe(path).frames == 3 << 20


def test_output_of_commands(tmp_path):
    path = write_noise(tmp_path / "a.wav")
    assert probe_command(f"cat {path} |", FS).frames == 24000
    with pytest.raises(
        DataError, match=r"nosuch x \|: .* fails with status 127 \(.*not "
    ):
        probe_command("nosuch x |")
    with pytest.raises(DataError, match="fails with status 1 .*; install its programs"):
        probe_command(f"cat {tmp_path}/gone |")
    with pytest.raises(DataError, match="output is empty"):
        probe_command("true |")
    write_noise(path, channels=2)
    with pytest.raises(DataError, match="has 2 channels"):
        probe_command(f"cat {path} |")
    with pytest.raises(DataError, match="a command, not audio; give the set that"):
        probe_entry(f"cat {path} |")


def test_many_keeps_order_and_what_is_not_fatal_apart(tmp_path):
    paths = [write_noise(tmp_path / f"{i}.wav", 0.1 * i) for i in range(1, 6)]
    paths[2].write_bytes(b"")
    good, bad = probe_apart([str(path) for path in paths * 2], FS, nj=3, fatal=())
    assert bad.keys() == {str(paths[2])} and "zero-length" in bad[str(paths[2])]
    assert [*good] == [str(path) for path in paths if path != paths[2]]
    assert [info.frames for info in good.values()] == [1600, 3200, 6400, 8000]


def test_many_raises_what_is_fatal(tmp_path):
    good = write_noise(tmp_path / "a.wav")
    bad = tmp_path / "b.wav"
    bad.write_text(LFS_POINTER)
    with pytest.raises(LfsPointerError, match="b.wav"):
        probe_apart([str(good), str(bad)], FS, nj=2, fatal=(LfsPointerError,))


@pytest.mark.parametrize("form", ["flac", "ogg"])
@pytest.mark.parametrize("seconds", [8, 70])
def test_damage_within_is_found_by_decoding(tmp_path, capsys, form, seconds):
    """Header and end are whole. check_data needs --decode, as training's messages say."""
    path = tmp_path / f"a.{form}"
    noise = np.random.default_rng(0).normal(0.0, 0.1, seconds * 16000)
    soundfile.write(path, noise, 16000)
    assert probe_entry(str(path), whole=True).frames == len(noise)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    assert probe_entry(str(path)).frames == len(noise)
    for look, entry in ((probe_entry, str(path)), (probe_command, f"cat {path} |")):
        with pytest.raises(DamagedAudioError, match="not readable as audio"):
            look(entry, whole=True)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"a {path}\n")
    (folder / "utt2spk").write_text("a a\n")
    check_data.main(["--full", str(folder)])
    with pytest.raises(SystemExit):
        check_data.main(["--decode", str(folder)])
    assert "not readable as audio" in capsys.readouterr().out
