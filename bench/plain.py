"""The same training step, plainly written: what bench/step.py calls ``--build plain``.

Plain means: ESPnet's encoder as it comes (eager attention, no acceleration), and the
loss as one would write it down from the papers, in PyTorch's own functions and with its
own gradients: logits of all masked frames at once, ``cross_entropy``, nearest codes by
a product and ``argmax``, ``gumbel_softmax`` over the whole codebook. With
``encoder: shaw_conformer``, which is ours, the loss alone is plain.

It is not made slower than it needs to be. Only masked frames reach the heads and the
quantizers, the label pass ends at the label layer and has no dropout, the nearest code
is found without distances, and no statistics are kept. Features, mask, label pass and
frozen projections are those of the model it is built from, so at equal weights and
without dropout its BEST-RQ loss is the same number (tests/bench/test_step.py).
"""

from contextlib import nullcontext
from typing import Tuple

import torch
from torch.nn import functional

from espnet2_birq.encoder.frontend import mirror_ends
from espnet2_birq.encoder.layers import (
    BATCH_NORM,
    DROPOUT,
    encode_up_to,
    encoder_lengths,
    evaluating,
)
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.masking import stack_frames
from espnet2_birq.pretraining.model import BiRQModel


class PlainModel(torch.nn.Module):
    """BEST-RQ or BiRQ, plainly.

    Args:
        model: A model built with ``accelerate: false``, whose parts are taken over.
        dtype: Of the encoder and the head: float32, or bfloat16 by autocast.

    Raises:
        ConfigError: Targets beyond the papers' two (one codebook, the nearest code of
            the input or soft labels of a layer).
    """

    def __init__(self, model: BiRQModel, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.frontend, self.normalize = model.frontend, model.normalize
        self.encoder, self.masking = model.encoder, model.masking
        self.targets, self.quantizers = model.targets, model.quantizers
        heads = [head for books in model.heads.values() for head in books]
        if len(heads) > 1 or any(
            target.source == "disk"
            or quantizer.score != "distance"
            or quantizer.whitening is not None
            or getattr(quantizer, "straight_through", False)
            for target, quantizer in zip(self.targets, self.quantizers.values())
        ):
            raise ConfigError(
                "--build plain: only the papers' targets, on one codebook"
            )
        (self.head,) = heads
        self.dtype = dtype

    def forward(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
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
            vectors = [self._vectors(t, xs, lengths, index) for t in self.targets]
            hs, _, _ = self.encoder(masked, lengths)  # (B, T', E)
            logits = self.head(hs.flatten(0, 1)[index])  # (M, V)
        logits, total = logits.float(), 0.0
        for target, vector in zip(self.targets, vectors):
            quantizer = self.quantizers[target.name]
            scores = code_scores(quantizer, vector.float())
            if target.source == "input":
                loss = functional.cross_entropy(logits, scores.argmax(dim=1))
            else:
                temperature = quantizer.temperature.at(0)
                y = functional.gumbel_softmax(
                    quantizer.score_scale * scores, temperature
                )
                loss = -(y * logits.log_softmax(dim=1)).sum(dim=1).mean()
            total = total + target.weight.at(0) * loss
        return total

    def _vectors(self, target, xs, lengths, index):
        """What becomes a label, at masked frames: (M, D)."""
        if target.source == "input":
            factor = self.masking.subsampling
            frames = int(encoder_lengths(self.encoder, torch.tensor(xs.size(1))))
            return stack_frames(xs, factor, frames).flatten(0, 1)[index]
        keep = self.quantizers[target.name].keep_gradient
        with evaluating(self.encoder, BATCH_NORM, DROPOUT), torch.set_grad_enabled(
            keep
        ):
            (hs,) = encode_up_to(self.encoder, xs, lengths, [target.source])
        return hs.flatten(0, 1)[index]

    def _autocast(self, device):
        if self.dtype == torch.float32 or device.type == "meta":
            return nullcontext()
        return torch.autocast(device.type, dtype=self.dtype)


def code_scores(quantizer, vectors: torch.Tensor) -> torch.Tensor:
    """Negative squared distance to every code, less what all codes share.

    Args:
        quantizer: With a ``projection`` (1, D, d) and a ``codebook`` (1, V, d).
        vectors: (M, D).

    Returns:
        (M, V).
    """
    if quantizer.layer_norm:
        vectors = functional.layer_norm(vectors, vectors.shape[-1:])
    points = (vectors - quantizer.mean) @ quantizer.projection[0]
    codes = quantizer.codebook[0]
    return 2.0 * points @ codes.T - codes.square().sum(dim=1)
