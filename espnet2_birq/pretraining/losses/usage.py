"""Entropy of the use of codes: a regulariser that keeps labels from becoming one code.

The gradient that flows through a label moves it to what the head predicts already, in the
end to one code for all frames. The entropy of the mean assignment q over a batch's frames
works against that (wav2vec 2.0's diversity loss, arXiv 2006.11477, Eq. 4, for codes of a
quantizer with a gradient):

    q = mean over frames of softmax(scores)        H(q) = -sum(q log q)

It is of the batch of all ranks, of means on both sides, so that its weight beside the
cross-entropy depends neither on the size of the batch nor on that of the mask. Noise is
left out: at a high temperature it would make any use look even.
"""

import torch
from torch.autograd.function import once_differentiable

from espnet2_birq.pretraining.labels import CHUNK_NUMBERS, SoftLabels
from espnet2_birq.pretraining.ranks import sum_over_ranks, world_size


def usage_entropy(
    labels: list[SoftLabels], chunk_numbers: int = CHUNK_NUMBERS
) -> torch.Tensor:
    """Compute the entropy of the codes' use, differentiable in the points.

    Frames are taken in chunks, twice: nothing of size frames x codes is kept.

    Args:
        labels: Of N codebooks, ``valid`` where a frame has one.
        chunk_numbers: Size of the largest temporary tensors, in numbers.

    Returns:
        () nats, the mean over codebooks; the same on all ranks. The mean over ranks of
        its gradients is the gradient.
    """
    entropies = [
        _UsageEntropy.apply(
            x.points,
            x.code_weight,
            x.code_bias,
            x.valid,
            (chunk_numbers, torch.is_grad_enabled()),
        )
        for x in labels
    ]
    return torch.stack(entropies).mean()


class _UsageEntropy(torch.autograd.Function):
    """The gradient is made in the forward pass; the backward pass scales it."""

    @staticmethod
    def forward(ctx, points, weight, bias, valid, options):
        chunk_numbers, grad_enabled = options
        size = max(1, chunk_numbers // len(weight))
        chunks = [slice(start, start + size) for start in range(0, len(points), size)]
        with torch.autocast(points.device.type, enabled=False):
            valid = valid.to(points.dtype)
            sums = torch.cat([points.new_zeros(len(weight)), valid.sum()[None]])
            for rows in chunks:
                y = _assignment(points[rows], weight, bias)
                sums[:-1] += valid[rows] @ y
            sums = sum_over_ranks(sums)
            count = sums[-1].clamp(min=1.0)
            q = sums[:-1] / count
            grad_points = torch.zeros_like(points)
            if grad_enabled and ctx.needs_input_grad[0]:
                # dH/dq = -(log q + 1); softmax's Jacobian takes care of the 1
                slope = -q.clamp(min=torch.finfo(q.dtype).tiny).log()
                share = valid * (world_size() / count)
                for rows in chunks:
                    y = _assignment(points[rows], weight, bias)
                    mean = y @ slope
                    grad_scores = y.mul_(slope - mean[:, None])
                    grad_points[rows] = (grad_scores @ weight) * share[rows, None]
        ctx.save_for_backward(grad_points)
        return torch.special.entr(q).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (grad_points,) = ctx.saved_tensors
        return grad * grad_points, None, None, None, None


def _assignment(points, weight, bias) -> torch.Tensor:
    """(C, V) shares of the codes in C frames."""
    return torch.addmm(bias, points, weight.T).softmax(dim=1)
