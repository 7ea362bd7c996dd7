"""Speaker, meeting and overlap of utterances, for resampling and scoring by group."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet2_birq.datadir.kaldi import read_scp, read_segment, voice_of
from espnet2_birq.errors import ConfigError, DataError

CLUSTERS = ("utterance", "speaker", "meeting")
GROUPS = ("speaker", "meeting", "microphone", "overlap")
# With fewer clusters, percentiles are not meaningful, so utterances are drawn instead.
MIN_CLUSTERS = 5

# AMI_ES2011a_H00_FEE041_0003415_0003484, times in hundredths of a second.
_AMI = re.compile(r"(?:^|-)AMI_([^_]+)_([^_]+)_([^_]+)_(\d{7})_(\d{7})$")


class Labels(NamedTuple):
    """Labels of an utterance; unknown ones are None.

    Attributes:
        speaker: Name of the speaker.
        meeting: Name of the meeting or recording.
        microphone: H00 to H04, SDM, MDM or MIX; AMI only.
        start: Start in the meeting, in seconds.
        end: End in the meeting, in seconds.
    """

    speaker: str | None = None
    meeting: str | None = None
    microphone: str | None = None
    start: float | None = None
    end: float | None = None


class Clusters(NamedTuple):
    """Clusters of utterances that the bootstrap draws.

    Attributes:
        name: Description, for example "40 speakers".
        codes: Cluster index of each utterance, from 0, shape (N,).
    """

    name: str
    codes: np.ndarray


def label(ids: Sequence[str], data: Path | None = None) -> list[Labels]:
    """Find speakers and meetings of utterances.

    AMI's ids contain all labels. Otherwise a data directory has speakers (utt2spk), and
    recordings and times (segments). Without one, only the speaker is known, from ids
    `speaker-utterance` of trn files and ids of LibriSpeech.

    Args:
        ids: Utterance ids, as in a Kaldi directory or in a trn file.
        data: Data directory of the set.

    Returns:
        Labels of each utterance.

    Raises:
        DataError: The directory lacks an utterance.
    """
    speakers = read_scp(data / "utt2spk") if data else {}
    segments: dict[str, str] = {}
    if data and (data / "segments").is_file():
        segments = read_scp(data / "segments")
    return [_label(utt_id, speakers, segments, data) for utt_id in ids]


def _label(
    utt_id: str, speakers: dict[str, str], segments: dict[str, str], data: Path | None
) -> Labels:
    if match := _AMI.search(utt_id):
        meeting, microphone, speaker, start, end = match.groups()
        return Labels(speaker, meeting, microphone, int(start) / 100, int(end) / 100)
    speaker, name = split_trn_id(utt_id)
    if not data:
        if (reader := voice_of(speaker or utt_id)) != (speaker or utt_id):
            return Labels(reader)
        # In Kaldi directories, an unknown speaker is named like the utterance.
        return Labels(speaker if speaker != name else None)
    key = utt_id if utt_id in speakers else name
    if key not in speakers:
        raise DataError(f"{data}/utt2spk: lacks {utt_id}; give the set's own --data")
    if key not in segments:
        return Labels(voice_of(speakers[key]))
    part = read_segment(data / "segments", key, segments[key])
    # An end of -1 means the end of the recording, whose length is unknown here.
    end = None if part.end == -1 else part.end
    return Labels(voice_of(speakers[key]), part.recording, None, part.start, end)


def split_trn_id(utt_id: str) -> tuple[str | None, str]:
    """Split an id `speaker-utterance`, as asr.sh writes it to trn files.

    If the utterance id begins with the speaker's name, as in Kaldi directories, this
    locates the "-" between them; otherwise it is the first "-", as in sclite.

    Returns:
        Speaker (None if the id has no "-") and utterance.
    """
    cuts = [match.start() for match in re.finditer("-", utt_id)]
    for cut in cuts[::-1]:
        if utt_id.startswith(utt_id[:cut], cut + 1):
            return utt_id[:cut], utt_id[cut + 1 :]
    if cuts:
        return utt_id[: cuts[0]], utt_id[cuts[0] + 1 :]
    return None, utt_id


def make_clusters(labels: Sequence[Labels], kind: str | None = None) -> Clusters:
    """Make the clusters for resampling.

    Args:
        labels: Labels of each utterance.
        kind: "utterance", "speaker" or "meeting". None means meetings for AMI and
            speakers otherwise, or utterances if these are unknown or fewer than
            MIN_CLUSTERS.

    Returns:
        Clusters of the utterances.

    Raises:
        ConfigError: The speaker or meeting of an utterance is unknown.
    """
    if kind == "utterance":
        return Clusters(_plural(len(labels), kind), np.arange(len(labels)))
    if kind is None:
        is_ami = labels[0].microphone is not None
        kind = "meeting" if is_ami else "speaker"
        known = {getattr(one, kind) for one in labels}
        if None in known or len(known) < MIN_CLUSTERS:
            return make_clusters(labels, "utterance")
    names = [getattr(one, kind) for one in labels]
    if None in names:
        raise ConfigError(
            f"--cluster {kind}: ids do not tell the {kind}; give --data with the set's "
            "utt2spk and segments"
        )
    found, codes = np.unique(names, return_inverse=True)
    return Clusters(_plural(len(found), kind), codes)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def make_groups(
    ids: Sequence[str], labels: Sequence[Labels], by: str
) -> dict[str, np.ndarray]:
    """Group utterances.

    Args:
        ids: Utterance ids.
        labels: Labels of the utterances.
        by: "speaker", "meeting", "microphone", "overlap" (share of an utterance
            overlapped by other speakers of its meeting), or a file with lines
            `utterance group`.

    Returns:
        Mapping from group to the indices of its utterances, sorted by group.

    Raises:
        ConfigError: The group of an utterance is unknown.
        DataError: The file is wrong or lacks an utterance.
    """
    if by == "overlap":
        names = _overlap_names(labels)
    elif by in GROUPS:
        names = [getattr(one, by) for one in labels]
    else:
        group_of = read_scp(by)
        names = [group_of.get(i) or group_of.get(split_trn_id(i)[1]) for i in ids]
        if None in names:
            raise DataError(
                f"{by}: lacks {names.count(None)} of {len(names)} utterances, "
                f"{ids[names.index(None)]} the first; add them"
            )
    known = [name for name in names if name is not None]
    if len(known) < len(names):
        raise ConfigError(
            f"--by {by}: ids do not tell the {by}; give --data with utt2spk and "
            "segments, or a file of lines `utterance group`"
        )
    order, codes = np.unique(known, return_inverse=True)
    return {str(name): np.flatnonzero(codes == i) for i, name in enumerate(order)}


def _overlap_names(labels: Sequence[Labels]) -> list[str | None]:
    names: list[str | None] = []
    for share in overlap_shares(labels):
        if share is None:
            names.append(None)
        elif share == 0:
            names.append("overlap 0 %")
        elif share < 0.5:
            names.append("overlap below 50 %")
        else:
            names.append("overlap from 50 %")
    return names


def overlap_shares(labels: Sequence[Labels]) -> list[float | None]:
    """Measure the share of each utterance overlapped by other speakers of its meeting.

    Args:
        labels: Labels of all utterances of the meetings.

    Returns:
        Shares from 0 to 1; None for utterances without times.
    """
    of_meeting: dict[str | None, list[int]] = defaultdict(list)
    for index, one in enumerate(labels):
        of_meeting[one.meeting].append(index)
    shares: list[float | None] = [None] * len(labels)
    for meeting, indices in of_meeting.items():
        if meeting is None:
            continue
        start, end = (
            np.array([getattr(labels[i], name) for i in indices], dtype=float)
            for name in ("start", "end")
        )
        speaker = np.array([labels[i].speaker for i in indices])
        for i, index in enumerate(indices):
            others = (speaker != speaker[i]) & (start < end[i]) & (end > start[i])
            talk = _union(
                np.maximum(start[others], start[i]), np.minimum(end[others], end[i])
            )
            if not np.isnan(end[i]):
                shares[index] = talk / (end[i] - start[i]) if end[i] > start[i] else 0.0
    return shares


def _union(starts: np.ndarray, ends: np.ndarray) -> float:
    """Return the length of the union of intervals."""
    length, reached = 0.0, -np.inf
    for start, end in sorted(zip(starts.tolist(), ends.tolist(), strict=True)):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length
