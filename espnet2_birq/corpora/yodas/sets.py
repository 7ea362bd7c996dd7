"""Training and validation sets from prepared shards, without copying any audio.

A set has the files of ESPnet's dump/raw/<set> after stage 4: wav.scp (offsets in
archives), utt2num_samples, utt2spk, spk2utt, feats_type and audio_format; text if
captions are used, and category2utt (language to utterances) if there are several
languages. Everything is streamed, so memory does not grow with the number of utterances.
"""

import shutil
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from espnet2_birq.corpora.yodas.layout import Shard
from espnet2_birq.corpora.yodas.selection import (
    DUPLICATE,
    Selection,
    VideoOwners,
    read_table,
)
from espnet2_birq.corpora.yodas.store import ShardStore
from espnet2_birq.corpora.yodas.writer import AUDIO, SKIPPED, UTTERANCES
from espnet2_birq.datadir.files import whole_folder
from espnet2_birq.errors import DataError

MANIFEST = "manifest.jsonl"


@dataclass
class SetSize:
    """Size of a set.

    Attributes:
        utterances: Number of utterances.
        speakers: Number of speakers; each video counts as one.
        samples: Number of samples of all utterances.
    """

    utterances: int = 0
    speakers: int = 0
    samples: int = 0


def write_sets(
    store: ShardStore,
    chosen: Selection,
    languages: Collection[str],
    owners: VideoOwners,
    manifest: Path,
    train: Path,
    valid: Path | None,
) -> dict[Path, SetSize]:
    """Write the training and the validation set, each complete or not at all.

    Args:
        store: Store of prepared shards.
        chosen: Selection of shards and videos.
        languages: Languages that must be in the training set.
        owners: Mapping from video to shard.
        manifest: Manifest file; it is moved into the training set.
        train: Folder of the training set; an existing set is replaced.
        valid: Folder of the validation set; None for no such set.

    Returns:
        Size of each set by folder.

    Raises:
        DataError: A set would be empty, or the training set lack a language.
    """
    several = len({shard.language for shard in chosen.shards}) > 1
    with ExitStack() as folders:
        writers = {
            path: _SetWriter(folders.enter_context(whole_folder(path)), store, several)
            for path in (train, valid)
            if path is not None
        }
        training = writers[train]
        validation = training if valid is None else writers[valid]
        with ExitStack() as stack:
            for writer in writers.values():
                stack.enter_context(writer)
            skipped = stack.enter_context(_create(training.folder / "skipped"))
            for shard in sorted(
                [*chosen.shards, *chosen.unusable], key=lambda s: s.key
            ):
                if shard in chosen.unusable:
                    skipped.write(f"{shard}\t{chosen.unusable[shard]}\n")
                else:
                    _add_shard(
                        shard, store, chosen, owners, training, validation, skipped
                    )
        for path, writer in writers.items():
            if not writer.size.utterances:
                raise DataError(
                    f"{path}: no utterance would be in it{_most_skipped(chosen)}; give "
                    "other --parts, filters or --valid_hours"
                )
        for code in sorted(set(languages) - training.languages):
            raise DataError(f"{train}: {_why_not(code, chosen)} out of --parts")
        shutil.move(manifest, training.folder / MANIFEST)
    return {path: writer.size for path, writer in writers.items()}


def check_replaceable(path: Path) -> None:
    """Check that a folder is missing or holds a set, which may be replaced.

    Raises:
        DataError: The folder holds something else.
    """
    if path.exists() and not (path / "utt2num_samples").is_file():
        raise DataError(
            f"{path}: exists and is no set; move it away or choose another --name"
        )


class _SetWriter:
    """Writer of a set's files; utterances must be added in order."""

    def __init__(self, folder: Path, store: ShardStore, categories: bool):
        self.folder, self.size = folder, SetSize()
        self.languages: set[str] = set()
        self._store, self._categories = store, categories
        self._speaker: str | None = None
        self._language: str | None = None
        self._files = ExitStack()

    def __enter__(self) -> "_SetWriter":
        names = ["wav.scp", "utt2num_samples", "utt2spk", "spk2utt"]
        names += ["text"] if self._store.options.text else []
        names += ["category2utt"] if self._categories else []
        self._to = {
            n: self._files.enter_context(_create(self.folder / n)) for n in names
        }
        for name, value in (
            ("feats_type", "raw"),
            ("audio_format", self._store.options.audio_format),
        ):
            (self.folder / name).write_text(f"{value}\n")
        return self

    def __exit__(self, *_) -> None:
        # In both files, a line lists many utterances. End the last line.
        for name, key in (("spk2utt", self._speaker), ("category2utt", self._language)):
            if key is not None and name in self._to:
                self._to[name].write("\n")
        self._files.close()

    def add(self, shard: Shard, row: list[str], ark: str) -> None:
        """Add a row of utterances.tsv."""
        utt_id, video, offset, samples, caption = row
        speaker = f"{shard.key}-{video}"
        self._to["wav.scp"].write(f"{utt_id} {ark}:{offset}\n")
        self._to["utt2num_samples"].write(f"{utt_id} {samples}\n")
        self._to["utt2spk"].write(f"{utt_id} {speaker}\n")
        if "text" in self._to:
            self._to["text"].write(f"{utt_id} {caption}\n")
        self._group("spk2utt", self._speaker, speaker, utt_id)
        if self._categories:
            self._group("category2utt", self._language, shard.language, utt_id)
        self.size.speakers += speaker != self._speaker
        self._speaker, self._language = speaker, shard.language
        self.languages.add(shard.language)
        self.size.utterances += 1
        self.size.samples += int(samples)

    def _group(self, name: str, last: str | None, key: str, utt_id: str) -> None:
        if key != last:
            self._to[name].write(f"{key}" if last is None else f"\n{key}")
        self._to[name].write(f" {utt_id}")


def _add_shard(
    shard: Shard,
    store: ShardStore,
    chosen: Selection,
    owners: VideoOwners,
    train: _SetWriter,
    valid: _SetWriter,
    skipped,
) -> None:
    folder = store.folder_of(shard)
    ark, last, ours = str((folder / AUDIO).absolute()), None, False
    for row in read_table(folder / UTTERANCES):
        video = row[1]
        if video != last:
            last, ours = video, owners.is_of(video, shard)
            if not ours:
                skipped.write(f"{shard.key}-{video}\t{DUPLICATE}\n")
        if ours:
            to = valid if video in chosen.held_out else train
            to.add(shard, row, ark)
    for name, reason in read_table(folder / SKIPPED):
        skipped.write(f"{shard.key}-{name}\t{reason}\n")


def _why_not(language: str, chosen: Selection) -> str:
    if chosen.samples.get(language):
        return (
            f"all videos of {language} would be held out for validation; give a smaller "
            "--valid_hours, or leave it"
        )
    why = f"{_most_skipped(chosen)};"
    for shard, reason in chosen.unusable.items():
        if shard.language == language:
            why = f", {shard}: {reason}, or"
    return f"no utterance of {language} would be in it{why} leave {language}"


def _most_skipped(chosen: Selection) -> str:
    counts = {reason: sums["count"] for reason, sums in chosen.skipped.items()}
    if not counts:
        return ""
    reason = max(counts, key=counts.__getitem__)
    return f", skipped {counts[reason]} x {reason}"


def _create(path: Path):
    return path.open("w", encoding="utf-8", newline="\n")
