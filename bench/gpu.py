"""Run all measurements on a GPU in one call, within a number of minutes.

    python bench/gpu.py --out exp/gpu --minutes 10
    python bench/gpu.py --out exp/gpu --device cpu --tiny      test without a GPU

Parts run in order of importance. Each has a share of the time and its own log in the
folder; a part that takes longer is stopped and reported as stopped:

    tests      tests that need a GPU: kernels and losses against slow plain versions, a
               training step that never waits for the device
    profile    the kernels of a BiRQ step that take most time
    depthwise  bench/depthwise.py: formulations of the depthwise convolution
    steps      bench/steps_gpu.yaml: steps of BEST-RQ and BiRQ at the paper's sizes, against
               plain ESPnet and SpeechBrain, with a fused optimizer, with masked copies
    compiled   the rows of this file with torch.compile, which takes minutes
    batch      bench/memory.py batch: utterances that fit in 80 GB, planned and measured
    lengths    bench/memory.py lengths: memory against the length of an utterance
    copies     bench/label_pass.py: clean and masked copy in one call or in two

The tables are in docs/benchmarks.md; their data are in steps.json and compiled.json.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import yaml

BENCH = Path(__file__).resolve().parent
GPU_TESTS = ("pretraining/test_no_waiting", "kernels/test_attention", "bench/test_step")
TINY = (
    "--encoder_conf output_size=16 --encoder_conf linear_units=16 "
    "--encoder_conf attention_heads=2 --encoder_conf num_blocks=8"
)


class Part(NamedTuple):
    """Program with its share of the time."""

    name: str
    share: float
    words: list[str]
    last: float = 0.0  # seconds at the end in which compare.py begins no command


def parts(args: argparse.Namespace) -> list[Part]:
    """List the parts in order; a part may use time left by earlier ones."""
    device = ["--device", args.device]
    half = ["--dtype", "float32" if args.tiny else "bfloat16"]
    program = sys.executable
    batch, lengths, copies = [], ["--options", ""], []
    c2 = ["--config", "conf/tuning/train_birq_c2.yaml"]
    profile = ["--batch", "64", *c2]
    convolution = ["--batch", "64", "--size", "1536", "--compile"]
    if args.tiny:
        convolution = ["--batch", "1", "--seconds", "2", "--size", "64", "--steps", "2"]
        profile = ["--batch", "1", "--seconds", "2", "--options", TINY]
        batch = ["--builds", "full", "--options", TINY, "--memory", "1"]
        lengths = ["--builds", "full", "--options", TINY, "--seconds", "2", "4"]
        copies = ["--rounds", "1", "--batch", "1", "--seconds", "2"]
    else:
        copies = ["--batch", "32", *c2]
    forked = ["--forked"] if args.device == "cuda" or args.tiny else []
    step = [program, str(BENCH / "step.py"), "--method", "birq", *device, *half]

    def compare(name: str, compiled: bool) -> list[str]:
        plan = write_plan(args.out / f"{name}.yaml", compiled, args)
        words = [program, str(BENCH / "compare.py"), str(plan), *forked]
        return [*words, "--rounds", "1", "--out", str(args.out / f"{name}.json")]

    memory = [program, str(BENCH / "memory.py")]
    tests = [f"tests/{name}.py" for name in GPU_TESTS]
    return [
        Part("tests", 0.2, [program, "-m", "pytest", "-q", "-m", "gpu", *tests]),
        Part("profile", 0.2, [*step, "--profile", *profile]),
        Part(
            "depthwise",
            0.1,
            [program, str(BENCH / "depthwise.py"), *device, *half, *convolution],
        ),
        Part("steps", 0.6, compare("steps", compiled=False), last=30.0),
        Part("compiled", 0.6, compare("compiled", compiled=True), last=120.0),
        Part("batch", 0.5, [*memory, "batch", *device, *half, *batch]),
        Part("lengths", 0.6, [*memory, "lengths", *device, *half, *lengths]),
        Part(
            "copies",
            1.0,
            [program, str(BENCH / "label_pass.py"), *device, *half, *copies],
        ),
    ]


def write_plan(path: Path, compiled: bool, args: argparse.Namespace) -> Path:
    """Write the commands of steps_gpu.yaml without or with torch.compile, and their ratios.

    With --tiny, they run a small model that takes a second, without SpeechBrain.
    """
    plan = yaml.safe_load((BENCH / "steps_gpu.yaml").read_text(encoding="utf-8"))
    pairs = [tuple(ratio.split(" / ")) for ratio in plan["ratios"]]
    slow = {name for name, words in plan["commands"].items() if "--compile" in words}
    names = set(plan["commands"]) - slow
    if compiled:  # and what they are compared with
        names = slow.union(*(pair for pair in pairs if slow.intersection(pair)))
    commands = {name: x for name, x in plan["commands"].items() if name in names}
    if args.tiny:
        plan["program"] = f"python {BENCH / 'step.py'} --json --warmup 1 --steps 1"
        commands = {
            name: tiny_command(command) + f" --device {args.device}"
            for name, command in commands.items()
            if "speechbrain" not in name
        }
    plan["commands"] = commands
    plan["ratios"] = [" / ".join(x) for x in pairs if commands.keys() >= set(x)]
    path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return path


def tiny_command(command: str) -> str:
    """Keep method, build and window of a command, and replace its sizes."""
    words, kept = command.split(), []
    for name in ("--method", "--build"):
        if name in words:
            kept += [name, words[words.index(name) + 1]]
    if "--compile" in words:
        kept += ["--compile", "eager"]
    options = TINY + "".join(
        f" {option}"
        for option in (
            "--model_conf attention_window=200",
            "--optim_conf fused=true",
            "--target_branch_conf copies=2",
        )
        if option in command
    )
    return " ".join([*kept, "--batch 1 --seconds 2 --options", f'"{options}"'])


def run(part: Part, log: Path, seconds: float) -> str:
    """Run a part; return its outcome."""
    words = list(part.words)
    if part.last:
        words += ["--seconds", str(max(1.0, seconds - part.last))]
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        stream.write(" ".join(words) + "\n")
        stream.flush()
        try:
            status = subprocess.run(
                words,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                cwd=BENCH.parent,
            ).returncode
            outcome = "done" if status == 0 else f"FAILED, exit status {status}"
        except subprocess.TimeoutExpired:
            outcome = "STOPPED, out of time"
    return f"{outcome} after {time.monotonic() - start:.0f} s"


def main():
    """Run all parts; exit with 1 if one failed or was stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for logs and steps.json")
    add("--minutes", type=float, default=10.0, help="default: %(default)s")
    add("--device", choices=["cpu", "cuda"], default="cuda")
    add("--tiny", action="store_true", help="small sizes, for a CPU")
    add("--only", nargs="+", metavar="PART", help="only these parts")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    everything = parts(args)
    unknown = set(args.only or []) - {part.name for part in everything}
    if unknown:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    end, failed = time.monotonic() + 60.0 * args.minutes, False
    for part in everything:
        if args.only and part.name not in args.only:
            continue
        log = args.out / f"{part.name}.log"
        seconds = part.share * max(0.0, end - time.monotonic())
        outcome = run(part, log, seconds)
        failed |= not outcome.startswith("done")
        print(f"== {part.name}: {outcome}", flush=True)
        print(log.read_text(encoding="utf-8", errors="replace")[-4000:], flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
