"""Resolution of relative paths in the wav.scp of another recipe."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from espnet2_birq.datadir.audio import ARK_ENTRY
from espnet2_birq.errors import DataError


class PathResolver:
    """Resolver that makes entries of a wav.scp usable from any folder.

    ESPnet and Kaldi write paths relative to the recipe's folder, which is one of the
    folders above the data directory. The first relative path determines which one.

    Attributes:
        root: Folder to which paths are relative; None before the first relative path.
    """

    def __init__(self, folder: str | Path):
        """Create a resolver.

        Args:
            folder: Data directory of the wav.scp.
        """
        self._folder = folder
        self.root: str | None = None

    def __call__(self, entry: str) -> str:
        """Resolve one entry.

        Args:
            entry: Path, `path.ark:offset`, or command that ends in `|`.

        Returns:
            Entry with an absolute path. A command with relative paths is prefixed by a
            `cd` to their folder.

        Raises:
            DataError: The file is in none of the folders.
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
        command = entry.rstrip("| ")
        words = command.split()  # also those of a command in quotes
        try:
            words += shlex.split(command)
        except ValueError:  # an apostrophe: the shell will tell
            pass
        paths = [word for word in words if "/" in word and word[0] not in "/-"]
        for path in paths:
            if self.root is None:
                self.root = self._find(path)
        if not paths or self.root is None:
            return entry
        return f"cd {shlex.quote(self.root)} && {entry}"

    def _find(self, path: str) -> str | None:
        # The current folder is tried last: it may have another recipe's dump/raw/train.
        for folder in (*_above(self._folder), os.getcwd()):
            if os.path.isfile(os.path.join(folder, path)):
                return folder
        return None


def _above(folder: str | Path) -> Iterator[str]:
    for path in (os.path.abspath(folder), os.path.realpath(folder)):
        while path != os.path.dirname(path):
            path = os.path.dirname(path)
            yield path
