"""Preparation of one shard; its tar file is read once, without unpacking."""

import gzip
import hashlib
import io
import tarfile
import tempfile
import zlib
from collections.abc import Buffer, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

import soundfile

from espnet2_birq.corpora.yodas import layout
from espnet2_birq.corpora.yodas.audio import quiet_pieces, read_mono
from espnet2_birq.corpora.yodas.layout import Captions, SegmentName, Shard
from espnet2_birq.corpora.yodas.writer import ShardOptions, ShardWriter
from espnet2_birq.datadir.audio import wav_is_cut_short
from espnet2_birq.datadir.stamp import describe
from espnet2_birq.errors import LFS_MAGIC, DataError

# Times in ids are rounded, and audio may end slightly early.
TIME_TOLERANCE = 0.2  # seconds
# Members of a tar file above this size are copied to temporary files, not to memory.
MEMORY_BYTES = 64 << 20
LARGEST_MEMBER = 16 << 30  # bytes, a day of 48 kHz stereo: more is an archive bomb
_COPY_BYTES = 1 << 20


class BadShardError(DataError):
    """Unusable shard; other shards are not affected."""


def prepare_shard(root: Path, shard: Shard, options: ShardOptions, dest: Path) -> None:
    """Prepare a shard.

    Args:
        root: Folder that holds the subsets.
        shard: The shard.
        options: Filters and formats.
        dest: Empty folder to write to; complete when this function returns.

    Raises:
        BadShardError: The shard's tar or text file cannot be used.
    """
    try:
        captions = layout.read_captions(root, shard)
    except DataError as error:
        if not options.uncaptioned:
            raise BadShardError(str(error)) from error
        captions = {}
    tar, text = layout.tar_path(root, shard), layout.text_path(root, shard)
    with ShardWriter(shard, options, dest) as writer, tar.open("rb") as raw:
        hashed = HashedReader(raw)
        releases: set[str] = set()
        try:
            for name, stream in audio_members(hashed, dest):
                if release := use_recording(name, stream, captions, writer):
                    releases.add(release)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            why = "is truncated or damaged; download it again"
            if hashed.starts_with(LFS_MAGIC):
                why = "is a git-LFS pointer; run git lfs pull"
            raise BadShardError(f"its tar file {why}") from error
        if not releases:
            raise BadShardError("its tar file holds no audio; download it again")
        writer.skip_without_audio(captions)
        known = "+".join(sorted(releases))
        of_text = describe(text) if text else None
        writer.finish(known, hashed.size, hashed.digest.hexdigest(), of_text)


class HashedReader(io.RawIOBase):
    """File reader that computes a checksum while reading.

    Attributes:
        digest: SHA-256 of the bytes read so far.
        size: Number of bytes read so far.
    """

    def __init__(self, raw: BinaryIO):
        self.digest, self.size = hashlib.sha256(), 0
        self._raw, self._head = raw, b""

    def readable(self) -> bool:
        """Return True, as required of a raw reader."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Read into a buffer; return the number of bytes."""
        room = memoryview(buffer).cast("B")
        data = self._raw.read(len(room))
        room[: len(data)] = data
        self._head = self._head or data[:64]
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def starts_with(self, magic: bytes) -> bool:
        """Return whether the bytes read so far start with `magic`."""
        return self._head.startswith(magic)


def audio_members(
    compressed: io.RawIOBase, scratch: Path
) -> Iterator[tuple[str, BinaryIO]]:
    """Iterate over the files of a .tar.gz, one at a time, and read it to its end.

    Args:
        compressed: Stream of the .tar.gz.
        scratch: Folder for temporary copies of large files.

    Yields:
        File name without folders, and the content as a seekable stream.

    Raises:
        tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error: The file is damaged.
    """
    buffered = io.BufferedReader(compressed, _COPY_BYTES)
    with gzip.GzipFile(fileobj=buffered) as plain:
        with tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                # tarfile keeps all headers; delete them, so that memory does not grow.
                tar.members = []  # type: ignore[attr-defined]  # not in typeshed
                if member.isfile() and (source := tar.extractfile(member)):
                    with _copy(source, member.size, scratch) as copy:
                        yield PurePosixPath(member.name).name, copy
        # gzip's checksum is at the end: only reading it detects that the stream is cut
        # after the last file.
        while plain.read(_COPY_BYTES):
            pass


