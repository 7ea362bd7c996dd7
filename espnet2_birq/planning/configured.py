"""Plan a run from the YAML file and options of ssl_train."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet2_birq.config import sampling_rate
from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.gpus import GPUS
from espnet2_birq.planning.plan import Data, as_dict, make_plan
from espnet2_birq.planning.report import Speed, report
from espnet2_birq.tasks.ssl import SSLTask


def plan_run(
    config: Path,
    options: Sequence[str],
    speed: Speed,
    *,
    folder: Path | None = None,
    hours: float = 0.0,
    utterance_seconds: float = 12.3,
    longest_seconds: float = 24.5,
    memory: float | None = None,
    as_json: bool = False,
) -> str:
    """Plan a run and format the plan as text.

    Args:
        config: YAML file of ssl_train.
        options: More options of ssl_train.
        speed: Basis of the times.
        folder: Training set with an utt2num_samples; None: use the next three.
        hours: Hours of training speech.
        utterance_seconds: Utterance length in seconds.
        longest_seconds: Utterance length for the memory, in seconds.
        memory: GPU memory in bytes; None: as in the data sheet.
        as_json: Format the numbers as JSON.

    Raises:
        ConfigError: The configuration is unreadable or inconsistent.
        DataError: The training set has no lengths.
    """
    args = parse_config(config, options)
    if args.input_size is not None:
        raise ConfigError(
            f"{config}: input_size: planned are trainings on waveforms alone"
        )
    if folder is not None:
        data = Data.read(folder, sampling_rate(args.frontend_conf))
    else:
        longest = max(longest_seconds, utterance_seconds)
        data = Data(3600 * hours, utterance_seconds, longest)
    plan = make_plan(
        args,
        data,
        speed.gpus,
        GPUS[speed.gpu],
        memory=memory,
        tflops=speed.tflops,
        measured=speed.step_seconds,
    )
    if as_json:
        return json.dumps(as_dict(plan), indent=2)
    return report(plan, data, args, speed)


def parse_config(path: Path, options: Sequence[str]) -> argparse.Namespace:
    """Read a configuration as ssl_train does.

    Args:
        path: YAML file.
        options: More options of ssl_train.

    Raises:
        ConfigError: The configuration is unreadable.
    """
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
        ["--config", str(path), "--output_dir", "-", *options]
    )
