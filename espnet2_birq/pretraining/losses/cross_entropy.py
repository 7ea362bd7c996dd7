"""Cross-entropy at masked frames for any mix of hard and soft labels of one head.

    hidden (M, E) -> head -> logits s (C, V)   one matmul for all labels of the head
                                 |
    codes (M,) ------------------+--> losses, their gradients, statistics
    points (M, d) -> scores a (C, V) -> softmax((a + gumbel) / tau) = y

M masked frames times V codes is the largest tensor of a step (half a GiB for 16,384
frames and 8192 codes in single precision, and a plain implementation keeps six to
eight of them until the backward pass). So frames are processed in chunks of C. As
this is the end of the graph, the gradients of a chunk are computed along with its
logits: no (frames, codes) tensor is kept, and no noise is drawn twice.
With p = softmax(s), for one frame and one label:

    grad_s = p - onehot(code)             hard label
    grad_s = p - y                        soft label
    grad_a = -(1 / tau) y (log p - sum(y log p))    ... through the label

Straight-through labels use the arg-max code of y for loss and grad_s, and y for grad_a.
"""

from typing import NamedTuple

import torch
from torch.autograd.function import once_differentiable

from espnet2_birq.kernels.products import matmul
from espnet2_birq.pretraining.labels import (
    CHUNK_NUMBERS,
    Labels,
    SoftLabels,
    labelled,
)
from espnet2_birq.pretraining.losses.gumbel import gumbel_like

# Quantities summed over frames for each label, in the order of Tally.sums.
SUMS = (
    "loss",
    "acc",
    "hit",
    "label_entropy",
    "score_std",
    "grad_square",
    "both",  # whether the first label of the head is there, too
    "agree",  # ... and is the same
)


class Tally(NamedTuple):
    """Statistics of L labels of one head, summed over frames; no gradients."""

    frames: torch.Tensor  # (L,) labelled frames
    sums: torch.Tensor  # (L, len(SUMS))
    label_counts: torch.Tensor  # (L, V) frames per arg-max code of the label
    predicted_counts: torch.Tensor  # (L, V) frames per arg-max code of the prediction


# Not compiled: no benefit for a loop over data-dependent chunks with random draws.
@torch.compiler.disable
def masked_cross_entropy(
    hidden: torch.Tensor,
    head_weight: torch.Tensor,
    head_bias: torch.Tensor,
    valid: torch.Tensor,
    labels: list[Labels],
    weights: list[float],
    counts: torch.Tensor | None = None,
    chunk_numbers: int = CHUNK_NUMBERS,
) -> tuple[torch.Tensor, Tally]:
    """Compute the weighted sum of cross-entropies to L labels.

    The result is sum_l weights_l (sum over labelled frames of CE_l) / counts_l: with
    the labelled frames as counts, a weighted sum of means (BiRQ Eq. 9: F and G).

    Args:
        hidden: (M, E) hidden states of masked frames. Under autocast the matmul with
            the head runs in autocast's precision, and on a CPU rounds its output to it:
            in bfloat16 a few percent of the frames then have ties for the arg-max, of
            which ``acc`` and ``pred_ppl`` use the first. Labels and sums stay precise.
        head_weight: (V, E) weight of the prediction head.
        head_bias: (V,) bias of the prediction head.
        valid: (M,) 1 for masked frames, 0 for filler rows.
        labels: L labels of the frames. Gradients also flow into the ``points`` of soft
            labels.
        weights: L loss weights.
        counts: (L,) normalisers of the sums, e.g. global counts over ranks; None:
            the local number of labelled frames.
        chunk_numbers: Size of the largest temporary tensors, in elements.

    Returns:
        () loss in nats, and the statistics.
    """
    points = [x.points if isinstance(x, SoftLabels) else None for x in labels]
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    total, *tally = _MaskedCrossEntropy.apply(
        hidden,
        head_weight,
        head_bias,
        valid,
        labels,
        weights,
        counts,
        (chunk_numbers, torch.is_grad_enabled()),
        *points,
    )
    return total, Tally(*tally)


