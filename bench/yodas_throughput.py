"""Speed of preparing a YODAS shard on one core.

It makes one large shard of copies of a sample's videos, with other ids, and prepares it
with both archive formats. It prints a line of JSON for each. Rates are per second of CPU
time, so that other work on the machine has no effect.

  python bench/yodas_throughput.py --sample /corpora/yodas --folder DIR
"""

import argparse
import io
import json
import resource
import tarfile
import time
from pathlib import Path

from espnet2_birq.corpora.yodas import layout
from espnet2_birq.corpora.yodas.shard import prepare_shard
from espnet2_birq.corpora.yodas.writer import ShardOptions


def copy_shard(
    source: Path, shard: layout.Shard, root: Path, copies: int
) -> layout.Shard:
    """Write a shard with several copies of a shard's files."""
    captions = layout.read_captions(source, shard)
    with tarfile.open(layout.tar_path(source, shard)) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
    large = layout.Shard(shard.subset, "00000000")
    text = root / large.subset / "text" / f"{large.number}.json"
    for folder in (layout.tar_path(root, large).parent, text.parent):
        folder.mkdir(parents=True)
    entries = []
    with tarfile.open(layout.tar_path(root, large), "w:gz", compresslevel=6) as tar:
        for copy in range(copies):
            for video, segments in captions.items():
                renamed = {f"{copy}{name}": said for name, said in segments.items()}
                entries.append({"audio_id": f"{copy}{video}", "text": renamed})
            for name, content in files.items():
                info = tarfile.TarInfo(f"{copy}{Path(name).name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    text.write_text(json.dumps(entries))
    return large


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", required=True, help="folder of a release")
    parser.add_argument("--folder", type=Path, required=True, help="new folder")
    parser.add_argument("--copies", type=int, default=30)
    args = parser.parse_args()
    source, root = layout.find_root(args.sample), args.folder / "data"
    first = layout.find_shards(source, layout.find_subsets(source)[0])[0]
    shard = copy_shard(source, first, root, args.copies)
    for audio_format in ("flac.ark", "wav.ark"):
        dest = args.folder / audio_format
        dest.mkdir()
        wall, cpu = time.monotonic(), time.process_time()
        options = ShardOptions(audio_format=audio_format)
        prepare_shard(root, shard, options, dest)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        summary = json.loads((dest / "summary.json").read_text())
        hours = summary["samples"] / options.fs / 3600
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        row = {"release": summary["release"], "audio_format": audio_format}
        row |= {"utterances": summary["utterances"], "hours": round(hours, 2)}
        row |= {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}
        row["utterances_per_cpu_s"] = round(summary["utterances"] / cpu)
        row["hours_per_cpu_s"] = round(hours / cpu, 2)
        row["gb_per_hour"] = round((dest / "audio.ark").stat().st_size / hours / 1e9, 3)
        row["peak_mib"] = kib // 1024
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
