"""Plan memory, batch size and days of a pretraining run.

The cost of a step is counted (espnet2_birq.planning.cost). The speed of a GPU is assumed,
or that of a step or of a machine is measured (espnet2_birq.planning.measured).
"""

import argparse
import copy
import json
import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

from espnet2_birq.config import sampling_rate
from espnet2_birq.datadir.kaldi import iter_scp, parse_samples
from espnet2_birq.errors import DataError
from espnet2_birq.planning.batches import (
    Batch,
    configured_epoch,
    most_utterances,
    number_of_updates,
    setting_of,
)
from espnet2_birq.planning.cost import (
    FakeModel,
    Parameters,
    StepCost,
    model_conf,
    optimizer_numbers,
)
from espnet2_birq.planning.gpus import GPU
from espnet2_birq.planning.joint import batches_of_a_step, fake_model
from espnet2_birq.tasks.bad_audio import FEWEST

SINGLE = 4  # bytes of a number in single precision

# Assumptions, printed by every plan. The first two explain within 6 % nine steps of 155 M
# to 282 M parameters measured on an H200 (docs/plan.md); on other GPUs they are a guess.
OF_PEAK_FLOPS = 0.46  # share of a data sheet's FLOP/s that products reach
OF_PEAK_BANDWIDTH = 0.29  # ... and of its bytes/s that all other operations reach
MARGIN = 0.1  # share of the memory lost between blocks of PyTorch's allocator
CONTEXT = 1.5e9  # bytes that CUDA and its libraries take for themselves


class Data(NamedTuple):
    """Amount of speech, in seconds."""

    total: float
    utterance: float  # length at which the cost of a second of speech is average
    longest: float
    mean: float  # plain mean of the lengths

    @classmethod
    def read(
        cls,
        folder: Path,
        fs: int,
        least: float = 0.0,
        most: float = math.inf,
        max_bad: float = 1.0,
    ) -> "Data":
        """Read lengths from a data directory.

        Because of attention, a second of an utterance costs a + b length. The mean over
        all seconds is a + b (sum of squared lengths) / (sum of lengths).

        Args:
            folder: Data directory with an ``utt2num_samples``, as in dump/raw.
            fs: Sample rate in Hz.
            least: Length in seconds below which training leaves an utterance out.
            most: Length in seconds above which it does.
            max_bad: Share of such utterances above which training stops.

        Raises:
            DataError: The file is missing or broken, or has no utterance to train on, or
                training would stop.
        """
        path = folder / "utt2num_samples"
        if not path.is_file():
            raise DataError(
                f"{path}: no such file; give --data a folder of dump/raw that stage 3 "
                "of run.sh has written, or give --hours"
            )
        seconds, bad = [], 0
        for utt_id, value in iter_scp(path):
            samples = parse_samples(value)
            if samples is None:
                raise DataError(f"{path}: {utt_id}: not a number of samples: {value}")
            if least <= samples / fs <= most:
                seconds.append(samples / fs)
            else:
                bad += 1
        total = sum(seconds)
        if total <= 0:
            limit = f" to {most:g} s (batch_bins)" if most < math.inf else " or more"
            raise DataError(
                f"{path}: no utterance of {least:g} s{limit}, and training leaves out all "
                "others; raise batch_bins, or make the set again"
            )
        if bad > max_bad * max(bad + len(seconds), FEWEST):
            limit = (
                f" or longer than a whole batch ({most:g} s)" if most < math.inf else ""
            )
            raise DataError(
                f"{path}: {bad} of {bad + len(seconds)} utterances are shorter than {least:g} "
                f"s{limit}: training would stop; raise "
                "batch_bins, make the set again, or raise --max_bad_audio"
            )
        squares = sum(x * x for x in seconds)
        return cls(total, squares / total, max(seconds), total / len(seconds))


