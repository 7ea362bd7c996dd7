"""What tells useful labels from useless ones while training goes on.

How many codes are in use over a window longer than a batch, and by which path a loss moves
the layers that make its labels. Nothing waits for a GPU, and nothing changes training.
"""

from collections.abc import Callable, Iterable

import torch

from espnet2_birq.pretraining.labels import Labels, SoftLabels
from espnet2_birq.pretraining.objective import Objective

WINDOW = 10_000  # frames


def slide(
    window: torch.Tensor | None, batch: torch.Tensor, frames: int = WINDOW
) -> torch.Tensor:
    """Add a batch's counts to those of a window, whose older ones fade.

    The perplexity of one batch cannot exceed its number of frames, and the mean of
    several is not that of their union: hence the window. It grows until it has
    ``frames``. From then on, what was there is scaled down by as much as is needed to
    make room; more than half of the weight of a frame is left after half a window.

    Args:
        window: (V,) counts so far, None at first.
        batch: (V,) counts of a batch, of all ranks.
        frames: How many frames the window is to hold. A larger batch stays whole.

    Returns:
        (V,).
    """
    if window is None:
        return batch
    room = (frames - batch.sum()).clamp(min=0.0)
    return window * (room / window.sum().clamp(min=1.0)).clamp(max=1.0) + batch


class Windows:
    """Counts of the codes of each codebook's labels over the last WINDOW frames.

    They are for the log alone, and begin anew when a training is resumed.
    """

    def __init__(self):
        self._counts: dict[tuple, torch.Tensor] = {}

    def add(self, objective: str, book: int, counts: torch.Tensor) -> torch.Tensor:
        """Take in a batch's counts (V,); return those of the window."""
        key = objective, book
        self._counts[key] = slide(self._counts.get(key), counts)
        return self._counts[key]


class GradientPaths:
    """Measures, every so many updates, by which paths losses move the label layers.

    Args:
        every: Updates between two looks; 0: never.
    """

    def __init__(self, every: int):
        self.every = every
        self._last = 0  # update of the last look

    def due(self, objectives: list[Objective], update: int) -> bool:
        """Whether to look in this update: in one of its batches only."""
        if not self.every or update - self._last < self.every:
            return False
        if not torch.is_grad_enabled() or not any(one.gradient for one in objectives):
            return False
        self._last = update
        return True

    @staticmethod
    def measure(
        encoder: torch.nn.Module,
        objectives: list[Objective],
        labels: dict[str, list[Labels]],
        loss_of: Callable[[Objective, list[Labels]], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Measure; the noise of training is not drawn from. See _gradient_paths."""
        device = next(encoder.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            return _gradient_paths(encoder, objectives, labels, loss_of)


def _gradient_paths(
    encoder: torch.nn.Module,
    objectives: list[Objective],
    labels: dict[str, list[Labels]],
    loss_of: Callable[[Objective, list[Labels]], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Measure how each loss moves the layers that make labels, by the path it takes.

    The gradient of BiRQ's F flows through the prediction and through the labels
    (arXiv 2509.15430, Algorithm 1). The second path may be many times the first; at the
    encoder's output it does not show.

    Args:
        encoder: Its parameters that a label depends on are looked at: those of the
            layers below the label layer.
        objectives: Of this update.
        labels: Of each, with their gradients.
        loss_of: Computes an objective's loss, with weight 1, from labels; the objective's
            factor on their gradient is in it.

    Returns:
        For each objective ``path_pred_<name>``, norm of its loss's gradient through the
        prediction; where one flows through the labels ``path_label_<name>``, its norm,
        with the objective's factor. Losses are those of this rank's frames. Nothing if
        no gradient flows through any label.
    """
    points = [
        x.points.sum()
        for one in objectives
        for x in labels[one.name]
        if one.gradient and isinstance(x, SoftLabels)
    ]
    if not points:
        return {}
    parameters = [x for x in encoder.parameters() if x.requires_grad]

    def gradients(of: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return torch.autograd.grad(of, parameters, retain_graph=True, allow_unused=True)

    reached = gradients(torch.stack(points).sum())
    parameters = [x for x, found in zip(parameters, reached) if found is not None]
    del reached  # as large as the encoder
    norms = {}
    for one in objectives:
        made = labels[one.name]
        fixed = gradients(loss_of(one, [_detached(x) for x in made]))
        norms[f"path_pred_{one.name}"] = _norm(fixed)
        if one.gradient:
            whole = gradients(loss_of(one, made))
            norms[f"path_label_{one.name}"] = _norm(map(_minus, whole, fixed))
    return norms


def _detached(labels: Labels) -> Labels:
    if isinstance(labels, SoftLabels):
        return labels._replace(points=labels.points.detach())
    return labels


def _minus(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    return one if one is None or other is None else one - other


def _norm(gradients: Iterable[torch.Tensor | None]) -> torch.Tensor:
    squares = [x.float().square().sum() for x in gradients if x is not None]
    return torch.stack(squares).sum().sqrt()
