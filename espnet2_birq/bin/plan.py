"""Parameters, FLOPs, memory, batch and days of a pretraining run, before it runs."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run, warnings_off
from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.configured import plan_run
from espnet2_birq.planning.plan import GPUS
from espnet2_birq.planning.report import Speed

DESCRIPTION = """\
Print what a pretraining run will cost: parameters, FLOPs a step, memory of a GPU, the
batch that fits, days. The step of the configuration's own model is counted on tensors
without numbers, operation by operation, as a GPU would run it: that takes seconds, no
GPU and no memory. How fast a GPU is, is assumed; give --step-seconds once you have
measured a step.

All other options are those of ssl_train: --batch_bins 51200000, --accum_grad 1,
--encoder_conf num_blocks=12, ... change the configuration as they do there."""
EPILOG = """\
examples:
  python -m espnet2_birq.bin.plan --config conf/tuning/train_birq_c2.yaml \\
      --hours 960 --gpus 8 --gpu h100 --batch_bins 51200000 --accum_grad 1
  python -m espnet2_birq.bin.plan --config conf/train_birq.yaml \\
      --data dump/raw/train --gpus 1 --gpu a100 --step-seconds 0.31"""

POSITIVE = "hours gpus memory tflops step-seconds utterance-seconds longest-seconds"


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser; all other options are those of ssl_train."""
    parser = make_parser("plan", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="YAML", help="of ssl_train")
    add("--hours", type=float, help="of speech in the training set")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="set with utt2num_samples, as dump/raw/train: its hours and lengths count",
    )
    add("--gpus", type=int, default=1, help="how many (default: %(default)s)")
    add(
        "--gpu",
        choices=sorted(GPUS),
        default="a100",
        help="which ones: memory, FLOP/s and bytes/s of the data sheet (default: "
        "%(default)s, 80 GB)",
    )
    add("--memory", type=float, metavar="GB", help="of a GPU, if not that")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument(
        "--tflops",
        type=float,
        help="effective TFLOP/s of a GPU over a whole step, instead of the assumptions",
    )
    speed.add_argument(
        "--step-seconds",
        type=float,
        metavar="S",
        help="a measured step of this very configuration and number of GPUs: "
        "train_time of ESPnet's log, without its iter_time",
    )
    add(
        "--utterance-seconds",
        type=float,
        default=12.3,
        metavar="S",
        help="length of utterances without --data (default: LibriSpeech's %(default)s)",
    )
    add(
        "--longest-seconds",
        type=float,
        default=24.5,
        metavar="S",
        help="length at which memory is counted, without --data (default: LibriSpeech's "
        "longest, %(default)s)",
    )
    add("--json", action="store_true", help="print the numbers as JSON")
    return parser


def plan(args: argparse.Namespace) -> None:
    """Run the command."""
    _check(args)
    speed = Speed(args.gpu, args.gpus, args.step_seconds, args.tflops)
    with warnings_off():
        text = plan_run(
            args.config,
            args.rest,
            speed,
            folder=args.data,
            hours=args.hours,
            utterance_seconds=args.utterance_seconds,
            longest_seconds=args.longest_seconds,
            memory=args.memory and 1e9 * args.memory,
            as_json=args.json,
        )
    print(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    own, rest = get_parser().parse_known_args(argv)
    run(plan, argparse.Namespace(**vars(own), rest=rest))


def _check(args: argparse.Namespace) -> None:
    if (args.hours is None) == (args.data is None):
        raise ConfigError("give --hours or --data: how much speech is there?")
    for option in POSITIVE.split():
        value = getattr(args, option.replace("-", "_"))
        if value is not None and not value > 0:
            raise ConfigError(f"--{option} {value}: must be more than 0")


if __name__ == "__main__":
    main()
