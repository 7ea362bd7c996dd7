"""ABX error rates of triphones, through fastabx (an extra: espnet2-birq[abx]).

Triphones A and B differ only in the middle phone; X has the same phones as A. An error is
an X that is nearer to B. Distances are angular, along the best alignment in time. This
measures the geometry of a layer without training and without units. "Within": A, B and X
are from one speaker; "across": X is from another.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.phones.alignments import SILENCE, Alignment

HEADER = "#file onset offset #phone prev-phone next-phone speaker"
# Limits of the ZeroSpeech challenge's evaluation.
LARGEST_GROUP = 10  # examples each of A, B and X
LARGEST_ACROSS = 5  # speakers of X


def import_fastabx():
    """Import fastabx when needed: it requires polars and torchdtw.

    Raises:
        ConfigError: fastabx is not installed.
    """
    try:
        import fastabx
    except ImportError as error:
        raise ConfigError(
            f"--abx: {error}; run `pip install fastabx`, or install this package as "
            "espnet2-birq[abx]"
        ) from error
    return fastabx


def triphones(
    alignment: Alignment, frames: int, shift: float
) -> Iterator[tuple[float, float, str, str, str]]:
    """List the triphones of an utterance that contain at least one frame's centre.

    Args:
        alignment: Phones of the utterance.
        frames: Number of frames T.
        shift: Frame shift in seconds.

    Yields:
        Start and end in seconds, phone, previous phone and next phone. None of the phones
        is silence, and there is no gap between them.
    """
    starts, ends, phones = alignment.starts, alignment.ends, alignment.phones
    for n in range(1, len(phones) - 1):
        three = phones[n - 1 : n + 2]
        is_gap = (starts[n : n + 2] > ends[n - 1 : n + 1]).any()
        if is_gap or SILENCE in three:
            continue
        start, end = starts[n - 1] / 1e6, ends[n + 1] / 1e6
        # The centre of frame t is at (t + 1/2) shift.
        first = np.ceil(round(start / shift - 0.5, 6))
        last = np.floor(round(end / shift - 0.5, 6))
        if first <= last < frames:
            yield start, end, three[1], three[0], three[2]


def write_items(
    path: Path,
    alignments: Mapping[str, Alignment],
    speakers: Mapping[str, str],
    frames: Mapping[str, int],
    shift: float,
) -> None:
    """Write fastabx's list of triphones.

    Args:
        path: File to write.
        alignments: Mapping from utterance to its phones.
        speakers: Mapping from utterance to its speaker.
        frames: Mapping from each utterance to use to its number of frames.
        shift: Frame shift in seconds.

    Raises:
        DataError: There are no triphones.
    """
    lines = [
        f"{name} {start:.6f} {end:.6f} {phone} {before} {after} {speakers[name]}\n"
        for name, number in sorted(frames.items())
        for start, end, phone, before, after in triphones(
            alignments[name], number, shift
        )
    ]
    if not lines:
        raise DataError("no triphone without silence in these utterances: no ABX")
    path.write_text(HEADER + "\n" + "".join(lines), encoding="utf-8")


def abx_errors(items: Path, features: Path, shift: float) -> dict[str, float]:
    """Compute the error rates, from 0 to 1; chance is 0.5.

    Args:
        items: List of triphones, from write_items().
        features: Folder with a (T, D) tensor <utterance>.pt for each utterance.
        shift: Frame shift in seconds.

    Returns:
        Error rates within and across speakers.
    """
    fastabx = import_fastabx()
    frequency = f"{1 / shift:.6f}".rstrip("0").rstrip(".")
    return {
        speaker: fastabx.zerospeech_abx(
            items,
            features,
            max_size_group=LARGEST_GROUP,
            max_x_across=LARGEST_ACROSS,
            speaker=speaker,
            context="within",
            distance="angular",
            frequency=frequency,
        )
        for speaker in ("within", "across")
    }


def save_features(folder: Path, name: str, layers: Mapping[int, np.ndarray]) -> None:
    """Write an utterance's layers to <folder>/<layer>/<name>.pt, for fastabx."""
    for layer, values in layers.items():
        (folder / str(layer)).mkdir(exist_ok=True)
        torch.save(torch.tensor(values), folder / str(layer) / f"{name}.pt")
