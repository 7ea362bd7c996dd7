"""Gumbel noise: what turns scores into random codes."""

import torch


def gumbel_like(scores: torch.Tensor) -> torch.Tensor:
    """Independent standard Gumbel draws of the shape and type of ``scores``."""
    if scores.device.type == "cpu":
        return _gumbel_from_bits(scores)
    return gumbel_from_exponential(scores)


def gumbel_from_exponential(scores: torch.Tensor) -> torch.Tensor:
    """Gumbel draws as a GPU makes them: -log of an exponential draw."""
    draws = torch.empty_like(scores).exponential_()
    # The smallest positive number keeps the logarithm finite.
    return draws.clamp_min_(torch.finfo(scores.dtype).tiny).log_().neg_()


def _gumbel_from_bits(scores):
    """-log(-log u) of 32 random bits each, two from one draw of the generator.

    A quarter of the time: PyTorch draws exponential numbers on a CPU one by one. u is
    k / 2^31 for |k| <= 2^31; its ends are kept off 0 and 1, where a logarithm is
    infinite. Next to 1 it is as fine as a float allows, so in single precision no draw
    is above 16.6 (true ones are once in 2^24), as with CUDA's exponential_.
    """
    bits = torch.empty((scores.numel() + 1) // 2, dtype=torch.int64)
    bits.random_(-(2**63), None)
    k = bits.view(torch.int32)[: scores.numel()].view(scores.shape)
    draws = torch.empty_like(scores).copy_(k).mul_(2.0**-31).abs_()
    below_one = 1.0 - torch.finfo(scores.dtype).eps / 2
    return draws.clamp_(2.0**-32, below_one).log_().neg_().log_().neg_()
