"""Gentle fine-tuning of an encoder: layer-wise learning rates, initial freezing.

ESPnet lacks these options; the fine-tuned model is still an ordinary ESPnet model. The
module also counts the updates of a training run.
"""

import argparse
import logging
import re
from collections import defaultdict

import torch
from espnet2.optimizers.optim_groups import add_optimizer_hooks
from espnet2.samplers.build_batch_sampler import build_batch_sampler

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.settings import check_whole
from espnet2_birq.pretraining.when import is_skipped
from espnet2_birq.tasks.lists import check_tables

LAYER = re.compile(r"encoder\.encoders\.(\d+)\.")
FROZEN = "frozen_updates"  # key of a parameter group: remaining frozen updates
SCHEDULE = {"tristagelr": "max_steps", "onecyclelr": "total_steps"}
ONE_RATE = (  # schedulers that give all parameter groups the same learning rate
    "cycliclr",
    "cosineannealingwarmuprestarts",
    "exponentialdecaywarmup",
    "piecewiselinearwarmuplr",
)


def depths(model: torch.nn.Module) -> dict[str, int | None]:
    """Compute the depth of each parameter below the encoder's output.

    Args:
        model: ESPnet's ASR model.

    Returns:
        Depth by parameter name: 1 in the top layer and the normalisation
        after it, one more in each layer below, largest in the input layers
        (encoder.embed). None for parameters outside the pretrained encoder.

    Raises:
        ConfigError: The encoder has no layers named encoder.encoders.N.
    """
    found = {}
    for name, _ in model.named_parameters():
        match = LAYER.match(name)
        found[name] = int(match[1]) if match else None
    layers = max((n for n in found.values() if n is not None), default=-1) + 1
    if not layers:
        raise ConfigError(
            f"the encoder {type(model.encoder).__name__} has no layers "
            "encoder.encoders.N; leave out encoder_lr_decay and freeze_encoder_updates"
        )
    for name, layer in found.items():
        if layer is not None:
            found[name] = layers - layer
        elif name.startswith("encoder.after_norm."):
            found[name] = 1
        elif name.startswith("encoder.embed."):
            found[name] = layers + 1
    return found


def build_optimizer(
    args: argparse.Namespace, model: torch.nn.Module, optim_class: type
) -> torch.optim.Optimizer:
    """Build an optimizer with a parameter group for each depth of the encoder.

    The learning rate is `optim_conf`'s times encoder_lr_decay ** depth (as in BEiT, arXiv
    2106.08254, after ELECTRA); a scheduler scales all groups alike (for onecyclelr, which
    sets them, max_lr becomes a list with a rate for each group). During the first
    freeze_encoder_updates updates, the encoder's gradients are dropped before
    they reach the optimizer. They are still computed, so distributed processes
    always exchange the same tensors. The number of remaining frozen updates is part
    of the optimizer's state, and hence of checkpoints. ESPnet clips gradients before
    they are dropped, so the encoder's still count towards the norm; BatchNorm's running
    statistics still change.

    Args:
        args: Options of asr_train.
        model: ESPnet's ASR model.
        optim_class: Optimizer class.

    Raises:
        ConfigError: An option is out of range, or the encoder has no layers.
    """
    _check_options(args)
    lr, decay = _highest_rate(args), args.encoder_lr_decay
    freeze = frozen_updates(args)
    if args.exclude_weight_decay:
        add_optimizer_hooks(model, **args.exclude_weight_decay_conf)
    members = defaultdict(list)
    depth_of = depths(model)
    for name, parameter in model.named_parameters():
        special = tuple(sorted(getattr(parameter, "_optim", {}).items()))
        members[depth_of[name] or 0, special].append(parameter)
    groups = []
    for (depth, special), parameters in sorted(members.items()):
        group = {"params": parameters, "lr": lr * decay**depth, **dict(special)}
        groups.append({**group, FROZEN: freeze if depth else 0})
    optimizer = optim_class(groups, **{**args.optim_conf, "lr": lr})
    if args.scheduler == "onecyclelr":
        rates = [group["lr"] for group in groups]
        args.scheduler_conf = {**args.scheduler_conf, "max_lr": rates}
    optimizer.register_step_pre_hook(_drop_gradients)
    deepest = max(depth for depth, _ in members)
    logging.info(
        f"encoder_lr_decay {decay:g}: lr {lr:g} outside of the encoder, "
        f"{lr * decay:g} in its top layer, {lr * decay**deepest:g} in its input layers"
    )
    if freeze:
        logging.info(
            f"freeze_encoder_updates: the encoder is frozen for {freeze} updates"
        )
    return optimizer


