"""Time of whole training steps: features, mask, labels, forward, backward, optimizer.

    python bench/step.py --method birq                    prints a readable line
    python bench/step.py --method best_rq --build plain --json
    python bench/step.py --method birq --device cuda --dtype bfloat16 --batch 32 \
        --config conf/tuning/train_birq_c2.yaml --options "--optim_conf fused=true"

Methods keep objectives of the configuration: best_rq those of the input (weight 1), birq
all, and birq_stop_gradient all with the gradient stopped at the labels. Builds:

    ours               as trained by ssl_train
    plain              ESPnet's unchanged encoder and a plain loss: bench/plain.py
    speechbrain        SpeechBrain's BEST-RQ, same sizes: bench/speechbrain_build.py
    speechbrain_equal  the same with a front end as wide as ESPnet's

Each step draws new masks, the same for ours and plain. FLOPs are those of the plain build,
so that needless work of a build does not count (SpeechBrain's are counted in its first
warm-up step). They include matrix products and convolutions, without feature extraction.
Their rate is compared with that of a large matrix product measured after the steps, with
the same threads and precision. To compare several, use bench/compare.py.
"""

import argparse
import copy
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

import torch  # noqa: E402
from plain import PlainModel  # noqa: E402

from espnet2_birq.errors import ConfigError  # noqa: E402
from espnet2_birq.planning.cost import FakeModel, counted  # noqa: E402
from espnet2_birq.planning.machine import describe, matrix_rate, peak_memory_mib  # noqa: E402
from espnet2_birq.planning.measured import with_objectives  # noqa: E402
from espnet2_birq.pretraining.masking import SpanMasking  # noqa: E402
from espnet2_birq.tasks.ssl import SSLTask  # noqa: E402

METHODS = ("best_rq", "birq", "birq_stop_gradient")
BUILDS = ("ours", "plain", "speechbrain", "speechbrain_equal")
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16)
PHASES = ("forward", "backward", "optimizer")
SAMPLING_RATE = 16000


class Build(NamedTuple):
    """Model with a function that computes its loss."""

    model: torch.nn.Module
    # Function from the step's number to loss and share of masked frames.
    forward: Callable[[int], tuple[torch.Tensor, torch.Tensor]]
    encoder_parameters: int
    flops: int  # of a step; 0 if they are counted in the first step


def read_config(path: str, method: str, options: str = "") -> argparse.Namespace:
    """Read the training configuration, with the objectives that the method keeps."""
    command = ["--config", path, "--output_dir", "unused", *shlex.split(options)]
    args = SSLTask.get_parser().parse_args(command)
    rows = copy.deepcopy(args.objectives)
    if method == "best_rq":
        rows = [dict(row, weight=1.0) for row in rows if row["name"] == "anchor"]
        return with_objectives(args, rows)
    if len(rows) < 2:
        raise ConfigError(
            f"{path}: --method {method} needs an objective 'enhanced', too"
        )
    for row in rows:
        if row["name"] == "enhanced":
            row["gradient"] = 1 if method == "birq" else 0
    args.objectives = rows
    return args


def random_speech(args) -> tuple[torch.Tensor, torch.Tensor]:
    """Make waveforms (B, N) of equal length, and their lengths (B,)."""
    samples = int(args.seconds * SAMPLING_RATE)
    generator = torch.Generator().manual_seed(args.seed)
    speech = 0.1 * torch.randn(args.batch, samples, generator=generator)
    return speech.to(args.device), torch.full((args.batch,), samples).to(args.device)


def make_build(args: argparse.Namespace) -> Build:
    """Build the requested model, in training mode."""
    conf = read_config(args.config, args.method, args.options)
    dtype, on_cpu = DTYPES[args.dtype], args.device == "cpu"
    speech, lengths = random_speech(args)
    torch.manual_seed(args.seed)
    if args.build.startswith("speechbrain"):
        return make_speechbrain(args, conf, speech)
    conf.model_conf = dict(
        conf.model_conf,
        cpu_bfloat16=on_cpu and dtype == torch.bfloat16,
        accelerate=args.build == "ours",
    )
    model = SSLTask.build_model(conf)
    model.prepare([dict(speech=speech.cpu(), speech_lengths=lengths.cpu())])
    if model.branch.copies == 1:
        plain = PlainModel(copy.deepcopy(model))
        flops = count_flops(plain, speech.cpu(), lengths.cpu())
    else:  # not supported by the plain build
        flops = count_step(conf, speech)
    model = model.to(args.device)
    encoder_parameters = count_parameters(model.encoder)
    if args.compile:
        for block in model.encoder.encoders:
            block.compile(backend=args.compile)
    if args.build == "plain":
        model = PlainModel(model, dtype)

    def forward(step):
        if args.build == "plain":
            return model(speech, lengths)
        # On a CPU, the model has its own switch; on a GPU, do as ESPnet's use_amp.
        with nullcontext() if on_cpu else autocast(args.device, dtype):
            loss, stats, _ = model(speech, lengths)
        return loss, stats["mask_share"]

    return Build(model.train(), forward, encoder_parameters, flops)


