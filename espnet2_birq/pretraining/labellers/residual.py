"""Residual quantization: each level codes the residual of the levels before it.

    vectors (M, D) - code of level 1 -> residual - code of level 2 -> ...

The levels are predicted in parallel, each by a head of its own, and their losses are
averaged. The vectors are input frames as in MuQ (arXiv 2501.01108), a tokenizer's output as
in BRIDLE (arXiv 2502.02118), or an encoder layer, the control for BRIDLE's network.
Residuals are plain Euclidean ones, as in SoundStream and EnCodec (arXiv 2107.03312,
2210.13438).
"""

from collections.abc import Callable

import torch

from espnet2_birq.pretraining.labellers.codebooks import MovingCodebooks


class ResidualLabeller(MovingCodebooks):
    """Codes of a residual quantizer whose codebooks follow the vectors.

    Args:
        input_size: D, size of the vectors.
        running: Unused: codebooks follow the input and a layer alike.
        num_codebooks: L, number of levels; 1: plain vector quantization.
        codebook_size: V, codes per level.
        decay: See MovingCodebooks.
        reseed: See MovingCodebooks.
        seed: See MovingCodebooks.

    Example:
        >>> labeller = ResidualLabeller(8, running=True, codebook_size=4)
        >>> labeller.observe(torch.randn(500, 8), torch.ones(500))
        >>> labeller.start()
        >>> labeller.codes(torch.randn(5, 8)).shape
        torch.Size([4, 5])
    """

    def __init__(
        self,
        input_size: int,
        running: bool,
        num_codebooks: int = 4,
        codebook_size: int = 256,
        decay: float = 0.99,
        reseed: float = 0.01,
        seed: int = 0,
    ):
        super().__init__(
            input_size, input_size, num_codebooks, codebook_size, decay, reseed, seed
        )

    def walk(
        self,
        vectors: torch.Tensor,
        visit: Callable[[int, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Visit the residuals, level by level."""
        residual = vectors
        for level in range(self.num_codebooks):
            residual = residual - visit(level, residual)
        return vectors - residual

    def whole(self) -> torch.Tensor:
        """Return the variance of the vectors themselves, for all levels."""
        return self.variances[:1].expand(self.num_codebooks)
