"""Selection of a set's shards and videos, and its manifest."""

import hashlib
import heapq
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from espnet2_birq.corpora.yodas.layout import Shard
from espnet2_birq.corpora.yodas.store import ShardStore, Source
from espnet2_birq.corpora.yodas.writer import VIDEOS
from espnet2_birq.errors import DataError
from espnet2_birq.reading import parse_json, read_lines

DUPLICATE = "video is in another shard, too"
REPEATED = ("tar_sha256", "utterances", "samples", "skipped")

SHARD = re.compile(r"[a-z]+[0-9]{3}/[0-9]{1,12}")


@dataclass
class Selection:
    """Contents of a training set and its validation set.

    Attributes:
        shards: Used shards, in order of use.
        unusable: Mapping from unusable shard to the reason.
        held_out: Videos of the validation set.
        samples: Mapping from language to the number of samples in both sets.
        skipped: Mapping from reason to skipped items: count, seconds, first example.
    """

    shards: list[Shard] = field(default_factory=list)
    unusable: dict[Shard, str] = field(default_factory=dict)
    held_out: set[str] = field(default_factory=set)
    samples: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    skipped: dict[str, dict] = field(default_factory=dict)

    def skip(self, reason: str, count: int, seconds: float, first: str) -> None:
        """Count skipped items."""
        sums = self.skipped.setdefault(
            reason, {"count": 0, "seconds": 0.0, "first": first}
        )
        sums["count"] += count
        sums["seconds"] += seconds

    def add_unusable(self, shard: Shard, reason: str) -> None:
        """Record an unusable shard."""
        self.unusable[shard] = reason
        self.skip(f"shard: {reason}", 1, 0.0, str(shard))


class VideoOwners:
    """Mapping from each video to the shard it is taken from, the first that has it.

    It is stored in a file, so memory does not grow with the number of videos.

    Args:
        folder: Folder for the temporary file.
    """

    def __init__(self, folder: Path):
        self._table = sqlite3.connect(folder / "videos.sqlite", isolation_level=None)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute(
            "CREATE TABLE owner (video TEXT PRIMARY KEY, shard TEXT) WITHOUT ROWID"
        )

    def claim(self, shard: Shard, videos: list[str]) -> list[bool]:
        """Assign videos to a shard; return for each whether it was not assigned yet."""
        self._table.execute("BEGIN")
        claimed = [
            self._table.execute(
                "INSERT OR IGNORE INTO owner VALUES (?, ?)", (video, shard.key)
            ).rowcount
            == 1
            for video in videos
        ]
        self._table.execute("COMMIT")
        return claimed

    def is_of(self, video: str, shard: Shard) -> bool:
        """Return whether a video is assigned to a shard."""
        row = self._table.execute("SELECT shard FROM owner WHERE video = ?", (video,))
        return row.fetchone() == (shard.key,)

    def close(self) -> None:
        """Close the file."""
        self._table.close()


class HeldOut:
    """Random choice of whole videos with at least a given total length.

    The choice depends on video ids and the seed, not on the order of offers. Memory
    grows with the number of chosen videos, not of offered ones.

    Args:
        samples: Minimum number of samples to hold out.
        seed: Random seed.
    """

    def __init__(self, samples: int, seed: int):
        self._wanted, self._seed, self._sum = samples, seed, 0
        self._heap: list[tuple[int, str, int]] = []

    def offer(self, video: str, samples: int) -> None:
        """Consider a video with this many samples."""
        digest = hashlib.sha256(f"{self._seed} {video}".encode()).digest()
        heapq.heappush(self._heap, (-int.from_bytes(digest), video, samples))
        self._sum += samples
        # Keep the smallest hashes, and only as many as needed.
        while self._heap and self._sum - self._heap[0][2] >= self._wanted:
            self._sum -= heapq.heappop(self._heap)[2]

    def videos(self) -> set[str]:
        """Return the chosen videos."""
        return {video for _, video, _ in self._heap}


def read_table(path: Path) -> Iterator[list[str]]:
    """Read a file of tab-separated values line by line."""
    with path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            yield line.removesuffix("\n").split("\t")


