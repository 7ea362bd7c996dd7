"""Checks of input audio files.

Audio must have one channel, the expected sample rate, and at least one sample; samples
must be finite. Any format of libsndfile is accepted, so sox, flac and sph2pipe are not
needed. Multiple channels are an error, since choosing one silently could be wrong; only
the preparation of YODAS averages them. docs/own_data.md lists the checks of each command.
"""

import io
import os
import re
import shlex
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from tqdm import tqdm

from espnet2_birq.datadir.stream import map_parallel
from espnet2_birq.errors import (
    LFS_MAGIC,
    DamagedAudioError,
    DataError,
    LfsPointerError,
    SampleRateError,
)

# "file.ark:123": audio at a byte offset of an archive
ARK_ENTRY = re.compile(r"^(.+\.ark):(\d{1,18})$")
ARK_MARKER = b"AUDIO"
HEADER_BYTES = 1024
# Frames decoded at the end of a file, to detect truncation.
TAIL_FRAMES = 1600
WAV_MAGIC = (b"RIFF", b"RF64")  # first bytes of WAV files
# Programs that write WAV to a pipe do not know its length, so the header has 0xFFFFFFFF
# (ffmpeg) or about 0x7FFFFFFF (sox). Such sizes are ignored.
UNKNOWN_WAV_SIZE = 0x7FFFF000
# Length reported by libsndfile for a FLAC file that was written to a pipe.
UNKNOWN_FRAMES = 2**63 - 1
# Encodings that can represent NaN and infinity; all others are bounded.
FLOATING_SUBTYPES = ("FLOAT", "DOUBLE")
# Full scale is 1. Power spectra of much larger samples overflow in single precision.
LARGEST_SAMPLE = 1e10
BLOCK_FRAMES = 1 << 20  # frames in memory at a time
NOT_FINITE = f"samples that are NaN, infinite or beyond {LARGEST_SAMPLE:.0e}"
ONE_CHANNEL = (
    "wanted one; `sox FILE NEW remix 1` takes the first, `remix -` mixes all; a Kaldi "
    "wav.scp may have `sox FILE -t wav - remix 1 |`"
)


@dataclass(frozen=True)
class AudioInfo:
    """Header of an audio file.

    Attributes:
        sample_rate: Sample rate in Hz.
        frames: Length in samples.
    """

    sample_rate: int
    frames: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sample_rate


def are_finite(samples: np.ndarray) -> bool:
    """Return whether samples, of any shape and type, are finite and not too large."""
    # Comparisons with NaN are false, so NaN fails here.
    return samples.size == 0 or bool(
        samples.min() > -LARGEST_SAMPLE and samples.max() < LARGEST_SAMPLE
    )


def probe(path: str | Path, fs: int | None = None, whole: bool = False) -> AudioInfo:
    """Check that an audio file meets the requirements of this module.

    The header is read and the last samples are decoded. Floating-point files are decoded
    completely, since only they can contain NaN.

    Args:
        path: Audio file in any format of libsndfile, such as FLAC, WAV or NIST SPHERE.
        fs: Required sample rate in Hz; None accepts any.
        whole: Whether to decode all of it, which finds damage within.

    Returns:
        Sample rate and length of the file.

    Raises:
        LfsPointerError: The file is a git-LFS pointer.
        SampleRateError: Its sample rate differs from `fs`.
        DataError: The file is missing, empty, not audio or truncated; or it has no
            samples, several channels, or samples that are not finite. Truncation is
            detected in FLAC, WAV (also RF64), SPHERE and MP3 with a length header;
            Ogg does not state its length, and that of AIFF, AU and W64 is not compared.
    """
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file() raises if the name is too long
        raise DataError(f"{path}: no such audio file; correct the path or restore it")
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
        if not head:
            raise DataError(
                f"{path}: zero-length audio file; download or copy it again"
            )
        if head.startswith(LFS_MAGIC):
            raise LfsPointerError(
                f"{path}: a git-LFS pointer, not audio; run `git lfs pull` in that "
                "clone"
            )
        return _probe_stream(str(path), path, stream, head, fs, whole)


