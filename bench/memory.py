"""Memory of a training step, against the length of an utterance or the size of a batch.

    python bench/memory.py lengths                        peaks, 10 s to 10 min
    python bench/memory.py lengths --device cuda --dtype bfloat16
    python bench/memory.py batch                          batches for 80 GB, planned
    python bench/memory.py batch --device cuda            ... and measured

The model is bench/step.yaml, changed by --options of ssl_train (lengths: 4 of its 10
layers). The method is BEST-RQ, or BiRQ with --method birq. Builds:

    full      as trained by ssl_train
    window    the same, with attention in blocks of 200 encoder frames (8 s)
    plain     ESPnet's unchanged encoder and a plain loss: bench/plain.py

`lengths` runs the forward and backward pass of one utterance, each build in its own process. It
prints the growth during the step: of the process on a CPU, of PyTorch's allocator on a GPU.
Peaks above --limit GiB are only marked as such. `batch` prints how many utterances of 12 s
fit in --memory GB, by the estimate of espnet2_birq.bin.plan (bfloat16). On a GPU it also
measures this by bisection, with a process per try, including parameters and optimizer.
"""

import argparse
import ctypes
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

import forked  # noqa: E402

with forked.no_gpu():
    import torch
    from plain import PlainModel
    from plan_check import resident
    from step import DTYPES, METHODS, SAMPLING_RATE, autocast, read_config

    from espnet2_birq.planning.cost import FakeModel
    from espnet2_birq.planning.plan import plan_memory
    from espnet2_birq.tasks.ssl import SSLTask

BUILDS = dict(
    full=dict(),
    window=dict(attention_window=200),
    plain=dict(accelerate=False),
)
SMALL = "--encoder_conf num_blocks=4"
LARGE = (  # 158.6 M parameters
    "--encoder_conf output_size=768 --encoder_conf linear_units=3072 "
    "--encoder_conf attention_heads=8"
)
UTTERANCE = 12.0  # seconds
NO_MEMORY = ("allocate memory", "out of memory")


def configure(args, build: str) -> argparse.Namespace:
    """Return the configuration of a build."""
    conf = read_config(args.config, args.method, args.options)
    for row in conf.objectives:  # the label layer must exist in a smaller encoder
        if row["name"] == "enhanced":
            row["view"] = "layer"
    half = args.dtype == "bfloat16"
    conf.model_conf = dict(conf.model_conf, **BUILDS[build], cpu_bfloat16=half)
    conf.use_amp = half
    return conf


class Step:
    """Repeatable training step on noise."""

    def __init__(self, args, build: str):
        conf = configure(args, build)
        dtype, self.device = DTYPES[args.dtype], args.device
        torch.manual_seed(0)
        self.model = SSLTask.build_model(conf).train().to(self.device)
        speech, lengths = self.speech(1, 2.0)
        self.model.prepare([dict(speech=speech, speech_lengths=lengths)])
        self.plain = build == "plain"
        if self.plain:
            self.model = PlainModel(self.model, dtype)
        self.dtype = torch.float32 if self.device == "cpu" or self.plain else dtype
        (self.optimizer,) = SSLTask.build_optimizers(conf, self.model)

    def speech(self, utterances: int, seconds: float):
        """Make waveforms (B, N) and lengths (B,)."""
        samples = int(seconds * SAMPLING_RATE)
        return (
            0.1 * torch.randn(utterances, samples, device=self.device),
            torch.full((utterances,), samples, device=self.device),
        )

    def gradients(self, speech, lengths):
        """Run forward and backward pass."""
        with autocast(self.device, self.dtype):
            loss = self.model(speech, lengths)[0]
        loss.backward()


def peaks_of_lengths(args) -> list[int | None]:
    """Measure the growth in bytes of steps of each length; None: not enough memory.

    Lengths ascend; after one that does not fit, no others are tried.
    """
    if args.device == "cpu":
        # Blocks above 64 KiB go back to the system when they are free.
        ctypes.CDLL("libc.so.6").mallopt(-3, 65536)  # M_MMAP_THRESHOLD
    step = Step(args, args.build)
    step.gradients(*step.speech(1, 2.0))  # allocates buffers that libraries keep
    peaks = []
    for seconds in args.seconds:
        step.optimizer.zero_grad()
        gc.collect()
        try:
            peaks.append(growth(step, seconds, args.limit))
        except (RuntimeError, MemoryError) as error:
            if not any(words in str(error) for words in NO_MEMORY):
                raise
            return peaks + [None] * (len(args.seconds) - len(peaks))
    return peaks


def growth(step: Step, seconds: float, limit: float) -> int:
    """Measure the growth in bytes of one step."""
    batch = step.speech(1, seconds)
    if step.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.gradients(*batch)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    end = resident("VmSize") + int(limit * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (end, resource.RLIM_INFINITY))
    step.gradients(*batch)
    return resident("VmHWM") - before


