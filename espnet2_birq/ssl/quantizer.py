"""Random-projection quantizers: vectors in, labels over a fixed codebook out.

    vectors (M, D) -> projection -> (M, d) -> distance to the V codes -> labels

Neither the projection nor the codebook is trained, averaged or stored: both are rebuilt
from a seed in the configuration, so every checkpoint and every rank holds the same.
"""

from typing import NamedTuple, Optional

import torch


class Labels(NamedTuple):
    """What a quantizer says of M frames."""

    codes: torch.Tensor  # (M,) int64, the label; for soft labels its likeliest code
    probs: Optional[torch.Tensor]  # (M, V) soft labels, rows sum to 1; None if hard
    nearest: torch.Tensor  # (M,) int64, the code nearest to the projected vector


def code_scores(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Closeness of vectors to codes: -|v - c|^2 + |v|^2 = 2 v.c - |c|^2.

    |v|^2 is the same for all codes, so neither argmax nor softmax needs it.

    Args:
        vectors: (M, d).
        codebook: (V, d).

    Returns:
        (M, V), the larger the closer.
    """
    return 2.0 * vectors @ codebook.T - codebook.square().sum(dim=1)


class RandomProjectionQuantizer(torch.nn.Module):
    """Nearest code after a random projection (BEST-RQ, arXiv 2202.01855; BiRQ Eq. 2).

    Args:
        input_size: D, size of the vectors.
        codebook_size: V.
        codebook_dim: d, size of a code.
        layer_norm: Normalise each vector over its D values first, without affine
            parameters. Hidden states want it (their scale drifts in training); input
            frames come normalised.
        batch_norm: Give each of the d projected dimensions mean 0 and variance 1, by
            the batch in training and by running statistics in evaluation. Hidden
            states differ little from one another: without, most fall to few codes.
        seed: Decides projection and codebook. The codebook does not depend on
            ``input_size``: quantizers of the same seed and shape share it.

    Example:
        >>> quantizer = RandomProjectionQuantizer(320, codebook_size=8192)
        >>> quantizer(torch.randn(5, 320)).codes.shape
        torch.Size([5])
    """

    keep_gradient = False  # the nearest code has none

    def __init__(
        self,
        input_size: int,
        codebook_size: int = 8192,
        codebook_dim: int = 16,
        layer_norm: bool = False,
        batch_norm: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        self.layer_norm = layer_norm
        self.batch_norm = None
        if batch_norm:
            self.batch_norm = torch.nn.BatchNorm1d(codebook_dim, affine=False)
        # The identity of the codebook: targets that share it share a prediction head.
        self.codebook_id = f"v{codebook_size}_d{codebook_dim}_s{seed}"
        generator = torch.Generator().manual_seed(seed)
        codebook = torch.randn(codebook_size, codebook_dim, generator=generator)
        projection = torch.nn.init.xavier_uniform_(
            torch.empty(input_size, codebook_dim), generator=generator
        )
        self.register_buffer("codebook", codebook, persistent=False)
        self.register_buffer("projection", projection, persistent=False)

    def scores(self, vectors: torch.Tensor) -> torch.Tensor:
        """Closeness of M vectors to every code, in single precision.

        Args:
            vectors: (M, D), any floating type.

        Returns:
            (M, V) float32.
        """
        # Not under autocast: rounding to bfloat16 would change labels.
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.to(self.projection.dtype)
            if self.layer_norm:
                vectors = torch.nn.functional.layer_norm(vectors, vectors.shape[-1:])
            vectors = vectors @ self.projection
            if self.batch_norm is not None:
                vectors = self.batch_norm(vectors)
            return code_scores(vectors, self.codebook)

    @torch.no_grad()
    def forward(self, vectors: torch.Tensor) -> Labels:
        """Label M vectors by their nearest codes.

        Args:
            vectors: (M, D).

        Returns:
            Hard labels.
        """
        nearest = self.scores(vectors).argmax(dim=1)
        return Labels(codes=nearest, probs=None, nearest=nearest)


class GumbelSoftmaxQuantizer(RandomProjectionQuantizer):
    """A random draw over the codes, differentiable in the vectors (BiRQ Eq. 4).

    Labels are softmax((scores + Gumbel noise) / temperature): a code is the likeliest
    with probability softmax(scores), and the gradient of the loss reaches the layer
    that made the vectors.

    Args:
        input_size: D, size of the vectors.
        temperature: The paper's 0.5. Towards 0 labels become one-hot.
        score_scale: Factor on the squared distance. Gumbel noise has a standard
            deviation of 1.28, so this decides how often the nearest code wins
            (reported as ``hit``).
        keep_gradient: Let the loss change the layers that made the label, as the paper
            does. Cut, the label pass costs no backward pass and labels move only with
            what the other targets teach the encoder.
        layer_norm: See RandomProjectionQuantizer.
        **codebook: See RandomProjectionQuantizer.
    """

    def __init__(
        self,
        input_size: int,
        temperature: float = 0.5,
        score_scale: float = 1.0,
        layer_norm: bool = True,
        keep_gradient: bool = True,
        **codebook,
    ):
        super().__init__(input_size, layer_norm=layer_norm, **codebook)
        self.temperature = temperature
        self.keep_gradient = keep_gradient
        self.score_scale = score_scale

    def forward(self, vectors: torch.Tensor) -> Labels:
        """Draw soft labels for M vectors.

        Args:
            vectors: (M, D); gradients flow back to them if they carry any.

        Returns:
            Soft labels.
        """
        if not self.keep_gradient:
            vectors = vectors.detach()  # another target may have kept it
        scores = self.score_scale * self.scores(vectors)  # (M, V)
        # An exponential draw E gives a Gumbel draw -log E; it is never 0 on CPU, and
        # the smallest positive number keeps the logarithm finite elsewhere.
        gumbel = (
            torch.empty_like(scores)
            .exponential_()
            .clamp_min_(torch.finfo(scores.dtype).tiny)
            .log()
            .neg()
        )
        probs = torch.softmax((scores + gumbel) / self.temperature, dim=1)
        return Labels(
            codes=probs.argmax(dim=1), probs=probs, nearest=scores.argmax(dim=1)
        )
