"""Checks of a training's options, before anything is built."""

import argparse
from pathlib import Path

from espnet2_birq.errors import ConfigError

CHECKPOINT = "checkpoint.pth"  # ESPnet resumes from it


def check_folder(args: argparse.Namespace) -> None:
    """Refuse to train anew in the folder of another training.

    Its files would be replaced one by one: after an interruption, the same command with
    ``resume`` would go on with the old training.

    Raises:
        ConfigError: There is another training.
    """
    checkpoint = Path(args.output_dir, CHECKPOINT)
    if args.resume or args.dry_run or args.collect_stats or not checkpoint.exists():
        return
    raise ConfigError(
        f"{checkpoint}: there is a training already; give another output_dir, or "
        "--resume true to go on with it"
    )
