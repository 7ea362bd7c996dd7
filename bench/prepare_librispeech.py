"""Time of preparing LibriSpeech, compared with ESPnet's preparation of the same tree.

    python bench/prepare_librispeech.py --librispeech DIR --part dev-clean --copies 1 20

It makes a tree with copies of the part (links with other reader numbers) in a temporary
folder. Both prepare it alternately, several times. ESPnet's local/data_prep.sh opens no
audio files; ours opens all and reads their ends. Rates are per second of CPU time of all
processes of a run, since ESPnet's pipes use several cores at once.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from espnet2_birq.corpora.librispeech import (
    find_corpus,
    make_sets,
    probe_sets,
    reader_of,
    set_name,
)

ROOT = Path(__file__).resolve().parents[1]


def make_tree(corpus: Path, part: str, copies: int, top: Path) -> tuple[int, float]:
    """Write a LibriSpeech/ with copies of a part.

    Args:
        corpus: Folder LibriSpeech/ to copy from.
        part: Name of the part.
        copies: Number of copies.
        top: Folder for the new LibriSpeech/.

    Returns:
        Number of utterances, and their total duration in hours.
    """
    sets, infos = probe_sets(make_sets(corpus, [part], {}, {}), None, 4, False)
    (one,) = sets.values()
    speakers = set()
    for copy in range(copies):
        texts: dict[Path, list[str]] = {}
        for u in one.utterances:
            # No reader of the corpus has a number of 5 or more digits.
            reader = str(10000 * (copy + 1) + int(reader_of(u.utt_id)))
            _, chapter, number = u.utt_id.split("-")
            speaker = f"{reader}-{chapter}"
            folder = top / "LibriSpeech" / part / reader / chapter
            if folder not in texts:
                folder.mkdir(parents=True)
                texts[folder] = []
            (folder / f"{speaker}-{number}.flac").symlink_to(u.path)
            texts[folder].append(f"{speaker}-{number} {u.text}\n")
            speakers.add(reader)
        for folder, lines in texts.items():
            name = f"{folder.parent.name}-{folder.name}.trans.txt"
            (folder / name).write_text("".join(lines))
    (top / "LibriSpeech" / "SPEAKERS.TXT").write_text(
        "".join(f"{reader} | F | {part} | 8.0 | A\n" for reader in sorted(speakers))
    )
    seconds = sum(info.seconds for info in infos.values())
    return copies * len(one.utterances), copies * seconds / 3600


def make_recipe(top: Path) -> Path:
    """Make a folder in which ESPnet's local/data_prep.sh runs."""
    recipe = top / "espnet"
    (recipe / "bin").mkdir(parents=True)
    egs = ROOT / "tools" / "espnet" / "egs2"
    (recipe / "utils").symlink_to(egs / "TEMPLATE" / "asr1" / "utils")
    (recipe / "local").symlink_to(egs / "librispeech" / "asr1" / "local")
    # It requires the program flac, but does not call it.
    (recipe / "bin" / "flac").write_text("#!/bin/sh\nexit 1\n")
    (recipe / "bin" / "flac").chmod(0o755)
    return recipe


def measure(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Run a command; return wall time, CPU time (s) and the largest process (MiB)."""
    path = f"{folder}/utils:{folder}/bin:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "LC_ALL": "C"}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"error: {command[0]} failed with status {status}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def compare(corpus: Path, part: str, copies: int, repeats: int) -> None:
    """Time both on the same tree, check that their outputs are equal, and print."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        utterances, hours = make_tree(corpus, part, copies, top)
        recipe, dest = make_recipe(top), set_name(part)
        ours = [sys.executable, "-m", "espnet2_birq.bin.prepare_librispeech", "--nj"]
        ours += ["1", "--librispeech", str(top), "--dest", "ours", "--parts", part]
        script = "local/data_prep.sh"
        theirs = ["bash", script, f"{top}/LibriSpeech/{part}", f"theirs/{dest}"]
        runs = [
            (measure(theirs, recipe), measure(ours, recipe)) for _ in range(repeats)
        ]
        for file in ("wav.scp", "text", "utt2spk", "spk2utt", "spk2gender"):
            both = [recipe / who / dest / file for who in ("ours", "theirs")]
            assert both[0].read_bytes() == both[1].read_bytes(), file
    print(f"{utterances} utterances, {hours:.1f} hours, medians of {repeats} runs")
    cpu = []
    for who, results in zip(("ESPnet", "ours"), zip(*runs)):
        wall, core, mib = (statistics.median(column) for column in zip(*results))
        cpu.append(core)
        print(
            f"{who:>8}: {wall:.2f} s, {core:.2f} core s; a core second: "
            f"{utterances / core:.0f} utterances, {hours / core:.1f} h of audio; "
            f"{mib:.0f} MiB"
        )
    print(f"   ratio: {cpu[0] / cpu[1]:.2f} in core seconds")


def main() -> None:
    """Parse the options and compare at every size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--librispeech", required=True, metavar="DIR")
    parser.add_argument("--part", default="dev-clean")
    parser.add_argument("--copies", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--repeats", type=int, default=5, metavar="N")
    args = parser.parse_args()
    corpus = find_corpus(args.librispeech)
    for copies in args.copies:
        compare(corpus, args.part, copies, args.repeats)


if __name__ == "__main__":
    main()
