"""Memory of a long training on a CPU, as a function of updates of ssl_train.

    python bench/training_memory.py --librispeech DIR
    ONEDNN_PRIMITIVE_CACHE_CAPACITY=1024 LRU_CACHE_CAPACITY=1024 \\
        python bench/training_memory.py --librispeech DIR

DIR has FLAC files, in any subfolders. ssl_train runs on them with one thread, in batches of
20 s whose lengths all differ. After every --every updates, a row shows its resident memory,
the unshared memory of the process that reads batches, and CPU seconds per update.
espnet2_birq/kernels/allocator.py keeps variables set in the environment, so the second
command uses the default bounds of oneDNN and PyTorch.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

from data_path import list_audio, options  # noqa: E402

from espnet2_birq.errors import DataError  # noqa: E402

UPDATES = re.compile(r"(\d+)epoch:train:\d+-(\d+)batch: .*\bloss=([\d.e+-]+)")


def memory(pid: int) -> dict[str, float]:
    """Read a process's /proc/PID/smaps_rollup (Rss, Private_Dirty, ...) in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    pairs = (line.split()[:2] for line in lines)
    return {name.rstrip(":"): int(kib) / 1024 for name, kib in pairs}


def private_memory(pid: int) -> float:
    """Return the unshared MiB of a reader of batches; 0 if it has just ended."""
    try:
        found = memory(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return found["Private_Dirty"] + found["Private_Clean"]


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def readers(pid: int) -> list[int]:
    """List the child processes of a process."""
    return [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]


def train(folder: Path, args) -> Iterator[tuple]:
    """Run ssl_train.

    Yields:
        After every args.every updates: their number, MiB of the process, unshared MiB
        of its readers, CPU seconds per update, and the loss.
    """
    for name in ("wav.scp", "speech_shape"):  # two utterances for validation
        lines = (folder / name).open().readlines()
        (folder / f"valid_{name}").write_text("".join(lines[:2]))
    epoch = min(args.updates, 500)
    command = [sys.executable, "-m", "espnet2_birq.bin.ssl_train"]
    command += options(args, folder)
    command += ["--valid_data_path_and_name_and_type"]
    command += [f"{folder}/valid_wav.scp,speech,sound"]
    command += ["--valid_shape_file", f"{folder}/valid_speech_shape"]
    command += ["--num_iters_per_epoch", str(epoch), "--log_interval", str(args.every)]
    command += ["--max_epoch", str(args.updates // epoch), "--use_tensorboard", "false"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    path = [str(BENCH.parent), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    log, before = [], 0.0
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            log.append(line)
            if (found := UPDATES.search(line)) is None:
                continue
            own = memory(process.pid)["Rss"]
            private = sum(private_memory(pid) for pid in readers(process.pid))
            seconds = cpu_seconds(process.pid)
            number = (int(found[1]) - 1) * epoch + int(found[2])
            yield number, own, private, (seconds - before) / args.every, found[3]
            before = seconds
    if process.returncode:
        sys.exit(f"bench/training_memory.py: ssl_train failed:\n{''.join(log[-20:])}")


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    config = (
        BENCH.parent / "conf" / "mini_librispeech" / "train_birq_stop_gradient.yaml"
    )
    add("--librispeech", type=Path, required=True, help="folder with FLAC files")
    add("--limit", type=int, default=2000, help="maximum of utterances (%(default)s)")
    add("--config", default=str(config), help="of ssl_train; mini_librispeech's BiRQ")
    add("--batch_seconds", type=float, default=20.0, help="(default: %(default)s)")
    add("--num_workers", type=int, default=1, help="readers (default: %(default)s)")
    add("--updates", type=int, default=2000, help="500 per epoch (%(default)s)")
    add("--every", type=int, default=100, help="updates per row (%(default)s)")
    return parser


def main():
    """Measure and print."""
    args = get_parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            list_audio(args.librispeech, folder, args.limit)
        except DataError as error:
            sys.exit(f"bench/training_memory.py: {error}")
        print("| updates | MiB | readers' own MiB | CPU s an update | loss |")
        print("|---|---|---|---|---|")
        for number, own, private, seconds, loss in train(folder, args):
            row = f"| {number} | {own:.0f} | {private:.0f} | {seconds:.3f} | {loss} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
