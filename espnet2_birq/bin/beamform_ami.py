"""Beamform AMI's microphone arrays, for the microphone mdm8."""

import argparse
import multiprocessing
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.corpora.ami.beamform import beamform, run_beamformit
from espnet2_birq.corpora.ami.corpus import MICROPHONES, find_audio
from espnet2_birq.errors import DataError

DESCRIPTION = """\
Make one recording of the eight of a meeting's array: DEST/<meeting>/<meeting>_MDM8.wav.

By the program BeamformIt if it is on PATH, as in the published benchmarks. Otherwise by
a delay-and-sum beamformer in Python: the same idea without BeamformIt's search, so do
not compare its error rates with published mdm8 ones. DEST/method tells which of
the two it was. What is there already is not made again. Meetings with fewer than
eight recordings are skipped."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.beamform_ami --audio downloads/amicorpus --dest beamformed
  python -m espnet2_birq.bin.prepare_ami --annotations downloads/annotations \\
      --mic mdm8 --audio beamformed data"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("beamform_ami", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--audio",
        required=True,
        metavar="DIR",
        help="the folder of the meetings' folders, or the one that holds it as "
        "amicorpus",
    )
    add_shared_options(parser, "--dest")
    parser.add_argument(
        "--method",
        choices=("auto", "beamformit", "python"),
        default="auto",
        help="auto: BeamformIt if it is on PATH, else python (default: %(default)s)",
    )
    add_shared_options(parser, "--nj", "--dry-run")
    return parser


def make_recordings(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: What get_parser() parsed.

    Raises:
        DataError: There is no array's recording, one is bad, or DEST was made by the
            other method.
    """
    audio, microphone = find_audio(args.audio), MICROPHONES["mdm8"]
    method = _choose_method(args)
    jobs, partial, ready = {}, [], 0
    for folder in sorted(path for path in audio.iterdir() if path.is_dir()):
        names = [p.format(meeting=folder.name) for p in microphone.downloads]
        channels = [folder / "audio" / f"{name}.wav" for name in names]
        there = sum(channel.is_file() for channel in channels)
        dest = microphone.path(args.dest, folder.name, 0)
        if there == len(channels) and not dest.exists():
            jobs[folder.name] = (channels, dest)
        elif there == len(channels):
            ready += 1
        else:
            partial.append(f"{folder.name} ({there} of {len(channels)})")
    if not jobs and not ready:
        raise DataError(
            f"{audio}: no meeting with {len(microphone.downloads)} recordings of its "
            "array; correct --audio, or download them for mdm8"
        )
    if not args.dry_run:
        _claim(args.dest, method)
        _run_jobs(method, jobs, args.nj)
    print(
        f"{args.dest}: {len(jobs)} meetings by {method}, {ready} were there already, "
        f"{len(partial)} skipped"
    )
    if partial:
        print(f"{args.dest}: skipped, recordings are missing: {', '.join(partial)}")
    if args.dry_run:
        print("dry run: nothing was written")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(make_recordings, get_parser().parse_args(argv))


def _choose_method(args: argparse.Namespace) -> str:
    if args.method != "auto":
        return args.method
    return "python" if shutil.which("BeamformIt") is None else "beamformit"


def _claim(dest: Path, method: str) -> None:
    """Note the method in DEST; recordings of the two methods must not mix."""
    note = dest / "method"
    if note.is_file() and note.read_text().strip() != method:
        raise DataError(
            f"{dest}: was made by {note.read_text().strip()}, not by {method}; give "
            "that --method or another --dest"
        )
    dest.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{method}\n")


def _run_jobs(method: str, jobs: dict[str, tuple[list[Path], Path]], nj: int) -> None:
    # Forked, a process inherits the locks of the threads of BLAS.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(nj, spawn) as pool:
        running = [
            pool.submit(_run_job, method, meeting, *job)
            for meeting, job in jobs.items()
        ]
        try:
            for done in tqdm(
                as_completed(running),
                "beamforming",
                len(running),
                unit="meeting",
                disable=None,
            ):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run_job(method: str, meeting: str, channels: list[Path], dest: Path) -> None:
    if method == "beamformit":
        dest.parent.mkdir(parents=True, exist_ok=True)
        run_beamformit(meeting, channels, dest)
    else:
        beamform(channels, dest)


if __name__ == "__main__":
    main()
