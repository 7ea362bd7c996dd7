"""Plain implementation of the training step, for ``bench/step.py --build plain``.

It uses ESPnet's unchanged encoder (eager attention, no acceleration) and computes the loss
directly from the papers' definitions, with PyTorch's functions and gradients: logits of all
masked frames at once, ``cross_entropy``, nearest codes by a matrix product and ``argmax``,
``gumbel_softmax`` over the whole codebook. With this project's ``encoder: shaw_conformer``,
only the loss is plain.

It is not needlessly slow. Only masked frames reach the heads and the labellers, the label
pass ends at the label layer and has no dropout, the nearest code is found without
distances, and no statistics are kept. Features, mask, label pass and frozen projections are
those of the given model, so with equal weights and without dropout its BEST-RQ loss is
equal (tests/bench/test_step.py).
"""

from contextlib import nullcontext

import torch
from torch.nn import functional

from espnet2_birq.encoders.frontend import mirrored_feats
from espnet2_birq.encoders.taps import encoder_lengths
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import Objective
from espnet2_birq.pretraining.views import LAYER, stack_frames
from espnet2_birq.pretraining.when import When


class PlainModel(torch.nn.Module):
    """Plain implementation of BEST-RQ or BiRQ.

    Args:
        model: Model built with ``accelerate: false``, whose parts are used.
        dtype: Precision of encoder and head: float32, or bfloat16 by autocast.

    Raises:
        ConfigError: An objective is not one of the papers' two (one codebook; nearest
            code of the input, or soft labels of a layer).
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
            or model.branch.copies > 1
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
        """Compute one step's loss in nats, and the share of masked frames.

        Args:
            speech: Waveforms (B, N), padded with zeros.
            speech_lengths: Lengths in samples, (B,).
        """
        xs, masked, lengths, mask = self.inputs(speech, speech_lengths)
        index = mask.flatten().nonzero().squeeze(1)  # (M,)
        loss = self.loss(xs, masked, lengths, index)
        return loss, mask.sum() / encoder_lengths(self.encoder, lengths).sum()

    def inputs(self, speech, speech_lengths):
        """Compute features (B, T, D), clean and masked, lengths (B,), mask (B, T')."""
        feats = mirrored_feats(self.frontend, speech, speech_lengths)
        xs, lengths = self.normalize(*feats)
        frames = encoder_lengths(self.encoder, lengths)
        padded = int(encoder_lengths(self.encoder, torch.tensor(xs.size(1))))
        mask = self.masking.draw(frames, padded)
        return xs, self.masking.apply_to(xs, mask), lengths, mask

    def loss(self, xs, masked, lengths, index):
        """Compute the weighted sum of cross-entropies at the masked frames."""
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
        """Compute the labeller's input at masked frames, (M, D)."""
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
    """Return whether an objective is one of the papers'."""
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
    """Compute negative squared distances to all codes, up to a constant per vector.

    Args:
        labeller: Labeller with a ``projection`` (1, D, d) and a ``codebook`` (1, V, d).
        vectors: Vectors (M, D).

    Returns:
        Scores (M, V).
    """
    if labeller.layer_norm:
        vectors = functional.layer_norm(vectors, vectors.shape[-1:])
    points = (vectors - labeller.mean) @ labeller.projection[0]
    codes = labeller.codebook[0]
    return 2.0 * points @ codes.T - codes.square().sum(dim=1)
