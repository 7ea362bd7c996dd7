"""Parameters, FLOPs, memory, batch and days of a pretraining run, before it runs."""

import argparse
import json
import sys
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run, warnings_off
from espnet2_birq.errors import ConfigError

DESCRIPTION = """\
Print what a pretraining run will cost: parameters, FLOPs a step, memory of a GPU, the
batch that fits, days. The step of the configuration's own model is counted on tensors
without numbers, operation by operation, as a GPU would run it: that takes seconds, no
GPU and no memory. How fast a GPU is, is assumed; give --step-seconds once you have
measured a step.

All other options are those of ssl_train: --batch_bins 51200000, --accum_grad 1,
--encoder_conf num_blocks=12, ... change the configuration as they do there.
"""
EPILOG = """\
examples:
  python -m espnet2_birq.bin.plan --config conf/tuning/train_birq_c2.yaml \\
      --hours 960 --gpus 8 --gpu h100 --batch_bins 51200000 --accum_grad 1
  python -m espnet2_birq.bin.plan --config conf/train_birq.yaml \\
      --data dump/raw/train --gpus 1 --gpu a100 --step-seconds 0.31
"""


def get_parser() -> argparse.ArgumentParser:
    """Options of this command; all others are those of ssl_train."""
    from espnet2_birq.planning.plan import GPUS

    parser = make_parser("plan", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="YAML", help="of ssl_train")
    add("--hours", type=float, help="of speech in the training set")
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="training set with an utt2num_samples, e.g. dump/raw/train: hours and "
        "lengths of utterances are its own",
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
        help="length of utterances, without --data (default: %(default)s, the mean of "
        "LibriSpeech)",
    )
    add(
        "--longest-seconds",
        type=float,
        default=24.5,
        metavar="S",
        help="length at which memory is counted, without --data (default: %(default)s, "
        "LibriSpeech's longest)",
    )
    add("--json", action="store_true", help="print the numbers as JSON")
    return parser


def read_config(path: Path, rest: list[str]) -> argparse.Namespace:
    """Read a configuration as ssl_train does.

    Args:
        path: YAML file.
        rest: More options of ssl_train.

    Raises:
        ConfigError: It cannot be read.
    """
    import yaml

    from espnet2_birq.tasks.ssl import SSLTask

    if not path.is_file():
        raise ConfigError(f"{path}: no such file, give the YAML file of ssl_train")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML: {line}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a YAML file of options and values")
    return SSLTask.get_parser().parse_args(
        ["--config", str(path), "--output_dir", "-", *rest]
    )


def check(own: argparse.Namespace) -> None:
    """Look whether the options make sense.

    Raises:
        ConfigError: They do not.
    """
    if (own.hours is None) == (own.data is None):
        raise ConfigError("give --hours or --data: how much speech is there?")
    for name in (
        *("hours", "gpus", "memory", "tflops", "step_seconds"),
        *("utterance_seconds", "longest_seconds"),
    ):
        value = getattr(own, name)
        if value is not None and not value > 0:
            raise ConfigError(
                f"--{name.replace('_', '-')} {value}: must be more than 0"
            )


def command(own: argparse.Namespace) -> None:
    """Make the plan and print it."""
    from espnet2_birq.planning.plan import (
        GPUS,
        Data,
        as_dict,
        make_plan,
        sampling_rate,
    )
    from espnet2_birq.planning.report import Speed, report

    check(own)
    args = read_config(own.config, own.rest)
    fs = sampling_rate(args)
    if own.data is not None:
        data = Data.read(own.data, fs)
    else:
        longest = max(own.longest_seconds, own.utterance_seconds)
        data = Data(3600 * own.hours, own.utterance_seconds, longest)
    with warnings_off():
        plan = make_plan(
            args,
            data,
            own.gpus,
            GPUS[own.gpu],
            memory=own.memory and 1e9 * own.memory,
            tflops=own.tflops,
            measured=own.step_seconds,
        )
    if own.json:
        print(json.dumps(as_dict(plan), indent=2))
    else:
        speed = Speed(own.gpu, own.gpus, own.step_seconds, own.tflops)
        print(report(plan, data, args, speed))


def main(cmd=None):
    """Run the command; what the user can mend is one line and exit status 1."""
    own, rest = get_parser().parse_known_args(cmd)
    run(command, argparse.Namespace(**vars(own), rest=rest))


if __name__ == "__main__":
    sys.exit(main())
