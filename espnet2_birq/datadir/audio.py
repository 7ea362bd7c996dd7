"""Requirements on audio, checked for every input file.

One channel, the expected sample rate, at least one sample, finite samples, in any
format libsndfile reads: sox, flac or sph2pipe are not needed. Multiple
channels are an error instead of a silent choice; only the preparation of YODAS
averages them. docs/own_data.md lists which command checks what.
"""

import io
import re
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import kaldiio
import numpy as np
import soundfile
from tqdm import tqdm

from espnet2_birq.datadir.stream import map_parallel
from espnet2_birq.errors import (
    LFS_MAGIC,
    DataError,
    LfsPointerError,
    SampleRateError,
)

# "file.ark:123": audio that begins at a byte offset
ARK_ENTRY = re.compile(r"^(.+\.ark):(\d+)$")
ARK_MARKER = b"AUDIO"
HEADER_BYTES = 1024
# How many frames at the end of a file are decoded to see that they are there.
TAIL_FRAMES = 1600
# A program that writes WAV into a pipe does not know its length: it leaves 0xFFFFFFFF
# (ffmpeg) or about 0x7FFFFFFF (sox) in the header. Such a size promises nothing.
UNKNOWN_WAV_SIZE = 0x7FFFF000
# What libsndfile reports for a FLAC file that was written into a pipe.
UNKNOWN_FRAMES = 2**63 - 1
# Encodings that can hold NaN and infinity; all others are integers or bounded.
FLOATING_SUBTYPES = ("FLOAT", "DOUBLE")
# Full scale is 1. Power spectra of far larger samples overflow in single precision.
LARGEST_SAMPLE = 1e10
BLOCK_FRAMES = 1 << 20  # that are in memory at a time
NOT_FINITE = f"samples that are NaN, infinite or beyond {LARGEST_SAMPLE:.0e}"
ONE_CHANNEL = (
    "wanted one; `sox FILE NEW remix 1` takes the first, `remix -` mixes all; a Kaldi "
    "wav.scp may have `sox FILE -t wav - remix 1 |`"
)


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says.

    Attributes:
        sample_rate: Samples a second, in Hz.
        frames: Length in samples.
    """

    sample_rate: int
    frames: int

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sample_rate


def are_finite(samples: np.ndarray) -> bool:
    """Tell whether features can be computed of samples, of any shape and kind."""
    # Written so that NaN, of which no comparison is true, fails.
    return samples.size == 0 or bool(
        samples.min() > -LARGEST_SAMPLE and samples.max() < LARGEST_SAMPLE
    )


def probe(path: str | Path, fs: int | None = None) -> AudioInfo:
    """Check that an audio file is what this project takes.

    Its header is read, its last samples are decoded, and of floating-point files, which
    alone can hold NaN, all samples.

    Args:
        path: Audio file: FLAC, WAV, NIST SPHERE or whatever else libsndfile reads.
        fs: The wanted sample rate in Hz; None accepts any.

    Returns:
        The file's sample rate and length.

    Raises:
        LfsPointerError: The file is a git-LFS pointer.
        SampleRateError: It has another sample rate than `fs`.
        DataError: It is missing, empty, not audio, cut short, holds no sample, several
            channels, or samples that are not finite. A cut is seen in FLAC, WAV, SPHERE
            and MP3 with a length header; Ogg does not state its length anywhere.
    """
    path = Path(path)
    if not path.is_file():
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
        return _probe_stream(str(path), path, stream, head, fs)


def probe_entry(entry: str, fs: int | None = None) -> AudioInfo:
    """Probe what stands in wav.scp: an audio file, or `file.ark:offset`.

    In an archive, audio is a whole WAV file, as Kaldi writes it, or, as ESPnet's
    formats flac.ark and wav.ark, a file behind a header with its length.

    Args:
        entry: Path, or path, colon and byte offset.
        fs: The wanted sample rate in Hz; None accepts any.

    Returns:
        The audio's sample rate and length.

    Raises:
        DataError: As probe(); or there is no such archive, or no audio at the offset,
            or the entry is a command.
    """
    if entry.endswith("|"):
        raise DataError(
            f"{entry}: a command, not audio; give the set that stage 3 of a recipe "
            "makes of it"
        )
    match = ARK_ENTRY.match(entry)
    if not match:
        return probe(entry, fs)
    if not Path(match[1]).is_file():
        raise DataError(f"{entry}: no such ark file; correct wav.scp or write it again")
    with open(match[1], "rb") as stream:
        data = _read_ark(entry, stream, int(match[2]))
    return _probe_stream(entry, io.BytesIO(data), io.BytesIO(data), data, fs)


def probe_command(entry: str, fs: int | None = None) -> AudioInfo:
    """Run a command of wav.scp and probe what it writes, as probe_entry() does a file.

    Args:
        entry: As in wav.scp, with its `|` at the end.
        fs: The wanted sample rate in Hz; None accepts any.

    Raises:
        DataError: As probe(), or the command fails or writes nothing.
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
    return _probe_stream(entry, io.BytesIO(data), io.BytesIO(data), data, fs)


