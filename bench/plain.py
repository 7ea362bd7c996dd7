"""The same training step, plainly written: what bench/step.py calls ``--build plain``.

Plain means: ESPnet's encoder as it comes (eager attention, no acceleration), and the
loss as one would write it down from the papers, in PyTorch's own functions and with its
own gradients: logits of all masked frames at once, ``cross_entropy``, nearest codes by
a product and ``argmax``, ``gumbel_softmax`` over the whole codebook. With
``encoder: shaw_conformer``, which is ours, the loss alone is plain.

It is not made slower than it needs to be. Only masked frames reach the heads and the
labellers, the label pass ends at the label layer and has no dropout, the nearest code
is found without distances, and no statistics are kept. Features, mask, label pass and
frozen projections are those of the model it is built from, so at equal weights and
without dropout its BEST-RQ loss is the same number (tests/bench/test_step.py).
"""

from contextlib import nullcontext

import torch
from torch.nn import functional

from espnet2_birq.encoders.frontend import mirror_ends
from espnet2_birq.encoders.taps import encoder_lengths
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import Objective, When
from espnet2_birq.pretraining.views import LAYER, stack_frames


class PlainModel(torch.nn.Module):
    """BEST-RQ or BiRQ, plainly.

    Args:
        model: A model built with ``accelerate: false``, whose parts are taken over.
        dtype: Of the encoder and the head: float32, or bfloat16 by autocast.

    Raises:
        ConfigError: Objectives beyond the papers' two (one codebook, the nearest code
            of the input or soft labels of a layer).
    """

    def __init__(self, model: BiRQModel, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.frontend, self.normalize = model.frontend, model.normalize
        self.encoder, self.masking = model.encoder, model.masking
        self.objectives, self.branch = model.objectives, model.branch
        heads = [head for books in model.heads.values() for head in books]
        if (
            len(heads) > 1
            or model.branch.utterances > 1
            or model.copies > 1
            or not all(map(plain_row, self.objectives))
        ):
            raise ConfigError(
                "--build plain: only the papers' objectives, on one codebook"
            )
        (self.head,) = heads
        self.dtype = dtype

    def forward(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step's loss in nats, and the share of masked frames.

        Args:
            speech: (B, N) waveforms, padded with zeros.
            speech_lengths: (B,) samples.
        """
        xs, masked, lengths, mask = self.inputs(speech, speech_lengths)
        index = mask.flatten().nonzero().squeeze(1)  # (M,)
        loss = self.loss(xs, masked, lengths, index)
        return loss, mask.sum() / encoder_lengths(self.encoder, lengths).sum()

    def inputs(self, speech, speech_lengths):
        """Features (B, T, D), the same masked, their lengths (B,), the mask (B, T')."""
        speech = mirror_ends(speech, speech_lengths, self.frontend)
        xs, lengths = self.normalize(*self.frontend(speech, speech_lengths))
        frames = encoder_lengths(self.encoder, lengths)
        padded = int(encoder_lengths(self.encoder, torch.tensor(xs.size(1))))
        mask = self.masking.draw(frames, padded)
        return xs, self.masking.apply_to(xs, mask), lengths, mask

    def loss(self, xs, masked, lengths, index):
        """The weighted sum of cross-entropies, given what to predict and where."""
        with self._autocast(xs.device):
            vectors = [
                self._vectors(one, xs, lengths, index) for one in self.objectives
            ]
            hs, _, _ = self.encoder(masked, lengths)  # (B, T', E)
            logits = self.head(hs.flatten(0, 1)[index])  # (M, V)
        logits, total = logits.float(), 0.0
        for objective, vector in zip(self.objectives, vectors):
            labeller = objective.labeller
            scores = code_scores(labeller, vector.float())
            if objective.view.kind == "input":
                loss = functional.cross_entropy(logits, scores.argmax(dim=1))
            else:
                temperature = labeller.temperature.at(0)
                y = functional.gumbel_softmax(
                    labeller.score_scale * scores, temperature
                )
                loss = -(y * logits.log_softmax(dim=1)).sum(dim=1).mean()
            total = total + objective.weight.at(0) * loss
        return total

    def _vectors(self, objective, xs, lengths, index):
        """What becomes a label, at masked frames: (M, D)."""
        if objective.view.kind == "input":
            factor = self.masking.subsampling
            frames = int(encoder_lengths(self.encoder, torch.tensor(xs.size(1))))
            return stack_frames(xs, factor, frames).flatten(0, 1)[index]
        layers = {objective.view.layer: objective.keeps_gradient}
        outputs, _ = self.branch.hidden_states(xs, lengths, layers)
        return outputs[objective.view.layer].flatten(0, 1)[index]

    def _autocast(self, device):
        if self.dtype == torch.float32 or device.type == "meta":
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)


def plain_row(objective: Objective) -> bool:
    """Whether an objective is one of the papers'."""
    labeller = objective.labeller
    return (
        objective.view.kind in ("input", LAYER)
        and objective.gradient in (0.0, 1.0)
        and objective.diversity == 0.0
        and objective.when == When()
        and labeller.score == "distance"
        and labeller.whitening is None
        and not getattr(labeller, "straight_through", False)
    )


def code_scores(labeller, vectors: torch.Tensor) -> torch.Tensor:
    """Negative squared distance to every code, less what all codes share.

    Args:
        labeller: With a ``projection`` (1, D, d) and a ``codebook`` (1, V, d).
        vectors: (M, D).

    Returns:
        (M, V).
    """
    if labeller.layer_norm:
        vectors = functional.layer_norm(vectors, vectors.shape[-1:])
    points = (vectors - labeller.mean) @ labeller.projection[0]
    codes = labeller.codebook[0]
    return 2.0 * points @ codes.T - codes.square().sum(dim=1)
