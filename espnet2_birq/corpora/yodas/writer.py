"""What a prepared shard holds.

Its files depend on nothing but the shard and the options:

- audio.ark: the utterances, each as FLAC or WAV, as ESPnet's data preparation writes
  them;
- utterances.tsv: utterance id, video, byte offset in audio.ark, samples, caption;
- videos.tsv: video, utterances, samples;
- skipped.tsv: what is left out, and why;
- summary.json: the sums, and size and SHA-256 of the tar file.
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
from espnet2_birq.corpora.yodas.layout import Captions, SegmentName, Shard, utterance_id
from espnet2_birq.datadir.audio import NOT_FINITE, are_finite

AUDIO, UTTERANCES, VIDEOS = "audio.ark", "utterances.tsv", "videos.tsv"
SKIPPED, SUMMARY = "skipped.tsv", "summary.json"


@dataclass(frozen=True)
class ShardOptions:
    """What a prepared shard depends on, beside the shard itself.

    Attributes:
        fs: Sample rate of what is written, in Hz.
        audio_format: flac.ark or wav.ark.
        min_duration: Shorter utterances are left out (seconds).
        max_duration: Longer ones are left out (seconds).
        min_level: Quieter ones are left out (dB below full scale, root mean square).
        text: Captions are wanted.
        uncaptioned: Audio without caption is used as well.
        characters: Language to the characters that its captions may have, as in the
            brackets of a regular expression. Other languages may have any.
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
    """Compile what captions may be made of: these characters, and spaces.

    Raises:
        re.error: It is not what stands in the brackets of a regular expression.
    """
    return re.compile(f"[{characters} ]*")


class ShardWriter:
    """Writes a prepared shard; filters what is given to it.

    Use it as a context; a folder without summary.json is not complete.

    Args:
        shard: The shard.
        options: Filters and formats.
        folder: Where to write.
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
        """Count something that is left out.

        Args:
            name: What it is.
            reason: Why, without names: equal reasons are counted together.
            seconds: Its duration, if it is known.
        """
        self._met.add(name)
        self._skipped.append((name, reason))
        new = {"count": 0, "seconds": 0.0, "first": name}
        sums = self._sums.setdefault(reason, new)
        sums["count"] += 1
        sums["seconds"] += seconds

    def skip_without_audio(self, captions: Captions) -> None:
        """Count captions whose audio was not met."""
        for of_video in captions.values():
            for name in of_video:
                if name not in self._met:
                    self.skip(name, "caption without audio")

    def has_good_length(self, name: str, seconds: float) -> bool:
        """Tell whether an utterance has a wanted length; count it as left out if not.

        Args:
            name: Its id.
            seconds: Its duration. It need not be decoded yet.
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
        """Write an utterance, or leave it out.

        Args:
            segment: Its place in its video.
            name: The publisher's id.
            samples: float32 samples of one channel, full scale 1.
            rate: Their rate in Hz.
            caption: What is said; None if that is not known.
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

    def finish(self, release: str, tar_bytes: int, tar_sha256: str) -> None:
        """Write the lists; summary.json comes last.

        Args:
            release: yodas or yodas2.
            tar_bytes: Size of the tar file.
            tar_sha256: Its checksum.
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
