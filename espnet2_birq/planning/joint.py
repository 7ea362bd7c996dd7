"""Cost of a step of joint training: both losses, each on its own batch."""

import argparse
from pathlib import Path

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.cost import FakeModel
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.schedule import Schedule
from espnet2_birq.tasks.checks import BINS
from espnet2_birq.tasks.joint import JointTask

CHARACTERS = 32  # tokens of the CTC head, if the configuration does not list them


def is_joint(args: argparse.Namespace) -> bool:
    """Return whether options are those of JointTask rather than SSLTask."""
    return hasattr(args, "pretraining_conf")


def batches_of_a_step(args: argparse.Namespace) -> list[float]:
    """Return the sizes of the batches that a step reads, in units of the configured one.

    Each has reading processes of its own.
    """
    if not is_joint(args):
        return [1.0]
    if args.batch_type in BINS and args.unlabelled_batch_bins:
        return [1.0, args.unlabelled_batch_bins / args.batch_bins]
    return [1.0, 1.0]


def fake_model(args: argparse.Namespace, gpu: bool = True) -> FakeModel:
    """Make the model of fake tensors for pretraining or for joint training."""
    return (FakeJoint if is_joint(args) else FakeModel)(args, gpu)


class FakeJoint(FakeModel):
    """A joint model of fake tensors, in the phase in which both losses are computed.

    The labelled batch has the given number of utterances; for the unlabelled batch, it is
    scaled by the ratio of ``unlabelled_batch_bins`` to ``batch_bins``. Steps with only
    one loss (exploration, supervised finish) cost less.

    Args:
        args: Arguments of JointTask.
        gpu: As for FakeModel.

    Raises:
        ConfigError: There is a decoder, whose cost depends on the texts, or a token list
            is missing.
    """

    def __init__(self, args: argparse.Namespace, gpu: bool = True):
        if args.decoder is not None:
            raise ConfigError(
                f"decoder {args.decoder}: only joint training with CTC alone can be "
                "planned; give --decoder none"
            )
        tokens = args.token_list
        if isinstance(tokens, str) and not Path(tokens).is_file():
            raise ConfigError(
                f"token_list {tokens}: no such file; give the recipe's, or --token_list "
                f"none for {CHARACTERS} tokens"
            )
        _, self.unlabelled = batches_of_a_step(args)
        super().__init__(args, gpu)

    def _build(self, args: argparse.Namespace) -> tuple[torch.nn.Module, BiRQModel]:
        if args.token_list is None:
            args.token_list = [str(number) for number in range(CHARACTERS)]
        model = JointTask.build_model(args)
        model.ctc = _ProductsOfCTC(model.ctc.ctc_lo)
        model.supervised_weight = model.penalty = Schedule(1.0)
        return model, model.pretraining

    def _step(self, utterances: int, samples: int) -> None:
        number = max(1, round(utterances * self.unlabelled))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            total, *_ = self.whole(
                torch.empty(utterances, samples),
                torch.tensor([samples] * utterances),
                torch.ones(utterances, 1).long(),
                torch.tensor([1] * utterances),
                unlabelled_speech=torch.empty(number, samples),
                unlabelled_speech_lengths=torch.tensor([samples] * number),
            )
        total.backward()


class _ProductsOfCTC(torch.nn.Module):
    """ESPnet's CTC without its recursion, which reads values but costs little.

    Texts therefore do not matter.
    """

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.ctc_lo = linear

    def forward(self, hidden, lengths, texts, text_lengths) -> torch.Tensor:
        return self.ctc_lo(hidden).float().log_softmax(2).sum()
