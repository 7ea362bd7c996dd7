"""Where YODAS keeps things, and how it names them.

Both releases have data/<subset>/{audio,text,duration}/<shard>.*, where a subset is a
language and three digits (000, 001, ...: manual captions; 100, ...: automatic ones)
and a shard is a number of eight digits. The audio of a shard is a .tar.gz.

- yodas: a file for each caption, <video>-<index>-<start>-<end>.wav, times in 1/100 s;
  text/<shard>.txt has lines `id caption`.
- yodas2: a file for each video, <video>.wav; text/<shard>.json is a list of
  {"audio_id": video, "text": {id: caption}}, with ids as above.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet2_birq.errors import LFS_MAGIC, DataError

SUBSET = re.compile(r"([a-z]+)\d{3}")
AUDIO_SUFFIX = ".tar.gz"
# A video's id may have "-" anywhere in it: what follows it is found from the right.
_SEGMENT = re.compile(r"([\w-]+)-(\d{5,})-(\d{8,})-(\d{8,})", re.ASCII)
_VIDEO = re.compile(r"[\w-]+", re.ASCII)

# Video to id to caption.
Captions = dict[str, dict[str, str]]


def language_of(subset: str) -> str:
    """Return a subset's language: of en000 it is en."""
    return subset[:-3]


@dataclass(frozen=True)
class Shard:
    """A shard of the corpus.

    Attributes:
        subset: For example en000.
        number: Its eight digits.
    """

    subset: str
    number: str

    @property
    def language(self) -> str:
        """The language's code."""
        return language_of(self.subset)

    @property
    def key(self) -> str:
        """What the names of its utterances begin with; sorts as they do."""
        return f"{self.subset}-{self.number}"

    def __str__(self) -> str:
        return f"{self.subset}/{self.number}"


@dataclass(frozen=True)
class SegmentName:
    """An id of the publisher, taken apart.

    Attributes:
        video: The video's id.
        rest: Index, start and end, as they were written.
        start: Seconds from the video's begin.
        end: Seconds from the video's begin.
    """

    video: str
    rest: str
    start: float
    end: float


def parse_segment(name: str) -> SegmentName | None:
    """Take a publisher's id <video>-<index>-<start>-<end> apart; None if it is none."""
    match = _SEGMENT.fullmatch(name)
    if match is None:
        return None
    video, index, start, end = match.groups()
    return SegmentName(
        video, f"{index}-{start}-{end}", int(start) / 100, int(end) / 100
    )


def is_video(name: str) -> bool:
    """Tell whether a name can be a video's id."""
    return _VIDEO.fullmatch(name) is not None


def utterance_id(shard: Shard, segment: SegmentName) -> str:
    """Name an utterance: <subset>-<shard>-<video>+<index>-<start>-<end>.

    "+" sorts before all that a video's id is made of: so utterances in byte order are
    also in the order of their speakers (videos), whatever the ids look like.
    """
    return f"{shard.key}-{segment.video}+{segment.rest}"


def publisher_id(utt_id: str) -> str:
    """Give the publisher's id of an utterance of ours."""
    return utt_id.split("-", 2)[2].replace("+", "-")


def find_root(folder: str | Path) -> Path:
    """Find the folder data/ of a release.

    Args:
        folder: That folder, or the one that holds it.

    Returns:
        The folder that holds the subsets.

    Raises:
        DataError: There is no subset in either.
    """
    for root in (Path(folder) / "data", Path(folder)):
        if root.is_dir() and find_subsets(root):
            return root
    raise DataError(
        f"{folder}: no subset such as data/en000/audio in it; give the folder of a "
        "YODAS release"
    )


def find_subsets(root: Path) -> list[str]:
    """List the subsets (en000, ...) that have audio, sorted."""
    return sorted(
        path.name
        for path in root.iterdir()
        if SUBSET.fullmatch(path.name) and (path / "audio").is_dir()
    )


def find_shards(root: Path, subset: str) -> list[Shard]:
    """List a subset's shards whose audio is there, sorted."""
    return shards_of(
        subset, (path.name for path in (root / subset / "audio").iterdir())
    )


def tar_path(root: Path, shard: Shard) -> Path:
    """Say where a shard's audio is, in the folder that holds the subsets."""
    return root / shard.subset / "audio" / f"{shard.number}{AUDIO_SUFFIX}"


def shards_of(subset: str, names: Iterable[str]) -> list[Shard]:
    """Make shards of the names of audio files; other files are no shards."""
    numbers = (
        name.removesuffix(AUDIO_SUFFIX) for name in names if name.endswith(AUDIO_SUFFIX)
    )
    return sorted(
        (Shard(subset, number) for number in numbers if number.isdecimal()),
        key=lambda shard: shard.key,
    )


def wanted_subsets(parts: Sequence[str], there: Sequence[str]) -> dict[str, set[str]]:
    """Say which subsets, and which of their shards, are asked for.

    Args:
        parts: Languages (en), subsets (en000) and shards (en000/00000001).
        there: The subsets that there are.

    Returns:
        Subset to numbers of shards; an empty set stands for all.

    Raises:
        DataError: A part is not there.
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
    """Put shards in a random order that is the same wherever it is computed.

    The place of a shard depends on its name and the seed alone: shards that are added
    to the corpus do not change the order of the others.
    """

    def place(shard: Shard) -> tuple[str, str]:
        text = f"{seed} {shard.key}"
        return hashlib.sha256(text.encode()).hexdigest(), shard.key

    return sorted(shards, key=place)


def read_captions(root: Path, shard: Shard) -> Captions:
    """Read a shard's captions, of either release.

    Args:
        root: The folder that holds the subsets.
        shard: The shard.

    Returns:
        Video to id to caption, whitespace in captions made single spaces.

    Raises:
        DataError: There is no such file, or it cannot be read.
    """
    folder = root / shard.subset / "text"
    for name, read in ((".json", _read_json), (".txt", _read_lines)):
        path = folder / f"{shard.number}{name}"
        if path.is_file():
            raw = path.read_bytes()
            if raw.startswith(LFS_MAGIC):
                raise DataError("its text file is a git-LFS pointer; run git lfs pull")
            try:
                return read(raw.decode("utf-8-sig"))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                # Reasons are counted: no names in them, so that equal ones are equal.
                raise DataError(
                    f"its text file is not UTF-8 {name[1:]} of YODAS; download it again"
                ) from error
    raise DataError("its text file is missing; download it or give --uncaptioned")


def _read_json(content: str) -> Captions:
    captions: Captions = {}
    for entry in json.loads(content):
        of_video = captions.setdefault(entry["audio_id"], {})
        for name, caption in entry["text"].items():
            of_video[name] = " ".join(caption.split())
    return captions


def _read_lines(content: str) -> Captions:
    captions: Captions = {}
    # Not splitlines(): captions may hold characters that it takes for line ends.
    for line in content.split("\n"):
        if words := line.split():
            name = words.pop(0)
            segment = parse_segment(name)
            video = segment.video if segment else name
            captions.setdefault(video, {})[name] = " ".join(words)
    return captions
