"""Cross-entropy at masked frames to any mix of hard and soft labels of one codebook.

    hs (M, E) -> head -> logits s (C, V)   one product for all labels of the codebook
                                 |
    codes (M,) ------------------+--> losses, their gradients, statistics
    points (M, d) -> scores a (C, V) -> softmax((a + gumbel) / tau) = y

M masked frames times V codes is the largest thing in a step (half a GiB for 16,384
frames and 8192 codes in single precision, and a plain implementation keeps six to
eight of them until the backward pass). So frames are taken in chunks of C, and since
this is the end of the graph the gradients of a chunk are computed while its logits are
there: nothing of size (frames, codes) survives, and no noise is drawn twice.
With p = softmax(s), for one frame and one label:

    grad_s = p - onehot(code)             hard label
    grad_s = p - y                        soft label
    grad_a = -(1 / tau) y (log p - sum(y log p))    ... through the label

Straight-through labels take loss and grad_s of the likeliest code of y, grad_a of y.
"""

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch.autograd.function import once_differentiable

from espnet2_birq.products import matmul

# Numbers in a chunk's (C, V) tensors, 32 MiB in single precision. Some five of them
# live at once; smaller chunks make the products slower.
CHUNK_NUMBERS = 2**23

# What is summed over frames for each label, in the order of Tally.sums.
SUMS = ("loss", "acc", "hit", "label_entropy", "score_std", "grad_square", "agree")


class Labels(NamedTuple):
    """What M frames are labelled with: codes, or points to be drawn codes for."""

    codes: Optional[torch.Tensor] = None  # (M,) int64 hard labels, -1: no label
    points: Optional[torch.Tensor] = None  # (M, d) soft labels, may carry a gradient
    code_weight: Optional[torch.Tensor] = None  # (V, d) scores are
    code_bias: Optional[torch.Tensor] = None  # (V,) points @ code_weight.T + code_bias
    temperature: float = 1.0
    straight_through: bool = False
    # (M,) 1 where a frame has such a label, 0 where not; None: every frame has
    present: Optional[torch.Tensor] = None


class Tally(NamedTuple):
    """Statistics of L labels of one codebook, summed over frames; no gradients."""

    frames: torch.Tensor  # (L,) labelled frames
    sums: torch.Tensor  # (L, len(SUMS))
    label_counts: torch.Tensor  # (L, V) frames of each code: the label's likeliest
    predicted_counts: torch.Tensor  # (L, V) ... and the prediction's


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


# Not traced: a loop over data-dependent chunks with random draws gains nothing from it.
@torch.compiler.disable
def masked_cross_entropy(
    hs: torch.Tensor,
    head_weight: torch.Tensor,
    head_bias: torch.Tensor,
    present: torch.Tensor,
    labels: List[Labels],
    weights: List[float],
    chunk_numbers: int = CHUNK_NUMBERS,
) -> Tuple[torch.Tensor, Tally]:
    """Weighted sum of the mean cross-entropies to L labels (BiRQ Eq. 9: F and G).

    Args:
        hs: (M, E) hidden states of masked frames. Under autocast the products with the
            head run in its precision; logits, labels and sums never do.
        head_weight: (V, E) and
        head_bias: (V,) of the prediction head.
        present: (M,) 1 where a row is a masked frame, 0 where it fills up.
        labels: Labels of the frames, from one codebook. Gradients flow into the
            ``points`` of soft labels too.
        weights: L factors, one for each of ``labels``.
        chunk_numbers: Size of the largest temporary tensors, in numbers.

    Returns:
        () the loss in nats, and the statistics.
    """
    points = [label.points for label in labels]
    if torch.is_autocast_enabled(hs.device.type):
        hs = hs.to(torch.get_autocast_dtype(hs.device.type))
    total, *tally = _MaskedCrossEntropy.apply(
        hs,
        head_weight,
        head_bias,
        present,
        labels,
        weights,
        (chunk_numbers, torch.is_grad_enabled()),
        *points,
    )
    return total, Tally(*tally)


