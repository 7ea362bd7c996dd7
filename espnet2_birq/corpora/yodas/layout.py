"""Folders, file names and ids of YODAS.

Both releases consist of data/<subset>/{audio,text,duration}/<shard>.*. A subset is a
language and three digits (000, 001, ...: manual captions; 100, ...: automatic captions).
A shard is a number of eight digits; its audio is a .tar.gz.

- yodas: one audio file per caption, <video>-<index>-<start>-<end>.wav, with times in
  1/100 s; text/<shard>.txt has lines `id caption`.
- yodas2: one audio file per video, <video>.wav; text/<shard>.json is a list of
  {"audio_id": video, "text": {id: caption}}, with ids as above.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet2_birq.errors import LFS_MAGIC, DataError
from espnet2_birq.reading import DAMAGE

SUBSET = re.compile(r"([a-z]+)\d{3}")
AUDIO_SUFFIX = ".tar.gz"
# Video ids may contain "-", so the other fields are matched from the right.
_SEGMENT = re.compile(r"([\w-]+)-(\d{5,9})-(\d{8,12})-(\d{8,12})", re.ASCII)
_VIDEO = re.compile(r"[\w-]+", re.ASCII)

# Mapping from video to caption id to caption.
Captions = dict[str, dict[str, str]]


def language_of(subset: str) -> str:
    """Return a subset's language, for example en of en000."""
    return subset[:-3]


@dataclass(frozen=True)
class Shard:
    """Shard of the corpus.

    Attributes:
        subset: Name of the subset, for example en000.
        number: Number of the shard, as eight digits.
    """

    subset: str
    number: str

    @property
    def language(self) -> str:
        """Language code."""
        return language_of(self.subset)

    @property
    def key(self) -> str:
        """Prefix of the shard's utterance ids; sorts as they do."""
        return f"{self.subset}-{self.number}"

    def __str__(self) -> str:
        return f"{self.subset}/{self.number}"


@dataclass(frozen=True)
class SegmentName:
    """Parsed caption id of YODAS.

    Attributes:
        video: Id of the video.
        rest: Index, start and end, as in the id.
        start: Start in the video, in seconds.
        end: End in the video, in seconds.
    """

    video: str
    rest: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Duration in seconds; 0 if it ends before it starts."""
        return max(self.end - self.start, 0.0)


def parse_segment(name: str) -> SegmentName | None:
    """Parse a YODAS id <video>-<index>-<start>-<end>; return None if it is invalid."""
    match = _SEGMENT.fullmatch(name)
    if match is None:
        return None
    video, index, start, end = match.groups()
    return SegmentName(
        video, f"{index}-{start}-{end}", int(start) / 100, int(end) / 100
    )


def is_video(name: str) -> bool:
    """Return whether a name is a valid video id."""
    return _VIDEO.fullmatch(name) is not None


def utterance_id(shard: Shard, segment: SegmentName) -> str:
    """Return the utterance id <subset>-<shard>-<video>+<index>-<start>-<end>.

    "+" sorts before all characters of video ids, so utterances in byte order are also
    sorted by speaker (video).
    """
    return f"{shard.key}-{segment.video}+{segment.rest}"


def find_root(folder: str | Path) -> Path:
    """Find the folder data/ of a release.

    Args:
        folder: That folder, or its parent.

    Returns:
        Folder that holds the subsets.

    Raises:
        DataError: Neither folder has a subset.
    """
    for root in (Path(folder) / "data", Path(folder)):
        if root.is_dir() and find_subsets(root):
            return root
    raise DataError(
        f"{folder}: no subset such as data/en000/audio in it; give the folder of a "
        "YODAS release"
    )


def find_subsets(root: Path) -> list[str]:
    """List the subsets (en000, ...) that have an audio folder, sorted."""
    return sorted(
        path.name
        for path in root.iterdir()
        if SUBSET.fullmatch(path.name) and (path / "audio").is_dir()
    )


def find_shards(root: Path, subset: str) -> list[Shard]:
    """List a subset's shards that have audio, sorted."""
    return shards_of(
        subset, (path.name for path in (root / subset / "audio").iterdir())
    )


