"""Plan parameters, FLOPs, memory, batch size and days of a pretraining run."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run, warnings_off
from espnet2_birq.bin.options.speech import (
    VALID_HOURS,
    add_speech_options,
    check_speech_options,
)
from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.gpus import GPUS

DESCRIPTION = """\
Print the cost of a pretraining run: parameters, FLOPs per step, GPU memory, the largest
batch that fits, days. A step of the configured model is run on fake tensors and
counted operation by operation, as on a GPU: this takes seconds, no
GPU and no memory. The speed of a GPU is assumed; pass --machine with what `birq bench`
measured on yours, or --step_seconds once you have measured a step.

All other options are those of ssl_train: --batch_bins 51200000, --accum_grad 1,
--encoder_conf num_blocks=12, ... change the configuration."""
EPILOG = """\
examples:
  python -m espnet2_birq.bin.plan --config conf/tuning/train_birq_c2.yaml \\
      --hours 960 --gpus 8 --gpu h100 --batch_bins 51200000 --accum_grad 1
  python -m espnet2_birq.bin.plan --config conf/train_birq.yaml \\
      --data dump/raw/train --gpus 1 --gpu a100 --step_seconds 0.31"""

DEFAULT_GPU = "a100"
POSITIVE = "gpus memory tflops step_seconds"


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser; all other options are those of ssl_train."""
    parser = make_parser("plan", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add_speech_options(parser)
    add("--gpus", type=int, default=1, help="number of GPUs")
    add(
        "--gpu",
        choices=sorted(GPUS),
        help="GPU model, whose data sheet gives memory, FLOP/s and bytes/s (default: "
        f"{DEFAULT_GPU})",
    )
    add(
        "--memory",
        type=float,
        metavar="GB",
        help="memory of a GPU, if it differs from the data sheet",
    )
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument(
        "--machine",
        type=Path,
        metavar="JSON",
        help="rates that `birq bench --out` measured, instead of --gpu's",
    )
    speed.add_argument(
        "--tflops",
        type=float,
        help="effective TFLOP/s of a GPU over a whole step, instead of the assumptions",
    )
    speed.add_argument(
        "--step_seconds",
        type=float,
        metavar="S",
        help="measured step of exactly this configuration and number of GPUs: "
        "train_time in ESPnet's log, divided by accum_grad, minus iter_time",
    )
    add("--json", action="store_true", help="print the numbers as JSON")
    return parser


def plan(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.planning.configured import plan_run
    from espnet2_birq.planning.plan import read_machine
    from espnet2_birq.planning.report import Speed

    check_speech_options(args, POSITIVE)
    if args.machine and args.gpu:
        raise ConfigError("--gpu: --machine has its own rates; leave one of them out")
    if args.valid_hours and not args.machine:
        raise ConfigError(
            f"--valid_hours {args.valid_hours:g}: validation is planned at measured rates "
            "alone; give --machine, too, or leave it out"
        )
    machine = read_machine(args.machine) if args.machine else None
    gpu = args.gpu or DEFAULT_GPU
    with warnings_off():
        text = plan_run(
            Path(args.config),
            args.rest,
            Speed(gpu, args.gpus, args.step_seconds, args.tflops, machine),
            folder=args.data,
            hours=args.hours,
            utterance_seconds=args.utterance_seconds,
            longest_seconds=args.longest_seconds,
            valid_hours=args.valid_hours or VALID_HOURS,
            memory=args.memory and 1e9 * args.memory,
            as_json=args.json,
        )
    print(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    own, rest = get_parser().parse_known_args(argv)
    run(plan, argparse.Namespace(**vars(own), rest=rest))


if __name__ == "__main__":
    main()
