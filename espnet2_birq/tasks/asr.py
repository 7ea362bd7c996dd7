"""ESPnet's ASR task with our encoder and frontend, and gentle and fast fine-tuning.

ESPnet has no registry, but its class choices are module-level objects: importing this
module adds ``encoder: shaw_conformer`` and ``frontend: birq`` to them, also for ESPnet's
own ASRTask.
"""

import argparse

import torch
from espnet2.tasks.abs_task import optim_classes
from espnet2.tasks.asr import ASRTask as ESPnetASRTask
from espnet2.tasks.asr import encoder_choices, frontend_choices
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet2_birq.encoders.shaw_conformer import ShawConformerEncoder
from espnet2_birq.kernels.acceleration import accelerate, train_in_bfloat16
from espnet2_birq.options import not_negative
from espnet2_birq.tasks.checks import check_rates
from espnet2_birq.tasks.finetuning import build_optimizer
from espnet2_birq.tasks.frontend import BiRQFrontend

encoder_choices.classes["shaw_conformer"] = ShawConformerEncoder
frontend_choices.classes["birq"] = BiRQFrontend


class ASRTask(ESPnetASRTask):
    """ESPnet's ASR task with three more training options.

    Defining the class in this module also serves multi-GPU training: the
    processes spawned by ESPnet receive ``ASRTask.main_worker``, import this module
    to unpickle it, and thereby know both.
    """

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        """Add the three options to ESPnet's."""
        super().add_task_arguments(parser)
        group = parser.add_argument_group("Fine-tuning of a pretrained encoder")
        group.add_argument(
            "--encoder_lr_decay",
            type=float,
            default=1.0,
            help="Factor between the learning rates of an encoder layer and the layer "
            "above it; 1: all are equal",
        )
        group.add_argument(
            "--freeze_encoder_updates",
            type=not_negative,
            default=0,
            help="Number of initial updates that leave the encoder unchanged; below 1: "
            "their share of the scheduler's (tristagelr, onecyclelr)",
        )
        group.add_argument(
            "--accelerate",
            choices=["none", "float32", "auto"],
            default="none",
            help="Train with faster encoder modules, which compute the same (float32), and "
            "on a CPU with instructions for it in bfloat16 (auto); none: as ESPnet does",
        )

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> AbsESPnetModel:
        """Build ESPnet's model; ``accelerate`` changes no parameter or name in it."""
        model = super().build_model(args)
        how = getattr(args, "accelerate", "none")  # not in a config.yaml of ESPnet's
        if how != "none":
            accelerate(model.encoder)
        if how == "auto":
            train_in_bfloat16(model.encoder)
        return model

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> list[torch.optim.Optimizer]:
        """Build ESPnet's optimizer, with parameter groups if an option needs them.

        Raises:
            ConfigError: Invalid options.
        """
        check_rates(args)
        if args.encoder_lr_decay == 1 and args.freeze_encoder_updates == 0:
            return super().build_optimizers(args, model)
        return [build_optimizer(args, model, optim_classes[args.optim])]
