"""Error rates of whole meetings whose speakers are found by the recogniser.

cpWER concatenates each speaker's words and uses the assignment of hypothesis
to reference speakers with the fewest errors (CHiME-6, arXiv 2004.09249); tcpWER forbids
matches further apart than a collar (arXiv 2307.11394). Both are computed by meeteval.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.evaluation.wer.experiments import DecodedSet, Options, read_set
from espnet2_birq.evaluation.wer.grouping import label
from espnet2_birq.evaluation.wer.normalization import Normalization
from espnet2_birq.evaluation.wer.significance import bootstrap_interval
from espnet2_birq.evaluation.wer.tables import format_rate
from espnet2_birq.evaluation.wer.transcripts import Transcripts, fold_case
from espnet2_birq.reading import read_lines

COLLAR = 5.0  # seconds
MEASURES = ("cpwer", "tcpwer")
MOST_SPEAKERS = 20  # of a meeting, whom meeteval assigns
# Suffix of AMI's recording names, after the meeting.
_RECORDING = re.compile(r"(\.(Headset-\d|Array1-\d+|Mix-Headset)|_MDM8)$")

# NIST's word for a stretch that is not to be scored; its speaker is nobody.
_UNSCORED = "ignore_time_segment_in_scoring"

# session_id, speaker, start_time, end_time, words: meeteval's SegLST.
Segments = list[dict]


def is_stm(path: Path) -> bool:
    """Return whether a file is in NIST's stm format, judging by its name."""
    return path.name == "stm" or path.suffix == ".stm"


def score_meetings(one: DecodedSet, options: Options = Options()) -> list[dict]:
    """Score the meetings of a set.

    Args:
        one: Set of utterances decoded one by one, with the reference's speakers and
            times; or two stm files, where the hypothesis may have other speakers and
            times.
        options: Scoring options; cluster and by are ignored.

    Returns:
        A mapping for each meeting, and for all of them as "all": experiment, decoding,
        set, meeting, speakers, normalization, cpwer and tcpwer. Both cpwer and tcpwer
        have tokens, errors, percent, low and high. The interval is over meetings, so
        low and high are None except for "all".

    Raises:
        DataError: A file is wrong, or a meeting is missing in reference or hypothesis,
            or has too many speakers there.
        ConfigError: The meeting of an utterance is unknown, meeteval is not installed,
            or the normalisation has optional words.
    """
    try:
        from meeteval.io import SegLST
        from meeteval.wer import cpwer, tcpwer
    except ImportError as error:
        raise ConfigError(
            "--meeting: its package is missing; pip install meeteval"
        ) from error
    if options.normalization.optional:
        raise ConfigError(
            f"--meeting: not with --normalize {options.normalization.name}, in which "
            "words may be missing; use none or whisper"
        )
    ref, hyp = _segments(one, options)
    for path, odd in zip(
        one.pairs["wer"][::-1],
        (_names(ref) - _names(hyp), _names(hyp) - _names(ref)),
        strict=True,
    ):
        if odd:
            raise DataError(
                f"{path}: lacks meeting {min(odd)}, which its counterpart has; give "
                "both the same meetings"
            )
    for path, side in zip(one.pairs["wer"], (ref, hyp), strict=True):
        _check_speakers(path, side)
    both = SegLST(ref), SegLST(hyp)
    scored = {"cpwer": cpwer(*both), "tcpwer": tcpwer(*both, collar=COLLAR)}
    speakers = {name: _speakers(ref, name) for name in sorted(_names(ref))}
    head = {"experiment": one.experiment, "decoding": one.decoding, "set": one.name}
    head["normalization"] = options.normalization.name
    rows = []
    for meeting, number in [*speakers.items(), ("all", sum(speakers.values()))]:
        chosen = list(speakers) if meeting == "all" else [meeting]
        rates = {
            measure: _rates([scored[measure][name] for name in chosen])
            for measure in MEASURES
        }
        rows.append({**head, "meeting": meeting, "speakers": number, **rates})
    return rows


def _names(segments: Segments) -> set[str]:
    return {segment["session_id"] for segment in segments}


def _check_speakers(path: Path, segments: Segments) -> None:
    for meeting in sorted(_names(segments)):
        number = _speakers(segments, meeting)
        if number > MOST_SPEAKERS:
            raise DataError(
                f"{path}: meeting {meeting} has {number} speakers, and more than "
                f"{MOST_SPEAKERS} cannot be assigned; merge them, or leave it out"
            )