class _MaskedCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward pass; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx, hs, head_weight, head_bias, present, labels, weights, options, *points
    ):
        chunk_numbers, grad_enabled = options
        with torch.autocast(hs.device.type, enabled=False):
            pass_ = _Pass(hs, head_weight, head_bias, present, labels, weights)
            pass_.needs = grad_enabled and any(ctx.needs_input_grad)
            size = max(1, chunk_numbers // len(head_weight))
            for start in range(0, len(hs), size):
                pass_.chunk(slice(start, start + size))
        ctx.dtypes = [x.dtype for x in (hs, head_weight, head_bias)]
        ctx.point_needs = ctx.needs_input_grad[7:]
        ctx.save_for_backward(*pass_.gradients())
        tally = (
            pass_.frames,
            pass_.sums,
            pass_.label_counts,
            pass_.predicted_counts,
        )
        ctx.mark_non_differentiable(*tally)
        return (pass_.total(), *tally)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total, *_):
        grad_hs, grad_weight, grad_bias, *grad_points = ctx.saved_tensors
        # Scaled in single precision, then rounded: a GradScaler's factor comes in time.
        first = [
            (grad_total * grad).to(dtype)
            for grad, dtype in zip((grad_hs, grad_weight, grad_bias), ctx.dtypes)
        ]
        last = [
            grad_total * grad if needed else None
            for grad, needed in zip(grad_points, ctx.point_needs)
        ]
        return (*first, None, None, None, None, *last)


