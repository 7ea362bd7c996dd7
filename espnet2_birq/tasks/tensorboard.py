"""Names of statistics in TensorBoard, which groups those with a common prefix."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.utils import tensorboard

OPTIMIZER = ("optim", "grad_norm", "clip", "loss_scale")  # prefixes of ESPnet's names


def grouped(name: str, objectives: Iterable[str]) -> str:
    """Name a statistic with its group: loss_anchor becomes loss/anchor, beside loss/all.

    Args:
        name: Name in the log.
        objectives: Names of objectives.
    """
    for objective in objectives:
        if name.endswith(f"_{objective}"):
            return f"{name.removesuffix(f'_{objective}')}/{objective}"
    if name == "loss":
        return "loss/all"
    if name.endswith("_time"):
        return f"time/{name}"
    return f"{'optimizer' if name.startswith(OPTIMIZER) else 'training'}/{name}"


@contextmanager
def grouping(objectives: Iterable[str]) -> Iterator[None]:
    """Group the statistics that ESPnet's trainer writes in this context.

    The trainer creates its own writers, and offers no hook.

    Args:
        objectives: Names of objectives.
    """
    # Longest first: one name may be the end of another.
    names = sorted(objectives, key=len, reverse=True)
    plain = tensorboard.SummaryWriter

    class Writer(plain):  # type: ignore[misc, valid-type]
        def add_scalar(self, tag, *args, **kwargs):
            super().add_scalar(grouped(tag, names), *args, **kwargs)

    setattr(tensorboard, "SummaryWriter", Writer)  # noqa: B010  # as in whole_saves()
    try:
        yield
    finally:
        setattr(tensorboard, "SummaryWriter", plain)  # noqa: B010