class _MaskedCrossEntropy(torch.autograd.Function):
    """Computes gradients in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx, hidden, weight, bias, valid, labels, weights, counts, options, *points
    ):
        chunk_numbers, grad_enabled = options
        with torch.autocast(hidden.device.type, enabled=False):
            needs_grad = grad_enabled and any(ctx.needs_input_grad)
            sums = _Sums(hidden, weight, bias, valid, labels, weights, counts)
            size = max(1, chunk_numbers // len(weight))
            for start in range(0, len(hidden), size):
                sums.add(slice(start, start + size), needs_grad)
        ctx.dtypes = [x.dtype for x in (hidden, weight, bias)]
        ctx.point_needs = ctx.needs_input_grad[8:]
        ctx.save_for_backward(*sums.gradients())
        ctx.mark_non_differentiable(*sums.tally)
        return (sums.total(), *sums.tally)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total, *_):
        grad_hidden, grad_weight, grad_bias, *grad_points = ctx.saved_tensors
        # Scale before casting, so that GradScaler prevents underflow.
        first = [
            (grad_total * grad).to(dtype)
            for grad, dtype in zip((grad_hidden, grad_weight, grad_bias), ctx.dtypes)
        ]
        last = [
            grad_total * grad if needed else None
            for grad, needed in zip(grad_points, ctx.point_needs)
        ]
        return (*first, None, None, None, None, None, *last)


class _SoftChunk(NamedTuple):
    """Soft labels sampled for C frames, their loss, and its gradient at the points."""

    codes: torch.Tensor  # (C,) arg-max code
    loss: torch.Tensor  # (C,) -sum(y log p)
    y: torch.Tensor  # (C, V)
    hit: torch.Tensor  # (C,) whether the arg-max code is the nearest code
    entropy: torch.Tensor  # (C,) of y, in nats
    grad_points: torch.Tensor | None  # (C, d)


def _soft_chunk(labels: SoftLabels, rows: slice, logp: torch.Tensor, needs_grad: bool):
    """Sample soft labels for a chunk of frames."""
    points = labels.points.detach()[rows]
    scores = torch.addmm(labels.code_bias, points, labels.code_weight.T)  # (C, V)
    nearest = scores.max(dim=1).indices
    z = scores.add_(gumbel_like(scores)).mul_(1.0 / labels.temperature)
    y = z.softmax(dim=1)
    highest, codes = z.max(dim=1)
    # -sum(y log y) with log y = z - highest + log(y of the highest)
    entropy = highest - y.gather(1, codes[:, None]).squeeze(1).log()
    entropy -= z.mul_(y).sum(dim=1)
    y_logp = torch.mul(y, logp, out=z)
    loss = -y_logp.sum(dim=1)
    grad_points = None
    if needs_grad and labels.points.requires_grad:
        # grad_a = -(1 / tau) y (log p + loss), and a = points @ code_weight.T + ...
        grad_a = y_logp.addcmul_(y, loss[:, None])
        grad_points = matmul(grad_a, labels.code_weight) / -labels.temperature
    return _SoftChunk(codes, loss, y, codes == nearest, entropy, grad_points)


def _at(logp: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Compute the cross-entropy (C,) to one code per frame."""
    return -logp.gather(1, codes[:, None]).squeeze(1)


