"""Print how far trainings are, a line for each now and then, until they are stopped.

  python -m espnet2_birq.bin.watch_training exp/ssl_train_birq_raw exp/asr_birq

reads what ESPnet writes into train.log and config.yaml; it can be started before a
training, beside it, or long after.
"""

import argparse
import re
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Optional

import yaml

from espnet2_birq.score.training_log import VALUE

BATCHES = re.compile(
    r"^\[[^\]]*\] (\S+ \S+),\d+ .*INFO: (\d+)epoch:train:\d+-(\d+)batch: (.*)",
    re.MULTILINE,
)


class Progress(NamedTuple):
    """How far a training is."""

    epoch: int
    epochs: int
    batch: int  # within the epoch
    batches: Optional[int]  # of an epoch, if the configuration says so
    loss: float
    seconds_left: Optional[float]

    def __str__(self):
        done = f"epoch {self.epoch} of {self.epochs}, batch {self.batch}"
        if self.batches:
            done += f" of {self.batches}"
        if self.seconds_left is None:
            return f"{done}, loss {self.loss:.3f}"
        left = f"{self.seconds_left / 60:.0f} min"
        if self.seconds_left < 90:
            left = f"{self.seconds_left:.0f} s"
        return f"{done}, loss {self.loss:.3f}, about {left} left"


def read_progress(folder: Path) -> Optional[Progress]:
    """Read how far a training is.

    Args:
        folder: Its experiment.

    Returns:
        None before its first logged batches.
    """
    log, config = folder / "train.log", folder / "config.yaml"
    if not (log.is_file() and config.is_file()):
        return None
    lines = BATCHES.findall(log.read_text(encoding="utf-8", errors="replace"))
    if not lines:
        return None
    conf = yaml.safe_load(config.read_text(encoding="utf-8"))
    each = conf.get("num_iters_per_epoch")
    times = [datetime.fromisoformat(line[0]) for line in (lines[0], lines[-1])]
    (first_epoch, first_batch), (epoch, batch) = (
        (int(line[1]), int(line[2])) for line in (lines[0], lines[-1])
    )
    left = None
    if each:
        done = (epoch - first_epoch) * each + batch - first_batch
        rest = (conf["max_epoch"] - epoch + 1) * each - batch
        if done > 0:
            left = (times[1] - times[0]).total_seconds() / done * rest
    values = dict(VALUE.findall(lines[-1][3]))
    loss = float(values.get("loss", "nan"))
    return Progress(epoch, conf["max_epoch"], batch, each, loss, left)


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiments", nargs="+", type=Path, help="their folders")
    parser.add_argument("--every", type=float, default=20, help="seconds (20)")
    parser.add_argument("--once", action="store_true", help="one look, then stop")
    return parser


def main(cmd=None):
    """Run the command, until it is stopped."""
    args = get_parser().parse_args(cmd)
    told = {}
    while True:
        for folder in args.experiments:
            progress = read_progress(folder)
            if progress is not None and told.get(folder) != progress:
                told[folder] = progress
                print(f"    {folder.name}: {progress}", flush=True)
        if args.once:
            return
        time.sleep(args.every)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
