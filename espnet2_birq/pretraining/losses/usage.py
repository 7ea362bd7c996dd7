"""Code usage entropy, a regulariser against codebook collapse.

The gradient through a label moves it towards the head's predictions, eventually
to one code for all frames. The entropy of the mean assignment q over a batch's frames
counteracts that (wav2vec 2.0's diversity loss, arXiv 2006.11477, Eq. 4, for codes of a
differentiable quantizer):

    q = mean over frames of softmax(scores)        H(q) = -sum(q log q)

q is averaged over all ranks, as is the cross-entropy, so their relative
weight depends neither on the batch size nor on the number of masked frames. Noise is
excluded: at high temperatures it would make any usage look uniform.
"""

from collections.abc import Mapping

import torch
from torch.autograd.function import once_differentiable

from espnet2_birq.pretraining.labels import CHUNK_NUMBERS, Labels, SoftLabels
from espnet2_birq.pretraining.ranks import sum_over_ranks, world_size


def usage_entropy(
    labels: list[SoftLabels], chunk_numbers: int = CHUNK_NUMBERS
) -> torch.Tensor:
    """Compute the code usage entropy, differentiable in the points.

    Frames are processed in chunks, twice: no frames x codes tensor is kept.

    Args:
        labels: Labels of N codebooks, ``valid`` at labelled frames.
        chunk_numbers: Size of the largest temporary tensors, in elements.

    Returns:
        () entropy in nats, averaged over codebooks; the same on all ranks. Gradients
        must be averaged over ranks.
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


def usage_entropies(labels: Mapping[str, list[Labels]]) -> dict[str, torch.Tensor]:
    """Compute the code usage entropy of objectives with soft labels, by name."""
    return {
        name: usage_entropy([x for x in made if isinstance(x, SoftLabels)])
        for name, made in labels.items()
    }


class _UsageEntropy(torch.autograd.Function):
    """Computes the gradient in the forward pass; the backward pass scales it."""

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
                # dH/dq = -(log q + 1); softmax's Jacobian cancels the 1
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
    """Compute soft assignments (C, V) of C frames to the codes."""
    return torch.addmm(bias, points, weight.T).softmax(dim=1)
