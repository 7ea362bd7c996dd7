"""Measure a machine's steps, reading and memory, and plan a training run from them."""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from espnet2_birq.config import sampling_rate
from espnet2_birq.errors import ConfigError
from espnet2_birq.kernels.products import takes_bfloat16
from espnet2_birq.planning import measured
from espnet2_birq.planning.batches import configured_epoch, setting_of
from espnet2_birq.planning.configured import configured_data, parse_config
from espnet2_birq.planning.cost import FakeModel, StepCost
from espnet2_birq.planning.exchange import check_processes, exchange_rate
from espnet2_birq.planning.joint import is_joint
from espnet2_birq.planning.machine import describe, matrix_rate, memory_of
from espnet2_birq.planning.plan import Data, Machine, make_plan
from espnet2_birq.planning.report import fitting_row, table

MOST_SECONDS = {"cpu": 40.0, "cuda": 640.0}  # of speech in a timed batch


class Steps(NamedTuple):
    """Costs and fastest times of all cases, and two values of the last case."""

    costs: list[StepCost]
    seconds: list[float]
    speech_per_second: float
    validation: float  # ratio of a forward pass's time to a step's


def bench_machine(args: argparse.Namespace, options: Sequence[str]) -> Iterator[str]:
    """Measure this machine; yield lines of a table as they become known.

    Args:
        args: Options of bin/bench.
        options: More options of ssl_train.

    Raises:
        ConfigError: The configuration is inconsistent, or a GPU is missing.
        DataError: The training set cannot be read.
    """
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: PyTorch finds no GPU here")
    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    conf = parse_config(Path(args.config), options)
    if is_joint(conf):
        raise ConfigError(
            f"{args.config}: is of a joint training; measure a pretraining with --out FILE, "
            "and plan this by `birq plan --machine FILE`"
        )
    data = configured_data(
        conf, args.data, args.hours, args.utterance_seconds, args.longest_seconds
    )
    # What can be an error is before the long part.
    configured_epoch(conf, data.total, data.mean, args.processes)
    check_processes(args.processes, device)
    reading = None
    if args.data:
        reading = measured.reading_rate(args.data, sampling_rate(conf.frontend_conf))
    description = describe(device)
    name = description.get("gpu") or description["processor"]
    yield table([("machine", _machine_words(name, description, device))])
    half, fastest = yield from _product_rate(conf, device)
    most = args.most_seconds or MOST_SECONDS[device]
    steps = yield from _time_steps(conf, data, most, args.rounds, device)
    per_flop, per_byte = measured.fit_rates(steps.costs, steps.seconds, fastest)
    machine = Machine(
        device,
        name,
        half,
        memory_of(device),
        1 / per_flop,
        1 / per_byte if per_byte else math.inf,
        steps.validation,
        reading,
    )
    if per_flop == 1 / fastest:
        words = "products as fast as large ones: steps too small to tell both rates"
        yield table([("rates", words)])
    machine = yield from _measure_around(conf, args, machine, steps.speech_per_second)
    if args.out and per_byte:
        measured.write_machine(args.out, machine, description)
    yield from _outlook(conf, data, machine, args)
    if args.out and not per_byte:
        raise ConfigError(
            f"--out {args.out}: not written, as these steps are too small to tell the "
            "time of products from that of all else; give a larger --config or "
            "--most_seconds, or more --rounds"
        )


def _product_rate(conf, device: str):
    half = bool(conf.use_amp)
    if device == "cpu":
        half = takes_bfloat16(conf.model_conf.get("cpu_bfloat16", "auto"))
    rates = {
        "float32": matrix_rate(device, torch.float32),
        "bfloat16": matrix_rate(device, torch.bfloat16),
    }
    used = "bfloat16" if half else "float32"
    words = ", ".join(f"{rate / 1e9:.4g} in {name}" for name, rate in rates.items())
    yield table([("products", f"{words} GFLOP/s; the training uses {used}")])
    return half, rates[used]


def _measure_around(conf, args, machine: Machine, speech_per_second: float):
    if machine.reading is not None:
        needed = speech_per_second / machine.reading
        words = (
            f"{machine.reading:.4g} s of speech a second and process; steps want {needed:.1f} "
            f"processes, num_workers is {conf.num_workers}"
        )
        few = ": GIVE MORE" if conf.num_workers < needed else ""
        yield table([("reading", words + few)])
    if args.processes > 1:
        numbers = FakeModel(conf).parameters.all
        rate = exchange_rate(numbers, args.processes, machine.device)
        machine = machine._replace(exchange=rate)
        yield table(
            [("gradients", f"{4 * numbers / rate:.3g} s for {numbers} of them")]
        )
    return machine


def _time_steps(conf, data: Data, most: float, rounds: int, device: str):
    costs, seconds, of_input, speech, validation = [], [], {}, 0.0, 0.0
    cases = measured.list_cases(conf, data, most)
    for case, cost, timed in measured.time_cases(cases, rounds, device):
        fastest = min(timed.steps)
        costs.append(cost)
        seconds.append(fastest)
        speech, validation = case.speech / fastest, min(timed.validations) / fastest
        words = (
            f"{case.utterances} x {case.seconds:.1f} s: {fastest:.3g} s a step "
            f"(up to {max(timed.steps):.3g}), {speech:.4g} s of speech a second, "
            f"{cost.flops / fastest / 1e9:.4g} GFLOP/s"
        )
        key = (case.utterances, case.seconds)
        if case.args is not conf:
            of_input[key] = fastest
        elif of_input:
            words += f"; {fastest / of_input[key]:.2f} x input labels alone"
        yield table([(case.name, words)])
    yield table([("validation", f"{validation:.2f} of a step's time")])
    return Steps(costs, seconds, speech, validation)


def _machine_words(name: str, description: dict, device: str) -> str:
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
    return (
        f"{name}, {description['cores']} cores{threads}, "
        f"{memory_of(device) / 2**30:.1f} GiB, load {description['load']}, "
        f"PyTorch {description['torch']}"
    )


def _outlook(conf, data: Data, machine: Machine, args) -> Iterator[str]:
    plan = make_plan(conf, data, args.processes, machine, valid_hours=args.valid_hours)
    utterances = round(plan.fits / data.longest)
    if machine.on_gpu:
        samples = round(data.longest * sampling_rate(conf.frontend_conf))
        utterances = measured.largest_on_gpu(conf, utterances, samples)
    setting = ""
    if utterances:
        setting = setting_of(conf, utterances, data.longest, args.processes)
    yield table([fitting_row(utterances * data.longest, setting)])
    words = (
        f"{plan.epoch_seconds / 3600:.2f} h an epoch, {plan.days:.2f} days for the "
        f"{plan.epochs} epochs of the configuration"
    )
    yield table([(f"{data.total / 3600:.4g} h", words)])
