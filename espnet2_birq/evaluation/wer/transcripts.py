"""References and hypotheses of a set."""

from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_lines

# NIST sclite ignores the case of ASCII letters only.
_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)


class Transcripts(NamedTuple):
    """Utterances of a set, in the order of the reference.

    Attributes:
        ids: Utterance ids.
        refs: References, tokens separated by spaces.
        hyps: Hypotheses, tokens separated by spaces.
    """

    ids: list[str]
    refs: list[str]
    hyps: list[str]


def fold_case(text: str) -> str:
    """Return the text with ASCII letters in lower case, which is sclite's default."""
    return text.lower() if text.isascii() else text.translate(_FOLD)


def read_transcripts(path: str | Path, is_trn: bool | None = None) -> dict[str, str]:
    """Read utterances from a trn file or from a Kaldi text file.

    Args:
        path: UTF-8 file. trn has lines `token token ... (speaker-utterance)`; Kaldi
            text has sorted lines `utterance token token ...`.
        is_trn: Whether the file is in trn format; None decides by the file name.

    Returns:
        Mapping from utterance id to its tokens, separated by spaces, possibly none; in
        the order of the file.

    Raises:
        DataError: The file is missing or empty, a line has no id, or an id is repeated.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; run asr.sh with --stage 12")
    if not (path.suffix == ".trn" if is_trn is None else is_trn):
        return read_scp(path, allow_empty_values=True)
    transcripts: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        line = line.strip()
        if not line:
            continue
        start = line.rfind("(")
        utt_id = line[start + 1 : -1]
        if start < 0 or not line.endswith(")") or not utt_id or " " in utt_id:
            raise DataError(
                f"{path}: line {number} does not end with (speaker-utterance); run "
                "asr.sh --stage 13 again"
            )
        if utt_id in transcripts:
            raise DataError(
                f"{path}: line {number}: ({utt_id}) occurs twice; remove one"
            )
        transcripts[utt_id] = line[:start].strip()
    if not transcripts:
        raise DataError(f"{path}: empty file; run asr.sh with --stage 12")
    return transcripts


def read_pair(
    ref: str | Path, hyp: str | Path, is_trn: bool | None = None
) -> Transcripts:
    """Read references and hypotheses of the same utterances.

    Args:
        ref: Reference file, as in read_transcripts().
        hyp: Hypothesis file, in the same format.
        is_trn: As in read_transcripts().

    Returns:
        References and hypotheses.

    Raises:
        DataError: As in read_transcripts(), or an utterance is in only one file.
    """
    ref_of, hyp_of = (read_transcripts(path, is_trn) for path in (ref, hyp))
    for path, other, missing in (
        (hyp, ref, [utt_id for utt_id in ref_of if utt_id not in hyp_of]),
        (ref, hyp, [utt_id for utt_id in hyp_of if utt_id not in ref_of]),
    ):
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DataError(
                f"{path}: lacks {len(missing)} utterance(s) of {other}: {some}; "
                "run asr.sh with --stage 12 again"
            )
    return Transcripts(
        list(ref_of), list(ref_of.values()), [hyp_of[utt_id] for utt_id in ref_of]
    )
