"""Plan memory, batch size and days of a pretraining run.

The cost of a step is counted (espnet2_birq.planning.cost); the speed of a GPU is assumed,
or taken from a measured step.
"""

import argparse
from functools import cache
from pathlib import Path
from typing import NamedTuple

from espnet2_birq.config import sampling_rate
from espnet2_birq.datadir.kaldi import iter_scp, parse_samples
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.planning.cost import (
    FakeModel,
    Parameters,
    StepCost,
    optimizer_numbers,
)
from espnet2_birq.planning.gpus import GPU

SINGLE = 4  # bytes of a number in single precision

# Assumptions, which every plan prints. The first two explain nine steps of 155 M to 282 M
# parameters measured on an H200 within 6 % (docs/plan.md); on other GPUs they are a guess.
OF_PEAK_FLOPS = 0.46  # what products reach of a data sheet's FLOP/s
OF_PEAK_BANDWIDTH = 0.29  # ... and all other operations of its bytes/s
MARGIN = 0.1  # share of the memory lost between blocks of PyTorch's allocator
CONTEXT = 1.5e9  # bytes that CUDA and its libraries take for themselves


class Data(NamedTuple):
    """Amount of speech, in seconds."""

    total: float
    utterance: float  # length at which a second of speech costs what it does on average
    longest: float

    @classmethod
    def read(cls, folder: Path, fs: int) -> "Data":
        """Read lengths from a data directory.

        A second of an utterance costs a + b length, because of attention. Its mean over
        all seconds is a + b (sum of squared lengths) / (sum of lengths).

        Args:
            folder: Data directory with an ``utt2num_samples``, as in dump/raw.
            fs: Sample rate in Hz.

        Raises:
            DataError: The file is missing or broken.
        """
        path = folder / "utt2num_samples"
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; give --data a folder of dump/raw that stage 3 "
                "of run.sh has written, or give --hours"
            )
        seconds = []
        for utt_id, value in iter_scp(path):
            samples = parse_samples(value)
            if samples is None:
                raise DataError(f"{path}: {utt_id}: not a number of samples: {value}")
            seconds.append(samples / fs)
        total = sum(seconds)
        if total <= 0:
            raise DataError(f"{path}: no speech in it")
        return cls(total, sum(x * x for x in seconds) / total, max(seconds))


class Batch(NamedTuple):
    """The configured batch."""

    seconds: float  # of speech in a step, on all GPUs
    share: float  # ... on each
    accum_grad: int  # steps an update


class Memory(NamedTuple):
    """Memory of a GPU, in bytes."""

    kept: float  # parameters, optimizer, gradients and their buckets
    step: float  # what else is alive at the peak of a step
    limit: float  # what there is, without margin and CUDA's own


class Plan(NamedTuple):
    """The numbers of a run."""

    parameters: Parameters
    batch: Batch
    cost: StepCost  # on each GPU
    memory: Memory
    fits: float  # seconds of speech a GPU that the memory allows
    step_seconds: float
    products_seconds: float | None  # ... of which matrix products; None: not known
    steps: float  # an epoch
    epochs: int
    gpus: int

    @property
    def days(self) -> float:
        """Total time of all epochs."""
        return self.steps * self.epochs * self.step_seconds / 86400

    @property
    def rate(self) -> float:
        """Average FLOP/s of a GPU over a step."""
        return self.cost.flops / self.step_seconds


def configured_batch(args: argparse.Namespace, utterance: float, gpus: int) -> Batch:
    """Compute the amount of speech per step.

    Args:
        args: Arguments of SSLTask.
        utterance: Utterance length in seconds.
        gpus: Number of GPUs that share a batch.

    Raises:
        ConfigError: Less than an utterance for each GPU.
    """
    if args.batch_type in ("numel", "length"):
        seconds = args.batch_bins / sampling_rate(args.frontend_conf)
        key, least = "batch_bins", gpus * utterance * sampling_rate(args.frontend_conf)
    else:
        seconds, key, least = args.batch_size * utterance, "batch_size", gpus
    if seconds / gpus < utterance:
        raise ConfigError(
            f"{key} {getattr(args, key)} is the batch of all {gpus} GPUs and holds "
            f"less than one utterance of {utterance:.1f} s for each; give at least "
            f"--{key} {least:.0f}"
        )
    return Batch(seconds, seconds / gpus, args.accum_grad)


def count_batch(model: FakeModel, seconds: float, utterance: float, fs: int, **kwargs):
    """Count a step on some seconds of speech, split into utterances.

    Returns:
        A StepCost; FLOPs and bytes moved are for exactly these seconds.
    """
    number = max(1, round(seconds / utterance))
    cost = model.count_step(number, round(utterance * fs), **kwargs)
    factor = seconds / (number * utterance)
    return StepCost(round(cost.flops * factor), round(cost.moved * factor), cost.peak)


