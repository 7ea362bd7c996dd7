"""Changes between a saved training state and the run that resumes it, and their effects."""

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.ranks import world_size
from espnet2_birq.tasks.lists import describe_lists

# Options on which an epoch's batches depend: if one changes, the saved position in the
# epoch is meaningless.
BATCHES = (
    "accum_grad batch_bins batch_size batch_type chunk_default_fs "
    "chunk_excluded_key_prefixes chunk_length chunk_max_abs_length chunk_shift_ratio "
    "category_sample_size category_upsampling_factor chunk_discard_short_samples "
    "dataset_scaling_factor dataset_upsampling_factor "
    "drop_last_iter fold_length iterator_type max_batch_size min_batch_size "
    "multiple_iterator num_cache_chunks num_iters_per_epoch seed shuffle_within_batch "
    "sort_batch sort_in_batch train_dtype unlabelled_batch_bins upsampling_factor"
).split()
# Prefixes of options that are overridden by the saved state.
SAVED = ("optim", "scheduler", "init_param", "init", "freeze_encoder_updates")
# Options without which the saved state of optimizer and scheduler is of no use.
STRUCTURE = (
    "optim scheduler exclude_weight_decay exclude_weight_decay_conf encoder_lr_decay"
).split()
# Options without effect on what is learned, and lists, which are compared by content.
IGNORED = (
    "output_dir resume config print_config log_level dry_run version distributed ngpu "
    "num_workers max_cache_size max_cache_fd valid_max_cache_size local_rank "
    "save_minutes save_updates max_bad_audio max_skipped_updates log_interval "
    "use_tensorboard use_matplotlib num_att_plot "
    "create_graph_in_tensorboard required train_data_path_and_name_and_type "
    "valid_data_path_and_name_and_type train_shape_file valid_shape_file "
    "unlabelled_data_path_and_name_and_type unlabelled_shape_file"
).split()
# Options that may differ although no epoch is left to train.
WITHOUT_TRAINING = (
    "max_epoch patience early_stopping_criterion best_model_criterion keep_nbest_models "
    "nbest_averaging_interval multiprocessing_distributed"
).split()
OTHER_LISTS = "others, or of other content"
SHOWN = 8  # maximum number of changes named in a line

Origin = dict[str, Any]


def describe_origin(args: argparse.Namespace) -> Origin:
    """Describe what a training depends on besides its saved state.

    Args:
        args: Options of training; the process group must be initialised.

    Returns:
        Options, size and hash of the lists, number of processes.
    """
    options = {
        key: value
        for key, value in vars(args).items()
        if key not in IGNORED and not key.startswith(("dist_", "wandb_", "use_wandb"))
    }
    train, valid, unlabelled = (
        list(describe_lists(args, kind).values())
        for kind in ("train", "valid", "unlabelled")
    )
    return {
        "options": json.loads(json.dumps(options, default=str)),
        "lists": [*train, *unlabelled],
        "valid": valid,
        "processes": world_size(),
    }


def changed_options(before: Origin, now: Origin) -> dict[str, str]:
    """Return options that differ, and how: ``{"optim_conf.lr": "0.1 -> 0.2"}``."""
    old, new = (_flat(origin["options"]) for origin in (before, now))
    return {
        key: f"{old.get(key, 'unset')} -> {new.get(key, 'unset')}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    }


def refuse_changes(state: Path, before: Origin, now: Origin) -> None:
    """Refuse another optimizer or scheduler than that of the saved state.

    Args:
        state: File of the saved state.
        before: Origin saved by an earlier run.
        now: Origin of this run.

    Raises:
        ConfigError: One of STRUCTURE has changed.
    """
    changed = changed_options(before, now)
    group = {key: x for key, x in changed.items() if key.split(".")[0] in STRUCTURE}
    if group:
        raise ConfigError(
            f"{state}: changed since this training stopped: {_show(group)}: the saved "
            "state of optimizer and scheduler does not fit; give another output_dir, or "
            "the options it was trained with"
        )


def refuse_without_training(folder: Path, before: Origin, now: Origin) -> None:
    """Refuse other options than those of a finished training.

    The new config.yaml would describe a model that was trained with the old ones.

    Args:
        folder: Folder of the experiment.
        before: Origin saved by an earlier run.
        now: Origin of this run.

    Raises:
        ConfigError: Options have changed that have an effect on what is learned.
    """
    changed = {
        key: how
        for key, how in changed_options(before, now).items()
        if key.split(".")[0] not in WITHOUT_TRAINING
    }
    if changed:
        raise ConfigError(
            f"{folder}: this training is finished, and was made with other options: "
            f"{_show(changed)}; give another output_dir (birq.sh: --ssl_tag) or a larger "
            "max_epoch, or the options it was trained with"
        )


def refuse_other_model(
    state: Path,
    saved: Mapping[str, torch.Tensor],
    model: torch.nn.Module,
    changed: Mapping[str, str] | None = None,
) -> None:
    """Refuse a saved model of other tensors than the configured one.

    Args:
        state: File of the saved model.
        saved: Its tensors.
        model: The configured model.
        changed: Options that have changed; None: unknown.

    Raises:
        ConfigError: The names or shapes of the tensors differ.
    """
    before, now = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for tensors in (saved, model.state_dict())
    )
    if before == now:
        return
    if changed is None:
        changed = {
            name: f"{before.get(name, 'none')} -> {now.get(name, 'none')}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        }
    shown = ", ".join(f"{key}: {how}" for key, how in list(changed.items())[:SHOWN])
    raise ConfigError(
        f"{state}: its model is not the configured one ({shown}); give another "
        "output_dir, or the configuration it was trained with"
    )


def tell_changes(
    before: Origin, now: Origin, epoch: int, finished: bool = False
) -> bool:
    """Log what has changed since the state was saved, and what follows from it.

    Args:
        before: Origin saved by an earlier run.
        now: Origin of this run.
        epoch: Epoch at which training resumes.
        finished: Whether this epoch has no batch left.

    Returns:
        Whether the batches of the epoch have changed.
    """
    changed = changed_options(before, now)
    batches = {key: x for key, x in changed.items() if key.split(".")[0] in BATCHES}
    saved = {key: x for key, x in changed.items() if key.startswith(SAVED)}
    if before["processes"] != now["processes"]:
        batches["processes"] = f"{before['processes']} -> {now['processes']}"
    if before["lists"] != now["lists"]:
        batches["training lists"] = OTHER_LISTS
    others = {key: x for key, x in changed.items() if key not in {*batches, *saved}}
    if before.get("valid", now["valid"]) != now["valid"]:  # none in older states
        others["validation lists"] = OTHER_LISTS
    effect = (
        f"epoch {epoch} begins anew, with other batches; what its earlier ones have "
        "taught stays, and their utterances may come again"
    )
    if finished:
        effect = f"epoch {epoch} is finished, and later ones have other batches"
    for group, what in (
        (batches, effect),
        (saved, "without effect: the saved state of optimizer and scheduler is used"),
        (others, "in effect from here on"),
    ):
        if group:
            logging.warning(
                f"changed since this training stopped: {_show(group)}: {what}"
            )
    return bool(batches)


def _show(group: Mapping[str, str]) -> str:
    shown = [f"{key} ({how})" for key, how in list(group.items())[:SHOWN]]
    more = f" and {len(group) - SHOWN} more" if len(group) > SHOWN else ""
    return ", ".join(shown) + more


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested options; lists stay values."""
    found = {}
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found