def tar_path(root: Path, shard: Shard) -> Path:
    """Return the path of a shard's tar file; `root` is the folder of the subsets."""
    return root / shard.subset / "audio" / f"{shard.number}{AUDIO_SUFFIX}"


def text_path(root: Path, shard: Shard) -> Path | None:
    """Return the path of a shard's text file, of either release; None if there is none."""
    folder = root / shard.subset / "text"
    paths = (folder / f"{shard.number}{ending}" for ending in (".json", ".txt"))
    return next((path for path in paths if path.is_file()), None)


def shards_of(subset: str, names: Iterable[str]) -> list[Shard]:
    """Convert names of audio files to shards, ignoring other files."""
    numbers = (
        name.removesuffix(AUDIO_SUFFIX) for name in names if name.endswith(AUDIO_SUFFIX)
    )
    return sorted(
        (Shard(subset, number) for number in numbers if number.isdecimal()),
        key=lambda shard: shard.key,
    )


def wanted_subsets(parts: Sequence[str], there: Sequence[str]) -> dict[str, set[str]]:
    """Resolve requested parts to subsets and shards.

    Args:
        parts: Languages (en), subsets (en000) and shards (en000/00000001).
        there: Existing subsets.

    Returns:
        Mapping from subset to shard numbers; an empty set means all shards.

    Raises:
        DataError: A part does not exist.
    """
    wanted: dict[str, set[str]] = {}
    for part in parts:
        subset, _, number = part.partition("/")
        found = [name for name in there if subset in (name, language_of(name))]
        if not found or (number and found != [subset]):
            raise DataError(
                f"--parts {part}: not there; give languages (en), subsets (en000) or "
                f"shards (en000/00000001) of {', '.join(there[:8])}"
                + (", ..." if len(there) > 8 else "")
            )
        for name in found:
            if not number:
                wanted[name] = set()
            elif name not in wanted or wanted[name]:
                wanted.setdefault(name, set()).add(number)
    return wanted


def seeded_order(shards: Iterable[Shard], seed: int) -> list[Shard]:
    """Sort shards in a reproducible random order.

    A shard's sort key depends only on its name and the seed, so adding shards does not
    change the order of the others.
    """

    def place(shard: Shard) -> tuple[str, str]:
        text = f"{seed} {shard.key}"
        return hashlib.sha256(text.encode()).hexdigest(), shard.key

    return sorted(shards, key=place)


def read_captions(root: Path, shard: Shard) -> Captions:
    """Read a shard's captions, of either release.

    Args:
        root: Folder that holds the subsets.
        shard: The shard.

    Returns:
        Mapping from video to caption id to caption, with whitespace normalised to
        single spaces.

    Raises:
        DataError: The text file is missing or cannot be read.
    """
    path = text_path(root, shard)
    if path is None:
        raise DataError("its text file is missing; download it or give --uncaptioned")
    raw = path.read_bytes()
    if raw.startswith(LFS_MAGIC):
        raise DataError("its text file is a git-LFS pointer; run git lfs pull")
    try:
        read = _read_json if path.suffix == ".json" else _read_lines
        return read(raw.decode("utf-8-sig"))
    except DAMAGE as error:
        # No file name in the message, so that equal reasons are counted together.
        raise DataError(
            f"its text file is not UTF-8 {path.suffix[1:]} of YODAS; download it again"
        ) from error


def _read_json(content: str) -> Captions:
    captions: Captions = {}
    for entry in json.loads(content):
        of_video = captions.setdefault(entry["audio_id"], {})
        for name, caption in entry["text"].items():
            of_video[name] = " ".join(caption.split())
    return captions


def _read_lines(content: str) -> Captions:
    captions: Captions = {}
    # Not splitlines(): it also splits at other characters, which captions may contain.
    for line in content.split("\n"):
        if words := line.split():
            name = words.pop(0)
            segment = parse_segment(name)
            video = segment.video if segment else name
            captions.setdefault(video, {})[name] = " ".join(words)
    return captions
