"""Creation of YODAS sets for a request: candidate shards, preparation, files."""

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
    """Request for a training set and its validation set.

    Attributes:
        parts: Languages, subsets and shards to use.
        hours: Amount of training data per language, in hours; infinity uses all.
        valid_hours: Amount of validation data in hours; 0 makes no validation set.
        seed: Random seed of the order of shards and the choice of validation videos.
        head: First line of the set's manifest.
        lines: Other lines of a manifest to reproduce. If given, its shards are used,
            and `parts` and `hours` are ignored.
    """

    parts: list[str]
    hours: float
    valid_hours: float
    seed: int
    head: dict
    lines: list[dict] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Hours per language, training and validation together."""
        return math.inf if self.lines else self.hours + self.valid_hours


def candidates(source: Source, request: Request) -> list[Shard]:
    """List the shards that may be used, in order of use.

    Args:
        source: Source of shards.
        request: Request for a set.

    Returns:
        Shards, language by language; within a language in the seed's random order.

    Raises:
        DataError: A requested part does not exist, or has no shard.
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
    for part in request.parts:
        name = part.partition("/")[0]
        if not any(name in (shard.subset, shard.language) for shard in shards):
            raise DataError(
                f"--parts {part}: no shard with audio in {source}; download one, or leave "
                "the part out"
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
    """Prepare shards until there is enough data, and write the sets.

    Args:
        store: Store of prepared shards, entered as a context.
        source: Source of shards.
        shards: Candidate shards in order of use.
        request: Request for a set.
        train: Folder of the training set.
        valid: Folder of the validation set; None for no such set.
        nj: Number of shards to prepare in parallel.
        progress: Callback, given each shard and its number of used samples.

    Returns:
        The selection, and the size of each set by folder.

    Raises:
        DataError: A shard differs from the manifest, or a set would be empty, or the
            training set have no utterance of a requested language.
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
        languages = {shard.language for shard in shards}
        sizes = write_sets(store, chosen, languages, owners, manifest, train, valid)
        return chosen, sizes


def _shard_of(line: dict) -> Shard:
    return Shard(*line["shard"].split("/"))
