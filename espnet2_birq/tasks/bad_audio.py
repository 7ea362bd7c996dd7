"""Audio that turns out to be bad when it is read: listed and left out, up to a limit.

Recipe stages check their data, but files may go bad later, and ESPnet's training command
accepts any list of files.
"""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from espnet2.train.dataset import ESPnetDataset
from torch.utils.data import Dataset

from espnet2_birq.datadir.audio import NOT_FINITE, are_finite
from espnet2_birq.errors import DataError

LIST = "bad_audio"  # file in the experiment's folder: utterance, reason
FEWEST = 100  # minimum number of utterances over which the share is computed

Arrays = dict[str, np.ndarray]


class Unreadable(Arrays):
    """Empty arrays in place of an utterance's data that could not be read.

    Attributes:
        why: The reason.
    """

    why = ""


class ReadOrReason(Dataset):
    """ESPnet's dataset, returning Unreadable instead of raising if reading fails.

    Args:
        dataset: ESPnet's dataset.
        fs: Required sample rate of speech in Hz, checked for files that state one.
    """

    def __init__(self, dataset: ESPnetDataset, fs: int):
        self.dataset = dataset
        loader = dataset.loader_dict["speech"]
        if hasattr(loader, "rate"):
            loader.rate = fs  # ESPnet would take that of the first file read

    def __getitem__(self, utt_id: str) -> tuple[str, Arrays]:
        """Read the data of an utterance."""
        try:
            return self.dataset[utt_id]
        except (KeyError, MemoryError):
            raise
        except Exception as error:  # of libsndfile, kaldiio, the operating system, ...
            empty = Unreadable(speech=np.zeros(0, np.float32))
            for name in self.dataset.names():
                if name != "speech":
                    empty[name] = np.full(1, -1)
            empty.why = f"not readable ({' '.join(str(error).split())[:200]})"
            return utt_id, empty


class BadAudio:
    """Counts and lists bad audio in a process that reads data.

    Args:
        folder: Folder of the experiment, whose list is extended; None: no list.
        shortest: Minimum number of samples, or vectors.
        longest: Maximum number of them, the size of a whole batch; None: no limit.
        most: Largest share of bad utterances that is tolerated.
        size: Vector size, if utterances are sequences of vectors; None: of samples.
    """

    def __init__(
        self,
        folder: Path | None = None,
        shortest: int = 1,
        longest: int | None = None,
        most: float = 0.05,
        size: int | None = None,
    ):
        self.size = size
        self.path = folder / LIST if folder else None
        self.shortest, self.longest, self.most = shortest, longest, most
        self.good = self.bad = 0
        self._known: set[str] | None = None  # utterances in the list

    def is_good(self, utt_id: str, arrays: Arrays) -> bool:
        """Check whether an utterance can be used; list it if not.

        Raises:
            DataError: The share of bad utterances exceeds ``most``.
        """
        why = self.fault(arrays)
        if why is None:
            self.good += 1
            return True
        self.bad += 1
        self._list(utt_id, why)
        seen = self.good + self.bad
        if self.bad > self.most * max(seen, FEWEST):
            raise DataError(
                f"utterance {utt_id}: {why}; {self.bad} of the {seen} utterances read so "
                f"far are bad, see {self.path or 'the log'}: make them again or leave them "
                "out (check_data --decode finds all), or raise --max_bad_audio"
            )
        return False

    def fault(self, arrays: Arrays) -> str | None:
        """Return why an utterance cannot be used; None if it can."""
        if isinstance(arrays, Unreadable):
            return arrays.why
        speech = arrays["speech"]
        unit, remedy = "samples", "raise batch_bins or lower --max_wav_duration"
        if self.size is not None:
            unit, remedy = "vectors", "raise batch_bins"
        if self.size is not None and speech.shape[1:] != (self.size,):
            return f"of shape {speech.shape}, not a row of {self.size} values each"
        if self.size is None and speech.ndim != 1:
            return f"has {speech.shape[1]} channels"
        if not len(speech):
            return f"no {unit}"
        if not are_finite(speech):
            return NOT_FINITE.replace("samples", unit)
        if len(speech) < self.shortest:
            return f"{len(speech)} {unit}, fewer than {self.shortest}"
        if self.longest is not None and len(speech) > self.longest:
            return f"{len(speech)} {unit}, a whole batch has {self.longest} ({remedy})"
        return None

    def _list(self, utt_id: str, why: str) -> None:
        if self._known is None:  # from earlier epochs and other processes
            self._known = set()
            if self.path is not None and self.path.exists():
                text = self.path.read_text(encoding="utf-8", errors="replace")
                self._known = {line.split(" ", 1)[0] for line in text.splitlines()}
        if utt_id in self._known:
            return
        self._known.add(utt_id)
        logging.warning(
            f"utterance {utt_id} is left out of its batch: {why} (bad utterance "
            f"{len(self._known)}); check_data --decode finds all"
        )
        if self.path is not None:
            # In a single write, since other processes append to the same file.
            descriptor = os.open(
                self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644
            )
            try:
                os.write(descriptor, f"{utt_id} {why}\n".encode())
            finally:
                os.close(descriptor)


def read_or_reason(dataset: Any, fs: int) -> Any:
    """Wrap ESPnet's dataset of files; return other datasets unchanged."""
    return ReadOrReason(dataset, fs) if isinstance(dataset, ESPnetDataset) else dataset