def _copy(source: IO[bytes], size: int, scratch: Path) -> BinaryIO:
    if size > LARGEST_MEMBER:
        raise tarfile.TarError(f"a file of {size} bytes: no recording is that large")
    if size <= MEMORY_BYTES:
        copy: BinaryIO = io.BytesIO()
    else:
        copy = tempfile.TemporaryFile(dir=scratch)
    left = size
    while left:
        data = source.read(min(left, _COPY_BYTES))
        if not data:
            raise EOFError("the tar file ends inside a member")
        copy.write(data)
        left -= len(data)
    copy.seek(0)
    return copy


def use_recording(
    name: str, stream: BinaryIO, captions: Captions, writer: ShardWriter
) -> str | None:
    """Add the utterances of one audio file to a prepared shard.

    Args:
        name: File name.
        stream: File content.
        captions: Captions of the shard.
        writer: Writer of the prepared shard.

    Returns:
        Release of the file, yodas or yodas2; None if it cannot be read.
    """
    stem = name.rpartition(".")[0] or name
    segment = layout.parse_segment(stem)
    known = segment.seconds if segment else 0.0
    release = "yodas" if segment else "yodas2"
    if wav_is_cut_short(stream):
        writer.skip(stem, "truncated", known)
        return release
    try:
        with soundfile.SoundFile(stream) as audio:
            if segment:
                _use_segment(audio, stem, segment, captions, writer)
            elif layout.is_video(stem):
                _use_video(audio, stem, captions, writer)
            else:
                writer.skip(name, "its name is no id of YODAS")
    except soundfile.LibsndfileError:
        writer.skip(stem, "not readable as audio", known)
        return None
    return release


def _use_segment(
    audio: soundfile.SoundFile,
    name: str,
    segment: SegmentName,
    captions: Captions,
    writer: ShardWriter,
) -> None:
    seconds = audio.frames / audio.samplerate
    caption = captions.get(segment.video, {}).get(name)
    if caption is None and not writer.options.uncaptioned:
        writer.skip(name, "no caption", seconds)
    elif seconds + TIME_TOLERANCE < segment.end - segment.start:
        writer.skip(name, "audio is shorter than its id says", seconds)
    elif writer.has_good_length(name, seconds):
        writer.add(segment, name, read_mono(audio), audio.samplerate, caption)


def _use_video(
    audio: soundfile.SoundFile, video: str, captions: Captions, writer: ShardWriter
) -> None:
    rate, seconds = audio.samplerate, audio.frames / audio.samplerate
    if spoken := captions.get(video):
        for name in sorted(spoken):
            segment = layout.parse_segment(name)
            if segment is None or segment.video != video:
                known = segment.seconds if segment else 0.0
                writer.skip(name, "caption's id is not of its video", known)
            elif segment.end > seconds + TIME_TOLERANCE or (
                round(segment.start * rate) >= audio.frames
            ):
                why = "caption reaches beyond the end of its video"
                writer.skip(name, why, segment.seconds)
            elif writer.has_good_length(name, segment.end - segment.start):
                start = round(segment.start * rate)
                audio.seek(start)
                samples = read_mono(audio, round(segment.end * rate) - start)
                writer.add(segment, name, samples, rate, spoken[name])
    elif writer.options.uncaptioned:
        for index, (first, samples) in enumerate(
            quiet_pieces(audio, writer.options.max_duration)
        ):
            start, end = first / rate, (first + len(samples)) / rate
            rest = f"{index:05d}-{round(start * 100):08d}-{round(end * 100):08d}"
            name, segment = f"{video}-{rest}", SegmentName(video, rest, start, end)
            if writer.has_good_length(name, end - start):
                writer.add(segment, name, samples, rate, None)
    else:
        writer.skip(video, "video without captions", seconds)