class Machine(NamedTuple):
    """Rates measured by ``birq bench``.

    Attributes:
        device: cpu or cuda.
        name: Name of the processor or GPU.
        half: Whether products were in bfloat16.
        memory: Memory of the device in bytes.
        products: FLOP/s of products and convolutions within a step.
        bandwidth: Bytes/s of all other operations.
        validation: Ratio of the time of a forward pass in validation to that of a step.
        reading: Seconds of speech that one process reads per second; None: not known.
        exchange: Bytes/s of gradients exchanged among GPUs; None: not known.
    """

    device: str
    name: str
    half: bool
    memory: float
    products: float
    bandwidth: float
    validation: float
    reading: float | None = None
    exchange: float | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether its steps ran on a GPU."""
        return self.device == "cuda"


# What a machine's values may be, widely; less or more was not measured.
POSSIBLE = dict(
    memory=(1e6, 1e15),
    products=(1e6, 1e17),
    bandwidth=(1e5, 1e17),
    validation=(1e-4, 1e2),
    reading=(1e-3, 1e9),
    exchange=(1e2, 1e15),
)


def read_machine(path: Path) -> Machine:
    """Read a file of ``birq bench --out``.

    Raises:
        DataError: The file is missing, of another kind, or of an impossible machine.
    """
    try:
        machine = Machine(**json.loads(path.read_text(encoding="utf-8"))["machine"])
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; birq bench --out writes it") from error
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; give a file that birq bench --out wrote"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{path}: not a file of birq bench --out") from error
    if machine.device not in ("cpu", "cuda") or type(machine.half) is not bool:
        raise DataError(f"{path}: not a file of birq bench --out")
    for key, (least, most) in POSSIBLE.items():
        value = getattr(machine, key)
        if value is None and key in Machine._field_defaults:
            continue  # not measured
        if type(value) not in (int, float) or not value > 0:
            raise DataError(
                f"{path}: {key}: a rate is no positive number; run birq bench again"
            )
        if not least <= value <= most:
            raise DataError(
                f"{path}: {key} {value:g} is of no machine; run birq bench again, with "
                "a larger configuration or batch"
            )
    return machine


class Memory(NamedTuple):
    """Memory of a GPU, in bytes."""

    kept: float  # parameters, optimizer, gradients and their buckets
    step: float  # all else that is alive at the peak of a step
    limit: float  # usable memory, without the margin and, on a GPU, CUDA's own


class Around(NamedTuple):
    """Times besides those of steps, in seconds; None: not known."""

    reading: float | None = None  # of a step's batch, by all reading processes
    exchange: float | None = None  # of gradients, beyond what backward passes hide
    validation: float | None = None  # per epoch


class Plan(NamedTuple):
    """The numbers of a run."""

    parameters: Parameters
    batch: Batch
    cost: StepCost  # on each GPU
    memory: Memory
    fits: float  # seconds of speech per GPU that fit into memory
    step_seconds: float
    products_seconds: float | None  # ... of which matrix products; None: not known
    steps: float  # per epoch
    epochs: int
    gpus: int
    workers: int  # processes that read for each GPU; 0: steps wait for reading
    around: Around = Around()
    setting: str = ""  # options for the batch that fits

    @property
    def epoch_seconds(self) -> float:
        """Time of an epoch; the slower of steps and of workers' reading counts."""
        step = self.step_seconds + (self.around.exchange or 0.0)
        reading = self.around.reading or 0.0
        step = max(step, reading) if self.workers else step + reading
        return self.steps * step + (self.around.validation or 0.0)

    @property
    def days(self) -> float:
        """Total time of all epochs."""
        return self.epochs * self.epoch_seconds / 86400

    @property
    def rate(self) -> float:
        """Average FLOP/s of a GPU over a step."""
        return self.cost.flops / self.step_seconds


def count_batch(model: FakeModel, seconds: float, utterance: float, fs: int, **kwargs):
    """Count a step on some seconds of speech, split into utterances.

    Returns:
        A StepCost, with FLOPs and bytes moved scaled to exactly these seconds.
    """
    number = max(1, round(seconds / utterance))
    cost = model.count_step(number, round(utterance * fs), **kwargs)
    factor = seconds / (number * utterance)
    return StepCost(round(cost.flops * factor), round(cost.moved * factor), cost.peak)


def plan_memory(args, model, longest, gpus, memory) -> tuple[Memory, float]:
    """Compute the memory of a batch of longest utterances, and the largest that fits.

    Args:
        args: Arguments of SSLTask.
        model: The FakeModel.
        longest: Length of the longest utterances in seconds.
        gpus: Number of GPUs.
        memory: GPU memory in bytes.

    Returns:
        Memory, and the seconds of speech per GPU that fit, in whole utterances.
    """
    limit = memory * (1 - MARGIN) - (CONTEXT if model.gpu else 0.0)
    samples = round(longest * sampling_rate(args.frontend_conf))

    @cache
    def parts(utterances):
        return memory_of_step(args, model, utterances, samples, gpus)

    def used(utterances):
        return sum(parts(utterances))

    kept, configured = parts(most_utterances(args, longest, gpus))
    fits = _largest(used, limit) if used(1) <= limit else 0
    return Memory(kept, configured, limit), fits * longest


def memory_of_step(
    args: argparse.Namespace,
    model: FakeModel,
    utterances: int,
    samples: int,
    gpus: int = 1,
    updates: range | None = None,
) -> tuple[float, float]:
    """Count the memory on each GPU in a step on utterances of equal length.

    Args:
        args: Arguments of SSLTask.
        model: The FakeModel.
        utterances: B, batch size.
        samples: Length of each utterance in samples.
        gpus: Number of GPUs.
        updates: Updates whose largest step counts; default: those of all phases.

    Returns:
        Bytes kept between steps: parameters, optimizer, accumulated gradients, buckets of
        their exchange; and bytes of all else at the peak of a step.
    """
    accumulate = args.accum_grad > 1
    # A step's count includes its own gradients, but not those of earlier steps.
    copies = 1 + optimizer_numbers(args) + (gpus > 1) + accumulate
    kept = SINGLE * model.parameters.all * copies
    frozen = (p for p in model.whole.parameters() if not p.requires_grad)  # a teacher
    kept += sum(tensor.nbytes for tensor in (*frozen, *model.whole.buffers()))
    updates = updates or model.phases
    return kept, model.count_step(utterances, samples, accumulate, updates).peak


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


