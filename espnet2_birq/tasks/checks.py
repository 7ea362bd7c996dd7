"""Checks of a training's options, before anything is built.

ESPnet checks choices on the command line, but not in a YAML file, and no numbers.
"""

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from espnet2.samplers.build_batch_sampler import BATCH_TYPES, CATEGORY_BATCH_TYPES
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet2_birq.config import data_lists
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.settings import (
    check_number,
    check_one_of,
    check_whole,
)
from espnet2_birq.tasks.criteria import read_criteria
from espnet2_birq.tasks.lists import DRAWN
from espnet2_birq.tasks.saving import PROGRESS

CHECKPOINT = "checkpoint.pth"  # ESPnet resumes from it
# Smallest values of whole numbers
LEAST = dict.fromkeys(
    "accum_grad batch_size valid_batch_size batch_bins valid_batch_bins "
    "min_batch_size max_batch_size num_iters_per_epoch log_interval max_epoch "
    "save_updates max_skipped_updates unlabelled_batch_bins".split(),
    1,
) | dict.fromkeys("num_workers seed ngpu num_att_plot patience".split(), 0)
# Ranges of other numbers
RANGES = {
    "save_minutes": (0.0, math.inf),
    "max_bad_audio": (0.0, 1.0),
    "dataset_scaling_factor": (1.0, math.inf),
    "upsampling_factor": (0.0, math.inf),
}
# Options of ESPnet's that this trainer does not support, and why
UNSUPPORTED = {
    "use_deepspeed": "pretraining has a trainer of its own, which ESPnet cannot combine "
    "with DeepSpeed",
    "sharded_ddp": "each rank has a part of the optimizer's state, of which an "
    "interrupted epoch would save only one",
    "use_adapter": "pretraining trains a whole encoder, without adapters",
    "allow_multi_rates": "audio of another rate would be trained on as if it had the "
    "model's (resample it beforehand)",
    "shuffle_within_batch": "utterances would change batches, which could then exceed "
    "batch_bins, and differ in number between processes",
    "no_forward_run": "ESPnet's run without a model does not work (birq bench measures "
    "reading)",
}
TRAIN_DTYPE = "float32"  # others would convert the model, but not its features
LARGEST_SEED = 2**31  # NumPy's, and the epoch is added
# Values of batch_type that fill a batch up to batch_bins samples; the others count
# batch_size utterances.
BINS = ("length", "numel", *DRAWN)


def check_training(
    parser: argparse.ArgumentParser, args: argparse.Namespace, names: Iterable[str]
) -> None:
    """Check the options of a training.

    Args:
        parser: Parser of the task, with its own defaults.
        args: Options.
        names: Names of the required data.

    Raises:
        ConfigError: An option makes no sense, or is missing.
    """
    for action in parser._actions:
        _check_value(action, getattr(args, action.dest, action.default))
    check_trainer(args)
    least, most = args.min_batch_size, args.max_batch_size
    if most is not None and most < least:
        raise ConfigError(
            f"max_batch_size {most} is below min_batch_size {least}; raise it, or leave "
            "one of them out"
        )
    read_criteria(args)
    models = args.keep_nbest_models
    for number in models if isinstance(models, list) else [models]:
        check_whole("keep_nbest_models", number, 1)
    check_number("seed", args.seed, 0, LARGEST_SEED)
    if not args.dry_run:
        for kind in ("train", "valid"):
            _check_data(args, kind, names)
    if not args.dry_run and not args.collect_stats:
        check_folder(args)
        for kind in ("train", "valid"):
            _check_batches(args, kind)


def _check_value(action: argparse.Action, value: object) -> None:
    name = action.dest
    if value is None and action.default is None:
        return
    if action.choices is not None:
        check_one_of(name, value, action.choices)
    if isinstance(action, NestedDictAction) and not isinstance(value, dict):
        raise ConfigError(f"{name} has options, KEY: VALUE, got {value!r}")
    if name in LEAST:
        check_whole(name, value, LEAST[name])
    if name in RANGES:
        check_number(name, value, *RANGES[name])


def _check_data(args: argparse.Namespace, kind: str, names: Iterable[str]) -> None:
    given = {name for _, name, _ in data_lists(vars(args), kind)}
    for name in names:
        if name not in given:
            option = f"--{kind}_data_path_and_name_and_type"
            raise ConfigError(f"give {option} FILE,{name},TYPE")
    if not args.collect_stats and not getattr(args, f"{kind}_shape_file"):
        raise ConfigError(f"give --{kind}_shape_file, the lengths of the {kind} set")


