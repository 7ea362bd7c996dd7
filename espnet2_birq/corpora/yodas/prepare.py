"""Preparation of YODAS sets from the user's options or an earlier set's manifest."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from espnet2_birq import __version__
from espnet2_birq.corpora.yodas.audio import SHORTEST_LIMIT
from espnet2_birq.corpora.yodas.corpus import Request, candidates, make_sets
from espnet2_birq.corpora.yodas.layout import Shard
from espnet2_birq.corpora.yodas.selection import Selection, read_manifest
from espnet2_birq.corpora.yodas.sets import MANIFEST, SetSize, check_replaceable
from espnet2_birq.corpora.yodas.source import FolderSource, HubSource
from espnet2_birq.corpora.yodas.store import ShardStore, Source
from espnet2_birq.corpora.yodas.writer import ShardOptions
from espnet2_birq.errors import DataError

LOG_INTERVAL = 60  # seconds between progress lines if stderr is not a terminal
# Settings recorded in the manifest, with their defaults; None if the user must choose.
SETTINGS: dict[str, Any] = {
    "parts": None,
    "hours": math.inf,
    "valid_hours": 1.0,
    "seed": 0,
    **asdict(ShardOptions()),
}
_KINDS: dict[str, Any] = {
    **{
        key: (int, float) if type(default) in (int, float) else type(default)
        for key, default in SETTINGS.items()
    },
    "parts": list,
}


def prepare_yodas(
    train: Path,
    options: Mapping[str, Any],
    folder: str | Path | None = None,
    hub: str = "yodas",
    *,
    manifest: Path | None = None,
    keep_downloads: bool = False,
    nj: int = 4,
    dry_run: bool = False,
) -> None:
    """Write a training set and its validation set, and print their sizes.

    Args:
        train: Folder of the training set; <train>_valid and shards/ are next to it.
        options: Values of SETTINGS. Missing or None values are taken from the manifest,
            if there is one, else from the defaults.
        folder: Folder of a release on disk.
        hub: Name of a release on the Hugging Face hub, used without `folder`.
        manifest: manifest.jsonl of a set to reproduce.
        keep_downloads: Whether to keep downloaded files of prepared shards.
        nj: Number of shards to prepare in parallel.
        dry_run: Whether to print the plan only, without writing.

    Raises:
        DataError: The request or the corpus is wrong. Prepared shards are kept.
    """
    train = train.absolute()
    if any(character.isspace() for character in str(train)):
        raise DataError(f"{train}: give a --dest and a --name without spaces")
    head, lines = read_manifest(manifest) if manifest else ({}, [])
    settings = _settle(options, head)
    shard_options = ShardOptions(
        **{f.name: settings[f.name] for f in fields(ShardOptions)}
    )
    store = train.with_name("shards")
    source: Source
    if folder:
        source = FolderSource(folder)
    else:
        downloads = store / f"downloads_{hub}"
        source = HubSource(hub, downloads, keep_downloads, head.get("revision"))
    request = Request(
        settings["parts"],
        settings["hours"],
        settings["valid_hours"],
        settings["seed"],
        head=head or _head(source, settings),
        lines=lines,
    )
    shards = candidates(source, request)
    if dry_run:
        _print_plan(source, shards, request)
        return
    valid = train.with_name(f"{train.name}_valid") if request.valid_hours else None
    for path in filter(None, (train, valid)):
        check_replaceable(path)
    earlier = train.with_name(f"{train.name}_valid")
    if valid is None and earlier.exists():
        raise DataError(
            f"{earlier}: is from an earlier preparation, and its videos would now be in "
            f"{train.name}, too; remove it, or choose another --name"
        )
    with (
        ShardStore(store, shard_options) as opened,
        tqdm(total=len(shards), unit="shard", disable=None) as bar,
    ):
        report = _reporter(bar, 3600 * shard_options.fs)
        chosen, sizes = make_sets(
            opened, source, shards, request, train, valid, nj, report
        )
    source.close()
    _print_summary(chosen, sizes, request, 3600 * shard_options.fs)


def _settle(options: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for key, default in SETTINGS.items():
        given = options.get(key)
        if head:
            settings[key] = math.inf if head.get(key) is None else head[key]
            value, kind = settings[key], _KINDS[key]
            is_of_kind = isinstance(value, kind) and (kind is bool) == (
                isinstance(value, bool)
            )
            if not is_of_kind or value != value:
                raise DataError(
                    f"--manifest: {key} cannot be {str(head.get(key))[:80]!r}; copy it again"
                )
            if given is not None and given != settings[key]:
                raise DataError(
                    f"--manifest says {key} {head.get(key)}, the command line {given}; "
                    "give one of the two"
                )
        else:
            settings[key] = default if given is None else given
    if not settings["parts"]:
        raise DataError("--parts is required, for example --parts en; or --manifest")
    if settings["text"] and settings["uncaptioned"]:
        raise DataError("--text and --uncaptioned exclude each other; give one")
    if settings["characters"] and not settings["text"]:
        raise DataError("--characters needs --text: captions are not used without it")
    if not settings["min_duration"] < settings["max_duration"]:
        raise DataError("--min_duration is not below --max_duration; correct one")
    if settings["uncaptioned"] and settings["max_duration"] < SHORTEST_LIMIT:
        raise DataError(
            f"--max_duration: --uncaptioned cannot cut pieces below {SHORTEST_LIMIT} s; "
            "give a larger one"
        )
    return settings


def _head(source: Source, settings: Mapping[str, Any]) -> dict[str, Any]:
    head: dict[str, Any] = {
        "corpus": "YODAS",
        "version": __version__,
        "revision": source.revision,
    }
    for key, value in settings.items():
        head[key] = None if value == math.inf else value
    return head


def _print_plan(source: Source, shards: Sequence[Shard], request: Request) -> None:
    hours: dict[str, float] = {}
    for shard in shards:
        if hours.setdefault(shard.language, 0.0) < request.limit:
            of_shard = source.seconds(shard) / 3600
            hours[shard.language] += of_shard
            print(f"{shard}: {of_shard:.2f} hours by its duration file")
    for language, sum_of in hours.items():
        print(f"{language}: {sum_of:.2f} hours before filters, of {source}")
    print("dry run: nothing was written")


def _reporter(bar: tqdm, hour: int) -> Callable[[Shard, int], None]:
    used, said = 0, time.monotonic()

    def report(shard: Shard, samples: int) -> None:
        nonlocal used, said
        used += samples
        bar.update()
        bar.set_postfix_str(f"{used / hour:.1f} hours")
        # Without a terminal there is no progress bar: print a line now and then.
        if bar.disable and time.monotonic() - said > LOG_INTERVAL:
            said = time.monotonic()
            print(f"{shard} is done, {used / hour:.1f} hours", flush=True)

    return report


def _print_summary(
    chosen: Selection, sizes: Mapping[Path, SetSize], request: Request, hour: int
) -> None:
    for reason, sums in sorted(chosen.skipped.items()):
        print(
            f"skipped {sums['count']} x {reason} ({sums['seconds'] / 3600:.2f} hours); "
            f"first: {sums['first']}"
        )
    for language, samples in sorted(chosen.samples.items()):
        if samples / hour < request.limit < math.inf:
            print(f"{language}: there are only {samples / hour:.2f} hours")
    for path, size in sizes.items():
        print(
            f"{path}: {size.utterances} utterances, {size.speakers} speakers (videos), "
            f"{size.samples / hour:.2f} hours"
        )
    train = next(iter(sizes))
    digest = hashlib.sha256((train / MANIFEST).read_bytes()).hexdigest()
    print(f"{train}: of {len(chosen.shards)} shards; {MANIFEST} has SHA-256 {digest}")
