"""Batches of speech from a list."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from espnet2.train.collate_fn import CommonCollateFn

from espnet2_birq.datadir.audio import LARGEST_SAMPLE
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.tasks.collate import check_first_audio, refuse_channels
from espnet2_birq.tasks.ssl import SSLTask

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
        if len(parts) != 3:
            raise ConfigError(f"--data {data}: give FILE,speech,TYPE")
        check_first_audio([parts], {"fs": rate})
        return cls(Path(parts[0]), parts[2], read_scp(parts[0]))


class SpeechBatch(NamedTuple):
    """Waveforms on the model's device."""

    names: Sequence[str]  # B utterance ids
    speech: torch.Tensor  # (B, N), zeros where the audio is bad
    lengths: torch.Tensor  # (B,) in samples
    good: torch.Tensor  # (B,) False for audio with non-finite samples


def speech_batches(
    model: BiRQModel, speech: SpeechList, names: Sequence[str], batch_size: int
) -> Iterator[SpeechBatch]:
    """Yield batches of a list's utterances in the order of `names`.

    Args:
        model: Model that will process the batches.
        speech: The list.
        names: Utterance ids, in the list's order.
        batch_size: Number of utterances per batch.

    Raises:
        DataError: Audio has several channels.
    """
    device = next(model.parameters()).device
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "wav.scp"
        with part.open("w", encoding="utf-8") as stream:
            stream.writelines(f"{name} {speech.entries[name]}\n" for name in names)
        batches = SSLTask.build_streaming_iterator(
            [(str(part), "speech", speech.kind)],
            preprocess_fn=refuse_channels,
            collate_fn=CommonCollateFn(float_pad_value=0.0, int_pad_value=-1),
            batch_size=batch_size,
            dtype="float32",
            num_workers=1,
        )
        done = 0
        for keys, batch in batches:
            waves = batch["speech"].to(device)
            good = (waves.abs() < LARGEST_SAMPLE).all(dim=1)
            waves = waves.where(good[:, None], 0.0)
            yield SpeechBatch(keys, waves, batch["speech_lengths"].to(device), good)
            if done // REPORT < (done := done + len(keys)) // REPORT:
                logging.info(f"{speech.path}: {done} of {len(names)} utterances")
