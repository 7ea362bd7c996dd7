"""Checks of options that need the model: its parameters, optimizer and scheduler."""

import argparse
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from espnet2.tasks.abs_task import scheduler_classes
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from espnet2.torch_utils.safe_torch_load import safe_torch_load
from typeguard import TypeCheckError

from espnet2_birq.errors import ConfigError
from espnet2_birq.reading import DAMAGE, refusing


@contextmanager
def refusing_options(option: str, of: str) -> Iterator[None]:
    """Report errors of a class that is built in this context as its options' fault.

    Args:
        option: The options.
        of: Name of the class.

    Raises:
        ConfigError: The class cannot be built with them.
    """
    try:
        yield
    except ConfigError:
        raise
    except (*DAMAGE, TypeCheckError) as error:
        why = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{option}: not options of {of} ({why}); correct them"
        ) from error


def check_model(
    args: argparse.Namespace,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Check what ESPnet will do with a model and its optimizers.

    Args:
        args: Options of training.
        model: The model, which gets the parameters of ``init_param``.
        optimizers: Its optimizers, which stay as they are.

    Raises:
        ConfigError: ``init_param``, ``freeze_param`` or the scheduler cannot be used.
    """
    check_frozen(args, model)
    for spec in args.init_param:
        _check_init(spec, model, args.ignore_init_mismatch)
    if args.scheduler is None:
        return
    with refusing_options("scheduler_conf", args.scheduler):
        for optimizer in optimizers:
            trial = copy.copy(optimizer)  # a scheduler changes the rates at once
            trial.param_groups = [dict(group) for group in optimizer.param_groups]
            scheduler_classes[args.scheduler](trial, **args.scheduler_conf)


def check_frozen(args: argparse.Namespace, model: torch.nn.Module) -> None:
    """Check that the model has what is not to be trained.

    Args:
        args: Options of training.
        model: The model.

    Raises:
        ConfigError: ``freeze_param`` names something else.
    """
    for part in args.freeze_param:
        names = [name for name, _ in model.named_parameters()]
        if not any(f"{name}.".startswith(f"{part}.") for name in names):
            parts = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(
                f"freeze_param: the model has no parameters {part}; its parts are {parts}"
            )


def _check_init(spec: str, model: torch.nn.Module, ignore_mismatch: bool) -> None:
    """Load the parameters as ESPnet will, which is silent about those that are missing."""
    path, part, *_ = [*spec.split(":"), ""]
    state = safe_torch_load(path, map_location="cpu")
    where, remedy = f"init_param {spec}", "correct FILE:FROM:TO, or the configuration"
    with refusing(where, "does not fit the model", remedy, ConfigError):
        if not any(name.startswith(part) for name in state):
            raise ConfigError(f"{where}: the file has no parameters {part}; {remedy}")
        load_pretrained_model(spec, model, ignore_mismatch)
