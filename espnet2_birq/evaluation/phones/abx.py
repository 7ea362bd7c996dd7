"""ABX error rates of triphones, through fastabx (an extra: espnet2-birq[abx]).

Given triphones A and B that differ only in the middle phone, is a third one, X, of
A's type, nearer to A? Distances are angular, along the best path in time. Without
training or units, this measures the geometry of a layer. Within: A, B and X are of
one speaker; across: X is of another.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.phones.alignments import SILENCE, Alignment

HEADER = "#file onset offset #phone prev-phone next-phone speaker"
# As in the ZeroSpeech challenge's own evaluation
LARGEST_GROUP = 10  # of A, B or X alike
LARGEST_ACROSS = 5  # speakers of X


def import_fastabx():
    """Import it late: it wants polars and torchdtw, which nothing else needs.

    Raises:
        ConfigError: It is not installed.
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
    """List the triphones of an utterance that have frames of their own.

    Args:
        alignment: The utterance's phones.
        frames: T, how many frames there are.
        shift: Shift of a frame in seconds.

    Yields:
        Start and end in seconds, the phone, the one before it, the one after it. None
        of them is silence, there is no gap between them, and at least one frame has its
        centre inside.
    """
    starts, ends, phones = alignment.starts, alignment.ends, alignment.phones
    for n in range(1, len(phones) - 1):
        three = phones[n - 1 : n + 2]
        is_gap = (starts[n : n + 2] > ends[n - 1 : n + 1]).any()
        if is_gap or SILENCE in three:
            continue
        start, end = starts[n - 1] / 1e6, ends[n + 1] / 1e6
        # Frame t has its centre at (t + 1/2) shift.
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
    """Write the list of triphones that fastabx reads.

    Args:
        path: File to write.
        alignments: Utterance to its phones.
        speakers: Utterance to its speaker.
        frames: Utterance to its number of frames: these are used.
        shift: Shift of a frame in seconds.

    Raises:
        DataError: There is no triphone.
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
    """Compute the error rates, from 0 to 1; .5 is chance.

    Args:
        items: List of triphones.
        features: Folder with a (T, D) tensor in <utterance>.pt for each utterance.
        shift: Shift of a frame in seconds.

    Returns:
        Those within and across speakers.
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
    """Write an utterance's layers as fastabx reads them, <folder>/<layer>/<name>.pt."""
    for layer, values in layers.items():
        (folder / str(layer)).mkdir(exist_ok=True)
        torch.save(torch.tensor(values), folder / str(layer) / f"{name}.pt")