class _Pass:
    """One pass over the frames: what is summed up, and the step for a chunk.

    ``present`` (L, M) says which frames have which label, ``steps`` (L, M) are factors
    of a frame's gradient for a label, ``most`` is what all gradients are divided by.
    """

    def __init__(self, hs, head_weight, head_bias, present, labels, weights):
        self.hs, self.labels, self.weights = hs.detach(), labels, weights
        self.head_weight = head_weight.detach().to(hs.dtype)
        self.head_bias = head_bias.detach()
        dtype = torch.promote_types(hs.dtype, torch.float32)
        num_labels, num_codes = len(labels), len(head_weight)
        self.present = torch.stack(
            [
                present.to(dtype)
                * (1.0 if x.codes is None else x.codes >= 0)
                * (1.0 if x.present is None else x.present)
                for x in labels
            ]
        )
        self.frames = self.present.sum(dim=1)
        # A gradient is (sum over frames of `step` ...) / most: with 1 / frames inside,
        # the products in half precision would round small numbers to nothing.
        self.most = self.frames.max().clamp(min=1.0)
        self.steps = [
            weight * self.most / count.clamp(min=1.0) * row
            for weight, count, row in zip(weights, self.frames, self.present)
        ]
        zeros = torch.zeros
        options = dict(dtype=dtype, device=hs.device)
        self.sums = zeros(num_labels, len(SUMS), **options)
        self.label_counts = zeros(num_labels, num_codes, **options)
        self.predicted_counts = zeros(num_labels, num_codes, **options)
        self.grad_hs = zeros(hs.shape, **options)
        self.grad_weight = zeros(head_weight.shape, **options)
        self.grad_bias = zeros(head_bias.shape, **options)
        self.grad_points = [
            None if x.points is None else torch.zeros_like(x.points) for x in labels
        ]
        self.needs = True
        for index, label in enumerate(labels):
            if label.points is not None:
                spread = (self.present[index] * score_std(label)).sum()
                self.sums[index, SUMS.index("score_std")] = spread

    def gradients(self):
        """Of the weighted sum of means, for hs, head and points."""
        points = [
            None if grad is None else grad / self.most for grad in self.grad_points
        ]
        heads = (self.grad_hs, self.grad_weight, self.grad_bias)
        return (*(grad / self.most for grad in heads), *points)

    def total(self):
        """() the weighted sum of mean losses."""
        means = self.sums[:, 0] / self.frames.clamp(min=1.0)
        return sum(weight * mean for weight, mean in zip(self.weights, means))

    def chunk(self, rows: slice):
        """Add up losses, gradients and statistics of some rows (C of M)."""
        hs = self.hs[rows]  # (C, E)
        logp = matmul(hs, self.head_weight.T).to(self.sums.dtype)
        logp = logp.add_(self.head_bias).log_softmax(dim=1)  # (C, V)
        predicted = logp.max(dim=1).indices  # faster than argmax on a CPU
        grad_s = p_head = None
        if self.needs:
            p = logp.exp()
            p_head = matmul(p.to(hs.dtype), self.head_weight).to(p.dtype)  # (C, E)
            # Of all labels together: p here, less y or a one of each of them below
            grad_s = p.mul_(sum(step[rows] for step in self.steps)[:, None])
        first_codes = None
        for index, label in enumerate(self.labels):
            present = self.present[index, rows]
            if label.points is None:
                codes = label.codes[rows].clamp(min=0)
                loss = -logp.gather(1, codes[:, None]).squeeze(1)
                y, extra = None, (torch.ones_like(loss), loss * 0)
            else:
                codes, loss, y, extra = self._soft(index, label, rows, logp)
            grad_square = torch.zeros_like(loss)
            if self.needs:
                grad_square = self._gradients_of(index, rows, codes, y, p_head, grad_s)
            first_codes = codes if first_codes is None else first_codes
            columns = dict(zip(("hit", "label_entropy"), extra), loss=loss)
            columns.update(acc=predicted == codes, agree=codes == first_codes)
            columns.update(grad_square=grad_square)
            for name, column in columns.items():
                self.sums[index, SUMS.index(name)] += (present * column).sum()
            self.label_counts[index].index_add_(0, codes, present)
            self.predicted_counts[index].index_add_(0, predicted, present)
        if self.needs:
            self.grad_bias += grad_s.sum(dim=0)
            self.grad_weight += matmul(grad_s.to(hs.dtype).T, hs).to(grad_s.dtype)

    def _gradients_of(self, index, rows, codes, y, p_head, grad_s):
        """Add a label's own part: to grad_s what it takes off p, to hs (p - y) W.

        Returns:
            (C,) squared norms of its gradient at hs.
        """
        step = self.steps[index][rows, None]
        if y is None:
            towards = self.head_weight[codes].to(p_head.dtype)
            grad_s.scatter_add_(1, codes[:, None], -step)
        else:
            low = y.to(self.head_weight.dtype)
            towards = matmul(low, self.head_weight).to(p_head.dtype)
            grad_s.addcmul_(y, step, value=-1)
        grad_hs = step * (p_head - towards)
        self.grad_hs[rows] += grad_hs
        return (grad_hs / self.most).square().sum(dim=1)

    def _soft(self, index, label, rows, logp):
        """Draw a chunk's soft labels: codes, loss, y, (hit, entropy)."""
        points = label.points.detach()[rows]
        scores = torch.addmm(label.code_bias, points, label.code_weight.T)  # (C, V)
        nearest = scores.max(dim=1).indices
        z = scores.add_(gumbel_like(scores)).mul_(1.0 / label.temperature)
        y = z.softmax(dim=1)
        highest, codes = z.max(dim=1)
        # -sum(y log y) with log y = z - highest + log(y of the highest)
        entropy = highest - y.gather(1, codes[:, None]).squeeze(1).log()
        entropy -= z.mul_(y).sum(dim=1)
        y_logp = torch.mul(y, logp, out=z)
        soft_loss = -y_logp.sum(dim=1)
        if self.needs and label.points.requires_grad:
            # grad_a = -(step / temperature) y (log p + loss)
            towards = matmul(y_logp.addcmul_(y, soft_loss[:, None]), label.code_weight)
            step = self.steps[index][rows, None]
            self.grad_points[index][rows] = towards * (-step / label.temperature)
        extra = (codes == nearest, entropy)
        if not label.straight_through:
            return codes, soft_loss, y, extra
        return codes, -logp.gather(1, codes[:, None]).squeeze(1), None, extra


def score_std(label: Labels) -> torch.Tensor:
    """Spread of each frame's scores over the V codes, without looking at the scores.

    They are linear in the point x: their variance is that of the linear layer's rows,
    [x, 1]^T Cov([weight, bias]) [x, 1].

    Returns:
        (M,) standard deviations.
    """
    layer = torch.cat([label.code_weight, label.code_bias[:, None]], dim=1)
    layer = layer - layer.mean(dim=0)
    covariance = layer.T @ layer / max(1, len(layer) - 1)  # (d + 1, d + 1)
    x = torch.nn.functional.pad(label.points.detach(), (0, 1), value=1.0)
    return ((x @ covariance) * x).sum(dim=1).clamp(min=0.0).sqrt()
