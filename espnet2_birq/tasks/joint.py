"""ESPnet's ASR task, trained jointly with the objectives of pretraining."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.tasks.asr import model_choices
from espnet2.train.distributed_utils import DistributedOption
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import float_or_none, str2triple_str
from typeguard import typechecked

from espnet2_birq.config import sampling_rate
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.joint import SUPERVISED_WEIGHT, UNLABELLED, JointModel
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.bad_audio import BadAudio
from espnet2_birq.tasks.checks import BINS, check_training
from espnet2_birq.tasks.collate import TranscribedCollateFn
from espnet2_birq.tasks.commands import training_context
from espnet2_birq.tasks.given import SPEECH, check_files, check_transcripts
from espnet2_birq.tasks.lists import check_set
from espnet2_birq.tasks.prepared import check_model, refusing_options
from espnet2_birq.tasks.ssl import (
    SHORTEST,
    SSLTask,
    add_objective_arguments,
    build_objectives,
    check_one_process_per_gpu,
    tolerate_bad_audio,
)
from espnet2_birq.tasks.trainer import Trainer, check_batches

# Name by which ESPnet builds the class. Saved configurations name ESPnet's own class, so
# that its commands can load the model.
JOINT = "joint"
model_choices.classes[JOINT] = JointModel


class JointTask(ASRTask):
    """Supervised and self-supervised training of one encoder (BL-JUST)."""

    trainer = Trainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        """Add options for objectives, weights and unlabelled data to the ASR task's."""
        super().add_task_arguments(parser)
        group = parser.add_argument_group(
            "Joint training: supervised loss F and the objectives' loss G"
        )
        add_objective_arguments(group, None)
        group.add_argument(
            "--pretraining_conf",
            action=NestedDictAction,
            default=dict(),
            help="Options that ssl_train has in model_conf, e.g. stop_at_collapse",
        )
        weights = "a number or a schedule [[update, value], ...]"
        group.add_argument(
            "--supervised_weight",
            type=json.loads,
            default=SUPERVISED_WEIGHT,
            help=f"Weight of F: {weights}; 0 at first: exploration without F "
            f"({SUPERVISED_WEIGHT}, since ESPnet's losses are sums over tokens)",
        )
        group.add_argument(
            "--penalty",
            type=json.loads,
            default=1.0,
            help=f"Weight of G: {weights}; 0 at last: supervised finish (1)",
        )
        group.add_argument(
            "--barrier",
            type=float_or_none,
            default=None,
            help="beta of the dynamic barrier: the weight of G is, in each step, penalty x "
            "max(beta - <f, g> / |g|^2, 0) of the gradients f of F and g of G; costs "
            "another backward pass (none: it is the penalty itself)",
        )
        group.add_argument(
            "--unlabelled_data_path_and_name_and_type",
            type=str2triple_str,
            action="append",
            default=[],
            help="As train_data_path_and_name_and_type, for the speech of G: each update "
            "has a labelled and an unlabelled batch. Not given: G is computed on the "
            "labelled batch",
        )
        group.add_argument(
            "--unlabelled_shape_file",
            type=str,
            action="append",
            default=[],
            help="Its lengths, e.g. ../ssl1/exp/ssl_stats_raw/train/speech_shape",
        )
        group.add_argument(
            "--unlabelled_batch_bins",
            type=int,
            default=None,
            help="batch_bins of the unlabelled batches (default: as the labelled)",
        )

    @classmethod
    def main_worker(cls, args: argparse.Namespace):
        """Run one training process, as ESPnet does."""
        check_training(cls.get_parser(), args, cls.required_data_names())
        for kind in ("train", "valid"):
            lists = getattr(args, f"{kind}_data_path_and_name_and_type")
            check_transcripts(lists)
            check_files([one for one in lists if one[2] != "text"])
        check_unlabelled(args)
        for kind in ("train", "valid", "unlabelled"):
            check_set(args, kind)
        with training_context(args):
            super().main_worker(args)

    @classmethod
    @typechecked
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRModel:
        """Build the ASR model with the configured objectives.

        Raises:
            ConfigError: Invalid configuration.
        """
        if args.model != "espnet" or args.preencoder or args.postencoder:
            raise ConfigError(
                "joint training: model is espnet, preencoder and postencoder are not "
                "supported; leave them out"
            )
        if args.accelerate != "none":
            raise ConfigError(
                "accelerate is for training on transcripts alone; leave it out "
                "(pretraining_conf has its own accelerate and cpu_bfloat16)"
            )
        if args.input_size is not None:
            raise ConfigError(
                "joint training is of waveforms; pretrain on vectors (ssl_train "
                "--input_size), then fine-tune"
            )
        check_one_process_per_gpu(args)
        with refusing_options("the configuration", "ESPnet's ASR model"):
            own = argparse.Namespace(**vars(args) | {"model": JOINT})
            model = super().build_model(own)
        assert isinstance(model, JointModel)
        pretraining = build_objectives(
            args,
            model.frontend,
            None,
            model.normalize,
            model.encoder,
            **args.pretraining_conf,
        )
        if pretraining.label_sizes:
            names = ", ".join(view.name for view in pretraining.label_sizes)
            raise ConfigError(
                f"joint training: labels '{names}' are read from disk, and validation does "
                "not have them; use objectives that make their own"
            )
        return model.join(
            pretraining, args.supervised_weight, args.penalty, args.barrier
        )

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> list[torch.optim.Optimizer]:
        """Build the ASR task's optimizer, whose updates the model counts for schedules."""
        with refusing_options("optim_conf", args.optim):
            optimizers = super().build_optimizers(args, model)
        assert isinstance(model, JointModel)
        check_model(args, model, optimizers)
        for optimizer in optimizers:
            model.count_updates_of(optimizer)
        return optimizers

    @classmethod
    def build_collate_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> TranscribedCollateFn:
        """Build a collate function that pads as ESPnet's, and drops bad audio."""
        return TranscribedCollateFn(
            BadAudio(
                Path(args.output_dir),
                shortest=round(SHORTEST * sampling_rate(args.frontend_conf)),
                most=args.max_bad_audio,
            )
        )

    @classmethod
    def build_iter_factory(
        cls,
        args: argparse.Namespace,
        distributed_option: DistributedOption,
        mode: str,
        kwargs: dict | None = None,
    ) -> AbsIterFactory:
        """Build ESPnet's factory; in training, pair its batches with unlabelled ones."""
        factory = super().build_iter_factory(args, distributed_option, mode, kwargs)
        paired = mode == "train" and args.unlabelled_data_path_and_name_and_type
        # The unlabelled batches, of which there are as many, are checked below.
        check_batches(args, factory, "valid" if paired else mode)
        tolerate_bad_audio(factory, sampling_rate(args.frontend_conf))
        if not paired:
            return factory
        if not args.unlabelled_shape_file:
            raise ConfigError(
                "unlabelled_data_path_and_name_and_type: give its unlabelled_shape_file, "
                "too"
            )
        own = argparse.Namespace(**vars(args))
        own.train_data_path_and_name_and_type = [
            tuple(one) for one in args.unlabelled_data_path_and_name_and_type
        ]
        own.train_shape_file = args.unlabelled_shape_file
        own.batch_bins = args.unlabelled_batch_bins or args.batch_bins
        own.fold_length = args.fold_length[: len(args.unlabelled_shape_file)]
        # As many batches as labelled ones; the next epoch continues after them.
        own.num_iters_per_epoch = args.num_iters_per_epoch or len(factory.build_iter(1))
        unlabelled = SSLTask.build_iter_factory(own, distributed_option, mode)
        return PairedIterFactory(factory, unlabelled)


