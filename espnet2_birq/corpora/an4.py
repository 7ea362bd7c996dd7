"""Mini AN4: nine short recordings in ESPnet's source tree, for trying out recipes."""

import os
import re
import tarfile
import tempfile
from pathlib import Path

from espnet2_birq.datadir.audio import probe_many
from espnet2_birq.datadir.kaldi import Utterance, write_data_dir
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_lines, refusing

SAMPLE_RATE = 16000  # Hz
AUDIO_FOLDERS = {"train": "an4_clstk", "test": "an4test_clstk"}
# "<s> YES </s> (an251-fash-b)" or, in the test part, "YES (an251-fash-b)"
TRANSCRIPT = re.compile(r"^(?:<s> )?(.*?)(?: </s>)? \((\w+)-(\w+)-(\w+)\)$")


def prepare_an4(tarball: Path, downloads: Path, dest: Path) -> None:
    """Write train_dev, train_nodev and test, and print the size of each.

    Args:
        tarball: egs2/mini_an4/asr1/downloads.tar.gz of an ESPnet tree.
        downloads: Folder for the unpacked tar file; an existing one is used unchanged.
        dest: Parent folder of the data directories.

    Raises:
        DataError: The tar file or its contents are wrong.
    """
    corpus = unpack_an4(tarball, downloads)
    train = read_an4(corpus, "train")
    sets = {
        "train_nodev": train[1:],
        "train_dev": train[:1],
        "test": read_an4(corpus, "test"),
    }
    for name, utterances in sets.items():
        infos = probe_many([u.path for u in utterances], SAMPLE_RATE)
        write_data_dir(dest / name, utterances)
        print(
            f"{dest / name}: {len(utterances)} utterances, "
            f"{len({u.speaker for u in utterances})} speakers, "
            f"{sum(info.seconds for info in infos):.1f} seconds"
        )


def unpack_an4(tarball: str | Path, downloads: str | Path) -> Path:
    """Unpack ESPnet's mini AN4, unless it is unpacked already.

    Args:
        tarball: egs2/mini_an4/asr1/downloads.tar.gz of an ESPnet tree.
        downloads: Folder to create, with the contents of downloads/ in the tar file.

    Returns:
        Absolute path of the folder an4/.

    Raises:
        DataError: The tar file is missing or not mini AN4, or `downloads` exists and
            is something else.
    """
    tarball, downloads = Path(tarball), Path(os.path.abspath(downloads))
    corpus = downloads / "an4"
    if (corpus / "etc").is_dir():
        return corpus
    if downloads.exists():
        raise DataError(
            f"{downloads}: exists without AN4 in it; "
            "move it away or choose another --downloads"
        )
    if not tarball.is_file():
        raise DataError(
            f"{tarball}: no such file; it is egs2/mini_an4/asr1/downloads.tar.gz of an "
            "ESPnet source tree"
        )
    downloads.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete, so that an interrupted run leaves no partial corpus.
    with tempfile.TemporaryDirectory(dir=downloads.parent) as scratch:
        try:
            with (
                refusing(tarball, "not a readable tar file", "copy it again"),
                tarfile.open(tarball) as tar,
            ):
                tar.extractall(scratch, filter="data")
        except (tarfile.TarError, OSError) as error:
            why = " ".join(str(error).split())[:200]
            raise DataError(
                f"{tarball}: not a readable tar file ({why}); copy it again"
            ) from error
        if not Path(scratch, "downloads", "an4", "etc").is_dir():
            raise DataError(
                f"{tarball}: has no downloads/an4/etc; give mini AN4's downloads.tar.gz"
            )
        Path(scratch, "downloads").rename(downloads)
    return corpus


def read_an4(corpus: Path, part: str) -> list[Utterance]:
    """Read one part of AN4.

    Args:
        corpus: The folder an4/.
        part: "train" or "test".

    Returns:
        Utterances sorted by id. Ids are <speaker>-<text>-<take>, as in ESPnet's
        recipe; transcripts are as distributed, without <s> and </s>.

    Raises:
        DataError: The transcript file is missing, or one of its lines is malformed.
    """
    path = corpus / "etc" / f"an4_{part}.transcription"
    if not path.is_file():
        raise DataError(f"{path}: no such file; remove {corpus.parent} and run again")
    utterances = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        if not (match := TRANSCRIPT.match(line.strip())):
            raise DataError(
                f"{path}: line {number} is not `words (name)`; "
                f"remove {corpus.parent} and run again"
            )
        words, what, speaker, take = match.groups()
        audio = corpus / "wav" / AUDIO_FOLDERS[part] / speaker
        utterances.append(
            Utterance(
                f"{speaker}-{what}-{take}",
                speaker,
                str(audio / f"{what}-{speaker}-{take}.sph"),
                words,
            )
        )
    return sorted(utterances, key=lambda utterance: utterance.utt_id)
