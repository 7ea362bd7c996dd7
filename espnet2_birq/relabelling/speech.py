"""Batches of speech from a list."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.dataset import DATA_TYPES, ESPnetDataset
from torch.utils.data import DataLoader

from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.encoders.taps import batch_limit
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.tasks.bad_audio import BadAudio, ReadOrReason
from espnet2_birq.tasks.collate import check_first_audio
from espnet2_birq.tasks.ssl import SHORTEST

REPORT = 1000  # utterances between progress lines


class SpeechList(NamedTuple):
    """List of audio, and ESPnet's name for its type."""

    path: Path
    kind: str
    entries: dict[str, str]  # utterance id to audio, in order

    @classmethod
    def read(cls, data: str, rate: int) -> "SpeechList":
        """Read FILE,speech,TYPE, as for ssl_train.

        Args:
            data: See above.
            rate: Sampling rate of the model in Hz.

        Raises:
            ConfigError: `data` does not have this form.
            DataError: The list or its first audio cannot be used.
        """
        parts = data.split(",")
        if len(parts) != 3 or parts[1] != "speech" or parts[2] not in DATA_TYPES:
            raise ConfigError(
                f"--data {data}: give FILE,speech,TYPE, with an ESPnet type such as sound "
                "or kaldi_ark"
            )
        check_first_audio([parts], {"fs": rate})
        return cls(Path(parts[0]), parts[2], read_scp(parts[0]))


class SpeechBatch(NamedTuple):
    """Waveforms on the model's device."""

    names: Sequence[str]  # B utterance ids
    speech: torch.Tensor  # (B, N), silence where the audio is bad
    lengths: torch.Tensor  # (B,) in samples
    good: torch.Tensor  # (B,) False for bad audio: see BadAudio


def speech_batches(
    model: BiRQModel, speech: SpeechList, names: Sequence[str], batch_size: int
) -> Iterator[SpeechBatch]:
    """Yield batches of a list's utterances in the order of `names`.

    Bad audio, as training would leave out, is reported, and replaced by silence.

    Args:
        model: Model that will process the batches.
        speech: The list.
        names: Utterance ids, in the list's order.
        batch_size: Number of utterances per batch, but see batch_limit().
    """
    batch_size = batch_limit(model, batch_size)
    device = next(model.parameters()).device
    shortest = round(SHORTEST * model.sample_rate)
    check = BadAudio(shortest=shortest)
    pad = CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)

    def silence(speech):
        return np.zeros(max(shortest, len(speech)), np.float32)

    def collate(rows):
        faults = [check.fault(arrays) for _, arrays in rows]
        names, batch = pad(
            [
                (name, {"speech": silence(arrays["speech"])} if fault else arrays)
                for (name, arrays), fault in zip(rows, faults)
            ]
        )
        return names, batch["speech"], batch["speech_lengths"], faults

    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "wav.scp"
        with part.open("w", encoding="utf-8") as stream:
            stream.writelines(f"{name} {speech.entries[name]}\n" for name in names)
        dataset = ESPnetDataset([(str(part), "speech", speech.kind)])
        batches = DataLoader(
            ReadOrReason(dataset, model.sample_rate),
            batch_sampler=[
                list(names[start : start + batch_size])
                for start in range(0, len(names), batch_size)
            ],
            collate_fn=collate,
            num_workers=1,
        )
        done = 0
        for keys, waves, lengths, faults in batches:
            for key, fault in zip(keys, faults):
                if fault:
                    logging.warning(f"{speech.path}: {key} is left out: {fault}")
            good = torch.tensor([fault is None for fault in faults], device=device)
            yield SpeechBatch(keys, waves.to(device), lengths.to(device), good)
            if done // REPORT < (done := done + len(keys)) // REPORT:
                logging.info(f"{speech.path}: {done} of {len(names)} utterances")