class _Sums:
    """Losses, gradients and statistics, accumulated over chunks.

    ``valid`` (L, M) is 1 where a frame has a label. ``factor`` (L, M) is a frame's
    share of a label's gradient, times ``most``. Dividing by ``most`` only at the end
    avoids underflow of 1 / frames in half precision.
    """

    def __init__(self, hidden, head_weight, head_bias, valid, labels, weights, counts):
        self.hidden, self.labels = hidden.detach(), labels
        self.head_weight = head_weight.detach().to(hidden.dtype)
        self.head_bias = head_bias.detach()
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        self.valid = torch.stack([labelled(x, valid.to(dtype)) for x in labels])
        frames = self.valid.sum(dim=1)
        counts = (frames if counts is None else counts.to(dtype)).clamp(min=1.0)
        self.scales = [weight / count for weight, count in zip(weights, counts)]
        self.most = frames.max().clamp(min=1.0)
        self.factor = [
            weight * self.most / count * row
            for weight, count, row in zip(weights, counts, self.valid)
        ]
        options = dict(dtype=dtype, device=hidden.device)
        by_code = (len(labels), len(head_weight))
        self.tally = Tally(
            frames=frames,
            sums=torch.zeros(len(labels), len(SUMS), **options),
            label_counts=torch.zeros(by_code, **options),
            predicted_counts=torch.zeros(by_code, **options),
        )
        self.grad_hidden = torch.zeros(hidden.shape, **options)
        self.grad_weight = torch.zeros(head_weight.shape, **options)
        self.grad_bias = torch.zeros(head_bias.shape, **options)
        self.grad_points: dict[int, torch.Tensor] = {}  # of those labels that are soft
        for index, label in enumerate(labels):
            if isinstance(label, SoftLabels):
                self.grad_points[index] = torch.zeros_like(label.points)
                spread = (self.valid[index] * score_std(label)).sum()
                self.tally.sums[index, SUMS.index("score_std")] = spread

    def total(self):
        """Return () the weighted sum of losses, each divided by its count."""
        return sum(x * y for x, y in zip(self.scales, self.tally.sums[:, 0]))

    def gradients(self):
        """Return gradients of the total for hidden states, head and points."""
        points = [
            self.grad_points[index] / self.most if index in self.grad_points else None
            for index in range(len(self.labels))
        ]
        heads = (self.grad_hidden, self.grad_weight, self.grad_bias)
        return (*(grad / self.most for grad in heads), *points)

    def add(self, rows: slice, needs_grad: bool):
        """Accumulate a chunk, C of M rows."""
        hidden = self.hidden[rows]  # (C, E)
        logp = matmul(hidden, self.head_weight.T).to(self.grad_hidden.dtype)
        logp = logp.add_(self.head_bias).log_softmax(dim=1)  # (C, V)
        predicted = logp.max(dim=1).indices  # faster than argmax on a CPU
        grad_logits = p_head = None
        if needs_grad:
            p = logp.exp()
            p_head = matmul(p.to(hidden.dtype), self.head_weight).to(p.dtype)  # (C, E)
            # Starts as p summed over labels; each label's y (or one-hot) is subtracted
            # below.
            grad_logits = p.mul_(sum(factor[rows] for factor in self.factor)[:, None])
        first_codes, first_valid = None, self.valid[0, rows]
        for index, label in enumerate(self.labels):
            y = None
            if isinstance(label, SoftLabels):
                soft = _soft_chunk(label, rows, logp, needs_grad)
                codes, loss = soft.codes, soft.loss
                columns = dict(hit=soft.hit, label_entropy=soft.entropy)
                if label.straight_through:
                    loss = _at(logp, codes)
                else:
                    y = soft.y
                if soft.grad_points is not None:
                    factor = self.factor[index][rows, None]
                    self.grad_points[index][rows] = soft.grad_points * factor
            else:
                codes = label.codes[rows].clamp(min=0)
                loss = _at(logp, codes)
                columns = dict(hit=torch.ones_like(loss))
            if needs_grad:
                columns["grad_square"] = self._subtract(
                    index, rows, codes, y, p_head, grad_logits
                )
            first_codes = codes if first_codes is None else first_codes
            columns.update(loss=loss, acc=predicted == codes, both=first_valid)
            columns.update(agree=first_valid * (codes == first_codes))
            self._count(index, rows, codes, predicted, columns)
        if grad_logits is not None:
            self.grad_bias += grad_logits.sum(dim=0)
            grad_logits = grad_logits.to(hidden.dtype)
            self.grad_weight += matmul(grad_logits.T, hidden).to(self.grad_bias.dtype)

    def _count(self, index, rows, codes, predicted, columns):
        """Add a chunk's (C,) columns and codes to a label's statistics."""
        valid = self.valid[index, rows]
        for name, column in columns.items():
            self.tally.sums[index, SUMS.index(name)] += (valid * column).sum()
        self.tally.label_counts[index].index_add_(0, codes, valid)
        self.tally.predicted_counts[index].index_add_(0, predicted, valid)

    def _subtract(self, index, rows, codes, y, p_head, grad_logits):
        """Subtract a label from grad_logits, and add (p - y) W to grad_hidden.

        Returns:
            (C,) squared norms of the label's gradient at the hidden states.
        """
        factor = self.factor[index][rows, None]
        if y is None:
            towards = self.head_weight[codes].to(p_head.dtype)
            grad_logits.scatter_add_(1, codes[:, None], -factor)
        else:
            low = y.to(self.head_weight.dtype)
            towards = matmul(low, self.head_weight).to(p_head.dtype)
            grad_logits.addcmul_(y, factor, value=-1)
        grad_hidden = factor * (p_head - towards)
        self.grad_hidden[rows] += grad_hidden
        return (grad_hidden / self.most).square().sum(dim=1)


def score_std(label: SoftLabels) -> torch.Tensor:
    """Compute the standard deviation of each frame's V scores, without the scores.

    Scores are linear in the point x, so their variance follows from the covariance of
    the linear layer's rows: [x, 1]^T Cov([weight, bias]) [x, 1].

    Returns:
        (M,) standard deviations.
    """
    layer = torch.cat([label.code_weight, label.code_bias[:, None]], dim=1)
    layer = layer - layer.mean(dim=0)
    covariance = layer.T @ layer / max(1, len(layer) - 1)  # (d + 1, d + 1)
    x = torch.nn.functional.pad(label.points.detach(), (0, 1), value=1.0)
    return ((x @ covariance) * x).sum(dim=1).clamp(min=0.0).sqrt()
