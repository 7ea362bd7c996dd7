"""Check of the planner's counts and predictions against measurements on a CPU.

    python bench/plan_check.py --threads 1 --rounds 7

- parameters: of the fake model and of a real one, exactly equal;
- FLOPs: counted on fake tensors and in a real step, within 2 %;
- memory: the counted peak, and the growth of a process in its second step, within 20 %;
- time: two rates of this CPU (matrix products, everything else) are fitted to some steps
  and predict the steps of other methods, widths, lengths and another encoder, within 20 %.

All are in single precision, on noise. Memory and FLOPs are measured with ESPnet's
operations, times with this project's, with `accelerate`. Models run alternately, and the
fastest step counts, since other work on the machine only makes steps slower. The exit
status is 1 if a difference is larger.
"""

import argparse
import ctypes
import gc
import multiprocessing
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from espnet2_birq.planning.cost import (
    FakeModel,
    count_parameters,
    counted,
    plain_args,
)
from espnet2_birq.planning.measured import Step, fit_rates
from espnet2_birq.tasks.ssl import SSLTask

CONF = Path(__file__).resolve().parents[1] / "conf"
FS = 16000
SHAW = "output_size=192 linear_units=768 input_stack=4"


class Case(NamedTuple):
    """Model and batch."""

    name: str
    config: str
    encoder: str  # changes of encoder_conf
    utterances: int
    seconds: float
    fit: bool = False  # whether rates are fitted to it

    def args(self) -> argparse.Namespace:
        """Return the options of SSLTask."""
        options = ["--config", str(CONF / f"{self.config}.yaml"), "--output_dir", "-"]
        for option in self.encoder.split():
            options += ["--encoder_conf", option]
        options += ["--model_conf", "cpu_bfloat16=false"]
        return SSLTask.get_parser().parse_args(options)

    @property
    def samples(self) -> int:
        """Samples per utterance."""
        return round(self.seconds * FS)


BEST_RQ = "mini_librispeech/train_best_rq"
STOPPED = "mini_librispeech/train_birq_stop_gradient"
PAPER, C2 = "mini_librispeech/train_birq_paper", "tuning/train_birq_c2"
WIDE = "output_size=288 linear_units=1152"
CASES = [
    Case("BEST-RQ 8x144, 2 x 12.3 s", BEST_RQ, "", 2, 12.3, fit=True),
    Case("BEST-RQ 8x288, 4 x 5 s", BEST_RQ, WIDE, 4, 5.0, fit=True),
    Case("BEST-RQ 8x144, 1 x 24.5 s", BEST_RQ, "", 1, 24.5),
    Case("BEST-RQ 8x216, 3 x 8 s", BEST_RQ, "output_size=216", 3, 8.0),
    Case("BiRQ 8x144, gradient stopped, 2 x 12.3 s", STOPPED, "", 2, 12.3),
    Case("BiRQ 8x144, as published, 2 x 12.3 s", PAPER, "", 2, 12.3),
    Case("BiRQ 8x288, as published, 4 x 5 s", PAPER, WIDE, 4, 5.0),
    Case("BiRQ shaw 10x192, 2 x 12.3 s", C2, SHAW, 2, 12.3),
]


def resident(key: str) -> int:
    """Return the memory of this process in bytes: VmRSS is current, VmHWM the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def growth(case: Case) -> int:
    """Measure the growth in bytes in a second step, in a new process."""
    # Blocks above 64 KiB go back to the system when they are free.
    ctypes.CDLL("libc.so.6").mallopt(-3, 65536)  # M_MMAP_THRESHOLD
    step = Step(plain_args(case.args(), gpu=False), case.utterances, case.samples)
    step.gradients()  # allocates buffers that libraries keep
    step.optimizer.zero_grad()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    step.gradients()
    return resident("VmHWM") - before


def check_counts(case: Case, cost, model: FakeModel, grown: int):
    """Print table rows for parameters, FLOPs and memory of a case."""
    step = Step(plain_args(case.args(), gpu=False), case.utterances, case.samples)
    real = count_parameters(step.model, step.model)
    yield "parameters", model.parameters.all, real.all, 0.0
    with counted() as meter:
        step.gradients()
    yield "FLOPs", cost.flops, meter.flops, 0.02
    yield "peak bytes", cost.peak, grown, 0.2


def measure(cases, rounds: int):
    """Return the seconds of all timed steps of each case; cases run alternately."""
    steps = [Step(case.args(), case.utterances, case.samples) for case in cases]
    times = [[] for _ in cases]
    for number in range(rounds + 1):  # the first round is a warm-up
        order = list(range(len(cases)))
        for place in order if number % 2 else reversed(order):
            seconds = steps[place]()
            if number:
                times[place].append(seconds)
    return times


def row(name, what, planned, measured, limit):
    """Print a row; return whether it is within the limit."""
    off = planned / measured - 1
    good = abs(off) <= limit
    verdict = "" if good else " **too far off**"
    print(
        f"| {name} | {what} | {planned:.4g} | {measured:.4g} | "
        f"{100 * off:+.1f}{verdict} |",
        flush=True,
    )
    return good


def main():
    """Print a table for counts and one for times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="timed steps per case")
    parser.add_argument("--only", choices=["counts", "times"], help="default: both")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    good, costs = [], []
    if args.only != "times":  # before this process has run a backward pass
        context = multiprocessing.get_context("fork")
        with context.Pool(1, maxtasksperchild=1) as pool:
            grown = pool.map(growth, CASES, chunksize=1)
    print("| step | what | planned | measured | off by % |\n|---|---|---|---|---|")
    for place, case in enumerate(CASES):
        model = FakeModel(case.args(), gpu=False)
        costs.append(model.count_step(case.utterances, case.samples))
        if args.only != "times":
            for numbers in check_counts(case, costs[-1], model, grown[place]):
                good.append(row(case.name, *numbers))
    if args.only != "counts":
        times = measure(CASES, args.rounds)
        fastest = [min(x) for x in times]
        known = [place for place, case in enumerate(CASES) if case.fit]
        rates = fit_rates([costs[i] for i in known], [fastest[i] for i in known])
        for case, cost, seconds in zip(CASES, costs, fastest):
            predicted = float(rates @ [cost.flops, cost.moved])
            what = "seconds, fitted" if case.fit else "seconds, predicted"
            good.append(row(case.name, what, predicted, seconds, 0.2))
        print(f"\n{1e-9 / rates[0]:.0f} GFLOP/s", end="")
        print(f", {1e-9 / rates[1]:.1f} GB/s" if rates[1] else "")
        for case, seconds in zip(CASES, times):
            print(f"{case.name}: {min(seconds):.2f} to {max(seconds):.2f} s")
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
