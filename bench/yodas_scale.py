"""Time and memory of making a set from prepared YODAS shards, for several sizes.

It writes prepared shards of 2,000 utterances (lists without audio) and runs prepare_yodas
on them. So it measures only the work that is not per shard: reading the shards' lists,
choosing videos, and writing the set. It prints a line of JSON for each size.

  python bench/yodas_scale.py --folder DIR --sizes 1 10 100
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from espnet2_birq.corpora.yodas.layout import Shard, tar_path
from espnet2_birq.corpora.yodas.writer import ShardOptions

UNIT = 20000  # utterances of size 1
UTTERANCES, PER_VIDEO = 2000, 20  # per shard, per video
SAMPLES = 8 * 16000

# Run in a new process, so that its memory is only that of the command.
MEASURE = """
import json, resource, sys, time
from espnet2_birq.bin.prepare_yodas import main
begin = time.monotonic()
main(sys.argv[1:])
kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([round(time.monotonic() - begin, 2), kib // 1024]))
"""


def write_shard(root: Path, store: Path, shard: Shard, first_video: int) -> None:
    """Write a prepared shard, and an empty tar file as its source."""
    tar = tar_path(root, shard)
    tar.parent.mkdir(parents=True, exist_ok=True)
    tar.touch()
    folder = store / shard.subset / shard.number
    folder.mkdir(parents=True)
    utterances, videos = [], []
    for number in range(UTTERANCES // PER_VIDEO):
        video = f"v{first_video + number:010d}"
        videos.append(f"{video}\t{PER_VIDEO}\t{PER_VIDEO * SAMPLES}\n")
        for index in range(PER_VIDEO):
            times = f"{index:05d}-{800 * index:08d}-{800 * (index + 1):08d}"
            offset = (number * PER_VIDEO + index) * 130000
            utt_id = f"{shard.key}-{video}+{times}"
            utterances.append(f"{utt_id}\t{video}\t{offset}\t{SAMPLES}\t\n")
    (folder / "utterances.tsv").write_text("".join(utterances))
    (folder / "videos.tsv").write_text("".join(videos))
    (folder / "skipped.tsv").write_text("")
    summary = {"release": "yodas", "tar_bytes": 0, "tar_sha256": "0" * 64}
    summary |= {"utterances": UTTERANCES, "samples": UTTERANCES * SAMPLES}
    (folder / "summary.json").write_text(json.dumps(summary | {"skipped": {}}))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="new folder")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100])
    args = parser.parse_args()
    for size in args.sizes:
        root, dest = args.folder / f"{size}/data", args.folder / f"{size}/raw"
        store = dest / "shards"
        for number in range(size * UNIT // UTTERANCES):
            shard = Shard(f"en{number // 500:03d}", f"{number % 500:08d}")
            write_shard(root, store, shard, number * UTTERANCES // PER_VIDEO)
        (store / "options.json").write_text(json.dumps(asdict(ShardOptions())))
        options = ["--yodas", str(root.parent), "--dest", str(dest), "--parts", "en"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *options],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds, mib = json.loads(done.stdout.splitlines()[-1])
        count = size * UNIT
        row = {"utterances": count, "seconds": seconds, "peak_mib": mib}
        row["us_per_utterance"] = round(1e6 * seconds / count, 1)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