def step_seconds(
    cost: StepCost, gpu: GPU | Machine, half: bool, tflops: float | None
) -> tuple[float, float | None]:
    """Estimate the time of a step from a matmul rate and a memory rate.

    Args:
        cost: Cost of the step.
        gpu: GPU model, or a machine that was measured.
        half: Whether matmuls are in bfloat16.
        tflops: Effective rate of the whole step, instead of the assumptions.

    Returns:
        Seconds, and seconds of the matmuls (None if ``tflops`` is given).
    """
    if tflops is not None:
        return cost.flops / (tflops * 1e12), None
    if isinstance(gpu, Machine):
        products = cost.flops / gpu.products
        return products + cost.moved / gpu.bandwidth, products
    products = cost.flops / (OF_PEAK_FLOPS * (gpu.half if half else gpu.single))
    return products + cost.moved / (OF_PEAK_BANDWIDTH * gpu.bandwidth), products


def time_around(args, machine: Machine, plan: "Plan", valid_hours: float) -> Around:
    """Estimate times of reading, exchange and validation from measured rates.

    Args:
        args: Arguments of SSLTask.
        machine: Measured rates.
        plan: Plan of the steps.
        valid_hours: Hours of speech in the validation set.
    """
    reading = exchange = None
    if machine.reading is not None:  # each GPU has its own processes
        batches = batches_of_a_step(args)
        # Without processes of their own, one batch is read after the other.
        share = max(batches) / plan.workers if plan.workers else sum(batches)
        reading = plan.batch.share * share / machine.reading
    if machine.exchange is not None and plan.gpus > 1:
        # It overlaps with the backward pass, about two thirds of a step.
        whole = SINGLE * plan.parameters.all / machine.exchange
        exchange = max(0.0, whole - plan.step_seconds * 2 / 3)
    passes = 3600 * valid_hours / plan.batch.seconds
    return Around(reading, exchange, passes * plan.step_seconds * machine.validation)


def make_plan(
    args: argparse.Namespace,
    data: Data,
    gpus: int,
    gpu: GPU | Machine,
    memory: float | None = None,
    tflops: float | None = None,
    measured: float | None = None,
    valid_hours: float = 0.0,
) -> Plan:
    """Plan a run.

    Args:
        args: Arguments of SSLTask.
        data: Amount of speech.
        gpus: Number of GPUs.
        gpu: GPU model, or a machine that was measured.
        memory: GPU memory in bytes, if not as in the data sheet.
        tflops: Effective rate of a step, if known.
        measured: Seconds of a step of this configuration, if known.
        valid_hours: Hours of speech in the validation set, whose time is planned only
            for a measured machine.

    Raises:
        ConfigError: Inconsistent configuration.
    """
    batch, steps = configured_epoch(args, data.total, data.mean, gpus)
    machine = gpu if isinstance(gpu, Machine) else None
    on_gpu = machine is None or machine.on_gpu
    if machine is not None and not on_gpu:  # "auto" is the machine's, not this one's
        args = copy.deepcopy(args)
        model_conf(args)["cpu_bfloat16"] = machine.half
    model = fake_model(args, on_gpu)
    model.updates = range(number_of_updates(args, steps))  # as long as phases last
    cost = count_batch(
        model, batch.share, data.utterance, sampling_rate(args.frontend_conf)
    )
    if measured is not None:
        seconds, products = measured, None
    else:
        seconds, products = step_seconds(cost, gpu, model.half, tflops)
    usage, fits = plan_memory(args, model, data.longest, gpus, memory or gpu.memory)
    plan = Plan(
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
        args.num_workers,
        setting=setting_of(args, round(fits / data.longest), data.longest, gpus),
    )
    if machine is not None:
        plan = plan._replace(around=time_around(args, machine, plan, valid_hours))
    return plan


def as_dict(plan: Plan) -> dict[str, int | float | str | None]:
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
        fits_options=plan.setting if plan.fits else None,
        step_seconds=plan.step_seconds,
        products_seconds=plan.products_seconds,
        steps_per_epoch=plan.steps,
        reading_seconds_per_step=plan.around.reading,
        exchange_seconds_per_step=plan.around.exchange,
        validation_seconds_per_epoch=plan.around.validation,
        updates_per_epoch=plan.steps / plan.batch.accum_grad,
        epochs=plan.epochs,
        effective_flops_per_second=plan.rate,
        days=plan.days,
        gpu_hours=plan.days * 24 * plan.gpus,
    )