def plan_memory(args, model, batch, longest, gpus, memory):
    """Compute the memory of a batch of longest utterances, and the largest that fits.

    Args:
        args: Arguments of SSLTask.
        model: The FakeModel.
        batch: The configured batch.
        longest: Length of the longest utterances in seconds.
        gpus: Number of GPUs.
        memory: GPU memory in bytes.

    Returns:
        Memory, and the seconds of speech per GPU that fit, in whole utterances.
    """
    accumulate = batch.accum_grad > 1
    # A step's count includes its own gradients, but not those of earlier steps.
    copies = 1 + optimizer_numbers(args) + (gpus > 1) + accumulate
    kept = SINGLE * model.parameters.all * copies
    frozen = (p for p in model.model.parameters() if not p.requires_grad)  # a teacher
    kept += sum(tensor.nbytes for tensor in (*frozen, *model.model.buffers()))
    limit = memory * (1 - MARGIN) - CONTEXT

    @cache
    def used(utterances):
        samples = round(longest * sampling_rate(args.frontend_conf))
        return kept + model.count_step(utterances, samples, accumulate).peak

    configured = used(max(1, int(batch.share / longest))) - kept
    fits = _largest(used, limit) if used(1) <= limit else 0
    return Memory(kept, configured, limit), fits * longest


def _largest(used, limit) -> int:
    """Find where a nearly linear function reaches a limit, within 1 %."""
    low, high = 16, 64
    for _ in range(2):
        slope = (used(high) - used(low)) / (high - low)
        low, high = high, max(1, int(high + (limit - used(high)) / slope))
        if low == high:
            break
    while high > 1 and used(high) > limit:
        high = min(high - 1, int(0.99 * high))
    return high


def step_seconds(cost: StepCost, gpu: GPU, half: bool, tflops: float | None):
    """Estimate the time of a step from a matmul rate and a memory rate.

    Args:
        cost: Cost of the step.
        gpu: GPU model.
        half: Whether matmuls are in bfloat16.
        tflops: Effective rate of the whole step, instead of the assumptions.

    Returns:
        Seconds, and seconds of the matmuls (None if ``tflops`` is given).
    """
    if tflops is not None:
        return cost.flops / (tflops * 1e12), None
    products = cost.flops / (OF_PEAK_FLOPS * (gpu.half if half else gpu.single))
    return products + cost.moved / (OF_PEAK_BANDWIDTH * gpu.bandwidth), products


def make_plan(
    args: argparse.Namespace,
    data: Data,
    gpus: int,
    gpu: GPU,
    memory: float | None = None,
    tflops: float | None = None,
    measured: float | None = None,
) -> Plan:
    """Plan a run.

    Args:
        args: Arguments of SSLTask.
        data: Amount of speech.
        gpus: Number of GPUs.
        gpu: GPU model.
        memory: GPU memory in bytes, if not as in the data sheet.
        tflops: Effective rate of a step, if known.
        measured: Seconds of a step of this configuration, if known.

    Raises:
        ConfigError: Inconsistent configuration.
    """
    batch = configured_batch(args, data.utterance, gpus)
    model = FakeModel(args)
    cost = count_batch(
        model, batch.share, data.utterance, sampling_rate(args.frontend_conf)
    )
    if measured is not None:
        seconds, products = measured, None
    else:
        seconds, products = step_seconds(cost, gpu, model.half, tflops)
    usage, fits = plan_memory(
        args, model, batch, data.longest, gpus, memory or gpu.memory
    )
    steps = args.num_iters_per_epoch or data.total / batch.seconds
    return Plan(
        model.parameters,
        batch,
        cost,
        usage,
        fits,
        seconds,
        products,
        steps,
        args.max_epoch,
        gpus,
    )


Number = int | float | None


def as_dict(plan: Plan) -> dict[str, Number]:
    """Return all numbers with units in their names, for --json."""
    memory = plan.memory
    return dict(
        encoder_parameters=plan.parameters.encoder,
        head_parameters=plan.parameters.heads,
        parameters=plan.parameters.all,
        batch_seconds=plan.batch.seconds,
        batch_seconds_per_gpu=plan.batch.share,
        accum_grad=plan.batch.accum_grad,
        step_flops_per_gpu=plan.cost.flops,
        step_bytes_moved_per_gpu=plan.cost.moved,
        memory_kept_bytes=memory.kept,
        memory_step_bytes=memory.step,
        memory_limit_bytes=memory.limit,
        fits_seconds_per_gpu=plan.fits,
        step_seconds=plan.step_seconds,
        products_seconds=plan.products_seconds,
        steps_per_epoch=plan.steps,
        updates_per_epoch=plan.steps / plan.batch.accum_grad,
        epochs=plan.epochs,
        effective_flops_per_second=plan.rate,
        days=plan.days,
        gpu_hours=plan.days * 24 * plan.gpus,
    )
