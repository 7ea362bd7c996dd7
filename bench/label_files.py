"""Label files in four forms: bytes per frame, and frames per second that ESPnet reads.

Labels as long as LibriSpeech's utterances (12 s on average), at 25 a second, each kept for
two frames on average. Read in random order by ESPnet's dataset, as in training; files
are in the system's cache.

    python bench/label_files.py --utterances 5000
"""

import argparse
import tempfile
import time
from pathlib import Path

import kaldiio
import numpy as np
from espnet2.train.dataset import ESPnetDataset

from espnet2_birq.planning.machine import describe
from espnet2_birq.relabelling.store import write_labels

RATE = 25.0


def make_labels(utterances: int, codes: int) -> dict[str, np.ndarray]:
    """Draw utterance ids like LibriSpeech's, and codes."""
    draw = np.random.default_rng(0)
    found = {}
    for number in range(utterances):
        frames = int(draw.integers(100, 515))
        values = draw.integers(0, codes, frames)
        last = np.maximum.accumulate(
            np.where(draw.random(frames) < 0.5, np.arange(frames), 0)
        )
        found[f"{number // 100:04}-{number % 100:06}-0000"] = values[last]
    return found


def write_all(folder: Path, labels: dict[str, np.ndarray], codes: int) -> dict:
    """Write all forms; return name to files (the last is the list) and ESPnet's type."""
    write_labels(folder / "labels.ark", labels.items(), codes, RATE)
    specifier = f"ark,scp:{folder}/kaldi.ark,{folder}/kaldi.scp"
    with kaldiio.WriteHelper(specifier) as writer:
        for name, values in labels.items():
            writer(name, values.astype(np.int32))
    (folder / "npy").mkdir()
    with open(folder / "npy.scp", "w") as scp, open(folder / "text", "w") as text:
        for name, values in labels.items():
            np.save(folder / "npy" / f"{name}.npy", values.astype(np.int16))
            print(name, folder / "npy" / f"{name}.npy", file=scp)
            print(name, *values, file=text)
    arrays = sorted((folder / "npy").iterdir())
    return {
        "dump_labels": ([folder / "labels.ark", folder / "labels.scp"], "kaldi_ark"),
        "Kaldi's integers": ([folder / "kaldi.ark", folder / "kaldi.scp"], "kaldi_ark"),
        "text": ([folder / "text"], "text_int"),
        "a file each, int16": ([*arrays, folder / "npy.scp"], "npy"),
    }


def measure(files: list[Path], kind: str, labels: dict[str, np.ndarray]) -> dict:
    """Open and read one form; check what is read."""
    frames = sum(map(len, labels.values()))
    # Disk space, in whole blocks
    size = sum(file.stat().st_blocks * 512 for file in files)
    start = time.perf_counter()
    dataset = ESPnetDataset([(str(files[-1]), "labels", kind)])
    opened = time.perf_counter() - start
    names = np.random.default_rng(0).permutation(list(labels))
    start = time.perf_counter()
    for name in names:
        found = dataset[str(name)][1]["labels"]
        if not np.array_equal(found, labels[name]):
            raise SystemExit(f"{files[-1]}: {name} is read wrongly")
    seconds = time.perf_counter() - start
    return {"bytes": size / frames, "open": opened, "read": frames / seconds}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=5000)
    args = parser.parse_args()
    print(describe("cpu"))
    print("| codes | form | bytes / frame | opened in s | M frames / s |")
    print("|---|---|---|---|---|")
    for codes in (100, 500, 8192):
        labels = make_labels(args.utterances, codes)
        with tempfile.TemporaryDirectory() as folder:
            for name, (files, kind) in write_all(Path(folder), labels, codes).items():
                one = measure(files, kind, labels)
                print(
                    f"| {codes} | {name} | {one['bytes']:.2f} | {one['open']:.2f} | "
                    f"{one['read'] / 1e6:.2f} |"
                )


if __name__ == "__main__":
    main()
