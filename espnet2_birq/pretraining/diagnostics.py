"""Diagnostics of label quality during training.

Codebook usage over a window longer than a batch, and gradient norms of each path into the
label layers. Neither synchronises with a GPU or affects training.
"""

from collections.abc import Callable, Iterable

import torch

from espnet2_birq.pretraining.labels import Labels, SoftLabels
from espnet2_birq.pretraining.objective import Objective
from espnet2_birq.pretraining.settings import check_whole

WINDOW = 10_000  # frames


def slide(
    window: torch.Tensor | None, batch: torch.Tensor, frames: int = WINDOW
) -> torch.Tensor:
    """Add a batch's counts to a window in which older counts decay.

    The perplexity of a batch cannot exceed its number of frames, and the mean over
    batches is not that of their union: hence the window. It grows to ``frames``; then
    old counts are scaled down just enough to make room. After half a window, a frame
    still has more than half of its weight.

    Args:
        window: (V,) counts so far; None at first.
        batch: (V,) counts of a batch over all ranks.
        frames: Size of the window in frames; a larger batch is kept whole.

    Returns:
        (V,) updated counts.
    """
    if window is None:
        return batch
    room = (frames - batch.sum()).clamp(min=0.0)
    return window * (room / window.sum().clamp(min=1.0)).clamp(max=1.0) + batch


class Windows:
    """Label counts of each codebook over the last WINDOW frames.

    For logging only.
    """

    def __init__(self):
        self._counts: dict[tuple, torch.Tensor] = {}

    def add(self, objective: str, book: int, counts: torch.Tensor) -> torch.Tensor:
        """Add a batch's counts (V,); return those of the window."""
        key = objective, book
        self._counts[key] = slide(self._counts.get(key), counts)
        return self._counts[key]

    def state(self) -> dict[tuple, torch.Tensor]:
        """Return the counts by objective and codebook."""
        return self._counts

    def restore(self, state: dict[tuple, torch.Tensor]):
        """Set the counts."""
        self._counts = dict(state)


class GradientPaths:
    """Periodic gradient norms of each path from a loss into the label layers.

    Args:
        every: Updates between two measurements; 0: never.

    Raises:
        ConfigError: ``every`` is negative.
    """

    def __init__(self, every: int):
        check_whole("diagnose_every", every)
        self.every = every
        self._last = 0  # update of the last measurement

    def due(self, objectives: list[Objective], update: int) -> bool:
        """Whether to measure now; true for one batch of an update only."""
        if not self.every or update - self._last < self.every:
            return False
        if not torch.is_grad_enabled() or not any(one.gradient for one in objectives):
            return False
        self._last = update
        return True

    def state(self) -> int:
        """Return the update of the last measurement."""
        return self._last

    def restore(self, state: int):
        """Set the update of the last measurement."""
        self._last = state

    @staticmethod
    def measure(
        encoder: torch.nn.Module,
        objectives: list[Objective],
        labels: dict[str, list[Labels]],
        loss_of: Callable[[Objective, list[Labels]], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Measure norms without using training's random numbers; see _gradient_paths."""
        device = next(encoder.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):

            def same_noise(one: Objective, made: list[Labels]) -> torch.Tensor:
                # Else the difference of two losses would include that of their noise.
                with torch.random.fork_rng(devices=devices):
                    return loss_of(one, made)

            return _gradient_paths(encoder, objectives, labels, same_noise)


def _gradient_paths(
    encoder: torch.nn.Module,
    objectives: list[Objective],
    labels: dict[str, list[Labels]],
    loss_of: Callable[[Objective, list[Labels]], torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Compute gradient norms at the label layers, separately for each path.

    The gradient of BiRQ's F flows through the prediction and through the labels
    (arXiv 2509.15430, Algorithm 1). The norm of the second path may be many times that of
    the first, and is invisible at the encoder's output.

    Args:
        encoder: Encoder; gradients are measured at the parameters on which labels depend:
            those of the layers up to the label layer.
        objectives: Active objectives.
        labels: Labels of each objective, with gradients.
        loss_of: Function from an objective and its labels to its loss with weight 1,
            including the objective's factor on the labels' gradient; with the same
            noise in each call.

    Returns:
        For each objective ``path_pred_<name>``, the gradient norm through the
        prediction, and, if gradients flow through its labels, ``path_label_<name>``,
        the norm through the labels times the objective's factor. Losses cover this
        rank's frames. Empty if no gradient flows through any label.
    """
    points = [
        x.points.sum()
        for one in objectives
        for x in labels[one.name]
        if one.gradient and isinstance(x, SoftLabels) and x.points.requires_grad
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
