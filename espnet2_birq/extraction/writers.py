"""Files of features and units: NumPy, Kaldi archives, text."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kaldiio
import numpy as np

from espnet2_birq.datadir.files import sync, whole_file
from espnet2_birq.reading import read_lines


class Folder:
    """Folder for one kind of output, written in blocks and listed at the end.

        npy    feats.scp (or units.scp), npy/NAME.npy
        ark    feats.scp, BLOCK.ark
        text   units, a line for each recording

    Each block leaves its own list, which tells a resumed command what is done. The
    final list is written when all blocks are complete.

    Attributes:
        list: Path of the final list.

    Args:
        path: The folder; created with its first block.
        kind: npy, ark or text.
        name: Name of the final list without its suffix: feats or units.
    """

    def __init__(self, path: Path, kind: str, name: str):
        self.path, self.kind = path, kind
        self.list = path / (name + ("" if kind == "text" else ".scp"))
        self._blocks = path / "blocks"

    def has(self, block: str) -> bool:
        """Whether a block is complete: its list, and the files that this names.

        Those of a folder that was moved or copied are not its own.
        """
        listed = self._blocks / block
        if self.kind == "text" or not listed.is_file():
            return listed.is_file()
        files = {line.rstrip("\n").split(" ", 1)[1] for line in read_lines(listed)}
        if self.kind == "ark":
            files = {entry.rpartition(":")[0] for entry in files}
        own = os.path.join(os.path.abspath(self.path), "")
        return all(
            os.path.abspath(file).startswith(own) and os.path.isfile(file)
            for file in files
        )

    @contextmanager
    def writing(self, block: str) -> Iterator[Callable[[str, np.ndarray | Path], None]]:
        """Yield a function that adds arrays, or files of them, to a block."""
        self._blocks.mkdir(parents=True, exist_ok=True)
        with whole_file(self._blocks / block) as part:
            if self.kind == "ark":
                ark = self.path / f"{block}.ark"
                with kaldiio.WriteHelper(f"ark,scp:{ark},{part}") as writer:
                    yield writer
                sync(ark)
                return
            with part.open("w", encoding="utf-8") as stream:

                def add(name: str, array: np.ndarray | Path) -> None:
                    print(name, self._entry(name, array), file=stream)

                yield add

    def _entry(self, name: str, array: np.ndarray | Path) -> str:
        if isinstance(array, Path):
            return str(array)
        if self.kind == "text":
            return " ".join(map(str, array.tolist()))
        path = self.npy(name)
        with whole_file(path) as part, part.open("wb") as stream:
            np.save(stream, array)
        return str(path)

    def npy(self, name: str) -> Path:
        """Return the path of an array's file, and create its folder."""
        path = self.path / "npy" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self, blocks: Iterable[str]) -> Path:
        """Write the list of all blocks, sorted by name, and return its path."""
        lines = [
            line
            for block in blocks
            for line in (self._blocks / block).read_text("utf-8").splitlines()
        ]
        lines.sort(key=lambda line: line.split(maxsplit=1)[0])
        with whole_file(self.list) as part, part.open("w", encoding="utf-8") as stream:
            stream.writelines(line + "\n" for line in lines)
        return self.list


def deduplicate(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge equal neighbours of (T,) codes; return codes and frames per code."""
    starts = np.flatnonzero(np.diff(codes, prepend=codes[:1] - 1))
    return codes[starts], np.diff(starts, append=len(codes))
