"""Collation of waveforms into batches, without bad audio."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn

from espnet2_birq.config import sampling_rate
from espnet2_birq.datadir.audio import probe_entry
from espnet2_birq.datadir.kaldi import iter_scp
from espnet2_birq.tasks.bad_audio import Arrays, BadAudio

UNKNOWN = 1  # ESPnet's token <unk>
NOISE_LEVEL = 0.01  # relative to full scale
NOISE_SAMPLES = 16000  # minimum, enough for a frame of any encoder
NOISE_VECTORS = 100  # the same for vectors instead of samples


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


class SpeechCollateFn(CommonCollateFn):
    """Pads waveforms with zeros, and drops bad utterances.

    All data of a bad utterance, including its labels, is dropped.

    If nothing remains, which is most likely in one rank's part of a batch, the first
    utterance is kept, with noise for samples and no labels (-1): ESPnet splits batches
    before reading them, and a rank without data would block the others. Zeros would not
    do: whitening divides by the variance of the frames.

    Args:
        bad_audio: Decides which utterances are bad, and lists them.
    """

    def __init__(self, bad_audio: BadAudio | None = None) -> None:
        """Pad as ESPnet's SSL task does."""
        super().__init__(float_pad_value=0.0, int_pad_value=-1)
        self.bad_audio = bad_audio or BadAudio()

    def __call__(
        self, data: Collection[tuple[str, Arrays]]
    ) -> tuple[list[str], dict[str, torch.Tensor]]:
        """Collate a batch.

        Args:
            data: Utterance ids and arrays; ``speech`` is (N,).

        Returns:
            Ids of the utterances in the batch, and padded arrays with lengths.

        Raises:
            DataError: Too many of the utterances read by this process are bad.
        """
        good = [one for one in data if self.bad_audio.is_good(*one)]
        return super().__call__(good or [self._stand_in(*next(iter(data)))])

    def _stand_in(self, utt_id: str, arrays: Arrays) -> tuple[str, Arrays]:
        stand_in = {
            name: np.full_like(array, self.int_pad_value)
            for name, array in arrays.items()
        }
        samples, size = len(arrays["speech"]), self.bad_audio.size
        least = NOISE_SAMPLES if size is None else NOISE_VECTORS
        if not least <= samples <= (self.bad_audio.longest or samples):
            samples = least
        shape = (samples,) if size is None else (samples, size)
        noise = np.random.default_rng(0).normal(0.0, NOISE_LEVEL, shape)
        stand_in["speech"] = noise.astype(arrays["speech"].dtype)
        return utt_id, stand_in


class TranscribedCollateFn(SpeechCollateFn):
    """Collates speech with transcripts, which a CTC loss does not take without a token."""

    def _stand_in(self, utt_id: str, arrays: Arrays) -> tuple[str, Arrays]:
        utt_id, stand_in = super()._stand_in(utt_id, arrays)
        texts = {name: np.full(1, UNKNOWN) for name in stand_in if name != "speech"}
        return utt_id, {**stand_in, **texts}
