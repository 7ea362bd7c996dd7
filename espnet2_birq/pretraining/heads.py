"""Prediction heads, shared by name, and the losses of their objectives."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.containers import DictOf, ListOf
from espnet2_birq.pretraining.labellers import Labeller
from espnet2_birq.pretraining.labels import (
    Labels,
    SoftLabels,
    VectorLabels,
    labelled,
)
from espnet2_birq.pretraining.losses.cross_entropy import masked_cross_entropy
from espnet2_birq.pretraining.losses.regression import masked_regression
from espnet2_birq.pretraining.objective import Objective
from espnet2_birq.pretraining.ranks import idle, sum_over_ranks, world_size
from espnet2_birq.pretraining.settings import check_whole
from espnet2_birq.pretraining.statistics import BookTally, VectorBook


class Hidden(NamedTuple):
    """Input of the heads: hidden states of the masked side at masked frames."""

    last: torch.Tensor  # (M, E) the encoder's output
    layers: Mapping[int, torch.Tensor] = MappingProxyType({})  # (M, E) of blocks

    def of(self, student: list[int], number: int) -> list[torch.Tensor]:
        """Return the hidden states for each of `number` codebooks."""
        return [self.layers[x] for x in student] or [self.last] * number


class CodeHead(ListOf[torch.nn.Linear]):
    """One linear layer per codebook.

    Args:
        input_size: E, size of the hidden states.
        num_codebooks: N.
        codebook_size: V.
    """

    def __init__(self, input_size: int, num_codebooks: int, codebook_size: int):
        super().__init__(
            torch.nn.Linear(input_size, codebook_size) for _ in range(num_codebooks)
        )
        self.shape = (num_codebooks, codebook_size)
        self.num_codebooks = num_codebooks

    def loss(
        self,
        hidden: list[torch.Tensor],
        valid: torch.Tensor,
        labels: dict[str, list[Labels]],
        weights: dict[str, float],
        counts: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, list[BookTally]]:
        """Compute the loss of all objectives of this head, one matmul per codebook.

        Args:
            hidden: (M, E) hidden states of masked frames for each codebook.
            valid: (M,) 1 for masked frames, 0 for filler rows.
            labels: N labels per objective, by its name.
            weights: Weight of each objective's loss (a mean over its codebooks).
            counts: (N,) number of frames by which each objective's sums are divided.

        Returns:
            () weighted sum of losses, and the statistics of each codebook.
        """
        names = list(labels)
        total, tallies = valid.new_zeros((), dtype=torch.float32), []
        for book, layer in enumerate(self):
            loss, tally = masked_cross_entropy(
                hidden[book],
                layer.weight,
                layer.bias,
                valid,
                [labels[name][book] for name in names],
                [weights[name] / len(self) for name in names],
                torch.stack([counts[name][book] for name in names]),
            )
            total = total + loss
            soft = [isinstance(labels[name][book], SoftLabels) for name in names]
            tallies.append(BookTally(names, soft, tally))
        return total, tallies


class VectorHead(torch.nn.Sequential):
    """Regression of vectors: a linear layer, or two around a GELU.

    Args:
        input_size: E, size of the hidden states.
        width: Hidden units between the two layers; 0: one layer.
        size: D, size of the vectors.
    """

    def __init__(self, input_size: int, width: int, size: int):
        if width:
            first = torch.nn.Linear(input_size, width)
            super().__init__(first, torch.nn.GELU(), torch.nn.Linear(width, size))
        else:
            super().__init__(torch.nn.Linear(input_size, size))
        self.shape = (width, size)
        self.num_codebooks = 1

    def loss(
        self,
        hidden: list[torch.Tensor],
        valid: torch.Tensor,
        labels: dict[str, list[Labels]],
        weights: dict[str, float],
        counts: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, list[VectorBook]]:
        """Compute the loss of all objectives of this head; see CodeHead.loss."""
        (states,) = hidden
        predictions = self(states)
        total, tallies = valid.new_zeros((), dtype=torch.float32), []
        for name, (label,) in labels.items():
            assert isinstance(label, VectorLabels)
            loss, tally = masked_regression(
                states, predictions, valid, label, weights[name], counts[name][0]
            )
            total = total + loss
            tallies.append(VectorBook(name, tally))
        return total, tallies


def build_head(input_size: int, labeller: Labeller) -> CodeHead | VectorHead:
    """Build the head for a labeller's labels.

    Raises:
        ConfigError: The labeller, one of the user's own, does not say how large they are.
    """
    kind = type(labeller).__name__
    if not labeller.discrete:
        check_whole(f"vector_size of {kind}", labeller.vector_size, 1)
        return VectorHead(input_size, labeller.predictor, labeller.vector_size)
    check_whole(f"codebook_size of {kind}", labeller.codebook_size, 2)
    return CodeHead(input_size, labeller.num_codebooks, labeller.codebook_size)


class Heads(DictOf[CodeHead | VectorHead]):
    """The heads named by the objectives, and their weighted loss.

    Args:
        input_size: E, size of the hidden states.
        objectives: All objectives of the model.

    Raises:
        ConfigError: Two objectives share a head and differ in size or ``student``, or a
            head has a name that PyTorch uses.
    """

    def __init__(self, input_size: int, objectives: list[Objective]):
        super().__init__()
        first: dict[str, Objective] = {}
        self.student: dict[str, list[int]] = {}  # layers that each head sees
        for objective in objectives:
            name, head = objective.head, build_head(input_size, objective.labeller)
            if name not in self and (hasattr(self, name) or "." in name):
                raise ConfigError(
                    f"objective '{objective.name}': its head cannot be called '{name}'; "
                    "give it another 'head'"
                )
            if name not in self:
                self[name], first[name] = head, objective
                self.student[name] = objective.student
            elif self.student[name] != objective.student:
                raise ConfigError(
                    f"head '{name}': objectives '{first[name].name}' and "
                    f"'{objective.name}' see different layers (student); give one of them "
                    "another 'head'"
                )
            elif _sizes(self[name]) != _sizes(head):
                raise ConfigError(
                    f"head '{name}': objective '{first[name].name}' has "
                    f"{_sizes(self[name])}, '{objective.name}' has {_sizes(head)}; "
                    "give one of them another 'head'"
                )

    def without(self, active: list[Objective]) -> list[torch.nn.Module]:
        """Return the heads of which no objective is active."""
        used = {one.head for one in active}
        return [head for name, head in self.items() if name not in used]

    def loss(
        self,
        hidden: Hidden,
        valid: torch.Tensor,
        active: list[Objective],
        labels: dict[str, list[Labels]],
        weights: dict[str, float],
    ) -> tuple[torch.Tensor, list[BookTally | VectorBook], torch.Tensor]:
        """Compute the weighted sum of losses, averaged over labelled frames of all ranks.

        Args:
            hidden: Hidden states of masked frames.
            valid: (M,) 1 for masked frames, 0 for filler rows.
            active: Objectives of this step.
            labels: Labels of each codebook, by the objective's name.
            weights: Loss weights, by the objective's name.

        Returns:
            Loss, statistics of each codebook or of vectors, and number of masked frames
            on all ranks.
        """
        # In one all-reduce: masked frames, and labelled ones per objective and codebook.
        counts = [valid.sum()]
        counts += [labelled(x, valid).sum() for one in active for x in labels[one.name]]
        masked, *shares = sum_over_ranks(torch.stack(counts).double()).unbind()
        of: dict[str, torch.Tensor] = {}
        for one in active:
            number = len(labels[one.name])
            # The mean over ranks of world size x sum / count is sum / count.
            of[one.name] = torch.stack(shares[:number]) / world_size()
            shares = shares[number:]
        total = valid.new_zeros((), dtype=torch.float32)
        tallies: list[BookTally | VectorBook] = []
        for name, head in self.items():
            mine = [one for one in active if one.head == name]
            if not mine:
                total = total + idle(head)
                continue
            loss, found = head.loss(
                hidden.of(self.student[name], head.num_codebooks),
                valid,
                {one.name: one.predicted(labels[one.name]) for one in mine},
                {one.name: weights[one.name] for one in mine},
                of,
            )
            if self.student[name]:  # perhaps no head sees the output: see idle()
                total = total + 0.0 * hidden.last.sum()
            total, tallies = total + loss, [*tallies, *found]
        return total, tallies, masked.float().clamp(min=1.0)


def _sizes(head: CodeHead | VectorHead) -> str:
    if isinstance(head, VectorHead):
        return f"vectors of {head.shape[1]} values by {head.shape[0]} hidden units"
    return f"{head.shape[0]} x {head.shape[1]} codes"
