"""Format plans as text."""

import argparse
from collections.abc import Iterable
from typing import NamedTuple

from espnet2_birq.planning.batches import whole_steps
from espnet2_birq.planning.gpus import GPUS
from espnet2_birq.planning.plan import (
    CONTEXT,
    MARGIN,
    OF_PEAK_BANDWIDTH,
    OF_PEAK_FLOPS,
    Data,
    Machine,
    Plan,
)


class Speed(NamedTuple):
    """Basis of the times of a plan.

    Attributes:
        gpu: Name in GPUS.
        gpus: Number of GPUs.
        step_seconds: Measured seconds per step; None: assumed.
        tflops: Effective TFLOP/s over a whole step; None: assumed.
        machine: Measured machine, instead of ``gpu``.
    """

    gpu: str
    gpus: int
    step_seconds: float | None = None
    tflops: float | None = None
    machine: Machine | None = None


def report(plan: Plan, data: Data, args: argparse.Namespace, speed: Speed) -> str:
    """Format a plan to fit on one screen.

    Args:
        plan: Result of make_plan().
        data: Amount of speech.
        args: Configuration of the training.
        speed: Basis of the times.
    """
    half = speed.machine.half if speed.machine else args.use_amp
    peak = GPUS[speed.gpu].half if half else GPUS[speed.gpu].single
    if speed.machine:  # rate of products within a step
        peak = speed.machine.products
    on_gpu = speed.machine is None or speed.machine.on_gpu
    each = "a GPU" if on_gpu else "a process"
    rows = [*_size_rows(plan, each), *_time_rows(plan, speed, peak)]
    precision = "bfloat16" if half else "single precision"
    if not speed.machine:
        precision += " (use_amp)" if half else " (no use_amp)"
    own = f", {CONTEXT / 1e9:.1f} GB of CUDA's own" if on_gpu else ""
    return f"""{table(rows)}

Assumed:
- {data.total / 3600:.1f} h of speech, utterances of {data.utterance:.1f} s, no padding
- {precision}; {_speed(speed, peak)}
- {_around(plan, speed.machine)}
- memory of the worst batch, of utterances of {data.longest:.1f} s; not used: \
{MARGIN:.0%} that get lost
  between blocks of PyTorch's allocator{own}"""


def fitting_row(seconds: float, setting: str, each: str = "") -> tuple[str, str]:
    """Return the row of the largest batch of the longest utterances that fits.

    Args:
        seconds: Speech in the batch, in seconds; 0: not even one utterance fits.
        setting: Options of ssl_train that make such batches.
        each: What has a batch of its own, if there may be several: " a GPU".
    """
    words = "none: not one of the longest utterances"
    if seconds:
        words = f"{seconds:.0f} s of speech{each}: {setting}"
    return "batch that fits", words


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Align names and values in two columns."""
    return "\n".join(f"{name:<16} {value}" for name, value in rows)


def _around(plan: Plan, machine: Machine | None) -> str:
    """Tell which times besides those of steps are known, and which are left out."""
    if machine is None:
        return (
            "no time for reading, exchanging gradients, the optimizer, validation\n"
            "  (birq bench measures them)"
        )
    times = plan.around._asdict()
    if plan.gpus == 1:
        del times["exchange"]
    units = dict(reading="a step", exchange="a step", validation="an epoch")
    known = [f"{name} {_seconds(x)} s {units[name]}" for name, x in times.items() if x]
    unknown = [name for name, x in times.items() if x is None]
    parts = []
    if known:
        parts.append(f"by measured rates: {', '.join(known)}")
    if unknown:
        parts.append(f"no time for {', '.join(unknown)} (birq bench measures it)")
    return "; ".join(parts) or "the exchange of gradients hides in backward passes"


def _seconds(x):
    return f"{x:.3g}" if x < 1000 else f"{x:.0f}"


def _speed(speed, peak):
    gpu = GPUS[speed.gpu]
    if speed.step_seconds:
        return "a step as measured (--step_seconds)"
    if speed.tflops:
        return f"{speed.tflops:g} TFLOP/s over a whole step (--tflops)"
    if speed.machine:
        return (
            f"{speed.machine.name}: products at {peak / 1e12:.3g} TFLOP/s, all else\n"
            f"  at {speed.machine.bandwidth / 1e9:.3g} GB/s, as measured (--machine)"
        )
    return (
        f"{speed.gpu}: products at {OF_PEAK_FLOPS:.0%} of {peak / 1e12:.4g} TFLOP/s, all "
        f"else\n  at {OF_PEAK_BANDWIDTH:.0%} of {gpu.bandwidth / 1e12:.2g} TB/s "
        "(--step_seconds or --tflops replaces this)"
    )


def _size_rows(plan, each):
    parameters, memory, batch = plan.parameters, plan.memory, plan.batch
    yield (
        "parameters",
        (
            f"{parameters.encoder / 1e6:.1f} M encoder, {parameters.heads / 1e6:.1f} M "
            f"heads, {parameters.all / 1e6:.1f} M all"
        ),
    )
    yield (
        "batch",
        (
            f"{batch.seconds:.0f} s of speech a step, {batch.share:.0f} s {each}; an update "
            f"is {batch.accum_grad} x {batch.seconds:.0f} s"
        ),
    )
    yield (
        "FLOPs a step",
        (
            f"{plan.cost.flops / 1e12:.2f} T {each}, of products and convolutions; "
            f"{plan.cost.moved / 1e9:.0f} GB moved by all else"
        ),
    )
    used = memory.kept + memory.step
    yield (
        f"memory {each}",
        (
            f"{used / 1e9:.1f} GB of {memory.limit / 1e9:.1f} usable: "
            f"{'fits' if used <= memory.limit else 'DOES NOT FIT'} "
            f"({memory.kept / 1e9:.1f} kept, {memory.step / 1e9:.1f} in a step)"
        ),
    )
    yield fitting_row(plan.fits, plan.setting, each=f" {each}")


def _time_rows(plan, speed, peak):
    products = ""
    if plan.products_seconds is not None:
        products = f" ({plan.products_seconds:.3f} s of it products)"
    yield (
        "time",
        (
            f"{plan.step_seconds:.3f} s a step{products}: {plan.rate / 1e12:.1f} TFLOP/s, "
            f"{plan.rate / peak:.0%} of "
            + ("what its products reach" if speed.machine else "the peak")
        ),
    )
    steps = whole_steps(plan.steps)
    yield (
        "an epoch",
        (
            f"{steps} steps, {steps // plan.batch.accum_grad} updates, "
            f"{plan.epoch_seconds / 3600:.2f} h"
        ),
    )
    days = f"{plan.days:.2f} days"
    if speed.machine is None or speed.machine.on_gpu:
        days += f", {24 * plan.days * plan.gpus:.0f} GPU hours"
    yield f"{plan.epochs} epochs", days
