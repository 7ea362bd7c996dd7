"""Look at an audio file without decoding it: is it whole, and what is in it?

FLAC, WAV and NIST SPHERE (.sph) are read directly through libsndfile, so no sox,
flac or sph2pipe has to be installed.
"""

import re
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile
from tqdm import tqdm

from espnet2_birq.errors import DataError, LfsPointerError

LFS_MAGIC = b"version https://git-lfs"
HEADER_BYTES = 1024
# How many frames at the end of a file are decoded to see that they are there.
TAIL_FRAMES = 1600
# A program that writes WAV into a pipe does not know its length: it leaves 0xFFFFFFFF
# (ffmpeg) or about 0x7FFFFFFF (sox) in the header. Such a size promises nothing.
UNKNOWN_WAV_SIZE = 0x7FFFF000
# What libsndfile reports for a FLAC file that was written into a pipe.
UNKNOWN_FRAMES = 2**63 - 1


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says.

    Attributes:
        sample_rate: Samples a second, in Hz.
        frames: Length in samples of one channel.
        channels: Number of channels.
    """

    sample_rate: int
    frames: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sample_rate


def probe(path: str | Path, fs: int | None = None) -> AudioInfo:
    """Read an audio file's header and check that its samples are really there.

    Args:
        path: Audio file: FLAC, WAV, NIST SPHERE or whatever else libsndfile reads.
        fs: The wanted sample rate in Hz; None accepts any.

    Returns:
        The file's sample rate, length and channels.

    Raises:
        LfsPointerError: The file is a git-LFS pointer.
        DataError: The file is missing, empty, not audio, cut short, holds no sample,
            or has another sample rate than `fs`. A cut is seen in FLAC, WAV, SPHERE
            and MP3 with a length header; Ogg does not state its length anywhere.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such audio file; correct the path or restore it")
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    if not head:
        raise DataError(f"{path}: zero-length audio file; download or copy it again")
    if head.startswith(LFS_MAGIC):
        raise LfsPointerError(
            f"{path}: a git-LFS pointer, not audio; run `git lfs pull` in that clone"
        )
    try:
        audio = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{path}: not readable as audio ({error.error_string.strip()}); "
            "download it again or convert it to FLAC or WAV"
        ) from error
    with audio:
        info = AudioInfo(audio.samplerate, audio.frames, audio.channels)
        if info.frames == UNKNOWN_FRAMES:
            raise DataError(
                f"{path}: its header does not tell its length, without which soundfile "
                "cannot read it; write it again from a file, not a pipe"
            )
        cut = _is_cut_short(path, head, audio)
    if cut:
        raise DataError(
            f"{path}: truncated, its header promises more samples than the file "
            "holds; download or copy it again"
        )
    if info.frames == 0:
        raise DataError(f"{path}: holds no samples; remove it or copy it again")
    if fs is not None and info.sample_rate != fs:
        raise DataError(
            f"{path}: sample rate is {info.sample_rate} Hz, wanted {fs} Hz; "
            "pass --resample true to have it converted"
        )
    return info


def probe_many(
    paths: Sequence[str],
    fs: int | None = None,
    nj: int = 4,
    fatal: tuple[type[DataError], ...] = (DataError,),
) -> list[AudioInfo | DataError]:
    """Probe many files in parallel, with a progress line when stderr is a terminal.

    Args:
        paths: Audio files.
        fs: The wanted sample rate in Hz; None accepts any.
        nj: Number of threads.
        fatal: The errors to raise as soon as one is met. Other ones are returned.

    Returns:
        For each path, in order, its AudioInfo, or the DataError that it gave.

    Raises:
        DataError: One of the `fatal` errors.
    """

    def probe_or_error(path: str) -> AudioInfo | DataError:
        try:
            return probe(path, fs)
        except fatal:
            raise
        except DataError as error:
            return error

    with ThreadPoolExecutor(nj) as pool:
        # map() cancels what has not started when a call raises.
        results = pool.map(probe_or_error, paths)
        return list(
            tqdm(results, "audio", len(paths), unit="file", leave=False, disable=None)
        )


def _is_cut_short(path: Path, head: bytes, audio: soundfile.SoundFile) -> bool:
    # libsndfile silently adapts the length of a cut WAV or SPHERE file to what is
    # there, so for these two the header has to be compared here.
    if head.startswith(b"RIFF"):
        return _wav_is_cut_short(path)
    if head.startswith(b"NIST_1A"):
        return _sphere_sample_count(head) > audio.frames
    tail = min(audio.frames, TAIL_FRAMES)
    try:
        audio.seek(audio.frames - tail)
        return len(audio.read(tail, dtype="int16")) < tail
    except soundfile.LibsndfileError:
        return True


def _wav_is_cut_short(path: Path) -> bool:
    file_size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(len(b"RIFFsizeWAVE"))
        while len(chunk_head := stream.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk_head)
            if name == b"data":
                return size < UNKNOWN_WAV_SIZE and stream.tell() + size > file_size
            stream.seek(size + size % 2, 1)
    return True


def _sphere_sample_count(head: bytes) -> int:
    match = re.search(rb"^sample_count -i (\d+)", head, re.MULTILINE)
    # The field is optional: without it the file promises nothing.
    return int(match[1]) if match else 0