def _speakers(segments: Segments, meeting: str) -> int:
    return len({one["speaker"] for one in segments if one["session_id"] == meeting})


def _rates(scores: Sequence) -> dict:
    """Sum meeteval's ErrorRate over meetings, and bootstrap over meetings."""
    errors, tokens = (
        np.array([getattr(score, name) for score in scores])
        for name in ("errors", "length")
    )
    low, high = bootstrap_interval(errors, tokens, np.arange(len(scores)))
    total = int(tokens.sum())
    return {
        "tokens": total,
        "errors": int(errors.sum()),
        "percent": 100 * int(errors.sum()) / total if total else None,
        "low": None if np.isnan(low) else 100 * low,
        "high": None if np.isnan(high) else 100 * high,
    }


def _segments(one: DecodedSet, options: Options) -> tuple[Segments, Segments]:
    """Read reference and hypothesis."""
    files = one.pairs["wer"]
    if is_stm(files[0]) != is_stm(files[1]):
        raise ConfigError(
            f"{files[0]}, {files[1]}: one is stm, the other is not; give two alike"
        )
    if is_stm(files[0]):
        ref, hyp = (_read_stm(path, options.normalization) for path in files)
        return ref, hyp
    texts, _ = read_set(one, "wer", options.normalization)
    return utterance_segments(texts, options.data)


def utterance_segments(
    texts: Transcripts, data: Path | None = None
) -> tuple[Segments, Segments]:
    """Group utterances by meeting.

    Args:
        texts: References and hypotheses of utterances.
        data: Data directory of the set, as in grouping.label().

    Returns:
        Segments of reference and hypothesis, with the same speakers and times.

    Raises:
        ConfigError: The meeting of an utterance is unknown.
    """
    ref: Segments = []
    hyp: Segments = []
    for utt_id, labels, *both in zip(
        texts.ids, label(texts.ids, data), texts.refs, texts.hyps, strict=True
    ):
        if labels.meeting is None or labels.end is None:
            raise ConfigError(
                f"--meeting: id {utt_id} does not tell the meeting and the times; give "
                "--data with the set's utt2spk and segments, their ends in seconds"
            )
        for side, words in zip((ref, hyp), both, strict=True):
            side.append(
                {
                    "session_id": labels.meeting,
                    "speaker": labels.speaker,
                    "start_time": labels.start,
                    "end_time": labels.end,
                    "words": " ".join(words.split()),
                }
            )
    return ref, hyp


def _read_stm(path: Path, normalization: Normalization) -> Segments:
    """Read lines `recording channel speaker start end [<label>] words`.

    Lines of stretches that NIST's tools do not score are left out.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; prepare_ami writes it for dev and eval")
    segments = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        fields = re.sub(r"^((?:\S+\s+){5})<[^>]*>", r"\1", line).split(maxsplit=5)
        try:
            start, end = float(fields[3]), float(fields[4])
            if not 0 <= start <= end < math.inf:
                raise ValueError("no times")
        except (IndexError, ValueError):
            raise DataError(
                f"{path}: line {number} is not `recording channel speaker begin end "
                "words`; correct it"
            ) from None
        text = fields[5] if len(fields) > 5 else ""
        if fold_case(text.strip()) == _UNSCORED:
            continue
        words = normalization.apply(text)
        segments.append(
            {
                "session_id": _RECORDING.sub("", fields[0]),
                "speaker": fields[2],
                "start_time": start,
                "end_time": end,
                "words": " ".join(words.split()),
            }
        )
    if not segments:
        raise DataError(f"{path}: empty file; write it again")
    return segments


def make_meeting_table(rows: Sequence[dict]) -> str:
    """Format rows of score_meetings() as a Markdown table."""
    note = (
        f"Normalisation: {rows[0]['normalization']}. cpWER and tcpWER (collar "
        f"{COLLAR:g} s) by meeteval. [95 %]: bootstrap over meetings, 1000 draws, "
        "seed 0."
    )
    texts = ["experiment", "decoding", "set", "meeting"]
    numbers = ["speakers", "words", "cpWER % [95 %]", "tcpWER % [95 %]"]
    lines = []
    for row in rows:
        cells = [row[name] for name in texts]
        cells += [row["speakers"], row["cpwer"]["tokens"]]
        for measure in MEASURES:
            text = format_rate(row[measure])
            if row["meeting"] != "all" and row[measure]["percent"] is not None:
                text = text.split()[0]  # without the interval
            cells.append(text)
        lines.append(cells)
    return f"{note}\n\n{markdown_table(texts + numbers, lines, right=numbers)}"
