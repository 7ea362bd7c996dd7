"""Online clusters of several layers, one codebook per layer (DinoSR, arXiv 2305.10005)."""

from collections.abc import Callable

import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labellers.codebooks import MovingCodebooks


class ClusterLabeller(MovingCodebooks):
    """Nearest centroids, with one codebook for each of N equal parts of the vectors.

    With the view ``teacher layers top N each``, which concatenates the vectors of N
    layers, and N codebooks, each layer has its own codebook.

    Args:
        input_size: D, size of the vectors.
        running: Unused: codebooks follow the input and a layer alike.
        num_codebooks: N, parts of a vector.
        codebook_size: V, codes per part.
        decay: See MovingCodebooks; 0.9 in DinoSR.
        reseed: See MovingCodebooks; 0 in DinoSR.
        seed: See MovingCodebooks.

    Raises:
        ConfigError: D is no multiple of N.
    """

    def __init__(
        self,
        input_size: int,
        running: bool,
        num_codebooks: int = 8,
        codebook_size: int = 256,
        decay: float = 0.9,
        reseed: float = 0.01,
        seed: int = 0,
    ):
        width, rest = divmod(input_size, max(1, num_codebooks))
        if rest:
            raise ConfigError(
                f"num_codebooks: {input_size} values cannot be divided into "
                f"{num_codebooks} equal parts; for 'layers top N each' it is N"
            )
        super().__init__(
            input_size, width, num_codebooks, codebook_size, decay, reseed, seed
        )

    def walk(
        self,
        vectors: torch.Tensor,
        visit: Callable[[int, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Visit the parts."""
        parts = vectors.chunk(self.num_codebooks, dim=1)
        return torch.cat([visit(book, part) for book, part in enumerate(parts)], dim=1)
