"""Stores on disk that let a killed command resume.

Both have a key, which lists the dependencies of the results. If a stored key differs,
the store starts over. While a command is at a store, it holds the lock of its folder.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet2_birq.datadir.files import whole_file, write_whole
from espnet2_birq.datadir.locking import locked
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_arrays, read_json, refusing

Key = Mapping[str, str | int | float | None]
LOCK = ".lock"


def file_hash(path: Path) -> str:
    """Compute the SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder, waiting until those at work have ended."""

    def waiting():
        logging.info(f"{folder}: another command is at work on it, waiting")

    with locked(folder / LOCK, waiting):
        yield


class Block(NamedTuple):
    """Log-probabilities of some utterances, computed together.

    Attributes:
        names: Utterances.
        log_probs: (T, V) natural log-probabilities of each utterance.
        seconds: Total seconds of audio.
        network_seconds: Seconds of computation.
        audio: Fingerprint of the audio of each utterance.
    """

    names: list[str]
    log_probs: list[np.ndarray]
    seconds: float
    network_seconds: float
    audio: list[str]


class LogProbs:
    """Log-probabilities of a data set, in a folder with one file per block.

    The folder must be reserved() while blocks are added.

    Args:
        folder: Folder, created if missing.
        key: Key of the model and the list of utterances.
        audio: Fingerprint of the audio of each utterance; stored results of
            other audio are discarded.

    Raises:
        DataError: The folder has other content.
    """

    def __init__(self, folder: Path, key: Key, audio: Mapping[str, str]):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if not self._key.exists():
            self._refuse_others()
        for part in folder.glob("*.part"):
            part.unlink()
        if not self._is_of(key, audio):
            self._start_afresh(key)

    @property
    def _key(self) -> Path:
        return self.folder / "key.json"

    def _refuse_others(self) -> None:
        own = {LOCK, *(path.name for path in self.blocks())}
        for path in sorted(self.folder.iterdir()):
            if path.name not in own and path.suffix != ".part":
                raise DataError(
                    f"{path}: is not of stored log-probabilities, which are to be in "
                    "this folder; move it away"
                )

    def _start_afresh(self, key: Key) -> None:
        blocks = self.blocks()
        if blocks or self._key.exists():
            logging.info(
                f"{self.folder}: of another model or other audio, starting afresh"
            )
        self._key.unlink(missing_ok=True)
        for path in blocks:
            path.unlink()
        # The start time tells results of these log-probabilities from older ones.
        began = {**key, "began": time.time_ns()}
        write_whole(self._key, json.dumps(began, sort_keys=True, indent=1) + "\n")

    def _is_of(self, key: Key, audio: Mapping[str, str]) -> bool:
        if not self._key.exists():
            return False
        try:
            stored = read_json(self._key)
            stored.pop("began", None)
            if stored != json.loads(json.dumps(key)):
                return False
            return all(_is_block_of(path, audio) for path in self.blocks())
        except DataError as error:
            logging.warning(f"{error}: it is computed again")
            return False

    def blocks(self) -> list[Path]:
        """Return the files of finished blocks, in order."""
        return sorted(self.folder.glob("block*.npz"))

    def done(self) -> set[str]:
        """Return the utterances of finished blocks."""
        return {
            name
            for path in self.blocks()
            for name in read_arrays(path, "names")[0].tolist()
        }

    def add(self, block: Block) -> None:
        """Store a block."""
        blocks = self.blocks()  # not their number: one may have been removed
        number = int(blocks[-1].stem.removeprefix("block")) + 1 if blocks else 0
        path = self.folder / f"block{number:06}.npz"
        with whole_file(path) as part, part.open("wb") as stream:
            np.savez(
                stream,
                names=np.array(block.names),
                audio=np.array(block.audio),
                frames=np.array([len(one) for one in block.log_probs]),
                log_probs=np.concatenate(block.log_probs),
                seconds=block.seconds,
                network_seconds=block.network_seconds,
            )


def read_block(path: Path) -> Block:
    """Read a block stored by LogProbs.add().

    Raises:
        DataError: The file is damaged.
    """
    names, frames, log_probs, seconds, network_seconds, audio = read_arrays(
        path, "names", "frames", "log_probs", "seconds", "network_seconds", "audio"
    )
    with refusing(path, "not what was written"):
        if not len(names) == len(frames) == len(audio) or frames.sum() != len(
            log_probs
        ):
            raise ValueError("its arrays are not of the same utterances")
        return Block(
            names.tolist(),
            np.split(log_probs, np.cumsum(frames)[:-1]),
            float(seconds),
            float(network_seconds),
            audio.tolist(),
        )


def _is_block_of(path: Path, audio: Mapping[str, str]) -> bool:
    """Whether a block is whole and of this audio; all at once may exceed the memory."""
    block = read_block(path)
    return all(audio.get(name) == own for name, own in zip(block.names, block.audio))


def block_seconds(paths: Iterable[Path]) -> tuple[float, float]:
    """Sum seconds of audio and of computation over blocks."""
    total = np.zeros(2)
    for path in paths:
        total += read_arrays(path, "seconds", "network_seconds")
    return float(total[0]), float(total[1])


def _result(line: bytes) -> dict | None:
    """Parse a line of Results; return None if it is incomplete or invalid."""
    try:
        result = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    if not line.endswith(b"\n") or not isinstance(result, dict):
        return None
    return result if isinstance(result.get("name"), str) else None


class Results:
    """Results per utterance, in a file of JSON lines that starts with the key.

    An incomplete last line, left by a killed process, is dropped, as are a damaged line
    and everything after it. The folder must be reserved().

    Args:
        path: File; its folder is created.
        key: Key with all dependencies.
    """

    def __init__(self, path: Path, key: Key):
        self.path = path
        self._key = json.dumps(key, sort_keys=True)
        self.found: dict[str, dict] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or not self._read():
            write_whole(path, self._key + "\n")

    def _read(self) -> bool:
        """Read stored results; return whether the file has this key."""
        with self.path.open("r+b") as stream:
            first = stream.readline()
            if first != self._key.encode() + b"\n":
                if first.endswith(b"\n"):
                    logging.info(
                        f"{self.path}: of another model or options, starting afresh"
                    )
                return False
            whole = len(first)
            for line in stream:
                result = _result(line)
                if result is None:
                    break
                self.found[result.pop("name")] = result
                whole += len(line)
            stream.truncate(whole)
        return True

    def add(self, results: Mapping[str, dict]) -> None:
        """Append the results of some utterances."""
        lines = [json.dumps({"name": name, **one}) for name, one in results.items()]
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write("".join(line + "\n" for line in lines))
        self.found.update(results)