def probe_many(
    paths: Iterable[str], fs: int | None = None, nj: int = 4
) -> list[AudioInfo]:
    """Probe many files in parallel, with a progress line when stderr is a terminal.

    Args:
        paths: Audio files, or entries of wav.scp as probe_entry() takes them.
        fs: The wanted sample rate in Hz; None accepts any.
        nj: Number of threads.

    Returns:
        For each path, in order, its AudioInfo.

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
    """Probe many files, each once, and keep the good and the bad apart.

    Args:
        paths: As in probe_many().
        fs: The wanted sample rate in Hz; None accepts any.
        nj: Number of threads.
        fatal: The errors to raise. Of a git-LFS pointer that is the default: then no
            file of the clone is audio, which skipping would hide.

    Returns:
        Path to AudioInfo of the good, and path to the reason of the bad.

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
    """As probe_many(), one by one: `paths` is read only as fast as they are done.

    Args:
        paths: What to look at.
        fs: The wanted sample rate in Hz; None accepts any.
        nj: Number of threads.
        fatal: The errors to raise as soon as one is met.
        look: How to look at one of them.
    """

    def probe_or_error(path: str) -> AudioInfo | DataError:
        try:
            return look(path, fs)
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


def read_wave(entry: str) -> np.ndarray:
    """Read one wav.scp entry: (N,) float32 samples between -1 and 1."""
    if not ARK_ENTRY.match(entry):
        return soundfile.read(entry, dtype="float32")[0]
    samples = [x for x in kaldiio.load_mat(entry) if isinstance(x, np.ndarray)][0]
    if samples.dtype.kind == "i":
        return samples.astype(np.float32) / (np.iinfo(samples.dtype).max + 1.0)
    return samples.astype(np.float32)


def _probe_stream(
    name: str,
    source: Path | BinaryIO,
    stream: BinaryIO,
    head: bytes,
    fs: int | None,
) -> AudioInfo:
    # `source` is for libsndfile, `stream` the same bytes again for our own look.
    try:
        audio = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"{name}: not readable as audio ({error.error_string.strip()}); "
            "download it again or convert it to FLAC or WAV"
        ) from error
    with audio:
        info = AudioInfo(audio.samplerate, audio.frames)
        if info.frames == UNKNOWN_FRAMES:
            raise DataError(
                f"{name}: its header does not tell its length, without which soundfile "
                "cannot read it; write it again from a file, not a pipe"
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
    return info


def _all_finite(audio: soundfile.SoundFile) -> bool:
    audio.seek(0)
    return all(
        are_finite(block) for block in audio.blocks(BLOCK_FRAMES, dtype="float32")
    )


def _read_ark(entry: str, stream: BinaryIO, offset: int) -> bytes:
    stream.seek(offset)
    head = stream.read(len(ARK_MARKER))
    if head == ARK_MARKER:
        # The width of the length, the length, the file
        width = int.from_bytes(stream.read(1))
        length = int.from_bytes(stream.read(width), "little")
        before = b""
    elif head.startswith(b"RIFF"):
        before = head + stream.read(8 - len(head))
        length = struct.unpack("<I", before[4:8])[0] if len(before) == 8 else 1
        # A WAV file that was written into a pipe is taken to go on to the end.
        if length >= UNKNOWN_WAV_SIZE:
            return before + stream.read()
    else:
        raise DataError(
            f"{entry}: no audio at this place of the ark; correct wav.scp or write the "
            "ark again"
        )
    data = stream.read(length)
    if len(data) < length:
        raise DataError(
            f"{entry}: truncated, the ark ends inside of this audio; copy it again"
        )
    return before + data


def _is_cut_short(stream: BinaryIO, head: bytes, audio: soundfile.SoundFile) -> bool:
    # libsndfile silently adapts the length of a cut WAV or SPHERE file to what is
    # there, so for these two the header has to be compared here.
    if head.startswith(b"RIFF"):
        return _wav_is_cut_short(stream)
    if head.startswith(b"NIST_1A"):
        return _sphere_sample_count(head) > audio.frames
    tail = min(audio.frames, TAIL_FRAMES)
    try:
        audio.seek(audio.frames - tail)
        return len(audio.read(tail, dtype="int16")) < tail
    except soundfile.LibsndfileError:
        return True


def _wav_is_cut_short(stream: BinaryIO) -> bool:
    file_size = stream.seek(0, io.SEEK_END)
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
