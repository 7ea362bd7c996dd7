"""Sources of shards: a folder, or the Hugging Face hub."""

import math
import shutil
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,
    LocalEntryNotFoundError,
    XetDownloadError,
)

from espnet2_birq.corpora.yodas import layout
from espnet2_birq.corpora.yodas.layout import Shard
from espnet2_birq.datadir.stamp import describe
from espnet2_birq.errors import DataError


class FolderSource:
    """Release on disk.

    Args:
        folder: Folder of the release, or its subfolder data/.

    Raises:
        DataError: The folder has no subsets.
    """

    revision = None

    def __init__(self, folder: str | Path):
        self.root = layout.find_root(folder)

    def __str__(self) -> str:
        return str(self.root)

    def subsets(self) -> list[str]:
        """List the subsets, sorted."""
        return layout.find_subsets(self.root)

    def shards(self, subset: str) -> list[Shard]:
        """List a subset's shards, sorted."""
        return layout.find_shards(self.root, subset)

    def fetch(self, shard: Shard) -> Path:
        """Return the folder of the subsets, which has the shard."""
        return self.root

    def seconds(self, shard: Shard) -> float:
        """Sum up the shard's duration file, before any filter; 0 without the file."""
        path = self.root / shard.subset / "duration" / f"{shard.number}.txt"
        if not path.is_file():
            return 0.0
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        return sum(_last_number(line) for line in lines)

    def tar_bytes(self, shard: Shard) -> int | None:
        """Return the size of the shard's tar file; None if it is not here."""
        path = layout.tar_path(self.root, shard)
        return path.stat().st_size if path.is_file() else None

    def text(self, shard: Shard) -> dict | None:
        """Return size and SHA-256 of the shard's text file; None if it is not here."""
        path = layout.text_path(self.root, shard)
        return describe(path) if path else None

    def discard(self, shard: Shard) -> None:
        """Do nothing: the folder is the user's."""

    def close(self) -> None:
        """Do nothing: the folder is the user's."""


class HubSource:
    """Release on the Hugging Face hub; shards are downloaded one by one.

    Args:
        release: yodas or yodas2.
        folder: Folder for downloads.
        keep: Whether to keep a shard's files after its preparation.
        revision: Commit of the release; None uses the newest.

    Raises:
        DataError: The hub cannot be reached.
    """

    def __init__(self, release: str, folder: Path, keep: bool, revision: str | None):
        self.release, self.keep = release, keep
        self._repository = f"espnet/{release}"
        self._folder = folder
        self._sizes: dict[str, int] = {}  # by path in the repository
        info = self._ask(
            HfApi().dataset_info, self._repository, revision=revision, timeout=60
        )
        self.revision = info.sha

    def __str__(self) -> str:
        return f"{self._repository} at {self.revision}"

    def subsets(self) -> list[str]:
        """List the subsets, sorted."""
        names = self._list("data")
        return sorted(name for name in names if layout.SUBSET.fullmatch(name))

    def shards(self, subset: str) -> list[Shard]:
        """List a subset's shards, sorted."""
        return layout.shards_of(subset, self._list(f"data/{subset}/audio"))

    def fetch(self, shard: Shard) -> Path:
        """Download a shard, resuming an interrupted download.

        Returns:
            Folder of the subsets, which has the shard.

        Raises:
            DataError: The hub cannot be reached.
        """
        ending = ".txt" if self.release == "yodas" else ".json"
        self._download(f"data/{shard.subset}/audio/{shard.number}{layout.AUDIO_SUFFIX}")
        try:
            self._download(f"data/{shard.subset}/text/{shard.number}{ending}")
        except FileNotFoundError:
            pass  # some shards have no text file; prepare_shard() reports them
        return self._folder / "data"

    def seconds(self, shard: Shard) -> float:
        """Return 0, since duration files are not downloaded."""
        return 0.0

    def tar_bytes(self, shard: Shard) -> int | None:
        """Return the size of the shard's tar file on the hub."""
        folder = f"data/{shard.subset}/audio"
        path = f"{folder}/{shard.number}{layout.AUDIO_SUFFIX}"
        if path not in self._sizes:  # a manifest names shards without listing them
            self._list(folder)
        return self._sizes.get(path)

    def text(self, shard: Shard) -> None:
        """Return None: the text file is only read when the shard is prepared."""

    def discard(self, shard: Shard) -> None:
        """Remove a shard's downloaded files, unless they are to be kept."""
        if not self.keep:
            for path in self._folder.glob(f"data/{shard.subset}/*/{shard.number}.*"):
                path.unlink()

    def close(self) -> None:
        """Remove the folder of downloads, unless they are to be kept."""
        if not self.keep and self._folder.is_dir():
            shutil.rmtree(self._folder)

    def _list(self, path: str) -> list[str]:
        def ask() -> list[str]:
            tree = HfApi().list_repo_tree(
                self._repository, path, revision=self.revision, repo_type="dataset"
            )
            entries = list(tree)
            for entry in entries:  # folders have no size
                if (size := getattr(entry, "size", None)) is not None:
                    self._sizes[entry.path] = size
            return [entry.path.rsplit("/", 1)[-1] for entry in entries]

        return self._ask(ask)

    def _download(self, path: str) -> None:
        self._ask(
            hf_hub_download,
            self._repository,
            path,
            repo_type="dataset",
            revision=self.revision,
            local_dir=self._folder,
        )

    def _ask(self, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except LocalEntryNotFoundError as error:
            raise self._unreachable(error) from error
        except EntryNotFoundError as error:
            raise FileNotFoundError(f"{self._repository}: {error}") from error
        except (HTTPError, XetDownloadError, OSError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> DataError:
        why = str(error).strip().split("\n")[0]
        return DataError(
            f"{self._repository}: not reached ({type(error).__name__}: {why}); repeat "
            "the command when the network is back, or give a copy with --yodas DIR"
        )


def _last_number(line: str) -> float:
    try:
        number = float(line.split()[-1])
    except (IndexError, ValueError):
        return 0.0
    return number if math.isfinite(number) else 0.0
