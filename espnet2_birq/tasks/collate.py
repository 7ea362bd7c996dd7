"""Collation of waveforms into batches, dropping and logging bad audio.

Recipe stages check their data, but files may go bad
later, and ESPnet's training command accepts any list of files.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn

from espnet2_birq.checkpoint import sampling_rate
from espnet2_birq.datadir.audio import NOT_FINITE, ONE_CHANNEL, are_finite, probe_entry
from espnet2_birq.datadir.kaldi import iter_scp
from espnet2_birq.errors import DataError

Arrays = dict[str, np.ndarray]

NOISE_LEVEL = 0.01  # relative to full scale
NOISE_SAMPLES = 16000  # minimum, enough for a frame of any encoder
# Training stops once at least this many utterances, and more than half, were bad.
FEWEST_BAD = 4


def check_first_audio(
    lists: Iterable[Sequence[str]], frontend_conf: Mapping[str, Any]
) -> None:
    """Probe the first recording of each list.

    ESPnet checks only that the sample rate is constant within a list.

    Args:
        lists: Path, name and type, as in ``train_data_path_and_name_and_type``.
        frontend_conf: Frontend options of the model; ``fs`` in Hz, or as "16k".

    Raises:
        DataError: See probe_entry().
    """
    rate = sampling_rate(frontend_conf)
    for scp, name, kind in lists:
        # A folder is a list split into parts (--multiple_iterator).
        if name == "speech" and kind in ("sound", "kaldi_ark") and Path(scp).is_file():
            # ESPnet writes "None" for audio that failed.
            entries = (entry for _, entry in iter_scp(scp) if entry != "None")
            if first := next(entries, None):
                probe_entry(first, rate)


def refuse_channels(utt_id: str, arrays: Arrays) -> Arrays:
    """Refuse multi-channel speech; usable as ESPnet's preprocessing function.

    Args:
        utt_id: Utterance id.
        arrays: Data of the utterance; ``speech`` must be (N,).

    Returns:
        ``arrays``, unchanged.

    Raises:
        DataError: ``speech`` is (N, channels).
    """
    if arrays["speech"].ndim != 1:
        channels = arrays["speech"].shape[1]
        raise DataError(f"utterance {utt_id}: has {channels} channels, {ONE_CHANNEL}")
    return arrays


class SpeechCollateFn(CommonCollateFn):
    """Pads waveforms with zeros, and drops utterances with non-finite samples.

    All data of such an utterance, including labels, is dropped. A warning names each,
    once per data-loading process.

    If nothing remains, as is likely for a rank's part of a batch, the first
    utterance stays, with noise as samples and without labels (-1): ESPnet splits
    batches before reading them, and a rank without data would block the others.
    Noise, because frames of zeros have no variance, by which whitening would divide.
    """

    def __init__(self) -> None:
        """Pad as ESPnet's SSL task does."""
        super().__init__(float_pad_value=0.0, int_pad_value=-1)
        self.named: set[str] = set()
        self.good = self.bad = 0  # numbers of utterances in this process

    def __call__(
        self, data: Collection[tuple[str, Arrays]]
    ) -> tuple[list[str], dict[str, torch.Tensor]]:
        """Collate a batch.

        Args:
            data: Utterance ids and arrays; ``speech`` is (N,).

        Returns:
            Ids of the utterances in the batch, and padded arrays with lengths.

        Raises:
            DataError: Multi-channel speech, or most utterances read by this process
                are bad.
        """
        good = [one for one in data if self._is_good(*one)]
        return super().__call__(good or [self._stand_in(*next(iter(data)))])

    def _is_good(self, utt_id: str, arrays: Arrays) -> bool:
        speech = refuse_channels(utt_id, arrays)["speech"]
        if len(speech) and are_finite(speech):
            self.good += 1
            return True
        self.bad += 1
        why = NOT_FINITE if len(speech) else "no samples"
        if utt_id not in self.named:
            self.named.add(utt_id)
            logging.warning(
                f"utterance {utt_id} is left out of its batch: {why} (bad utterance "
                f"{len(self.named)} of this process); check_data --full finds all"
            )
        if self.bad >= FEWEST_BAD and self.bad > self.good:
            raise DataError(
                f"utterance {utt_id}: {why}, as in {self.bad} of the "
                f"{self.bad + self.good} utterances read so far; find them with "
                "check_data --full, and leave them out or make them again"
            )
        return False

    def _stand_in(self, utt_id: str, arrays: Arrays) -> tuple[str, Arrays]:
        stand_in = {
            name: np.full_like(array, self.int_pad_value)
            for name, array in arrays.items()
        }
        samples = max(len(arrays["speech"]), NOISE_SAMPLES)
        noise = np.random.default_rng(0).normal(0.0, NOISE_LEVEL, samples)
        stand_in["speech"] = noise.astype(arrays["speech"].dtype)
        return utt_id, stand_in
