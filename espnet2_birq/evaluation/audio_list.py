"""Audio of a data directory, whose recordings must be utterances."""

from pathlib import Path

from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.datadir.paths import PathResolver
from espnet2_birq.errors import DataError


def read_audio_list(folder: Path) -> dict[str, str]:
    """Return the audio of each utterance, without opening it.

    Args:
        folder: Data directory with wav.scp.

    Returns:
        Mapping from name to audio file or file.ark:offset, with absolute paths.

    Raises:
        DataError: wav.scp is invalid, has a command, or has relative paths that lead to
            no file; or there are segments.
    """
    remedy = f"give what stage 3 of the recipe has written, as dump/raw/{folder.resolve().name}"
    if (folder / "segments").exists():
        raise DataError(
            f"{folder}/segments: audio must be cut into utterances; {remedy}"
        )
    resolve, found = PathResolver(folder), {}
    for name, entry in read_scp(folder / "wav.scp").items():
        if entry.endswith("|"):
            raise DataError(f"{folder}/wav.scp: {name} is a command; {remedy}")
        found[name] = resolve(entry)
    return found
