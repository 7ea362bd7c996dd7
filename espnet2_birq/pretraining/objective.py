"""Objectives: prediction tasks at masked frames, one per row of the configuration.

    view -> labeller -> labels <- loss - head <- hidden states, masked input

The loss is a cross-entropy or, for labels that are vectors, a regression loss.

No method is hard-coded in the forward pass; a method is a list of objectives:

    BEST-RQ    input   -> random_projection                weight 1
    BiRQ       input   -> random_projection   (anchor)     weight w2 = 2.4
               layer k -> gumbel_softmax      (enhanced)   weight w1 = 0.1
    DinoSR     the teacher's last n layers, each -> clusters
    SpidR      the same, each predicted from the masked side's output of the same layer
    data2vec   mean of the teacher's last n layers -> latent (regression)
    BRIDLE     a tokenizer that learns from the encoder -> residual
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.labellers import LABELLERS, Labeller, labeller_class
from espnet2_birq.pretraining.labellers.base import numbers_as_text, text_as_numbers
from espnet2_birq.pretraining.labels import Labels, SoftLabels, labelled, precise
from espnet2_birq.pretraining.ranks import sum_over_ranks
from espnet2_birq.pretraining.schedule import Schedule, weight_schedule
from espnet2_birq.pretraining.views import (
    LABELS,
    LAYER,
    TOKENIZER,
    MaskedRows,
    View,
    Views,
    parse_view,
)
from espnet2_birq.pretraining.when import When, parse_when

# Rows that a `name` alone stands for; keys given next to it take precedence.
PRESETS = {
    "anchor": dict(
        view="input", labeller="random_projection", head="codes", weight=2.4
    ),
    "enhanced": dict(view="layer", labeller="gumbel_softmax", head="codes", weight=0.1),
    "given": dict(view="labels", labeller="given", weight=1.0),
}
KEYS = {
    "name": "suffix of the statistics loss_<name>, acc_<name>, ...",
    "view": "source of labels: input, layer K, layer P%, layers top N (mean of the "
    "last N, each normalised; 'layers top N each': side by side), teacher layer ..., "
    "teacher layers ..., tokenizer, labels [NAME] [every N]",
    "labeller": "one of " + ", ".join(LABELLERS) + ", or your own module:Class",
    "labeller_conf": "options of the labeller",
    "head": "prediction head, shared by objectives that name it (default: the name)",
    "student": "what the head sees of the masked side: last (the encoder's output; default), "
    "each (the head of codebook n the layer of the view's n-th: SpidR)",
    "weight": "loss weight: a number or [[update, value], ...]",
    "gradient": "factor on the gradient of the loss through the labels: "
    "1 as in BiRQ, 0 stops it (default: 1 where it can flow)",
    "diversity": "weight of the code usage entropy, subtracted from the loss (0)",
    "when": "active updates: {start, stop, every, length, once}: the first `length` of "
    "`every` updates from start to stop; once: {other objective: perplexity of its "
    "predictions} that must be reached first",
}

# Frames used to estimate the input's moments before the first update, about an hour.
# Estimated only once: another sample gives different labels (bench/start_frames.py).
START_FRAMES = 100_000

LAST, EACH = "last", "each"  # values of `student`
NAME = 64  # at least as many numbers hold the name in a checkpoint

BEST_RQ = [dict(name="anchor", weight=1.0)]
BIRQ = [dict(name="anchor"), dict(name="enhanced")]


class Row(NamedTuple):
    """One row of the configuration's ``objectives``, validated, with defaults."""

    name: str
    view: View
    labeller: str
    labeller_conf: dict[str, Any]
    head: str
    student: str
    weight: Schedule
    gradient: float
    diversity: float
    when: When


