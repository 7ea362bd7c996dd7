"""Writer of prepared shards.

A prepared shard depends only on the shard and the options. It has these files:

- audio.ark: utterances as FLAC or WAV, in the format of ESPnet's data preparation;
- utterances.tsv: utterance id, video, byte offset in audio.ark, samples, caption;
- videos.tsv: video, number of utterances, samples;
- skipped.tsv: skipped items, and the reason;
- summary.json: sums, and size and SHA-256 of the tar and the text file.
"""

import json
import os
import re
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import kaldiio
import numpy as np

from espnet2_birq.corpora.yodas.audio import level, to_int16
from espnet2_birq.corpora.yodas.layout import (
    Captions,
    SegmentName,
    Shard,
    parse_segment,
    utterance_id,
)
from espnet2_birq.datadir.audio import NOT_FINITE, are_finite

AUDIO, UTTERANCES, VIDEOS = "audio.ark", "utterances.tsv", "videos.tsv"
SKIPPED, SUMMARY = "skipped.tsv", "summary.json"


@dataclass(frozen=True)
class ShardOptions:
    """Filters and formats of a prepared shard.

    Attributes:
        fs: Sample rate of the output in Hz.
        audio_format: flac.ark or wav.ark.
        min_duration: Minimum length of an utterance in seconds.
        max_duration: Maximum length of an utterance in seconds.
        min_level: Minimum level of an utterance in dB relative to full scale (RMS).
        text: Whether to write captions.
        uncaptioned: Whether to use audio without captions as well.
        characters: Mapping from language to the characters allowed in its captions, as
            in the brackets of a regular expression. Other languages allow all.
    """

    fs: int = 16000
    audio_format: str = "flac.ark"
    min_duration: float = 0.5
    max_duration: float = 30.0
    min_level: float = -60.0
    text: bool = False
    uncaptioned: bool = False
    characters: dict[str, str] = field(default_factory=dict)


def allowed_captions(characters: str) -> re.Pattern[str]:
    """Compile a pattern of captions that have only these characters and spaces.

    Raises:
        re.error: `characters` is not valid in the brackets of a regular expression.
    """
    return re.compile(f"[{characters} ]*")


class ShardWriter:
    """Writer of a prepared shard, which also filters utterances.

    Use it as a context manager. A folder without summary.json is incomplete.

    Args:
        shard: The shard.
        options: Filters and formats.
        folder: Folder to write to.
    """

    def __init__(self, shard: Shard, options: ShardOptions, folder: Path):
        self.options, self._shard, self._folder = options, shard, folder
        self._ark = (folder / AUDIO).open("wb")
        self._met: set[str] = set()
        self._utterances: list[tuple[str, str, int, int, str]] = []
        self._skipped: list[tuple[str, str]] = []
        self._sums: dict[str, dict] = {}
        characters = options.characters.get(shard.language)
        self._allowed = allowed_captions(characters) if characters else None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_) -> None:
        self._ark.close()

    def skip(self, name: str, reason: str, seconds: float = 0.0) -> None:
        """Record a skipped item.

        Args:
            name: Name of the item.
            reason: Reason, without names, so that equal reasons are counted together.
            seconds: Duration in seconds; 0 if unknown.
        """
        self._met.add(name)
        # Names in tar and JSON files may have any characters, lists cannot.
        shown = name if name.isprintable() else ascii(name)
        self._skipped.append((shown, reason))
        new = {"count": 0, "seconds": 0.0, "first": shown}
        sums = self._sums.setdefault(reason, new)
        sums["count"] += 1
        sums["seconds"] += seconds

    def skip_without_audio(self, captions: Captions) -> None:
        """Record captions without audio as skipped."""
        for of_video in captions.values():
            for name in of_video:
                if name not in self._met:
                    segment = parse_segment(name)
                    seconds = segment.seconds if segment else 0.0
                    self.skip(name, "caption without audio", seconds)

    def has_good_length(self, name: str, seconds: float) -> bool:
        """Return whether an utterance's length is allowed; if not, record it as skipped.

        Args:
            name: YODAS id of the utterance.
            seconds: Duration in seconds.
        """
        if not seconds >= self.options.min_duration:
            reason = f"shorter than {self.options.min_duration:g} s"
        elif not seconds <= self.options.max_duration:
            reason = f"longer than {self.options.max_duration:g} s"
        else:
            return True
        self.skip(name, reason, max(seconds, 0.0))
        return False

    def add(
        self,
        segment: SegmentName,
        name: str,
        samples: np.ndarray,
        rate: int,
        caption: str | None,
    ) -> None:
        """Write an utterance, or record it as skipped.

        Args:
            segment: Position in the video.
            name: YODAS id of the utterance.
            samples: float32 samples, full scale 1, shape (samples,).
            rate: Sample rate in Hz.
            caption: Transcript; None if unknown.
        """
        reason = self._reason_against(name, samples, caption)
        if reason:
            self.skip(name, reason, len(samples) / rate)
            return
        self._met.add(name)
        audio = to_int16(samples, rate, self.options.fs)
        utt_id = utterance_id(self._shard, segment)
        offset = self._ark.tell() + len(utt_id) + 1
        kaldiio.save_ark(
            self._ark,
            {utt_id: (self.options.fs, audio)},
            append=True,
            write_function="soundfile",
            write_kwargs={
                "format": self.options.audio_format.removesuffix(".ark"),
                "subtype": "PCM_16",
            },
        )
        text = caption or "" if self.options.text else ""
        self._utterances.append((utt_id, segment.video, offset, len(audio), text))

    def finish(
        self, release: str, tar_bytes: int, tar_sha256: str, text: dict | None
    ) -> None:
        """Write the lists, with summary.json last.

        Args:
            release: yodas or yodas2.
            tar_bytes: Size of the tar file in bytes.
            tar_sha256: SHA-256 of the tar file, hexadecimal.
            text: Size and SHA-256 of the text file, from describe(); None without one.
        """
        self._utterances.sort()
        videos = []
        for video, group in groupby(self._utterances, key=lambda line: line[1]):
            samples = [line[3] for line in group]
            videos.append((video, len(samples), sum(samples)))
        for sums in self._sums.values():
            sums["seconds"] = round(sums["seconds"], 2)
        summary = {
            "release": release,
            "tar_bytes": tar_bytes,
            "tar_sha256": tar_sha256,
            "text": text,
            "utterances": len(self._utterances),
            "samples": sum(line[3] for line in self._utterances),
            "skipped": dict(sorted(self._sums.items())),
        }
        self._write(UTTERANCES, _table(self._utterances))
        self._write(VIDEOS, _table(videos))
        self._write(SKIPPED, _table(sorted(self._skipped)))
        self._ark.flush()
        os.fsync(self._ark.fileno())
        self._write(SUMMARY, json.dumps(summary, indent=1) + "\n")

    def _reason_against(
        self, name: str, samples: np.ndarray, caption: str | None
    ) -> str | None:
        loud = level(samples)
        if name in self._met:
            return "twice in its shard"
        if not are_finite(samples):
            return NOT_FINITE
        if not loud >= self.options.min_level:
            return f"quieter than {self.options.min_level:g} dB"
        if self.options.text:
            if not caption:
                return "empty caption"
            if self._allowed and not self._allowed.fullmatch(caption):
                return "caption with other characters"
        return None

    def _write(self, name: str, content: str) -> None:
        with (self._folder / name).open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def _table(rows: list[tuple]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)