def select(
    store: ShardStore,
    source: Source,
    shards: list[Shard],
    owners: VideoOwners,
    held_out: HeldOut,
    limit: float,
    nj: int,
    record: Callable[[dict], None],
    progress: Callable[[Shard, int], None],
) -> Selection:
    """Prepare shards in order until there is enough data of each language.

    Args:
        store: Store of prepared shards.
        source: Source of shards.
        shards: Candidate shards in order of use.
        owners: Empty mapping from video to shard, filled here.
        held_out: Choice of validation videos, filled here.
        limit: Number of samples per language; infinity uses all shards.
        nj: Number of shards to prepare in parallel.
        record: Callback, given each shard's line of the manifest.
        progress: Callback, given each shard and its number of used samples.

    Returns:
        The selection.

    Raises:
        DataError: A shard has changed, or a worker failed.
    """
    chosen = Selection()

    def wanted(shard: Shard) -> bool:
        return chosen.samples[shard.language] < limit

    for shard, summary in store.prepare(source, shards, wanted, nj):
        if isinstance(summary, str):
            chosen.add_unusable(shard, summary)
            record({"shard": str(shard), "used": False, "reason": summary})
            progress(shard, 0)
            continue
        entry = _claim(shard, summary, store, owners, held_out)
        for reason, sums in entry["skipped"].items():
            chosen.skip(reason, sums["count"], sums["seconds"], sums["first"])
        chosen.shards.append(shard)
        chosen.samples[shard.language] += entry["samples"]
        record(entry)
        progress(shard, entry["samples"])
    chosen.held_out = held_out.videos()
    return chosen


def check_repeated(entry: dict, wanted: dict) -> None:
    """Check that a shard matches the manifest to reproduce.

    Args:
        entry: New line of the shard.
        wanted: Its line in the manifest to reproduce.

    Raises:
        DataError: The lines differ.
    """
    shard = wanted["shard"]
    if not entry["used"]:
        raise DataError(f"--manifest: {shard} cannot be used: {entry['reason']}")
    for key in REPEATED:
        if entry[key] != wanted[key]:
            raise DataError(
                f"--manifest: {shard} differs: {key} is {entry[key]}, in the manifest "
                f"{wanted[key]}; get the release and the package version that it names"
            )


def read_manifest(path: Path) -> tuple[dict, list[dict]]:
    """Read a manifest.

    Args:
        path: Manifest file.

    Returns:
        First line, with the settings of the set, and a list with a line per shard.

    Raises:
        DataError: The file is missing or not a manifest.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such manifest; correct --manifest")
    remedy = "give a set's manifest.jsonl, of prepare_yodas"
    head, *lines = [
        parse_json(f"{path}: line {number}", line, dict, remedy)
        for number, line in enumerate(read_lines(path, remedy), 1)
    ] or [{}]
    if head.get("corpus") != "YODAS":
        raise DataError(f"{path}: not a manifest of prepare_yodas; {remedy}")
    for number, line in enumerate(lines, 2):
        # The name must be valid, since paths are made from it.
        named = SHARD.fullmatch(str(line.get("shard")))
        wanted = REPEATED if line.get("used") else ("reason",)
        if (
            not named
            or line.get("used") not in (True, False)
            or set(wanted) - set(line)
        ):
            raise DataError(f"{path}: line {number} is no shard's; {remedy}")
    return head, lines


def _claim(
    shard: Shard, summary: dict, store: ShardStore, owners: VideoOwners, held: HeldOut
) -> dict:
    videos = list(read_table(store.folder_of(shard) / VIDEOS))
    claimed = owners.claim(shard, [video for video, _, _ in videos])
    utterances = samples = 0
    skipped = dict(summary["skipped"])
    for (video, count, length), new in zip(videos, claimed):
        if new:
            utterances, samples = utterances + int(count), samples + int(length)
            held.offer(video, int(length))
        else:
            seconds = int(length) / store.options.fs
            sums = skipped.setdefault(
                DUPLICATE, {"count": 0, "seconds": 0.0, "first": video}
            )
            sums["count"] += int(count)
            sums["seconds"] = round(sums["seconds"] + seconds, 2)
    return {
        "shard": str(shard),
        "used": True,
        "release": summary["release"],
        "tar_bytes": summary["tar_bytes"],
        "tar_sha256": summary["tar_sha256"],
        "utterances": utterances,
        "samples": samples,
        "skipped": skipped,
    }
