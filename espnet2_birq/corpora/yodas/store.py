"""Store of prepared shards: prepared in parallel, added complete and in a fixed order.

A shard is prepared in <folder>/.work. It is moved to <folder>/<subset>/<number> when it
and all shards before it are complete. A killed run therefore leaves the same shards as
an uninterrupted run has at some point.
"""

import fcntl
import json
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from espnet2_birq.corpora.yodas.layout import Shard
from espnet2_birq.corpora.yodas.shard import BadShardError, prepare_shard
from espnet2_birq.corpora.yodas.source import FolderSource, HubSource
from espnet2_birq.corpora.yodas.writer import SUMMARY, ShardOptions
from espnet2_birq.datadir.files import write_whole
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_json

Source = FolderSource | HubSource
_PARENT_CHECK = 0.2  # seconds between a worker's checks that its parent is alive
_LOCK_WAIT = 10  # seconds to wait for the workers of a killed run to end

AGAIN = "remove its folder, and prepare it again"


class ShardStore:
    """Folder of prepared shards, which several sets may share.

    Use it as a context manager: it locks the folder against other processes.

    Args:
        folder: Folder of the store, created if missing.
        options: Filters and formats, the same for all shards.

    Raises:
        DataError: The folder was made with other options, or is in use.
    """

    def __init__(self, folder: Path, options: ShardOptions):
        self.folder, self.options = folder, options
        self.work = folder / ".work"

    def __enter__(self) -> "ShardStore":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        _lock(self._lock, self.folder)
        self._check_options()
        self.work.mkdir(exist_ok=True)
        for path in self.work.iterdir():
            if path.suffix != ".ready":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            shutil.rmtree(self.work)
        self._lock.close()

    def folder_of(self, shard: Shard) -> Path:
        """Return the folder of a shard, prepared or not."""
        return self.folder / shard.subset / shard.number

    def prepare(
        self,
        source: Source,
        shards: Iterable[Shard],
        wanted: Callable[[Shard], bool],
        nj: int,
    ) -> Iterator[tuple[Shard, dict | str]]:
        """Prepare the shards that are not prepared yet, in parallel processes.

        Args:
            source: Source of shards.
            shards: Shards in order of use.
            wanted: Predicate that tells whether a shard is still needed. It is called
                before a shard is prepared and before it is kept; it may change to
                False.
            nj: Number of shards to prepare in parallel.

        Yields:
            Needed shards, in order, each with its summary, or with the reason why it is
            unusable.

        Raises:
            DataError: A prepared shard does not match its source, or a worker failed.
        """
        todo = iter(shards)
        waiting: deque[Shard] = deque()
        running: dict[Shard, BaseProcess] = {}
        try:
            while True:
                # Limit how far to prepare ahead: shards not needed in the end are
                # discarded.
                while len(running) < nj and len(waiting) < 2 * nj:
                    shard = next((s for s in todo if wanted(s)), None)
                    if shard is None:
                        break
                    waiting.append(shard)
                    if not self._is_there(shard, source):
                        running[shard] = self._start(source, shard)
                if not waiting:
                    return
                if not wanted(waiting[0]):
                    _kill(running.pop(waiting.popleft(), None))
                elif waiting[0] in running:
                    self._reap(running)
                else:
                    shard = waiting.popleft()
                    yield shard, self._keep(shard, source)
        finally:
            for process in running.values():
                _kill(process)

    def _is_there(self, shard: Shard, source: Source) -> bool:
        tar_bytes, text = source.tar_bytes(shard), source.text(shard)
        for folder in (self.folder_of(shard), self._ready(shard)):
            if folder.is_dir():
                then = read_json(folder / SUMMARY, dict, AGAIN)
                what = None
                if tar_bytes not in (None, then.get("tar_bytes")):
                    what = "tar file has a different size than"
                # Summaries of older versions have no text.
                elif text not in (None, then.get("text", text)):
                    what = "text file has other captions than"
                if what:
                    raise DataError(
                        f"{shard}: its {what} when it was prepared; remove {folder} to "
                        "prepare it again, or choose another --dest for the other release"
                    )
                return True
        return False

    def _ready(self, shard: Shard) -> Path:
        return self.work / f"{shard.key}.ready"

    def _start(self, source: Source, shard: Shard) -> BaseProcess:
        # fork starts quickly, and the worker holds the lock until it ends.
        process = get_context("fork").Process(
            target=_prepare_one,
            args=(source, shard, self.options, self.work, os.getpid()),
        )
        process.start()
        return process

    def _reap(self, running: dict[Shard, BaseProcess]) -> None:
        connection.wait([process.sentinel for process in running.values()])
        for shard in [s for s, process in running.items() if not process.is_alive()]:
            status = running.pop(shard).exitcode or 0
            error = self.work / f"{shard.key}.error"
            if error.is_file():
                raise DataError(error.read_text(encoding="utf-8"))
            if status < 0:
                raise DataError(
                    f"{shard}: its worker was killed by signal {-status}; "
                    "if memory ran out, repeat with a smaller --nj"
                )
            if status:
                raise DataError(f"{shard}: its worker failed, see its message above")

    def _keep(self, shard: Shard, source: Source) -> dict | str:
        bad = self.work / f"{shard.key}.bad"
        source.discard(shard)
        if bad.is_file():
            return bad.read_text(encoding="utf-8")
        if self._ready(shard).is_dir():
            self.folder_of(shard).parent.mkdir(exist_ok=True)
            self._ready(shard).rename(self.folder_of(shard))
        return read_json(self.folder_of(shard) / SUMMARY, dict, AGAIN)

    def _check_options(self) -> None:
        path, new = self.folder / "options.json", asdict(self.options)
        if path.is_file():
            old = read_json(path, dict, AGAIN)
            if changed := [key for key in new if old.get(key) != new[key]]:
                key = changed[0]
                raise DataError(
                    f"{self.folder}: made with {key} {old.get(key)}, not {new[key]}; "
                    "choose another --dest, or remove this folder"
                )
            return
        write_whole(path, json.dumps(new, indent=1) + "\n")


def _prepare_one(
    source: Source, shard: Shard, options: ShardOptions, work: Path, parent: int
) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    part = work / f"{shard.key}.part"
    try:
        root = source.fetch(shard)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        prepare_shard(root, shard, options, part)
        part.rename(work / f"{shard.key}.ready")
    except BadShardError as error:
        (work / f"{shard.key}.bad").write_text(str(error), encoding="utf-8")
    except (DataError, OSError) as error:
        (work / f"{shard.key}.error").write_text(f"{shard}: {error}", encoding="utf-8")


def _end_with(parent: int) -> None:
    # Workers stop themselves, since a killed parent cannot stop them.
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK)
    os._exit(1)


def _kill(process: BaseProcess | None) -> None:
    if process is not None:
        process.kill()
        process.join()


def _lock(stream, folder: Path) -> None:
    deadline = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise DataError(
                    f"{folder}: another process is at work in it; wait for its end, "
                    "or choose another --dest"
                ) from error
            time.sleep(_PARENT_CHECK)
