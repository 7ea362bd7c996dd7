"""Label files: small integers in an archive that ESPnet reads as it is.

An utterance's codes are the samples of a 16-bit WAV in `labels.N.ark`, two bytes a
frame, and `labels.scp` has their positions: ESPnet's type ``kaldi_ark``, which returns
16-bit samples as integers. Kaldi's own integer vectors take five bytes a frame. The WAV's
sampling rate is the number of labels per second, rounded.

No smaller form is read by a type of ESPnet's: it scales 8-bit samples, reads FLAC up to
the end of the archive, and refuses unsigned integers.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from espnet2_birq.datadir.files import whole_file

SCP = "labels.scp"
MOST_16_BIT = 2**15  # codes that 16 bits hold beside -1, no label


def write_labels(
    ark: Path, labels: Iterable[tuple[str, np.ndarray]], size: int, rate: float
) -> None:
    """Write the labels of utterances to an archive and a list, NAME.ark and NAME.scp.

    Args:
        ark: Archive; the list beside it appears when both are complete.
        labels: Utterance ids, and (T',) integers from -1 to `size` - 1.
        size: V, number of distinct labels.
        rate: Labels per second.
    """
    dtype = np.int16 if size <= MOST_16_BIT else np.int32
    scp = ark.with_suffix(".scp")
    scp.unlink(missing_ok=True)  # until it is whole again: it points into the archive
    with (
        whole_file(scp) as partial,
        partial.open("w", encoding="utf-8") as index,
        ark.open("wb") as archive,
    ):
        for name, codes in labels:
            archive.write(f"{name} ".encode())
            index.write(f"{name} {ark}:{archive.tell()}\n")
            archive.write(_wav(codes.astype(dtype), max(1, round(rate))))


def _wav(samples: np.ndarray, rate: int) -> bytes:
    stream = io.BytesIO()
    subtype = "PCM_16" if samples.dtype == np.int16 else "PCM_32"
    soundfile.write(stream, samples, rate, subtype, format="WAV")
    return stream.getvalue()
