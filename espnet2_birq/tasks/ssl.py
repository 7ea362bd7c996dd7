"""The ESPnet2 task of ``python -m espnet2_birq.bin.ssl_train``."""

import argparse
import logging
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import torch
import yaml
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.asr.specaug.specaug import SpecAug
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.category_iter_factory import CategoryIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from espnet2.tasks.abs_task import AbsTask, IteratorOptions
from espnet2.torch_utils.initialize import initialize
from espnet2.train.class_choices import ClassChoices
from espnet2.train.dataset import AbsDataset
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.iterable_dataset import IterableESPnetDataset
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import int_or_none, str_or_none
from typeguard import TypeCheckError, typechecked

from espnet2_birq.config import sampling_rate
from espnet2_birq.encoders.frontend import FeatureInput
from espnet2_birq.encoders.shaw_conformer import ShawConformerEncoder
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import BIRQ, KEYS, parse_objectives
from espnet2_birq.pretraining.views import LABELS
from espnet2_birq.tasks.bad_audio import BadAudio, read_or_reason
from espnet2_birq.tasks.checks import BINS, check_ranks, check_training
from espnet2_birq.tasks.collate import SpeechCollateFn
from espnet2_birq.tasks.commands import training_context
from espnet2_birq.tasks.given import check_files, check_languages
from espnet2_birq.tasks.like_lengths import LikeLengthsIterFactory
from espnet2_birq.tasks.lists import CATEGORIES, check_set
from espnet2_birq.tasks.prepared import check_model, refusing_options
from espnet2_birq.tasks.trainer import Trainer, check_batches

# Seconds; from less, some encoders produce no frame (birq.sh: --min_wav_duration).
SHORTEST = 0.15

# Names and classes are those of ESPnet's ASR task, which will load the encoder.
frontend_choices = ClassChoices(
    name="frontend",
    classes=dict(default=DefaultFrontend),
    type_check=AbsFrontend,
    default="default",
)
specaug_choices = ClassChoices(
    name="specaug",
    classes=dict(specaug=SpecAug),
    type_check=AbsSpecAug,
    default=None,
    optional=True,
)
normalize_choices = ClassChoices(
    name="normalize",
    classes=dict(global_mvn=GlobalMVN, utterance_mvn=UtteranceMVN),
    type_check=AbsNormalize,
    default="utterance_mvn",
    optional=True,
)
encoder_choices = ClassChoices(
    name="encoder",
    classes=dict(
        conformer=ConformerEncoder,
        e_branchformer=EBranchformerEncoder,
        shaw_conformer=ShawConformerEncoder,  # ours; for ASR: espnet2_birq.tasks.asr
    ),
    type_check=AbsEncoder,
    default="conformer",
)


def _build(choices: ClassChoices, name: str, **conf):
    """Build the object configured by ``--<choice> name --<choice>_conf ...``.

    Raises:
        ConfigError: Unknown name or argument.
    """
    if not isinstance(name, str) or name not in choices.classes:
        raise ConfigError(
            f"unknown {choices.name} {name!r}, use one of {sorted(choices.classes)}"
        )
    with refusing_options(f"{choices.name}_conf", name):
        return choices.classes[name](**conf)


def _feature_input(args: argparse.Namespace) -> FeatureInput:
    """Build the module for vector input, which replaces ESPnet's frontend.

    Raises:
        ConfigError: The number of vectors per second, which masking needs, is unknown.
    """
    if set(args.frontend_conf) != {"fs"} or args.input_size < 1:
        raise ConfigError(
            f"input_size {args.input_size}: give the vectors' size, and as frontend_conf "
            "the vectors a second alone, e.g. {fs: 100}"
        )
    args.frontend = None  # as in ESPnet's ASR task
    return FeatureInput(args.input_size)