def check_unlabelled(args: argparse.Namespace) -> None:
    """Check the options of the batches, above all of the unlabelled ones.

    Raises:
        ConfigError: They do not fit each other.
        DataError: A list is missing.
    """
    if args.iterator_type == "category":
        raise ConfigError(
            "joint training: with iterator_type category, epochs differ in their number "
            "of batches, with which no unlabelled ones can be paired; use sequence"
        )
    lists = args.unlabelled_data_path_and_name_and_type
    for name in ("unlabelled_shape_file", "unlabelled_batch_bins"):
        if getattr(args, name) and not lists:
            raise ConfigError(
                f"{name}: without unlabelled_data_path_and_name_and_type, there is no "
                f"unlabelled speech; give it, or leave {name} out"
            )
    if args.multiple_iterator and lists:
        raise ConfigError(
            "joint training: every split would begin the unlabelled speech anew; leave "
            "out multiple_iterator (asr.sh's --num_splits_asr)"
        )
    if args.unlabelled_batch_bins and args.batch_type not in BINS:
        raise ConfigError(
            f"unlabelled_batch_bins: batch_type {args.batch_type} does not count bins; "
            "use numel, or leave it out"
        )
    for path, name, form in lists:
        if name != SPEECH:
            raise ConfigError(
                f"unlabelled_data_path_and_name_and_type {path},{name},{form}: "
                f"unlabelled data is speech alone; leave the {name} out"
            )
        if not args.dry_run and not Path(path).exists():
            raise DataError(
                f"{path}: no such file, the unlabelled {name}: prepare it (ssl1/run.sh "
                "--stop_stage 6), or correct unlabelled_data_path_and_name_and_type"
            )


class PairedIterFactory(AbsIterFactory):
    """Iterators over pairs of a labelled and an unlabelled batch.

    Args:
        labelled: Factory of the labelled batches, which define an epoch.
        unlabelled: Factory with as many batches per epoch; the names of its arrays get
            the prefix ``unlabelled_``.
    """

    def __init__(self, labelled: AbsIterFactory, unlabelled: AbsIterFactory):
        self.labelled = labelled
        self.unlabelled = unlabelled

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> Iterator:
        """Build the iterator of an epoch."""
        pairs = zip(
            self.labelled.build_iter(epoch, shuffle),
            self.unlabelled.build_iter(epoch, shuffle),
            strict=True,
        )
        for (ids, batch), (others, unlabelled) in pairs:
            named = {UNLABELLED + name: array for name, array in unlabelled.items()}
            yield ids, {**batch, **named, UNLABELLED + "utt_id": others}
