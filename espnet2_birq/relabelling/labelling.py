"""Offline relabelling: write a model's labels to disk to train the next model."""

import logging
from pathlib import Path

import kaldiio
import numpy as np
from espnet2.train.collate_fn import CommonCollateFn

from espnet2_birq.datadir.audio import LARGEST_SAMPLE, NOT_FINITE
from espnet2_birq.datadir.files import whole_file
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.tasks.collate import check_first_audio, refuse_channels
from espnet2_birq.tasks.ssl import SSLTask


def dump_labels(
    model: BiRQModel, objective: str, data: str, out: Path, batch_size: int = 8
) -> int:
    """Label all frames of clean speech with their nearest codes.

    Args:
        model: Model in evaluation mode.
        objective: Name of one of its objectives, whose first codebook is used.
        data: FILE,speech,TYPE, as for ssl_train.
        out: Folder for labels.ark and labels.scp; the latter appears when complete.
        batch_size: Number of utterances per batch.

    Returns:
        Number of utterances. Those with non-finite samples get the label -1
        and a warning.

    Raises:
        ConfigError: Invalid `data`, or no such objective.
        DataError: Missing or bad audio.
    """
    parts = data.split(",")
    if len(parts) != 3:
        raise ConfigError(f"--data {data}: give FILE,speech,TYPE")
    check_first_audio([parts], {"fs": model.sample_rate})
    batches = SSLTask.build_streaming_iterator(
        [tuple(parts)],
        preprocess_fn=refuse_channels,
        collate_fn=CommonCollateFn(float_pad_value=0.0, int_pad_value=-1),
        batch_size=batch_size,
        dtype="float32",
        num_workers=1,
    )
    device = next(model.parameters()).device
    out.mkdir(parents=True, exist_ok=True)
    ark, scp = out / "labels.ark", out / "labels.scp"
    scp.unlink(missing_ok=True)  # until it is whole again: it points into the ark
    count = 0
    bad: list[str] = []
    with (
        whole_file(scp) as partial,
        kaldiio.WriteHelper(f"ark,scp:{ark},{partial}") as writer,
    ):
        for keys, batch in batches:
            batch = {name: value.to(device) for name, value in batch.items()}
            # Utterances that training drops get label -1, so that all lists have the
            # same utterances.
            good = (batch["speech"].abs() < LARGEST_SAMPLE).all(dim=1, keepdim=True)
            batch["speech"] = batch["speech"].where(good, 0.0)
            codes, frames = model.label(**batch, name=objective)
            codes = codes[0].where(good, -1)
            bad += [
                key for key, sound in zip(keys, good.flatten().tolist()) if not sound
            ]
            for key, row, length in zip(keys, codes.cpu().numpy(), frames.tolist()):
                writer(key, row[:length].astype(np.int32))
                count += 1
                if count % 1000 == 0:
                    logging.info(f"{count} utterances")
    if bad:
        logging.warning(
            f"{scp}: {len(bad)} utterances without a label (-1), having {NOT_FINITE}: "
            + " ".join(bad)
        )
    return count