def add_objective_arguments(group: argparse._ArgumentGroup, objectives: list | None):
    """Add the options of objectives, target branch and masking.

    Args:
        group: Group of a task's parser.
        objectives: Default of ``--objectives``.
    """
    group.add_argument(
        "--objectives",
        type=yaml.safe_load,
        default=objectives,
        help="Objectives, predicted at masked frames: a list, best set in the YAML "
        "file; on the command line, '[{name: anchor}]'. Keys of an objective: "
        + "; ".join(f"{key} ({text})" for key, text in KEYS.items()).replace("%", "%%")
        + ". Presets: 'anchor' (nearest code of the input: BEST-RQ), 'enhanced' ("
        "soft code of an encoder layer: with the anchor, BiRQ) and 'given' (labels "
        "from disk, the data named 'labels'; view 'labels NAME' reads others). "
        "See docs/objectives.md.",
    )
    group.add_argument(
        "--target_branch_conf",
        action=NestedDictAction,
        default=dict(),
        help="Target branch, the encoder's pass on the clean input: "
        "checkpoint (recompute it in the backward pass instead of keeping "
        "activations, false), utterances (n: only every n-th utterance of a batch, "
        "1), copies (differently masked copies sharing the same "
        "labels, 1)",
    )
    group.add_argument(
        "--teacher_conf",
        action=NestedDictAction,
        default=dict(),
        help="Teacher for views 'teacher layer ...': decay (of the encoder's moving "
        "average, a number or a schedule; 0: a copy; 0.999), every (n: move "
        "after every n-th update, 1)",
    )
    group.add_argument(
        "--tokenizer_conf",
        action=NestedDictAction,
        default=dict(),
        help="Tokenizer for the view 'tokenizer': layers (of its transformer; the "
        "encoder's), attention_heads (4), size (of what is quantized, 256), target (view "
        "it learns to estimate, layer 100%%), estimator_layers (3), commitment (0.25), "
        "weight (of its loss, a number or a schedule, 0.2), when (it learns, as of an "
        "objective; every 4th update)",
    )
    group.add_argument(
        "--masking_conf",
        action=NestedDictAction,
        default=dict(),
        help="mask_prob (probability that a span starts at a 10 ms frame, 0.01), "
        "mask_length_ms (400), replacement (of masked frames: noise, zero or "
        "learned; noise), noise_std (standard deviation of the noise, 0.1)",
    )


def build_objectives(
    args: argparse.Namespace,
    frontend: AbsFrontend,
    specaug: AbsSpecAug | None,
    normalize: AbsNormalize | None,
    encoder: AbsEncoder,
    **model_conf,
) -> BiRQModel:
    """Build the model of the configured objectives around an encoder.

    Args:
        args: Options of ``add_objective_arguments``, and frontend_conf.
        frontend: Waveform-to-feature module.
        specaug: Augmentation of the masked features.
        normalize: Normalisation of the features.
        encoder: Encoder to pretrain.
        **model_conf: Further arguments of BiRQModel.

    Raises:
        ConfigError: Unknown objective, layer or argument.
    """
    if not hasattr(encoder, "encoders"):
        raise ConfigError(
            f"encoder: {type(encoder).__name__} has no list of layers, from which labels "
            "are taken; choose a transformer, conformer, branchformer or e_branchformer"
        )
    if getattr(encoder, "interctc_use_conditioning", False):
        raise ConfigError(
            "interctc_use_conditioning: an encoder that depends on a CTC layer cannot be "
            "pretrained; leave it out"
        )
    if not hasattr(frontend, "hop_length"):
        raise ConfigError(
            f"frontend: {type(frontend).__name__} does not tell its hop_length; choose "
            "default"
        )
    rate = sampling_rate(args.frontend_conf)
    rows = parse_objectives(args.objectives, num_blocks=len(encoder.encoders))
    for row in rows:
        logging.info(f"Objective: {row}")
    try:
        return BiRQModel(
            frontend=frontend,
            specaug=specaug,
            normalize=normalize,
            encoder=encoder,
            objectives=rows,
            masking_conf=args.masking_conf,
            target_branch_conf=args.target_branch_conf,
            teacher_conf=args.teacher_conf,
            tokenizer_conf=args.tokenizer_conf,
            sample_rate=rate,
            frame_shift_ms=1000.0 * frontend.hop_length / rate,
            **model_conf,
        )
    except (TypeError, TypeCheckError) as error:  # a key or type of one of the *_conf
        raise ConfigError(
            "masking_conf, target_branch_conf, teacher_conf, tokenizer_conf or the "
            f"model's options: {error}"
        ) from error