def probe_entry(entry: str, fs: int | None = None, whole: bool = False) -> AudioInfo:
    """Probe an entry of wav.scp: an audio file, or `file.ark:offset`.

    Audio in an archive is either a WAV file (Kaldi), or a header with the length,
    followed by a file (ESPnet's formats flac.ark and wav.ark).

    Args:
        entry: Path, or path, colon and byte offset.
        fs: Required sample rate in Hz; None accepts any.
        whole: As in probe().

    Returns:
        Sample rate and length of the audio.

    Raises:
        DataError: As in probe(); or the archive is missing, or it has no audio at the
            offset, or the entry is a command.
    """
    if entry.endswith("|"):
        raise DataError(
            f"{entry}: a command, not audio; give the set that stage 3 of a recipe "
            "makes of it"
        )
    match = ARK_ENTRY.match(entry)
    if not match:
        return probe(entry, fs, whole)
    with _open_ark(entry, match[1]) as stream:
        data = _read_ark(entry, stream, int(match[2]))
    return _probe_stream(entry, io.BytesIO(data), io.BytesIO(data), data, fs, whole)


def probe_command(entry: str, fs: int | None = None, whole: bool = False) -> AudioInfo:
    """Run a command of wav.scp and probe its output.

    Args:
        entry: Entry of wav.scp, with `|` at the end.
        fs: Required sample rate in Hz; None accepts any.
        whole: As in probe().

    Raises:
        DataError: As in probe(), or the command fails or writes nothing.
    """
    done = subprocess.run(
        entry.rstrip().removesuffix("|"), shell=True, capture_output=True
    )
    if done.returncode or not done.stdout:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        why = f" ({words[-1].strip()})" if words else ""
        what = f"fails with status {done.returncode}" if done.returncode else "is empty"
        raise DataError(
            f"{entry}: the command's output {what}{why}; install its programs or "
            "correct wav.scp"
        )
    data = done.stdout
    return _probe_stream(entry, io.BytesIO(data), io.BytesIO(data), data, fs, whole)


def ark_command(entry: str) -> str:
    """Return a command, as in wav.scp, that prints an audio file of an ark.

    ESPnet's formatting of Kaldi data directories reads commands, but no arks.

    Args:
        entry: Path, colon and byte offset, as in probe_entry().

    Raises:
        DataError: The ark is missing, or has no audio at the offset.
    """
    path, offset = entry.rsplit(":", 1)
    with _open_ark(entry, path) as stream:
        start, length = _place_in_ark(entry, stream, int(offset))
    command = f"tail -c +{start + 1} {shlex.quote(path)} |"
    return command if length is None else f"{command} head -c {length} |"


def probe_many(
    paths: Iterable[str], fs: int | None = None, nj: int = 4
) -> list[AudioInfo]:
    """Probe many files in parallel, with a progress bar if stderr is a terminal.

    Args:
        paths: Entries of wav.scp, as in probe_entry().
        fs: Required sample rate in Hz; None accepts any.
        nj: Number of threads.

    Returns:
        Headers, in the order of `paths`.

    Raises:
        DataError: A file is bad.
    """
    return [one for one in iter_probe(paths, fs, nj) if isinstance(one, AudioInfo)]


def probe_apart(
    paths: Iterable[str],
    fs: int | None = None,
    nj: int = 4,
    fatal: tuple[type[DataError], ...] = (LfsPointerError,),
) -> tuple[dict[str, AudioInfo], dict[str, str]]:
    """Probe many files, each once, and separate good and bad ones.

    Args:
        paths: Entries of wav.scp, as in probe_entry().
        fs: Required sample rate in Hz; None accepts any.
        nj: Number of threads.
        fatal: Errors to raise instead of recording. By default a git-LFS pointer is
            fatal, since the whole clone then lacks its audio.

    Returns:
        Mapping from good path to header, and mapping from bad path to the reason.

    Raises:
        DataError: One of the `fatal` errors.
    """
    paths = list(dict.fromkeys(paths))
    good, bad = {}, {}
    for path, result in zip(paths, iter_probe(paths, fs, nj, fatal), strict=True):
        if isinstance(result, AudioInfo):
            good[path] = result
        else:
            bad[path] = str(result)
    return good, bad