def _check_batches(args: argparse.Namespace, kind: str) -> None:
    """Check that ESPnet can make batches."""
    iterator, batches = args.iterator_type, args.batch_type
    if kind == "valid":
        iterator = args.valid_iterator_type or iterator
        batches = args.valid_batch_type or batches
    if iterator not in ("sequence", "category"):
        raise ConfigError(
            f"iterator_type {iterator} of the {kind} set: use sequence or category"
        )
    if iterator == "sequence" and batches not in BATCH_TYPES:
        raise ConfigError(
            f"batch_type {batches} of the {kind} set is for iterator_type category: use "
            f"one of {list(BATCH_TYPES)}"
        )
    if iterator == "category" and kind == "valid":
        raise ConfigError(
            "iterator_type category of the valid set: it would be drawn anew for every "
            "epoch, and losses could not be compared; give valid_iterator_type sequence, "
            "and valid_batch_type numel and valid_batch_bins"
        )
    if iterator == "category" and batches not in CATEGORY_BATCH_TYPES:
        raise ConfigError(
            f"batch_type {batches} of the {kind} set is for iterator_type sequence: use "
            f"one of {list(CATEGORY_BATCH_TYPES)}"
        )
    shapes = getattr(args, f"{kind}_shape_file")
    if batches in DRAWN and len(shapes) > 1:
        raise ConfigError(f"batch_type {batches}: give one {kind}_shape_file alone")
    lengths = args.fold_length
    if (iterator, batches) == ("sequence", "folded") and len(lengths) != len(shapes):
        raise ConfigError(
            f"batch_type folded: give a fold_length for each --{kind}_shape_file, or "
            "batch_type numel and batch_bins"
        )


def check_trainer(args: argparse.Namespace) -> None:
    """Refuse options that this trainer does not support.

    Raises:
        ConfigError: One of UNSUPPORTED is set, or ``grad_noise`` with several processes,
            or chunks; or an option of the optimizer is a text; or ``train_dtype`` is
            another than float32.
    """
    if args.train_dtype != TRAIN_DTYPE:
        raise ConfigError(
            f"train_dtype {args.train_dtype}: parameters are trained in {TRAIN_DTYPE}; "
            "leave it out (for half precision: use_amp on a GPU, cpu_bfloat16 on a CPU)"
        )
    check_rates(args)
    if args.iterator_type == "chunk":
        raise ConfigError(
            "iterator_type chunk: ESPnet's chunks come without lengths, which pretraining "
            "needs; cut the audio beforehand (segments), or leave it out"
        )
    for name, why in UNSUPPORTED.items():
        if getattr(args, name):
            raise ConfigError(f"{name}: {why}; leave it out")
    if args.grad_noise and args.distributed:
        raise ConfigError(
            "grad_noise: ESPnet draws other noise in each process, so that their models "
            "would drift apart; leave it out, or train with one process"
        )


def check_rates(args: argparse.Namespace) -> None:
    """Refuse texts where optimizer and scheduler expect numbers.

    Raises:
        ConfigError: There is one.
    """
    for name in ("optim_conf", "scheduler_conf"):
        for key, value in (getattr(args, name) or {}).items():
            # Schedulers also have options that are words.
            if isinstance(value, str) and (name == "optim_conf" or _is_number(value)):
                raise ConfigError(
                    f"{name}: {key} is the text {value!r} (YAML reads 1e-3 as a word: "
                    "write 0.001)"
                )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_ranks(args: argparse.Namespace, ranks: int) -> None:
    """Refuse batches with too few utterances for the ranks.

    Raises:
        ConfigError: ``max_batch_size`` is smaller than the number of ranks.
    """
    if args.max_batch_size is not None and args.max_batch_size < ranks:
        raise ConfigError(
            f"max_batch_size {args.max_batch_size}: each of the {ranks} processes needs an "
            "utterance of every batch; raise it, or leave it out"
        )


def check_folder(args: argparse.Namespace) -> None:
    """Refuse to train anew in the folder of another training.

    Its files would be replaced one by one: after an interruption, the same command with
    ``resume`` would go on with the old training. One that is still in its first epoch has
    no checkpoint yet.

    Raises:
        ConfigError: There is another training.
    """
    for state in (Path(args.output_dir, name) for name in (CHECKPOINT, PROGRESS)):
        if not args.resume and state.exists():
            raise ConfigError(
                f"{state}: there is a training already; give another output_dir, or "
                "--resume true to go on with it"
            )
