#!/usr/bin/env python3
"""Time of scoring synthetic text with utterances about as long as LibriSpeech's.

  python bench/scoring.py --utterances 100000

It writes a reference and two hypotheses with about 10 % errors to a temporary folder, and
prints time and peak memory of each command of espnet2_birq.bin.score.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "WER and CER, intervals over speakers": ["--hyp", "a"],
    "the same, over utterances": ["--hyp", "a", "--cluster", "utterance"],
    "two systems compared": ["--compare", "a", "b"],
    "two systems compared, over utterances": ["--compare", "a", "b"]
    + ["--cluster", "utterance"],
    "Whisper's normaliser": ["--hyp", "a", "--normalize", "whisper"],
}


def write_texts(folder: Path, number: int, words: int) -> None:
    """Write the files ref, a and b."""
    rng = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    vocabulary = [
        "".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(20_000)
    ]
    streams = {name: (folder / name).open("w") for name in ("ref", "a", "b")}
    for index in range(number):
        ref = rng.choices(vocabulary, k=rng.randint(1, 2 * words - 1))
        speaker = f"{index // 100:06d}-0"
        for name, stream in streams.items():
            text = ref if name == "ref" else wrong(ref, vocabulary, rng)
            print(f"{speaker}-{index:07d}", *text, file=stream)
    for stream in streams.values():
        stream.close()


def wrong(ref: list[str], vocabulary: list[str], rng: random.Random) -> list[str]:
    """Change about a tenth of the words."""
    hyp = []
    for word in ref:
        kind = rng.random()
        if kind > 0.02:
            hyp.append(rng.choice(vocabulary) if kind < 0.08 else word)
        if kind > 0.98:
            hyp.append(rng.choice(vocabulary))
    return hyp


def main() -> None:
    """Run the command of the module's description."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=34, help="mean per utterance")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_texts(Path(folder), args.utterances, args.words)
        print("| command | s | largest memory so far, MB |\n|---|---:|---:|")
        for name, options in COMMANDS.items():
            start = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "espnet2_birq.bin.score", "--ref", "ref"]
                + options,
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds = time.monotonic() - start
            memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"| {name} | {seconds:.1f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
