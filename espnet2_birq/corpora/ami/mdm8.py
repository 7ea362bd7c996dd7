"""Beamformed recordings of all meetings (microphone mdm8)."""

import shutil
from collections.abc import Mapping
from concurrent.futures import as_completed
from pathlib import Path

from tqdm import tqdm

from espnet2_birq.corpora.ami.beamform import beamform, run_beamformit
from espnet2_birq.corpora.ami.corpus import MICROPHONES, find_audio
from espnet2_birq.datadir.workers import worker_pool
from espnet2_birq.errors import DataError

METHODS = ("auto", "beamformit", "python")


def beamform_meetings(
    audio: str | Path,
    dest: Path,
    method: str = "auto",
    nj: int = 4,
    dry_run: bool = False,
) -> None:
    """Write DEST/<meeting>/<meeting>_MDM8.wav for each meeting, and print their number.

    Existing files are kept. Meetings without all channels are skipped.

    Args:
        audio: Folder of the recordings, as in find_audio().
        dest: Folder to write; its file `method` records the method used.
        method: One of METHODS; auto is beamformit if it is on PATH, else python.
        nj: Number of processes.
        dry_run: Whether to report only, without writing.

    Raises:
        DataError: No meeting has all channels, a recording is bad, or `dest` was made
            by the other method.
    """
    folder, microphone = find_audio(audio), MICROPHONES["mdm8"]
    if method == "auto":
        method = "python" if shutil.which("BeamformIt") is None else "beamformit"
    jobs: dict[str, tuple[list[Path], Path]] = {}
    partial, ready = [], 0
    for meeting in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = [p.format(meeting=meeting.name) for p in microphone.downloads]
        channels = [meeting / "audio" / f"{name}.wav" for name in names]
        there = sum(channel.is_file() for channel in channels)
        recording = microphone.path(dest, meeting.name, 0)
        if there == len(channels) and not recording.exists():
            jobs[meeting.name] = (channels, recording)
        elif there == len(channels):
            ready += 1
        else:
            partial.append(f"{meeting.name} ({there} of {len(channels)})")
    if not jobs and not ready:
        raise DataError(
            f"{folder}: no meeting with {len(microphone.downloads)} recordings of its "
            "array; correct --audio, or download them for mdm8"
        )
    if not dry_run:
        _claim(dest, method)
        _run_jobs(method, jobs, nj)
    print(
        f"{dest}: {len(jobs)} meetings by {method}, {ready} were there already, "
        f"{len(partial)} skipped"
    )
    if partial:
        print(f"{dest}: skipped, recordings are missing: {', '.join(partial)}")
    if dry_run:
        print("dry run: nothing was written")


def _claim(dest: Path, method: str) -> None:
    """Record the method in DEST, so that recordings of both methods do not mix."""
    note = dest / "method"
    if note.is_file() and note.read_text().strip() != method:
        raise DataError(
            f"{dest}: was made by {note.read_text().strip()}, not by {method}; give "
            "that --method or another --dest"
        )
    dest.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{method}\n")


def _run_jobs(
    method: str, jobs: Mapping[str, tuple[list[Path], Path]], nj: int
) -> None:
    # Not fork: the child would inherit locks held by BLAS threads.
    with worker_pool(nj, "spawn") as pool:
        running = [
            pool.submit(_run_job, method, meeting, *job)
            for meeting, job in jobs.items()
        ]
        for done in tqdm(
            as_completed(running),
            "beamforming",
            len(running),
            unit="meeting",
            disable=None,
        ):
            done.result()


def _run_job(method: str, meeting: str, channels: list[Path], dest: Path) -> None:
    if method == "beamformit":
        dest.parent.mkdir(parents=True, exist_ok=True)
        run_beamformit(meeting, channels, dest)
    else:
        beamform(channels, dest)