def peak_of_batch(args) -> int:
    """Measure the bytes of two whole steps on a GPU limited to --memory.

    For zero utterances, return the planned number of utterances.
    """
    if args.utterances == 0:
        return planned(args, args.build)
    everything = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1e9 * args.memory / everything))
    step = Step(args, args.build)
    batch = step.speech(args.utterances, UTTERANCE)
    for _ in range(2):
        step.gradients(*batch)
        step.optimizer.step()
        step.optimizer.zero_grad()
    return torch.cuda.max_memory_reserved()


def measure(args, *more: str) -> list[int | None] | int | None:
    """Run this program in a new process; return bytes, or None for lack of memory."""
    command = [__file__, args.what, "--one", *more]
    for name in ("config", "options", "method", "device", "dtype", "limit", "memory"):
        command += [f"--{name}", str(getattr(args, name))]
    if args.device == "cuda":
        done = forked.run(command)
    else:
        command = [sys.executable, *command]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if any(words in done.stderr for words in NO_MEMORY):
        return None
    sys.exit(f"bench/memory.py: {' '.join(command)}: {done.stderr[-2000:]}")


def lengths(args):
    """Print the table of peaks."""
    columns = []
    for build in args.builds:
        seconds = [str(x) for x in sorted(args.seconds)]
        columns.append(measure(args, "--build", build, "--seconds", *seconds))
        print(f"{build}: measured", file=sys.stderr, flush=True)
    print(f"| utterance, s | {' | '.join(args.builds)} |")
    print("|---" * (1 + len(args.builds)) + "|")
    for row, seconds in enumerate(sorted(args.seconds)):
        peaks = [column[row] for column in columns]
        more = f"more than {1024 * args.limit:.0f}"
        cells = [more if x is None else f"{x / 2**20:.0f}" for x in peaks]
        print(f"| {seconds:g} | {' | '.join(cells)} |")


def largest(fits: Callable[[int], bool], guess: int = 1) -> int:
    """Find the largest number that fits, within 2 %, from a guess; 0 if 1 does not fit."""
    stride = max(1, guess // 10)
    if fits(guess):
        low, high = guess, guess + stride
        while fits(high):
            stride *= 2
            low, high = high, high + stride
    else:
        low, high = max(0, guess - stride), guess
        while low > 0 and not fits(low):
            stride *= 2
            low, high = max(0, low - stride), low
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def planned(args, build: str) -> int:
    """Return the number of utterances that fit, by the planner's estimate."""
    conf = configure(args, build)
    conf.accum_grad = 1
    _, fits = plan_memory(conf, FakeModel(conf), UTTERANCE, 1, 1e9 * args.memory)
    return round(fits / UTTERANCE)


def batch(args):
    """Print the table of batches that fit."""
    head = f"utterances of {UTTERANCE:g} s in {args.memory:g} GB"
    print(f"| {head} | planned | measured |")
    print("|---|---|---|")

    def fits(build: str, utterances: int) -> bool:
        more = ("--build", build, "--utterances", str(utterances))
        return measure(args, *more) is not None

    for build in args.builds:
        measured = "-"
        if args.device == "cuda":  # in another process: planning calls CUDA (forked.py)
            guess = measure(args, "--build", build, "--utterances", "0")
            measured = largest(partial(fits, build), max(1, guess))
        else:
            guess = planned(args, build)
        print(f"| {build} | {guess} | {measured} |", flush=True)


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=["lengths", "batch"])
    add("--builds", nargs="+", choices=list(BUILDS), default=list(BUILDS))
    add("--method", choices=METHODS, default="best_rq")
    add("--config", default=str(BENCH / "step.yaml"), help="of ssl_train; step.yaml")
    add(
        "--options",
        help="more of ssl_train, in quotes (lengths: 4 layers; batch: a width of 768, "
        "158.6 M parameters)",
    )
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--dtype", choices=sorted(DTYPES), help="(lengths: float32; batch: bfloat16)")
    add(
        "--seconds",
        type=float,
        nargs="+",
        default=[10, 30, 60, 120, 300, 600],
        help="lengths of utterances (10 to 600)",
    )
    add("--limit", type=float, default=6.0, help="GiB on a CPU (%(default)s)")
    add("--memory", type=float, default=80.0, help="GB of a GPU (%(default)s)")
    for name, kind in (("one", None), ("build", str), ("utterances", int)):
        how = dict(action="store_true") if kind is None else dict(type=kind)
        add(f"--{name}", help=argparse.SUPPRESS, **how)  # for one measurement
    return parser


def main():
    """Measure and print."""
    parser = get_parser()
    args = parser.parse_args()
    # Check in forks only: forks of a process that has called CUDA cannot use it.
    if args.one and args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here")
    if args.options is None:
        args.options = SMALL if args.what == "lengths" else LARGE
    args.dtype = args.dtype or ("float32" if args.what == "lengths" else "bfloat16")
    if args.one:
        torch.set_num_threads(1)
        one = peaks_of_lengths if args.what == "lengths" else peak_of_batch
        print(json.dumps(one(args)))
    else:
        (lengths if args.what == "lengths" else batch)(args)


if __name__ == "__main__":
    main()
