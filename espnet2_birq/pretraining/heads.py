"""Prediction heads, shared by name, and the losses of their objectives."""

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.containers import DictOf, ListOf
from espnet2_birq.pretraining.labels import Labels, SoftLabels
from espnet2_birq.pretraining.losses.cross_entropy import masked_cross_entropy
from espnet2_birq.pretraining.objective import Objective
from espnet2_birq.pretraining.statistics import BookTally


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

    def loss(
        self,
        hidden: torch.Tensor,
        valid: torch.Tensor,
        labels: dict[str, list[Labels]],
        weights: dict[str, float],
        counts: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, list[BookTally]]:
        """Compute the loss of all objectives of this head, one matmul per codebook.

        Args:
            hidden: (M, E) hidden states of masked frames.
            valid: (M,) 1 for masked frames, 0 for filler rows.
            labels: N labels per objective, by its name.
            weights: Weight of each objective's loss (a mean over its codebooks).
            counts: (N,) number of frames to normalise each objective's sums by.

        Returns:
            () weighted sum of losses, and the statistics of each codebook.
        """
        names = list(labels)
        total, tallies = hidden.new_zeros((), dtype=torch.float32), []
        for book, layer in enumerate(self):
            loss, tally = masked_cross_entropy(
                hidden,
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

    def rest(self) -> torch.Tensor:
        """Return a zero loss with zero gradients, which other ranks may wait for."""
        return 0.0 * torch.stack([x.sum() for x in self.parameters()]).sum()


def build_heads(input_size: int, objectives: list[Objective]) -> DictOf[CodeHead]:
    """Build the heads named by the objectives.

    Raises:
        ConfigError: Two objectives share a head and differ in size.
    """
    heads: DictOf[CodeHead] = DictOf()
    first: dict[str, Objective] = {}
    for objective in objectives:
        labeller = objective.labeller
        shape = (labeller.num_codebooks, labeller.codebook_size)
        if objective.head not in heads:
            heads[objective.head] = CodeHead(input_size, *shape)
            first[objective.head] = objective
        elif heads[objective.head].shape != shape:
            raise ConfigError(
                f"head '{objective.head}': objective '{first[objective.head].name}' "
                f"has {_sizes(heads[objective.head].shape)}, '{objective.name}' has "
                f"{_sizes(shape)}; give one of them another 'head'"
            )
    return heads


def _sizes(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} codes"