def tolerate_bad_audio(factory: AbsIterFactory, rate: int) -> None:
    """Let a factory's batches leave out audio that cannot be read.

    Args:
        factory: Factory of an epoch's batches.
        rate: Required sample rate in Hz.
    """
    inner = factory.factory if isinstance(factory, LikeLengthsIterFactory) else factory
    if isinstance(inner, (SequenceIterFactory, CategoryIterFactory)):
        inner.dataset = read_or_reason(inner.dataset, rate)


def check_one_process_per_gpu(args: argparse.Namespace) -> None:
    """Refuse several GPUs in one process.

    Raises:
        ConfigError: ``ngpu`` is above 1 without ``multiprocessing_distributed``.
    """
    if args.ngpu > 1 and not getattr(args, "distributed", False):
        raise ConfigError(
            f"--ngpu {args.ngpu} without --multiprocessing_distributed true: "
            "ESPnet would copy the model to every GPU anew for each batch, and "
            "what it counts would be lost with the copies"
        )


class SSLTask(AbsTask):
    """Self-supervised pretraining on waveforms, without text or token list."""

    num_optimizers: int = 1
    trainer = Trainer
    class_choices_list = [
        frontend_choices,
        specaug_choices,
        normalize_choices,
        encoder_choices,
    ]

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        """Add the options of this task to ESPnet's."""
        group = parser.add_argument_group("Task related")
        add_objective_arguments(group, BIRQ)
        group.add_argument(
            "--model_conf",
            action=NestedDictAction,
            default=dict(),
            help="stop_at_collapse (stop instead of warning when labels collapse to a "
            "few codes or to one vector; false), cpu_bfloat16 (bfloat16 autocast when training "
            "on a CPU: true, false, or auto: if the processor has instructions for "
            "it; auto), accelerate (faster CPU encoder, same results; true), "
            "attention_window (restrict attention to blocks of this many encoder frames; "
            "all), extract_feats_in_collect_stats (true)",
        )
        group.add_argument(
            "--input_size",
            type=int_or_none,
            default=None,
            help="Size of vectors that the data named speech has instead of samples, e.g. "
            "matrices of type kaldi_ark or npy. There is then no frontend; frontend_conf "
            "has fs alone, the vectors a second. See docs/other_data.md",
        )
        group.add_argument(
            "--init",
            type=lambda x: str_or_none(x.lower()),
            default=None,
            choices=[
                "xavier_uniform",
                "xavier_normal",
                "kaiming_uniform",
                "kaiming_normal",
                None,
            ],
            help="The initialization method",
        )
        for class_choices in cls.class_choices_list:
            class_choices.add_arguments(group)

    @classmethod
    def main_worker(cls, args: argparse.Namespace):
        """Run one training process, as ESPnet does."""
        check_training(cls.get_parser(), args, cls.required_data_names())
        for kind in ("train", "valid"):
            check_files(getattr(args, f"{kind}_data_path_and_name_and_type"))
            check_set(args, kind)
        with training_context(args):
            super().main_worker(args)

    @classmethod
    @typechecked
    def build_collate_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Callable[
        [Collection[tuple[str, dict[str, np.ndarray]]]],
        tuple[list[str], dict[str, torch.Tensor]],
    ]:
        """Build a collate function that pads with zeros and drops bad audio."""
        kind = args.batch_type if train else args.valid_batch_type or args.batch_type
        bins = args.batch_bins if train else args.valid_batch_bins or args.batch_bins
        size, shortest = args.input_size, 1
        if size is None:
            shortest = round(SHORTEST * sampling_rate(args.frontend_conf))
        elif kind == "numel":  # others count vectors, not their values
            bins = bins // size
        return SpeechCollateFn(
            BadAudio(
                Path(args.output_dir),
                shortest=shortest,
                longest=bins if kind in BINS else None,
                most=args.max_bad_audio,
                size=size,
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
        """Build ESPnet's factory, and check its batches."""
        factory = super().build_iter_factory(args, distributed_option, mode, kwargs)
        check_batches(args, factory, mode)
        tolerate_bad_audio(factory, sampling_rate(args.frontend_conf))
        return factory

    @classmethod
    def build_category_iter_factory(
        cls, args: argparse.Namespace, iter_options: IteratorOptions, mode: str
    ) -> AbsIterFactory:
        """Batch the samples of ``batch_type: catpow`` by length.

        Raises:
            ConfigError: See check_ranks().
            DataError: See check_languages().
        """
        if mode == "plot_att":  # a few utterances, of whatever language
            return cls.build_sequence_iter_factory(args, iter_options, mode)
        if iter_options.distributed:
            check_ranks(args, torch.distributed.get_world_size())
        first = Path(iter_options.data_path_and_name_and_type[0][0])
        check_languages(first.with_name(CATEGORIES), iter_options.shape_files)
        factory = super().build_category_iter_factory(args, iter_options, mode)
        if iter_options.batch_type == "catpow":
            return LikeLengthsIterFactory(factory)
        return factory

    @classmethod
    @typechecked
    def build_preprocess_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]] | None:
        """Return None: waveforms need no preprocessing."""
        return None

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        """Return the name of the waveforms."""
        return ("speech",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        """Return the usual name of labels from disk; see check_task_requirements."""
        return (LABELS,)

    @classmethod
    def check_task_requirements(
        cls,
        dataset: AbsDataset | IterableESPnetDataset,
        allow_variable_data_keys: bool,
        train: bool,
        inference: bool = False,
    ) -> None:
        """Allow data of any name, since label names come from the configuration.

        The trainer compares these names with the objectives' views.
        """
        super().check_task_requirements(dataset, True, train, inference)

    @classmethod
    @typechecked
    def build_model(cls, args: argparse.Namespace) -> BiRQModel:
        """Build the configured model.

        Raises:
            ConfigError: Unknown name, objective or layer.
        """
        frontend: AbsFrontend
        if args.input_size is None:
            frontend = _build(frontend_choices, args.frontend, **args.frontend_conf)
        else:
            frontend = _feature_input(args)
        specaug = normalize = None
        if args.specaug is not None:
            specaug = _build(specaug_choices, args.specaug, **args.specaug_conf)
        if args.normalize is not None:
            normalize = _build(normalize_choices, args.normalize, **args.normalize_conf)
        encoder = _build(
            encoder_choices,
            args.encoder,
            input_size=frontend.output_size(),
            **args.encoder_conf,
        )
        check_one_process_per_gpu(args)
        model = build_objectives(
            args, frontend, specaug, normalize, encoder, **args.model_conf
        )
        if args.init is not None:
            initialize(model, args.init)
        return model

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> list[torch.optim.Optimizer]:
        """Build ESPnet's optimizer, whose updates the model counts for schedules."""
        with refusing_options("optim_conf", args.optim):
            optimizers = super().build_optimizers(args, model)
        if isinstance(model, BiRQModel):
            check_model(args, model, optimizers)
            for optimizer in optimizers:
                model.count_updates_of(optimizer)
        return optimizers


def with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """Add the defaults of options that a hand-written or older configuration leaves out.

    Args:
        args: Options from a config.yaml.
    """
    found = SSLTask.get_parser().parse_args(["--output_dir", "-"])
    vars(found).update(vars(args))
    return found
