"""Time and memory of commands that process data directories, by size of the directory.

It makes directories of 1, 10 and 100 times 20,000 utterances that share 50 audio files of
one minute: one with a file per utterance, one with thirty segments per recording, and one
with its audio in an ark. Each command runs in its own process.

  python bench/check_data_scale.py --scales 1 10 100
  python bench/check_data_scale.py --scales 1 10 --full
  python bench/check_data_scale.py --scales 1 10 100 --espnet
"""

import argparse
import shutil
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
SEGMENTS = 30  # per recording
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


# Lists of a formatted set that ESPnet's training keeps in memory
ESPNET_READS = """
import sys
from espnet2.fileio.read_text import load_num_sequence_text
from espnet2.fileio.sound_scp import SoundScpReader
from espnet2.samplers.num_elements_batch_sampler import NumElementsBatchSampler
folder = sys.argv[1]
reader = SoundScpReader(folder + "/wav.scp")
sampler = NumElementsBatchSampler(10**8, [folder + "/utt2num_samples"])
"""
# Processing of a Kaldi data directory's lists in ESPnet's stages 3 and 4
ESPNET_COPIES = """
set -e
cd tools/espnet/egs2/TEMPLATE/asr1
PATH=$PWD/utils:$PATH
utils/copy_data_dir.sh --validate_opts "--non-print --no-text" "$0" "$1"
utils/filter_scp.pl "$0/utt2num_samples" "$0/wav.scp" > "$1/wav.scp"
utils/fix_data_dir.sh "$1"
"""


def commands(kind: str, folder: Path, dest: Path, args) -> dict[str, list[str]]:
    """Return the commands to measure on a directory, by name."""
    if args.espnet:
        if kind != "files":
            return {}
        return {
            "ESPnet's training, lists": [sys.executable, "-c", ESPNET_READS, folder],
            "ESPnet's stages 3 and 4, lists": [
                "bash",
                "-c",
                ESPNET_COPIES,
                folder,
                dest,
            ],
        }
    python = [sys.executable, "-m"]
    check = [*python, "espnet2_birq.bin.check_data", "--fs", str(FS)]
    if args.full:
        return {f"check_data --full, {kind}": [*check, "--full", folder]}
    adopt = [*python, "espnet2_birq.bin.adopt_data", "--fs", str(FS)]
    return {
        f"check_data, {kind}": [*check, folder],
        f"adopt_data, {kind}": [*adopt, folder, dest],
    }


# A process's peak includes memory of the process that started it, so start from a small one.
LAUNCHER = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=2)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
"""


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return wall time, CPU time (s) and peak memory (MiB).

    The peak is that of the command's largest process.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *command], capture_output=True, text=True
    )
    status, cpu, kib = done.stdout.split()
    if status != "0":
        sys.exit(f"{command}: failed: {done.stderr[-1000:]}")
    return time.perf_counter() - start, float(cpu), int(kib) / 1024


def main() -> None:
    """Print a row for each command and size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scales", type=int, nargs="+", default=[1, 10, 100])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--full", action="store_true", help="check_data with all audio")
    what.add_argument("--espnet", action="store_true", help="ESPnet's own part")
    args = parser.parse_args()
    print("| command | utterances | seconds | CPU seconds | MiB |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        paths, arks = make_audio(top)
        for kind, entries in (("files", paths), ("segments", paths), ("ark", arks)):
            for number in (UNIT * scale for scale in args.scales):
                folder, dest = top / "set", top / "dest"
                make_set(folder, number, kind, entries)
                for name, command in commands(kind, folder, dest, args).items():
                    seconds, cpu, memory = measure(command)
                    print(
                        f"| {name} | {number:,} | {seconds:.1f} | "
                        f"{cpu:.1f} | {memory:.0f} |",
                        flush=True,
                    )
                for used in (folder, dest):
                    shutil.rmtree(used, ignore_errors=True)


if __name__ == "__main__":
    main()