def iter_probe(
    paths: Iterable[str],
    fs: int | None = None,
    nj: int = 4,
    fatal: tuple[type[DataError], ...] = (DataError,),
    look: Callable[[str, int | None], AudioInfo] = probe_entry,
) -> Iterator[AudioInfo | DataError]:
    """Probe many files in parallel, reading `paths` only as fast as they are processed.

    Args:
        paths: Entries of wav.scp.
        fs: Required sample rate in Hz; None accepts any.
        nj: Number of threads.
        fatal: Errors to raise at once instead of yielding.
        look: Function that probes one entry.

    Yields:
        Header or error of each entry, in order.
    """

    def probe_or_error(path: str) -> AudioInfo | DataError:
        try:
            try:
                return look(path, fs)
            except OSError as error:
                why = error.strerror or error
                raise DataError(f"{path}: not readable ({why})") from error
        except fatal:
            raise
        except DataError as error:
            return error

    total = len(paths) if isinstance(paths, Sized) else None
    yield from tqdm(
        map_parallel(probe_or_error, paths, nj),
        "audio",
        total,
        unit="file",
        leave=False,
        disable=None,
    )


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn libsndfile's errors into DamagedAudioError, which names the audio.

    Headers and ends of files, which are probed, can be whole around a damaged middle.
    """
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise DamagedAudioError(
            f"{name}: not readable as audio ({error.error_string.strip()}); "
            "download it again or convert it to FLAC or WAV"
        ) from error


def read_samples(file: soundfile.SoundFile, count: int, name: str) -> np.ndarray:
    """Read the next samples of a file, (count,) float32.

    Raises:
        DamagedAudioError: They cannot be decoded; or there are fewer, as libsndfile
            leaves out what is damaged within Ogg and some MP3. Reading them in parts
            hides this, since each part is sought.
    """
    with decoding(name):
        samples = file.read(count, dtype="float32")
    if len(samples) < count:
        raise DamagedAudioError(
            f"{name}: not readable as audio (samples within it are missing); download "
            "it again or convert it to FLAC or WAV"
        )
    return samples


def read_wave(entry: str) -> np.ndarray:
    """Read one wav.scp entry: (N,) float32 samples between -1 and 1.

    Raises:
        DamagedAudioError: The audio cannot be decoded, or not all of it.
        DataError: The archive has no audio at this offset, or ends inside of it.
    """
    match = ARK_ENTRY.match(entry)
    source: str | BinaryIO = entry
    if match:
        with open(match[1], "rb") as stream:
            source = io.BytesIO(_read_ark(entry, stream, int(match[2])))
    with decoding(entry):
        file = soundfile.SoundFile(source)
    with file:
        return read_samples(file, file.frames, entry)


def wav_is_cut_short(stream: BinaryIO) -> bool:
    """Return whether a WAV file ends before the samples that its header promises.

    Args:
        stream: Content of a file; left at its start.

    Returns:
        False for other formats, and if the header does not know the length.
    """
    stream.seek(0)
    cut = stream.read(4) in WAV_MAGIC and _data_is_cut_short(stream)
    stream.seek(0)
    return cut


def _probe_stream(
    name: str,
    source: Path | BinaryIO,
    stream: BinaryIO,
    head: bytes,
    fs: int | None,
    whole: bool,
) -> AudioInfo:
    # `source` and `stream` have the same bytes: libsndfile reads `source`, our own
    # checks read `stream`.
    with decoding(name):
        audio = soundfile.SoundFile(source)
    with audio:
        info = AudioInfo(audio.samplerate, audio.frames)
        if info.frames == UNKNOWN_FRAMES:
            raise DataError(
                f"{name}: its header has no length, so soundfile cannot read it; write "
                "it again to a file, not to a pipe"
            )
        if _is_cut_short(stream, head, audio):
            raise DataError(
                f"{name}: truncated, its header promises more samples than the file "
                "holds; download or copy it again"
            )
        if info.frames == 0:
            raise DataError(f"{name}: holds no samples; remove it or copy it again")
        if audio.channels != 1:
            raise DataError(f"{name}: has {audio.channels} channels, {ONE_CHANNEL}")
        if fs is not None and info.sample_rate != fs:
            raise SampleRateError(
                f"{name}: sample rate is {info.sample_rate} Hz, wanted {fs} Hz; "
                f"convert it, for instance by `sox FILE -r {fs} NEW`"
            )
        if audio.subtype in FLOATING_SUBTYPES and not _all_finite(audio):
            raise DataError(f"{name}: {NOT_FINITE}; write it again or leave it out")
        if whole:
            _decode(audio, name)
    return info


def _decode(audio: soundfile.SoundFile, name: str) -> None:
    """Decode all samples; errors are those of read_samples()."""
    # Soundfile seeks to the end of each block, which hides gaps in these formats.
    block = audio.frames if audio.format in ("OGG", "MPEG") else BLOCK_FRAMES
    with decoding(name):
        audio.seek(0)
    for start in range(0, audio.frames, block):
        read_samples(audio, min(block, audio.frames - start), name)


def _all_finite(audio: soundfile.SoundFile) -> bool:
    audio.seek(0)
    return all(
        are_finite(block) for block in audio.blocks(BLOCK_FRAMES, dtype="float32")
    )


def _open_ark(entry: str, path: str) -> BinaryIO:
    if not os.path.isfile(path):
        raise DataError(f"{entry}: no such ark file; correct wav.scp or write it again")
    return open(path, "rb")


def _read_ark(entry: str, stream: BinaryIO, offset: int) -> bytes:
    start, length = _place_in_ark(entry, stream, offset)
    # Not read(length) at once, which would allocate whatever a damaged length says.
    there = max(os.fstat(stream.fileno()).st_size - start, 0)
    stream.seek(start)
    data = stream.read(there if length is None else min(length, there))
    if length is not None and len(data) < length:
        raise DataError(
            f"{entry}: truncated, the ark ends inside of this audio; copy it again"
        )
    return data


def _place_in_ark(entry: str, stream: BinaryIO, offset: int) -> tuple[int, int | None]:
    """Return the first byte and the number of bytes of a file in an ark.

    The number is None, up to the ark's end, for a WAV file that was written to a pipe.
    """
    stream.seek(offset)
    head = stream.read(8)
    if head.startswith(ARK_MARKER):
        # Format: number of bytes of the length, the length, the file.
        start = offset + len(ARK_MARKER) + 1
        stream.seek(start)
        width = int.from_bytes(head[5:6])
        return start + width, int.from_bytes(stream.read(width), "little")
    if head.startswith(b"RIFF"):
        size = int.from_bytes(head[4:], "little")
        return offset, None if size >= UNKNOWN_WAV_SIZE else len(b"RIFFsize") + size
    raise DataError(
        f"{entry}: no audio at this place of the ark; correct wav.scp or write the ark "
        "again"
    )


def _is_cut_short(stream: BinaryIO, head: bytes, audio: soundfile.SoundFile) -> bool:
    # For truncated WAV and SPHERE files, libsndfile silently reports the actual length,
    # so compare it with the header here.
    if head.startswith(WAV_MAGIC):
        return wav_is_cut_short(stream)
    if head.startswith(b"NIST_1A"):
        return _sphere_sample_count(head) > audio.frames
    tail = min(audio.frames, TAIL_FRAMES)
    try:
        audio.seek(audio.frames - tail)
        return len(audio.read(tail, dtype="int16")) < tail
    except soundfile.LibsndfileError:
        return True


def _data_is_cut_short(stream: BinaryIO) -> bool:
    file_size = stream.seek(0, io.SEEK_END)
    stream.seek(len(b"RIFFsizeWAVE"))
    large = 0  # number of bytes of data in RF64, whose data chunk has 0xFFFFFFFF
    while len(chunk_head := stream.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk_head)
        start = stream.tell()
        if name == b"ds64":
            large = int.from_bytes(stream.read(16)[8:], "little")
        if name == b"data":
            size = large if size >= UNKNOWN_WAV_SIZE else size
            known = size < UNKNOWN_FRAMES
            return known and start + size > file_size
        stream.seek(start + size + size % 2)
    return True


def _sphere_sample_count(head: bytes) -> int:
    match = re.search(rb"^sample_count -i (\d+)", head, re.MULTILINE)
    # The field is optional; without it, truncation cannot be detected.
    return int(match[1]) if match else 0
