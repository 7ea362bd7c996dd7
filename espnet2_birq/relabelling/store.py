"""Label files: small integers in archives that ESPnet reads directly.

An utterance's codes are the samples of a 16-bit WAV in `labels.N.ark`, two bytes per
frame (32-bit above 32,768 codes), and `labels.scp` has their positions. ESPnet's type
``kaldi_ark`` reads them, and returns the samples as integers. Kaldi's own integer
vectors take five bytes per frame. The WAV's sampling rate is the number of labels per
second, rounded.

ESPnet can read no smaller form: it scales 8-bit samples, reads FLAC to the end of the
archive, and refuses unsigned integers.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from espnet2_birq.datadir.files import sync, whole_file

SCP = "labels.scp"
MOST_16_BIT = 2**15  # codes that fit into 16 bits, besides -1 for no label


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
    scp.unlink(missing_ok=True)  # it points into the archive, which changes
    with whole_file(scp) as partial:
        with partial.open("w", encoding="utf-8") as index, ark.open("wb") as archive:
            for name, codes in labels:
                archive.write(f"{name} ".encode())
                index.write(f"{name} {ark}:{archive.tell()}\n")
                archive.write(_wav(codes.astype(dtype), max(1, round(rate))))
        sync(ark)  # the list, which appears next, points into it


def _wav(samples: np.ndarray, rate: int) -> bytes:
    stream = io.BytesIO()
    subtype = "PCM_16" if samples.dtype == np.int16 else "PCM_32"
    soundfile.write(stream, samples, rate, subtype, format="WAV")
    return stream.getvalue()