class Objective(torch.nn.Module):
    """A labeller with view, head, loss weight and schedule.

    Args:
        row: Row of the configuration.
        labeller: Labeller of its vectors.
    """

    called: torch.Tensor  # name as numbers
    seen: torch.Tensor  # view as numbers; only of labellers that are fitted to speech
    begun: torch.Tensor  # () update at which `once` was met; -1: not yet

    def __init__(self, row: Row, labeller: Labeller):
        super().__init__()
        self.name = row.name
        self.view = row.view
        self.head = row.head
        # Layers of the masked side that the codebooks' heads see; empty: the output.
        self.student = row.view.layers if row.student == EACH else []
        self.weight = row.weight
        self.gradient = row.gradient
        self.diversity = row.diversity
        self.when = row.when
        self.labeller = labeller
        # Rows are stored by position; this tells whose state it is.
        self.register_buffer("called", text_as_numbers(row.name, NAME))
        if not labeller.ready:
            self.register_buffer("seen", text_as_numbers(str(row.view), NAME))
        if row.when.once is not None:
            # Floating point: ESPnet sums integers when averaging checkpoints.
            self.register_buffer("begun", torch.full((), -1.0))
        self._begun: int | None = None  # host copy, read once

    def _load_from_state_dict(self, state_dict, prefix, *args):
        self._begun = None
        other = state_dict.setdefault(f"{prefix}called", self.called)  # older: none
        if not self.called.is_meta and numbers_as_text(other) != self.name:
            raise ConfigError(
                f"{prefix.rstrip('.')} is called '{self.name}', and "
                f"'{numbers_as_text(other)}' in the checkpoint: give the same objectives in "
                "the same order, or load the encoder alone (FILE:encoder:encoder)"
            )
        if "seen" in self._buffers:
            other = state_dict.setdefault(f"{prefix}seen", self.seen)  # older: none
            if not self.seen.is_meta and numbers_as_text(other) != str(self.view):
                raise ConfigError(
                    f"{prefix.rstrip('.')}: '{self.name}' is fitted to the view "
                    f"'{numbers_as_text(other)}' in the checkpoint, now it has "
                    f"'{self.view}': give the same, or load the encoder alone "
                    "(FILE:encoder:encoder)"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def begin(self, update: int):
        """Start counting this objective's updates, once its condition is met."""
        self.begun.fill_(update)
        self._begun = update

    def restart(self):
        """Wait for the condition again, if there is one."""
        if self.when.once is not None:
            self.begin(-1)

    def age(self, update: int) -> int | None:
        """Return the number of updates since the objective's start; None before it."""
        if self.when.once is None:
            return update
        if self._begun is None:
            self._begun = int(self.begun)  # once: synchronises with a GPU
        return update - self._begun if self._begun >= 0 else None

    def is_on(self, update: int) -> bool:
        """Whether the objective is active in a training update."""
        age = self.age(update)
        return age is not None and self.when.includes(age)

    def weight_at(self, update: int) -> float:
        """Return the loss weight; before the objective's start, the initial one.

        In evaluation mode, it is the last of the schedule, so that validation losses are
        comparable between epochs.
        """
        return (
            self.weight.at(self.age(update) or 0) if self.training else self.weight.last
        )

    @property
    def keeps_gradient(self) -> bool:
        """Whether gradients flow through the labels."""
        return self.gradient != 0.0 or self.diversity != 0.0

    def observe(self, vectors: torch.Tensor, valid: torch.Tensor):
        """Let the labeller observe vectors, as precisely as it labels them.

        In half precision, sums would stall, and labels depend on whether there is autocast.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            self.labeller.observe(precise(vectors.detach()), valid)

    def labels(
        self, views: Views, rows: MaskedRows, update: int, observe: bool = True
    ) -> list[Labels]:
        """Compute labels for the masked frames of a batch.

        Args:
            views: Views of the batch.
            rows: Positions of the masked frames.
            update: Optimizer updates so far.
            observe: Whether, in training, the labeller first observes the vectors.

        Returns:
            Labels of each codebook, ``valid`` at labelled frames.
        """
        vectors, valid = views.at(self.view, rows)
        if not self.keeps_gradient:
            vectors = vectors.detach()
        # A tokenizer's codebooks move when it learns, not when it is predicted.
        if observe and self.training and self.view.kind != TOKENIZER:
            self.observe(vectors, valid)
        with torch.autocast(vectors.device.type, enabled=False):
            labels = self.labeller.label(precise(vectors), self.age(update) or 0)
        return [x._replace(valid=labelled(x, valid)) for x in labels]

    def predicted(self, labels: list[Labels]) -> list[Labels]:
        """Return labels for the cross-entropy, with their gradient scaled."""
        return [
            (
                x._replace(points=scale_gradient(x.points, self.gradient))
                if isinstance(x, SoftLabels)
                else x
            )
            for x in labels
        ]


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Return ``x``, scaling its gradient by a factor; 0 detaches it."""
    if factor == 1.0:
        return x
    if factor == 0.0:
        return x.detach()
    return _ScaleGradient.apply(x, factor)


def parse_objectives(rows: list[dict[str, Any]], num_blocks: int) -> list[Row]:
    """Validate the configuration's ``objectives`` and fill in defaults.

    Args:
        rows: Dictionaries with the keys of ``KEYS``. A name in ``PRESETS`` stands for a
            whole row; others require ``view`` and ``labeller``.
        num_blocks: K, depth of the encoder.

    Returns:
        The rows, in order.

    Raises:
        ConfigError: A row is invalid; the message is one line and gives valid values.
    """
    if not isinstance(rows, list) or not rows:
        raise ConfigError("objectives: give a list with at least one objective")
    parsed = [_parse_row(row, num_blocks) for row in rows]
    names = [row.name for row in parsed]
    if len(set(names)) < len(names):
        raise ConfigError(f"objectives: each needs a name of its own, got {names}")
    for row in parsed:
        for other in row.when.once or ():
            if other not in names or other == row.name:
                raise ConfigError(
                    f"objective '{row.name}': when: once names another objective, not "
                    f"'{other}'"
                )
            (named,) = (one for one in parsed if one.name == other)
            if not labeller_class(named.labeller).discrete:
                raise ConfigError(
                    f"objective '{row.name}': when: once is a perplexity, and "
                    f"'{other}' has no codes"
                )
    _check_conditions({row.name: row.when.once or {} for row in parsed})
    return parsed


def _check_conditions(wanted: dict[str, dict[str, float]]) -> None:
    """Refuse conditions that wait for each other."""
    for name in wanted:
        chain = [name]
        while found := next(iter(wanted[chain[-1]]), None):
            if found in chain:
                raise ConfigError(
                    f"objective '{name}': when: once waits in a circle: "
                    + " for ".join([*chain, found])
                )
            chain.append(found)


def _parse_row(row: dict[str, Any], num_blocks: int) -> Row:
    if not isinstance(row, dict) or "name" not in row:
        raise ConfigError(f"objectives: each needs a 'name', got {row!r}")
    name = row["name"]
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(
            f"objectives: a name has letters, digits and _ only, got {name!r}"
        )
    if name == "scale":
        raise ConfigError(
            "objectives: the name 'scale' is taken, ESPnet logs a loss_scale"
        )
    _check(name, "key", row, KEYS)
    if name not in PRESETS and not {"view", "labeller"} <= set(row):
        raise ConfigError(
            f"unknown objective '{name}': use one of {sorted(PRESETS)}, or give the "
            "new one its 'view' and 'labeller'"
        )
    row = {"weight": 1.0, "head": name, **PRESETS.get(name, {}), **row}
    for key in ("labeller_conf", "when"):
        if not isinstance(row.get(key) or {}, dict):
            raise ConfigError(f"objective '{name}': {key} is a dictionary")
    try:
        labeller_class(row["labeller"])
        view = parse_view(row["view"], num_blocks)
        weight = weight_schedule("weight", row["weight"])
        when = parse_when(row.get("when") or {})
    except ConfigError as error:
        raise ConfigError(f"objective '{name}': {error}") from None
    if (view.kind == LABELS) != (row["labeller"] == "given"):
        raise ConfigError(
            f"objective '{name}': view 'labels' and labeller 'given' go together"
        )
    return Row(
        name=name,
        view=view,
        labeller=row["labeller"],
        labeller_conf=dict(row.get("labeller_conf") or {}),
        head=str(row["head"]),
        student=_student(name, row.get("student", LAST), view),
        weight=weight,
        gradient=_factor(name, row, view, "gradient", 1.0),
        diversity=_factor(name, row, view, "diversity", 0.0),
        when=when,
    )


def _student(name: str, value: str, view: View) -> str:
    if value not in (LAST, EACH) or value == EACH and not (view.each or view.layer):
        raise ConfigError(
            f"objective '{name}': student is {LAST}, or {EACH} with a view of layers, got "
            f"{value!r} with view '{view}'"
        )
    return value


def _factor(
    name: str, row: dict[str, Any], view: View, key: str, default: float
) -> float:
    """Read `gradient` or `diversity`; 0 if no gradient can flow through the labels."""
    flows = labeller_class(row["labeller"]).differentiable and view.kind == LAYER
    factor = row.get(key)
    if factor is None:
        return default if flows else 0.0
    if type(factor) not in (int, float) or not 0 <= factor < float("inf"):
        raise ConfigError(
            f"objective '{name}': {key} is a factor of 0 or more, got {factor!r}"
        )
    if factor and not flows:
        raise ConfigError(
            f"objective '{name}': no gradient flows through labels of view '{view}' "
            f"by labeller '{row['labeller']}'; leave '{key}' out"
        )
    return float(factor)


def _check(name: str, what: str, given: Iterable[str], known: Iterable[str]):
    for one in given:
        if one not in known:
            raise ConfigError(
                f"objective '{name}': unknown {what} {one!r}, use one of {list(known)}"
            )


def build_objective(row: Row, input_size: int) -> Objective:
    """Build an objective and its labeller.

    Args:
        row: Row of the configuration.
        input_size: D, size of the view's vectors.

    Raises:
        ConfigError: Invalid options of the labeller.
    """
    try:
        labeller = labeller_class(row.labeller)(
            input_size=input_size,
            running=row.view.layer is not None,
            **row.labeller_conf,
        )
    except TypeError as error:  # an unknown or missing option
        text = str(error).split(".__init__() ")[-1]
        raise ConfigError(
            f"objective '{row.name}': labeller_conf of {row.labeller}: {text}"
        ) from error
    except ConfigError as error:
        raise ConfigError(f"objective '{row.name}': {error}") from None
    objective, number = Objective(row, labeller), labeller.num_codebooks
    if objective.student and len(objective.student) != number:
        raise ConfigError(
            f"objective '{row.name}': student: each needs a codebook for each layer of "
            f"view '{row.view}'; num_codebooks is {number}, not {len(objective.student)}"
        )
    return objective


def makers(objectives: Iterable[Objective]) -> list[Objective]:
    """Return the objectives that compute codes themselves."""
    return [
        one for one in objectives if one.view.kind != LABELS and one.labeller.discrete
    ]


def maker_of(objectives: Iterable[Objective], name: str) -> Objective:
    """Find an objective that computes its own labels by its name.

    Raises:
        ConfigError: No such objective.
    """
    named = {one.name: one for one in makers(objectives)}
    if name not in named:
        raise ConfigError(
            f"no objective '{name}' that makes labels; there are {list(named)}"
        )
    return named[name]


def start_labellers(
    waiting: list[Objective], batches: Iterable[tuple[Views, MaskedRows]]
) -> int:
    """Initialise labellers on speech before the first update.

    Args:
        waiting: Objectives whose labellers are not ready.
        batches: Views of batches and their frames, the same number on all ranks.

    Returns:
        Frames seen over all ranks, at least START_FRAMES if there are that many.

    Raises:
        DataError: Too little speech.
    """
    seen = 0.0
    for views, rows in batches:
        for one in waiting:
            one.observe(*views.at(one.view, rows))
        seen += float(sum_over_ranks(rows.valid.double().sum()))
        if seen >= START_FRAMES:
            break
    for one in waiting:
        try:
            one.labeller.start()
        except DataError as error:
            raise DataError(f"objective '{one.name}': {error}") from error
    return int(seen)