def make_speechbrain(args, conf, speech) -> Build:
    """Build SpeechBrain's model, with as many masked frames as ours on average."""
    if args.method != "best_rq":
        raise ConfigError("--build speechbrain: it has BEST-RQ alone, --method best_rq")
    from speechbrain_build import STACK, SpeechBrainBestRQ, batches

    equal = args.build == "speechbrain_equal"
    model = SpeechBrainBestRQ(conf, equal_front_end=equal).to(args.device).train()
    hop = conf.frontend_conf["hop_length"]
    frames = speech.size(1) // hop // STACK
    masking = SpanMasking(input_size=1, subsampling=STACK, **conf.masking_conf)
    share = float(masking.draw(torch.full((1000,), frames), frames).float().mean())
    ready = batches(speech, share, hop, args.warmup + args.steps)

    def forward(step):
        # Around the whole forward pass, as in SpeechBrain's trainer.
        with autocast(args.device, DTYPES[args.dtype]):
            return model(ready[step])

    return Build(model, forward, model.encoder_parameters(), 0)


def count_parameters(module: torch.nn.Module) -> int:
    """Count the trainable parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def autocast(device: str, dtype: torch.dtype):
    """Return autocast for half precision, a null context for single precision."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device, dtype=dtype)


def count_flops(plain: PlainModel, speech: torch.Tensor, lengths: torch.Tensor) -> int:
    """Count FLOPs of the forward and backward pass, on fake tensors."""
    with torch.no_grad():
        xs, masked, xs_lengths, mask = plain.inputs(speech, lengths)
    index = mask.flatten().nonzero().squeeze(1)
    plain = plain.train().to("meta")
    with counted() as meter:
        loss = plain.loss(
            xs.to("meta"), masked.to("meta"), xs_lengths, index.to("meta")
        )
        loss.backward()
    return meter.flops


def count_step(conf, speech: torch.Tensor) -> int:
    """Count FLOPs of a step of the model, on fake tensors."""
    return FakeModel(conf, gpu=False).count_step(*speech.shape).flops


class Watch:
    """Timer between marks; on a GPU, marks are events in its queue, without waiting."""

    def __init__(self, device: str):
        self.on_gpu = device == "cuda"
        self.marks = []

    def mark(self):
        """Record the time."""
        if self.on_gpu:
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the seconds between marks; this waits for the GPU."""
        pairs = list(zip(self.marks, self.marks[1:]))
        if not self.on_gpu:
            return [end - start for start, end in pairs]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1000 for start, end in pairs]


class Result(NamedTuple):
    """Times and losses of some steps."""

    seconds: list[list[float]]  # of each phase of each step
    losses: list[float]
    mask_shares: list[float]
    flops: int  # of a step


def run_steps(build: Build, optimizer, args, grad_clip: float) -> Result:
    """Run warm-up steps, then timed steps."""
    seconds, losses, mask_shares, flops = [], [], [], build.flops
    parameters = list(build.model.parameters())
    for step in range(args.warmup + args.steps):
        torch.manual_seed(args.seed + step)
        counts = step == 0 and not flops
        counter = counted() if counts else nullcontext()
        if args.device == "cuda":
            torch.cuda.synchronize()
        watch = Watch(args.device)
        with counter as meter:
            watch.mark()
            loss, mask_share = build.forward(step)
            watch.mark()
            loss.backward()
            watch.mark()
            torch.nn.utils.clip_grad_norm_(parameters, grad_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            watch.mark()
        if counts:
            flops = meter.flops
        if step >= args.warmup:
            seconds.append(watch.seconds())
            losses.append(float(loss.detach()))
            mask_shares.append(float(mask_share))
    return Result(seconds, losses, mask_shares, flops)


def profile_steps(build: Build, optimizer, args, grad_clip: float) -> list[dict]:
    """Measure the operations of more steps: a GPU's kernels, or the CPU's operators.

    Returns:
        By descending time: name, milliseconds per step (of an operator without those
        that it calls), and calls per step.
    """
    count = min(3, args.warmup + args.steps)  # as many batches are ready
    steps = argparse.Namespace(**{**vars(args), "warmup": 0, "steps": count})
    build = build._replace(flops=build.flops or 1)  # not to be counted here
    on_gpu = args.device == "cuda"
    activities = torch.profiler.ProfilerActivity
    activity = activities.CUDA if on_gpu else activities.CPU
    with torch.profiler.profile(activities=[activity]) as profiler:
        run_steps(build, optimizer, steps, grad_clip)
    kind = "device" if on_gpu else "cpu"
    rows = [
        dict(
            name=event.key,
            milliseconds=getattr(event, f"self_{kind}_time_total") / 1000 / count,
            calls=event.count / count,
        )
        for event in profiler.key_averages()
    ]
    return sorted(rows, key=lambda row: -row["milliseconds"])


def readable_profile(rows: list[dict], most: int = 40) -> str:
    """Format the operations that take most time, a line each."""
    total = sum(row["milliseconds"] for row in rows)
    lines = [
        f"{total:.1f} ms a step in {sum(r['calls'] for r in rows):.0f} operations or kernels"
    ]
    for row in rows[:most]:
        share = 100 * row["milliseconds"] / total
        lines.append(
            f"{row['milliseconds']:8.2f} ms {share:5.1f} % {row['calls']:6.0f} times "
            f"{row['name'][:150]}"
        )
    return "\n".join(lines)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run the steps, measure the machine's rate, and collect the results."""
    build = make_build(args)
    conf = read_config(args.config, args.method, args.options)
    (optimizer,) = SSLTask.build_optimizers(conf, build.model)
    result = run_steps(build, optimizer, args, conf.grad_clip)
    peak = peak_memory_mib(args.device)  # before the measurements below
    rate = matrix_rate(args.device, DTYPES[args.dtype])
    if args.profile:
        rows = profile_steps(build, optimizer, args, conf.grad_clip)
        print(readable_profile(rows), file=sys.stderr)
    totals = [sum(phases) for phases in result.seconds]
    median = statistics.median(totals)
    phases = {
        name: round(statistics.median(column), 4)
        for name, column in zip(PHASES, zip(*result.seconds))
    }
    options = ("method", "build", "device", "dtype", "threads")
    return dict(
        {name: getattr(args, name) for name in options},
        config=os.path.relpath(args.config, BENCH.parent),
        options=args.options,
        compiled=args.compile,
        batch=args.batch,
        seconds_of_audio=args.seconds,
        seconds=round(median, 4),
        seconds_min=round(min(totals), 4),
        seconds_max=round(max(totals), 4),
        phases=phases,
        audio_per_second=round(args.batch * args.seconds / median, 2),
        **peak,
        gflop=round(result.flops / 1e9, 1),
        matrix_gflop_per_second=round(rate / 1e9, 1),
        share_of_matrix_rate=round(result.flops / median / rate, 4),
        mask_share=round(statistics.mean(result.mask_shares), 3),
        encoder_parameters=build.encoder_parameters,
        parameters=count_parameters(build.model),
        loss=round(result.losses[0], 4),
        machine=describe(args.device),
    )


