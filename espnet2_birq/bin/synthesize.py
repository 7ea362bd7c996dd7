"""Make the synthetic demo corpus as Kaldi data directories."""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

import espnet2_birq
from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.corpora.sentences import random_sentence
from espnet2_birq.corpora.synth import (
    SAMPLE_RATE,
    TEST_VOICES,
    TRAIN_VOICES,
    VALID_VOICES,
    Job,
    Voice,
    check_available,
    synthesize,
)
from espnet2_birq.datadir.kaldi import Utterance, write_data_dir
from espnet2_birq.errors import DataError
from espnet2_birq.options import positive

DESCRIPTION = """\
Make a synthetic demo corpus with eSpeak NG: sentences from a small English grammar, by
many voices, with noise. Nothing is downloaded.

It writes the Kaldi data directories DEST/pretrain (unlabelled: without text),
DEST/train, DEST/valid and DEST/test, and the audio (FLAC, 16 kHz) to AUDIO. The voices
of pretrain and train are the same; those of valid and test are others. No sentence is
in two sets. The result depends on the lengths and the seed alone. A repetition with the
same options finds everything there and does nothing."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.synthesize --dest data --audio downloads/audio"""

# Utterances that are planned together. It is fixed, and not a function of --nj, since
# what is planned has an influence on the sentences that follow.
BATCH = 64
MARKER = "synthetic.json"

# In this order the sentences are drawn: the test set is the same whatever the lengths
# of the others are. The position also seeds a set, so leave it as it is.
VOICES_OF = {
    "test": TEST_VOICES,
    "valid": VALID_VOICES,
    "train": TRAIN_VOICES,
    "pretrain": TRAIN_VOICES,
}
UNLABELLED = "pretrain"


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("synthesize", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--dest", required=True, help="where the data directories go; data in a recipe"
    )
    parser.add_argument(
        "--audio",
        required=True,
        help="folder for the audio, which stands in wav.scp as it is given here; "
        "downloads/audio in a recipe",
    )
    for name, minutes in (
        ("unlabelled", 30.0),
        ("labelled", 5.0),
        ("valid", 1.5),
        ("test", 4.0),
    ):
        parser.add_argument(
            f"--{name}-minutes",
            type=positive,
            default=minutes,
            metavar="M",
            help="(default: %(default)s)",
        )
    parser.add_argument("--seed", type=_seed, default=0, help="(default: %(default)s)")
    add_shared_options(parser, "--nj")
    return parser


def make_corpus(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: What get_parser() parsed.

    Raises:
        DataError: eSpeak NG is not installed, or a folder holds something else.
    """
    check_available()
    minutes = {
        "test": args.test_minutes,
        "valid": args.valid_minutes,
        "train": args.labelled_minutes,
        "pretrain": args.unlabelled_minutes,
    }
    options = {
        "dest": args.dest,
        "audio": args.audio,
        "minutes": minutes,
        "seed": args.seed,
        "version": espnet2_birq.__version__,
        "espeakng_loader": version("espeakng-loader"),
    }
    # Replace the folder that a link points at, not the link.
    dest, audio = Path(args.dest), Path(os.path.realpath(args.audio))
    if _is_complete(audio, options) and all(
        (dest / name / "wav.scp").is_file() for name in minutes
    ):
        print(f"{args.audio}: the same corpus is already there")
        return

    _check_replaceable(audio)
    part = audio.with_name(f".{audio.name}.part")
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    # From now on the folder can be recognised as one that may be replaced.
    (part / MARKER).write_text("{}\n")

    corpus: dict[str, list[Utterance]] = {}
    seen: set[str] = set()
    start = time.perf_counter()
    seconds = {}
    with _mapper(args.nj) as run:
        for number, name in enumerate(VOICES_OF):
            jobs = _plan(name, (args.seed, number), seen)
            corpus[name], seconds[name] = _make_set(
                name, minutes[name] * 60, jobs, run, part, Path(args.audio)
            )
    elapsed = time.perf_counter() - start

    if audio.exists():
        shutil.rmtree(audio)
    part.rename(audio)
    for name, utterances in corpus.items():
        write_data_dir(dest / name, utterances)
        speakers = len({u.speaker for u in utterances})
        print(
            f"{dest / name}: {len(utterances)} utterances, {speakers} speakers, "
            f"{seconds[name] / 60:.2f} minutes"
        )
    total = sum(seconds.values())
    print(
        f"{total / 3600:.3f} hours made in {elapsed:.1f} s with {args.nj} process(es): "
        f"real-time factor {elapsed / total:.4f}"
    )
    new = audio / f".{MARKER}.new"
    new.write_text(json.dumps(options, indent=1) + "\n")
    new.rename(audio / MARKER)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(make_corpus, get_parser().parse_args(argv))


def _seed(value: str) -> int:
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is not an integer from 0 on")
    return int(value)


def _is_complete(audio: Path, options: dict) -> bool:
    marker = audio / MARKER
    return marker.is_file() and json.loads(marker.read_text()) == options


def _check_replaceable(audio: Path) -> None:
    if not audio.exists() or (audio / MARKER).is_file():
        return
    if audio.is_dir() and not any(audio.iterdir()):
        return
    raise DataError(
        f"{audio}: exists and was not written by this command; choose another --audio"
    )


@contextlib.contextmanager
def _mapper(nj: int) -> Iterator[Callable]:
    # An ordered map over processes, or in this one where one is enough.
    if nj == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(nj) as pool:
        yield pool.imap


def _plan(
    name: str, seed: tuple[int, ...], seen: set[str]
) -> Iterator[list[tuple[str, Job]]]:
    voices: tuple[Voice, ...] = VOICES_OF[name]
    order = np.random.default_rng(seed).permutation(len(voices))
    for start in itertools.count(0, BATCH):
        batch = []
        for index in range(start, start + BATCH):
            rng = np.random.default_rng((*seed, index, 0))
            text = random_sentence(rng)
            while text in seen:
                text = random_sentence(rng)
            seen.add(text)
            voice = voices[order[index % len(voices)]]
            utt_id = f"{voice.speaker}-{name}-{index:06d}"
            batch.append((utt_id, Job(text, voice, (*seed, index, 1))))
        yield batch


def _make_set(
    name: str,
    wanted: float,
    batches: Iterator[list[tuple[str, Job]]],
    run: Callable,
    part: Path,
    shown: Path,
) -> tuple[list[Utterance], float]:
    (part / name).mkdir()
    utterances: list[Utterance] = []
    frames = 0
    with tqdm(total=round(wanted), desc=name, unit="s", disable=None) as progress:
        for utt_id, job, signal in _made(batches, run):
            file = Path(name) / f"{utt_id}.flac"
            soundfile.write(part / file, signal, SAMPLE_RATE)
            text = None if name == UNLABELLED else job.text
            utterances.append(
                Utterance(utt_id, job.voice.speaker, os.fspath(shown / file), text)
            )
            frames += len(signal)
            progress.update(round(frames / SAMPLE_RATE) - progress.n)
            if frames >= wanted * SAMPLE_RATE:
                break
    return utterances, frames / SAMPLE_RATE


def _made(
    batches: Iterator[list[tuple[str, Job]]], run: Callable
) -> Iterator[tuple[str, Job, np.ndarray]]:
    for batch in batches:
        signals = run(synthesize, [job for _, job in batch])
        for (utt_id, job), signal in zip(batch, signals, strict=True):
            yield utt_id, job, signal


if __name__ == "__main__":
    main()
