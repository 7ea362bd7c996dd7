"""Resuming from ESPnet's checkpoint: its model, and files that a kill left out.

ESPnet writes checkpoint.pth, then the epoch's model, then the links to the latest and the
best models.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from espnet2.train.reporter import Reporter

from espnet2_birq.tasks.changes import refuse_other_model


def read_checkpoint(path: Path, model: torch.nn.Module) -> dict[str, Any]:
    """Read a checkpoint's content; tensors stay on disk until they are used.

    Args:
        path: ESPnet's checkpoint.pth.
        model: The configured model.

    Raises:
        ConfigError: The checkpoint has another model.
    """
    saved = safe_torch_load(path, map_location="cpu", mmap=True)
    refuse_other_model(path, saved["model"], model)
    return saved


def statistics(saved: dict[str, Any]) -> Reporter:
    """Return the statistics of a checkpoint's epochs."""
    reporter = Reporter()
    reporter.load_state_dict(saved["reporter"])
    return reporter


def complete_epoch(
    folder: Path, saved: dict[str, Any], criteria: Sequence[Sequence[str]]
) -> None:
    """Write what is missing of the checkpoint's epoch: its model, and the links.

    Args:
        folder: Folder of the experiment.
        saved: Content of its checkpoint.
        criteria: ``best_model_criterion``: phase, name and mode of each.
    """
    reporter = statistics(saved)
    file = folder / f"{reporter.get_epoch()}epoch.pth"
    if not file.exists():
        torch.save(saved["model"], file)
    epochs = {"latest.pth": reporter.get_epoch()}
    for phase, name, mode in criteria:
        if reporter.has(phase, name):
            best = reporter.get_best_epoch(phase, name, mode)
            epochs[f"{phase}.{name}.best.pth"] = best
    for name, epoch in epochs.items():
        link, target = folder / name, Path(f"{epoch}epoch.pth")
        there = link.is_symlink() and link.readlink() == target
        if not there and (folder / target).exists():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