def _check_options(args: argparse.Namespace) -> None:
    decay = args.encoder_lr_decay
    if not 0 < decay <= 1:
        raise ConfigError(f"encoder_lr_decay is {decay}, give one above 0, at most 1")
    if args.sharded_ddp or args.use_deepspeed:
        raise ConfigError(
            "encoder_lr_decay and freeze_encoder_updates work with ESPnet's own "
            "trainer; leave out sharded_ddp and use_deepspeed"
        )
    if args.scheduler in ONE_RATE and decay != 1:
        raise ConfigError(
            f"scheduler {args.scheduler} gives all layers the same learning rate, so that "
            "encoder_lr_decay has no effect; use another, such as onecyclelr or tristagelr"
        )
    if _highest_rate(args) is None:
        raise ConfigError(
            "encoder_lr_decay and freeze_encoder_updates need an lr in optim_conf"
            + (
                ", or a max_lr in scheduler_conf"
                if args.scheduler == "onecyclelr"
                else ""
            )
        )


def frozen_updates(args: argparse.Namespace) -> int:
    """Return the number of initial updates in which the encoder is frozen.

    Args:
        args: Options of asr_train. freeze_encoder_updates is this number or, below 1, its
            share of the schedule's updates.

    Raises:
        ConfigError: Below 0, or a share with a scheduler that has no end.
    """
    freeze = args.freeze_encoder_updates
    if freeze < 0:
        raise ConfigError(f"freeze_encoder_updates is {freeze}, give 0 or more")
    if freeze == 0 or freeze >= 1:
        return int(freeze)
    key = SCHEDULE.get(args.scheduler)
    updates = (args.scheduler_conf or {}).get(key)
    if updates is None:
        raise ConfigError(
            f"freeze_encoder_updates is {freeze}, a share of the schedule's updates, which "
            f"scheduler {args.scheduler} does not give; write the number of updates, or use "
            "tristagelr (max_steps) or onecyclelr (total_steps)"
        )
    return round(freeze * updates)


def _highest_rate(args: argparse.Namespace) -> float | None:
    """Return the learning rate outside of the encoder, or None if there is none."""
    if args.scheduler == "onecyclelr":
        rate = args.scheduler_conf.get("max_lr")  # a list in a saved config.yaml
        return rate[0] if isinstance(rate, list) else rate
    return args.optim_conf.get("lr")


def _drop_gradients(optimizer: torch.optim.Optimizer, args, kwargs) -> None:
    if is_skipped(optimizer):
        return
    over = False
    for group in optimizer.param_groups:
        # Older checkpoints lack this key.
        if group.get(FROZEN, 0) > 0:
            for parameter in group["params"]:
                parameter.grad = None
            group[FROZEN] -= 1
            over = group[FROZEN] == 0
    if over:
        logging.info(
            "freeze_encoder_updates: from the next update on, the encoder is trained, too"
        )


def count_batches(args: argparse.Namespace, processes: int = 1) -> int | None:
    """Count the batches of an epoch in ESPnet's trainer.

    Args:
        args: Options of asr_train, with train_shape_file.
        processes: Number of GPUs.

    Returns:
        Number of batches; None if unknown beforehand.

    Raises:
        ConfigError: No shape file.
        DataError: A shape file is empty or malformed.
    """
    if args.iterator_type != "sequence" or args.multiple_iterator:
        return None
    if args.num_iters_per_epoch is not None:
        return args.num_iters_per_epoch
    if args.batch_type == "folded":
        return None
    if not args.train_shape_file:
        raise ConfigError("give --train_shape_file, to count the updates of an epoch")
    check_tables([], args.train_shape_file)
    sampler = build_batch_sampler(
        type=args.batch_type,
        shape_files=args.train_shape_file,
        batch_size=args.batch_size,
        batch_bins=args.batch_bins,
        sort_in_batch=args.sort_in_batch,
        sort_batch=args.sort_batch,
        drop_last=args.drop_last_iter,
        min_batch_size=processes if processes > 1 else args.min_batch_size,
    )
    return len(list(sampler))


def count_updates(args: argparse.Namespace, processes: int = 1) -> int | None:
    """Count the updates of a whole training.

    Args:
        args: Options of asr_train, with train_shape_file.
        processes: Number of GPUs.

    Returns:
        Number of updates in `max_epoch` epochs; None if unknown beforehand.

    Raises:
        ConfigError: No shape file, an option below 1, or no updates: an epoch has fewer
            batches than accum_grad.
        DataError: See count_batches().
    """
    for name in ("accum_grad", "batch_bins", "batch_size", "max_epoch"):
        check_whole(name, getattr(args, name), 1)
    batches = count_batches(args, processes)
    if batches is None:
        return None
    if batches < args.accum_grad:
        raise ConfigError(
            f"an epoch of {batches} batches has no update with accum_grad "
            f"{args.accum_grad}; lower accum_grad, batch_bins or batch_size"
        )
    return args.max_epoch * (batches // args.accum_grad)
