"""Plan a run from the YAML file and options of ssl_train."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.config import sampling_rate
from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.cost import model_conf
from espnet2_birq.planning.gpus import GPUS
from espnet2_birq.planning.joint import is_joint
from espnet2_birq.planning.plan import Data, Machine, as_dict, make_plan
from espnet2_birq.planning.report import Speed, report
from espnet2_birq.reading import read_yaml
from espnet2_birq.tasks.checks import BINS, check_training
from espnet2_birq.tasks.joint import JointTask
from espnet2_birq.tasks.ssl import SHORTEST, SSLTask


def plan_run(
    config: Path,
    options: Sequence[str],
    speed: Speed,
    *,
    folder: Path | None = None,
    hours: float = 0.0,
    utterance_seconds: float = 12.3,
    longest_seconds: float = 24.5,
    valid_hours: float = 5.4,
    memory: float | None = None,
    as_json: bool = False,
) -> str:
    """Plan a run and format the plan as text.

    Args:
        config: YAML file of ssl_train.
        options: More options of ssl_train.
        speed: Basis of the times.
        folder: Training set with an utt2num_samples; None: use the next three arguments.
        hours: Hours of training speech.
        utterance_seconds: Utterance length in seconds.
        longest_seconds: Utterance length for the memory estimate, in seconds.
        valid_hours: Hours of validation speech.
        memory: GPU memory in bytes; None: as in the data sheet, or measured.
        as_json: Whether to format the numbers as JSON.

    Raises:
        ConfigError: The configuration is unreadable or inconsistent.
        DataError: The training set has no lengths.
    """
    args = parse_config(config, options)
    if speed.machine is not None:
        check_precision(args, speed.machine)
    data = configured_data(args, folder, hours, utterance_seconds, longest_seconds)
    plan = make_plan(
        args,
        data,
        speed.gpus,
        speed.machine or GPUS[speed.gpu],
        memory=memory,
        tflops=speed.tflops,
        measured=speed.step_seconds,
        valid_hours=valid_hours,
    )
    if as_json:
        return json.dumps(as_dict(plan), indent=2)
    return report(plan, data, args, speed)


def configured_data(
    args: argparse.Namespace,
    folder: Path | None,
    hours: float,
    utterance_seconds: float,
    longest_seconds: float,
) -> Data:
    """Return the amount of speech, read from a training set or as given.

    Args:
        args: Arguments of SSLTask.
        folder: Training set with an utt2num_samples; None: use the next three arguments.
        hours: Hours of training speech.
        utterance_seconds: Utterance length in seconds.
        longest_seconds: Utterance length for the memory estimate, in seconds.

    Raises:
        ConfigError: Training leaves out utterances of the given length.
        DataError: The training set has no lengths, or too little to train on.
    """
    fs = sampling_rate(args.frontend_conf)
    # Training leaves out what is shorter, and pretraining what is longer than a batch.
    limited = args.batch_type in BINS and not is_joint(args)
    most = args.batch_bins / fs if limited else math.inf
    if folder is not None:
        return Data.read(folder, fs, SHORTEST, most, args.max_bad_audio)
    if utterance_seconds < SHORTEST:
        raise ConfigError(
            f"--utterance_seconds {utterance_seconds:g}: training leaves out utterances of "
            f"less than {SHORTEST} s; give at least this"
        )
    if utterance_seconds > most:
        raise ConfigError(
            f"batch_bins {args.batch_bins}: training leaves out utterances of "
            f"{utterance_seconds:g} s, which are longer than a whole batch; give at least "
            f"--batch_bins {math.ceil(utterance_seconds * fs)}"
        )
    longest = min(max(longest_seconds, utterance_seconds), most)
    return Data(3600 * hours, utterance_seconds, longest, utterance_seconds)


def parse_config(path: Path, options: Sequence[str]) -> argparse.Namespace:
    """Read a configuration as ssl_train does, or asr_train with objectives.

    Args:
        path: YAML file; asr_train's if it has a key ``decoder``, even if null.
        options: More options of ssl_train or asr_train.

    Raises:
        ConfigError: The configuration is unreadable, or cannot be planned or trained.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file, give the YAML file of ssl_train")
    content = read_yaml(path, "correct it")
    if not isinstance(content, dict) or not all(isinstance(x, str) for x in content):
        raise ConfigError(f"{path}: not a YAML file of options and values")
    task = JointTask if "decoder" in content else SSLTask
    parser = task.get_parser()
    args = parser.parse_args(["--config", str(path), "--output_dir", "-", *options])
    if args.input_size is not None:
        raise ConfigError(
            f"{path}: input_size: only trainings on waveforms can be planned"
        )
    # ESPnet sets `distributed` later; a dry run needs no data.
    checked = argparse.Namespace(**vars(args) | dict(distributed=False, dry_run=True))
    check_training(parser, checked, ())
    return args


def check_precision(args: argparse.Namespace, machine: Machine) -> None:
    """Refuse a machine whose rates are of another precision than the training's.

    Args:
        args: Arguments of SSLTask.
        machine: Measured rates.

    Raises:
        ConfigError: They differ.
    """
    key, used = "use_amp", args.use_amp
    if not machine.on_gpu:
        key, used = "cpu_bfloat16", model_conf(args).get("cpu_bfloat16", "auto")
    if isinstance(used, bool) and used != machine.half:  # auto: as the machine has it
        raise ConfigError(
            f"--machine: {machine.name} was measured with {key} {not used}, and the "
            f"configuration has {key} {used}; run birq bench with this, too"
        )
