"""A request for a set, from the shards that could be in it to the finished set."""

import json
import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from espnet2_birq.corpora.yodas import selection
from espnet2_birq.corpora.yodas.layout import Shard, seeded_order, wanted_subsets
from espnet2_birq.corpora.yodas.selection import HeldOut, Selection, VideoOwners
from espnet2_birq.corpora.yodas.sets import MANIFEST, SetSize, write_sets
from espnet2_birq.corpora.yodas.store import ShardStore, Source
from espnet2_birq.errors import DataError


@dataclass(frozen=True)
class Request:
    """What a set shall hold.

    Attributes:
        parts: Languages, subsets and shards.
        hours: When to stop, for each language; infinity uses all.
        valid_hours: Length of the validation set; 0 makes none.
        seed: Of the order of shards, and of the videos for validation.
        head: First line of the set's manifest.
        lines: The others, if a manifest is repeated: then its shards are used, whatever
            `parts` and `hours` are.
    """

    parts: list[str]
    hours: float
    valid_hours: float
    seed: int
    head: dict
    lines: list[dict] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Hours of each language, training and validation."""
        return math.inf if self.lines else self.hours + self.valid_hours


def candidates(source: Source, request: Request) -> list[Shard]:
    """List the shards that may be used, in the order in which they are to be.

    Args:
        source: Where shards come from.
        request: What is wanted.

    Returns:
        The shards of one language after the other, each in the seed's order.

    Raises:
        DataError: What is asked for is not there.
    """
    if request.lines:
        return [_shard_of(line) for line in request.lines if line["used"]]
    shards: list[Shard] = []
    for subset, numbers in wanted_subsets(request.parts, source.subsets()).items():
        there = source.shards(subset)
        if missing := sorted(numbers - {shard.number for shard in there}):
            raise DataError(
                f"--parts {subset}/{missing[0]}: no such shard in {source}; correct it "
                "or download the shard"
            )
        shards += [s for s in there if not numbers or s.number in numbers]
    if not shards:
        raise DataError(
            f"{source}: none of --parts has a shard with audio; download it"
        )
    return sorted(seeded_order(shards, request.seed), key=lambda s: s.language)


def make_sets(
    store: ShardStore,
    source: Source,
    shards: list[Shard],
    request: Request,
    train: Path,
    valid: Path | None,
    nj: int,
    progress: Callable[[Shard, int], None],
) -> tuple[Selection, dict[Path, SetSize]]:
    """Prepare shards until there are enough, and write the sets.

    Args:
        store: Where prepared shards are, in use.
        source: Where shards come from.
        shards: The candidates in the order of use.
        request: What is wanted.
        train: Folder of the training set.
        valid: Folder of the validation set; None if there shall be none.
        nj: How many shards to prepare at once.
        progress: Is given every shard with the samples used of it.

    Returns:
        What was chosen, and what each set holds.

    Raises:
        DataError: A shard differs from the manifest, or a set would be empty.
    """
    hour = 3600 * store.options.fs
    held_out = HeldOut(math.ceil(request.valid_hours * hour), request.seed)
    repeated = {line["shard"]: line for line in request.lines}
    manifest = store.work / MANIFEST
    with closing(VideoOwners(store.work)) as owners:
        with manifest.open("w", encoding="utf-8", newline="\n") as stream:

            def record(entry: dict) -> None:
                if entry["shard"] in repeated:
                    selection.check_repeated(entry, repeated[entry["shard"]])
                else:
                    stream.write(json.dumps(entry, ensure_ascii=False) + "\n")

            for line in (request.head, *request.lines):
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            limit = request.limit * hour
            chosen = selection.select(
                store, source, shards, owners, held_out, limit, nj, record, progress
            )
        for line in request.lines:
            if not line["used"]:
                chosen.add_unusable(_shard_of(line), line["reason"])
        return chosen, write_sets(store, chosen, owners, manifest, train, valid)


def _shard_of(line: dict) -> Shard:
    return Shard(*line["shard"].split("/"))
