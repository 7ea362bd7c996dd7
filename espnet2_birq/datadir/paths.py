"""Paths in somebody else's wav.scp, relative to a folder other than the current one."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from espnet2_birq.datadir.audio import ARK_ENTRY
from espnet2_birq.errors import DataError


class PathResolver:
    """Makes the entries of a data directory's wav.scp usable from any folder.

    ESPnet and Kaldi write paths relative to the recipe's folder, which is one of the
    folders above the data directory. The first relative path decides which.

    Attributes:
        root: The folder to which paths are relative; None as long as none was.
    """

    def __init__(self, folder: str | Path):
        """Remember whose wav.scp it is.

        Args:
            folder: The data directory.
        """
        self._folder = folder
        self.root: str | None = None

    def __call__(self, entry: str) -> str:
        """Resolve one entry.

        Args:
            entry: A path, `path.ark:offset`, or a command that ends in `|`.

        Returns:
            The same with an absolute path. A command of relative paths is made one
            that goes to their folder first.

        Raises:
            DataError: There is no such file in any of the folders.
        """
        if entry.endswith("|"):
            return self._command(entry)
        if entry.startswith("/"):
            return entry
        if self.root is None:
            match = ARK_ENTRY.match(entry)
            self.root = self._find(match[1] if match else entry)
        if self.root is None:
            raise DataError(
                f"{self._folder}/wav.scp: {entry}: no such file relative to a folder "
                "above it; run the recipe's data preparation, or correct the path"
            )
        return os.path.join(self.root, entry)

    def _command(self, entry: str) -> str:
        paths = [
            word
            for word in entry.rstrip("| ").split()
            if "/" in word and word[0] not in "/-"
        ]
        for path in paths:
            if self.root is None:
                self.root = self._find(path)
        if not paths or self.root is None:
            return entry
        return f"cd {shlex.quote(self.root)} && {entry}"

    def _find(self, path: str) -> str | None:
        # The current folder last: it may hold another recipe's dump/raw/train.
        for folder in (*_above(self._folder), os.getcwd()):
            if os.path.isfile(os.path.join(folder, path)):
                return folder
        return None


def _above(folder: str | Path) -> Iterator[str]:
    for path in (os.path.abspath(folder), os.path.realpath(folder)):
        while path != os.path.dirname(path):
            path = os.path.dirname(path)
            yield path
