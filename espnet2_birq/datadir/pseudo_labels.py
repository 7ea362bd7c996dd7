"""Training sets that combine labelled speech with recognised, unlabelled speech.

Self-training recognises unlabelled speech, keeps what is likely correct, and trains on
it as if it were transcribed (Kahn et al., arXiv 1909.09116). If repeated, this is
iterative pseudo-labelling (arXiv 2005.09267).
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet2_birq.datadir.audio import ARK_ENTRY
from espnet2_birq.datadir.kaldi import format_scp, read_scp, replace_data_dir
from espnet2_birq.datadir.subset import DataDir, read_data_dir, subset_files
from espnet2_birq.datadir.summary import summary_lines
from espnet2_birq.errors import DataError

# Files to merge, and files to merge if both sets have them.
TABLES = ("wav.scp", "utt2spk", "spk2utt", "text", "utt2num_samples")
IF_BOTH = ("segments", "spk2gender", "utt2dur", "utt2lang")
# asr_inference writes tensor(-1.23), and on a GPU tensor(-1.23, device='cuda:0').
TENSOR = re.compile(r"tensor\(([^,)]*)[^)]*\)")


@dataclass(frozen=True)
class Hypotheses:
    """Recognised texts.

    Attributes:
        texts: Mapping from utterance to text.
        confidences: Mapping from utterance to log-probability per token.
    """

    texts: dict[str, str]
    confidences: dict[str, float]


def read_hypotheses(folder: Path) -> Hypotheses:
    """Read the texts that asr.sh's stage 12 or ctc_decode wrote.

    Args:
        folder: <asr_exp>/<tag>/<set> with text, token and score.

    Raises:
        DataError: A file is missing or broken, or the files' utterances differ.
    """
    texts, tokens, scores = (
        read_scp(folder / name, allow_empty_values=True)
        for name in ("text", "token", "score")
    )
    if odd := min(
        texts.keys() ^ scores.keys() | texts.keys() ^ tokens.keys(), default=""
    ):
        raise DataError(
            f"{folder}: {odd} is not in all of text, token and score; decode again"
        )
    confidences = {}
    for utt_id, score in scores.items():
        try:
            value = float(TENSOR.sub(r"\1", score))
        except ValueError:
            value = math.nan
        if not value < math.inf:  # also NaN, which no comparison would order
            raise DataError(
                f"{folder}/score: {utt_id} has {score!r}, which is not a number; "
                "decode again"
            )
        confidences[utt_id] = value / max(1, len(tokens[utt_id].split()))
    return Hypotheses(texts, confidences)


def choose(
    labelled: DataDir, unlabelled: DataDir, found: Hypotheses, keep: float
) -> tuple[list[str], dict[str, list[str]]]:
    """Choose recognised utterances to train on.

    Utterances of the labelled set, empty texts, and texts whose characters per second
    are outside the labelled set's 1st to 99th percentile are left out. Of the rest, the
    most confident share is kept.

    Args:
        labelled: The labelled set.
        unlabelled: The recognised set.
        found: Recognised texts.
        keep: Share of the remaining utterances to keep, above 0, at most 1.

    Returns:
        Chosen utterances, and a mapping from reason to the utterances left out.

    Raises:
        DataError: An utterance was not recognised, or none is left.
    """
    if lacking := min(unlabelled.seconds.keys() - found.texts.keys(), default=None):
        raise DataError(
            f"{unlabelled.folder}: {lacking} has no recognised text; decode the set again"
        )
    rates = _rates(labelled, labelled.table("text"))
    low, high = np.percentile(list(rates.values()), [1, 99])
    left: dict[str, list[str]] = {}
    candidates = []
    theirs = _rates(unlabelled, found.texts)
    for utt_id in sorted(unlabelled.seconds):
        if utt_id in labelled.seconds:
            reason = "in the labelled set"
        elif not found.texts[utt_id]:
            reason = "empty text"
        elif not low <= theirs.get(utt_id, math.inf) <= high:  # inf: no duration
            reason = f"not {low:.1f} to {high:.1f} characters a second"
        else:
            candidates.append(utt_id)
            continue
        left.setdefault(reason, []).append(utt_id)
    candidates.sort(key=lambda utt_id: (-found.confidences[utt_id], utt_id))
    number = round(keep * len(candidates))
    if not number:
        raise DataError(
            f"{unlabelled.folder}: no recognised utterance is left to train on: "
            + "; ".join(f"{len(names)} x {why}" for why, names in left.items())
        )
    if number < len(candidates):
        left[f"not in the most confident {keep:.0%}"] = candidates[number:]
    return sorted(candidates[:number]), left


def pseudo_label(
    labelled: Path,
    unlabelled: Path,
    decoded: Path,
    dest: Path,
    keep: float = 0.8,
    fs: int = 16000,
) -> None:
    """Write a training set of labelled and recognised utterances; print a summary.

    Args:
        labelled: Formatted set with texts (dump/raw/NAME).
        unlabelled: Formatted set that was recognised; its own texts are ignored.
        decoded: Folder with its recognised texts; see read_hypotheses.
        dest: Directory to write, complete or not at all.
        keep: Share of the usable utterances to keep.
        fs: Sample rate in Hz.

    Raises:
        DataError: The sets cannot be used together.
    """
    folders = [labelled, unlabelled, dest]
    if len({os.path.realpath(path) for path in folders}) < len(folders):
        raise DataError(
            f"{dest}: the labelled, the unlabelled and the new set must be different"
        )
    first, second = read_data_dir(labelled, fs), read_data_dir(unlabelled, fs)
    if not first.table("text"):
        raise DataError(f"{labelled}/text: no such file; format the set again")
    found = read_hypotheses(decoded)
    chosen, left = choose(first, second, found, keep)
    second.files["text"] = found.texts
    own = subset_files(first, sorted(first.seconds))
    new = subset_files(second, chosen)
    replace_data_dir(dest, _union(first, second, own, new))
    print("\n".join(_summary(dest, first, second, chosen, left)))


def _rates(data: DataDir, texts: Mapping[str, str]) -> dict[str, float]:
    """Return characters per second of each utterance with a duration."""
    return {
        utt_id: len(texts.get(utt_id, "")) / seconds
        for utt_id, seconds in data.seconds.items()
        if seconds > 0
    }


def _union(
    first: DataDir, second: DataDir, own: Mapping[str, str], new: Mapping[str, str]
) -> dict[str, str]:
    for name, value_of in (("feats_type", _feats_type), ("audio", _audio)):
        theirs, ours = value_of(new), value_of(own)
        if theirs != ours:
            raise DataError(
                f"{second.folder}: its {name} is {theirs}, that of {first.folder} {ours}; "
                "format them alike"
            )
    files = {name: own[name] for name in ("feats_type", "audio_format") if name in own}
    for name in (*TABLES, *(x for x in IF_BOTH if x in own and x in new)):
        if name not in own or name not in new:
            where = first.folder if name not in own else second.folder
            raise DataError(f"{where}/{name}: no such file; format the set again")
        table = _read(new[name])
        for key, value in _read(own[name]).items():
            if name == "spk2utt" and key in table:
                value = " ".join(sorted([*value.split(), *table[key].split()]))
            elif table.get(key, value) != value:
                raise DataError(
                    f"{name}: {key} is {table[key]!r} in {second.folder} and {value!r} in "
                    f"{first.folder}; rename one of them"
                )
            table[key] = value
        files[name] = format_scp(sorted(table.items()))
    return files


def _feats_type(files: Mapping[str, str]) -> str:
    return files.get("feats_type", "missing").strip()


def _audio(files: Mapping[str, str]) -> str:
    """Return how asr.sh reads the audio: sets filtered by length lack audio_format."""
    entries = _read(files.get("wav.scp", "")).values()
    return "in archives" if any(map(ARK_ENTRY.match, entries)) else "in sound files"


def _read(content: str) -> dict[str, str]:
    # Not splitlines(), which also splits at characters that a text may have.
    pairs = (line.partition(" ") for line in content.split("\n") if line)
    return {key: value for key, _, value in pairs}


def _summary(
    dest: Path,
    first: DataDir,
    second: DataDir,
    chosen: list[str],
    left: dict[str, list[str]],
) -> list[str]:
    hours = sum(second.seconds[utt_id] for utt_id in chosen) / 3600
    people = {*first.people.values(), *(second.people[u] for u in chosen)}
    return summary_lines(
        dest,
        len(first.seconds) + len(chosen),
        f"{len(people)} speakers, {len(chosen)} recognised utterances of {hours:.2f} hours",
        sum(first.seconds.values()) + 3600 * hours,
        left,
    )
