"""Time and memory of check_data, and of taking over a formatted set, against size.

Makes directories of 1, 10 and 100 times 20,000 utterances that share 50 short audio
files: one that lists a file for each utterance, one with thirty segments a recording, one
with its audio in an ark. Runs every command in a process of its own.

  python bench/check_data_scale.py --scales 1 10 100
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from omniio import kaldi as kaldi_io

UNIT = 20000
FILES = 50
SEGMENTS = 30  # of a recording
SECONDS = 60
FS = 16000


def make_audio(top: Path) -> tuple[list[str], list[str]]:
    """Write the audio files and the ark; return their entries for wav.scp."""
    generator = np.random.default_rng(0)
    paths, arks = [], []
    with open(top / "audio.ark", "wb") as ark, open(top / "ark.scp", "w") as scp:
        for number in range(FILES):
            wave = generator.integers(-99, 99, SECONDS * FS, dtype="int16")
            paths.append(f"{top}/{number}.flac")
            soundfile.write(paths[-1], wave, FS)
            kaldi_io.save_ark(
                ark,
                {f"{number}": (wave[:FS], FS)},
                scp=scp,
                append=True,
                write_function="soundfile",
                write_kwargs={"format": "flac", "subtype": None},
            )
    for line in open(top / "ark.scp"):
        arks.append(line.split(maxsplit=1)[1].strip())
    return paths, arks


def make_set(folder: Path, number: int, kind: str, entries: list[str]) -> None:
    """Write a data directory of `number` utterances, line by line."""
    folder.mkdir()
    names = ["wav.scp", "utt2spk", "spk2utt", "text"]
    names += ["segments"] if kind == "segments" else ["utt2num_samples", "feats_type"]
    files = {name: open(folder / name, "w") for name in names}
    for index in range(number):
        recording = f"video{index // SEGMENTS:08d}"
        utt_id = f"{recording}-{index % SEGMENTS:05d}"
        entry = entries[index // SEGMENTS % FILES]
        first = index % SEGMENTS == 0
        if kind != "segments":
            print(utt_id, entry, file=files["wav.scp"])
            samples = FS if kind == "ark" else SECONDS * FS
            print(utt_id, samples, file=files["utt2num_samples"])
        else:
            start = 2.0 * (index % SEGMENTS)
            print(utt_id, recording, start, start + 1.5, file=files["segments"])
            if first:
                print(recording, entry, file=files["wav.scp"])
        print(utt_id, recording, file=files["utt2spk"])
        print(utt_id, "SOME WORDS THAT WERE SAID", file=files["text"])
        if first:
            files["spk2utt"].write("\n" * (index > 0) + recording)
        files["spk2utt"].write(f" {utt_id}")
    files["spk2utt"].write("\n")
    if kind != "segments":
        files["feats_type"].write("raw\n")
    for file in files.values():
        file.close()


def measure(command: list[str]) -> tuple[float, float]:
    """Run a command; return its seconds and its largest resident memory in MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Print a row for each command and size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--full", action="store_true", help="open all audio, too")
    args = parser.parse_args()
    print("| command | utterances | seconds | us an utterance | MiB |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        paths, arks = make_audio(top)
        check = [sys.executable, "-m", "espnet2_birq.bin.check_data", "--fs", str(FS)]
        adopt = [sys.executable, "-m", "espnet2_birq.bin.adopt_data", "--fs", str(FS)]
        for kind, entries in (("files", paths), ("segments", paths), ("ark", arks)):
            for scale in args.scales:
                number = UNIT * scale
                folder = top / f"{kind}{scale}"
                make_set(folder, number, kind, entries)
                rows = {f"check_data, {kind}": [*check, str(folder)]}
                if args.full:
                    rows[f"check_data --full, {kind}"] = [*check, "--full", str(folder)]
                rows[f"adopt_data, {kind}"] = [*adopt, str(folder), str(top / "dest")]
                for name, command in rows.items():
                    seconds, memory = measure(command)
                    print(
                        f"| {name} | {number:,} | {seconds:.1f} | "
                        f"{seconds / number * 1e6:.1f} | {memory:.0f} |",
                        flush=True,
                    )
                subprocess.run(["rm", "-r", str(folder), str(top / "dest")], check=True)


if __name__ == "__main__":
    main()