def readable(result: dict[str, Any]) -> str:
    """Format the result as a readable line."""
    phases = ", ".join(f"{name} {x:.3f}" for name, x in result["phases"].items())
    memory = result.get("peak_cuda_mib", result["peak_rss_mib"])
    return (
        f"{result['method']} {result['build']} {result['dtype']}: "
        f"{result['seconds']:.3f} s [{result['seconds_min']:.3f}, "
        f"{result['seconds_max']:.3f}] a step ({phases}), "
        f"{result['audio_per_second']:.1f} s of audio a second, peak {memory} MiB, "
        f"{result['gflop']:.0f} GFLOP, {100 * result['share_of_matrix_rate']:.0f} % of "
        f"{result['matrix_gflop_per_second']:.0f} GFLOP/s, "
        f"mask {result['mask_share']:.2f}, loss {result['loss']:.3f}, "
        f"{result['encoder_parameters'] / 1e6:.1f} M parameters in the encoder"
    )


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--method", choices=METHODS, required=True)
    add("--build", choices=BUILDS, default="ours", help="default: %(default)s")
    add("--config", default=str(BENCH / "step.yaml"), help="of ssl_train; step.yaml")
    add("--options", default="", help="more options of ssl_train, in quotes")
    add(
        "--compile",
        nargs="?",
        const="inductor",
        default="",
        metavar="BACKEND",
        help="torch.compile for each block of the encoder (off; not SpeechBrain's)",
    )
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--dtype", choices=sorted(DTYPES), default="float32", help="bfloat16: autocast")
    add("--batch", type=int, default=8, help="utterances (%(default)s)")
    add("--seconds", type=float, default=10.0, help="of each (%(default)s)")
    add("--steps", type=int, default=5, help="timed steps (%(default)s)")
    add("--warmup", type=int, default=2, help="warm-up steps (%(default)s)")
    cores = len(os.sched_getaffinity(0))
    add("--threads", type=int, default=cores, help="default: the cores, %(default)s")
    add("--seed", type=int, default=0)
    add(
        "--profile",
        action="store_true",
        help="also list the operations that take most time in three more steps",
    )
    add("--json", action="store_true", help="print one JSON object")
    return parser


def main():
    """Measure and print."""
    parser = get_parser()
    args = parser.parse_args()
    if min(args.steps, args.warmup, args.batch, args.threads) < 1:
        parser.error("--steps, --warmup, --batch and --threads are at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU here")
    torch.set_num_threads(args.threads)
    try:
        result = measure(args)
    except ConfigError as error:
        sys.exit(f"bench/step.py: {error}")
    print(json.dumps(result) if args.json else readable(result))


if __name__ == "__main__":
    main()
