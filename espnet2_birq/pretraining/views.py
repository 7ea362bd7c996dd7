"""What labels are made of: views of a batch, each computed at most once in a step.

    input            normalised input frames, as many side by side as the encoder joins
    layer k          output of encoder layer k on the clean input
    teacher layer k  the same of a copy of the encoder that follows it slowly
    labels           integers read from disk with the speech

All are at the encoder's rate, of the clean input, for all frames; what is predicted is
their masked frames. A view is a word in the configuration (`layer` alone, or `layer 70%`,
is the layer at that share of the depth).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.target_branch import TargetBranch

# The paper's choice of label layer: 7 of 10.
DEFAULT_DEPTH = 0.7
KNOWN = "'input', 'layer', 'layer K', 'layer P%', the same after 'teacher', or 'labels'"
LAYER, TEACHER = "layer", "teacher layer"


class View(NamedTuple):
    """A source of labels, parsed."""

    kind: str  # "input", LAYER, TEACHER or "labels"
    layer: int | None = None  # of LAYER and TEACHER, counted from 1

    def __str__(self):
        return self.kind if self.layer is None else f"{self.kind} {self.layer}"


def parse_view(text: str, num_blocks: int) -> View:
    """Read a view from the configuration.

    Args:
        text: E.g. ``layer 7``.
        num_blocks: K, depth of the encoder.

    Raises:
        ConfigError: Unknown, or a layer that is not there.
    """
    if text in ("input", "labels"):
        return View(text)
    match = re.fullmatch(r"((?:teacher +)?)layer(?: +(\d+)(%?))?", str(text))
    if match is None:
        raise ConfigError(f"unknown view {text!r}, use {KNOWN}")
    kind = TEACHER if match[1] else LAYER
    if match[2] is None:
        return View(kind, layer_at(DEFAULT_DEPTH, num_blocks))
    if match[3]:
        return View(kind, layer_at(int(match[2]) / 100, num_blocks))
    layer = int(match[2])
    if not 1 <= layer <= num_blocks:
        raise ConfigError(
            f"view '{text}' is not among the encoder's layers 1 to {num_blocks}; "
            "change it, or encoder_conf's num_blocks"
        )
    return View(kind, layer)


def layer_at(share: float, num_blocks: int) -> int:
    """Return the layer at a share of the depth, counted from 1."""
    return min(num_blocks, max(1, round(share * num_blocks)))


class Batch(NamedTuple):
    """The clean side of a batch."""

    xs: torch.Tensor  # (B, T, D) normalised features
    lengths: torch.Tensor  # (B,)
    frames: torch.Tensor  # (B,) encoder frames
    padded: int  # T', encoder frames of the padded batch
    labels: torch.Tensor | None = None  # (B, L) from disk, padded with -1
    utterances: Sequence[str] = ()  # B names, for messages


@dataclass(frozen=True)
class MaskedRows:
    """Where the masked frames of a batch are; M rows, the last of them filling."""

    index: torch.Tensor  # (M,) positions in a flattened (B, T')
    valid: torch.Tensor  # (M,) 1 where a row is a masked frame, 0 where it is filling


class Views:
    """The views of one batch, computed when asked for.

    Args:
        batch: The clean side.
        branches: Run the encoder, or its teacher, where labels are made; by LAYER and
            TEACHER.
        subsampling: r, input frames per encoder frame.
        wanted: Views that will be asked for, with whether a gradient has to flow into
            each: one forward pass of a branch yields all of its layers.
        update: Optimizer updates made so far.
    """

    def __init__(
        self,
        batch: Batch,
        branches: dict[str, TargetBranch],
        subsampling: int,
        wanted: list[tuple[View, bool]],
        update: int,
    ):
        self.batch, self.branches, self.subsampling = batch, branches, subsampling
        self.wanted, self.update = wanted, update
        self._whole: dict[View, torch.Tensor] = {}
        # (B,) utterances that a branch has run on; None: all
        self._labelled: dict[str, torch.Tensor | None] = {}

    def at(self, view: View, rows: MaskedRows) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather a view at masked frames.

        Returns:
            (M, D) vectors, or (M,) labels from disk; and (M,) 1 where a row has one, 0
            where not.
        """
        vectors = self.whole(view).flatten(0, 1)[rows.index]
        labelled = self._labelled.get(view.kind)
        if labelled is None:
            return vectors, rows.valid
        return vectors, rows.valid * labelled[rows.index // self.batch.padded]

    def whole(self, view: View) -> torch.Tensor:
        """Return a view of all frames: (B, T', D), or (B, T') labels from disk."""
        if view not in self._whole:
            self._compute(view.kind)
        return self._whole[view]

    def _compute(self, kind: str):
        batch = self.batch
        if kind == "input":
            stacked = stack_frames(batch.xs, self.subsampling, batch.padded)
            self._whole[View("input")] = stacked
        elif kind == "labels":
            self._whole[View("labels")] = fit_labels(batch.labels, batch.padded)
        else:
            outputs, self._labelled[kind] = self.branches[kind].hidden_states(
                batch.xs, batch.lengths, wanted_layers(self.wanted, kind), self.update
            )
            for layer, output in outputs.items():
                self._whole[View(kind, layer)] = output


def stack_frames(xs: torch.Tensor, factor: int, frames: int) -> torch.Tensor:
    """Put the input frames of each encoder frame side by side.

    Args:
        xs: (B, T, D) input frames.
        factor: r, input frames per encoder frame.
        frames: T', encoder frames.

    Returns:
        (B, T', r D): frame t holds xs[:, t r : (t + 1) r], the very frames that are
        hidden from the encoder when frame t is masked.
    """
    return xs[:, : frames * factor].reshape(xs.size(0), frames, factor * xs.size(2))


# Labels may be longer or shorter than the encoder's output by as many frames.
SLACK = 2


def fit_labels(labels: torch.Tensor | None, frames: int) -> torch.Tensor:
    """Make labels from disk as long as the encoder's output.

    Args:
        labels: (B, L) integers, padded with -1.
        frames: T', encoder frames of the padded batch.

    Returns:
        (B, T'), cut or filled up with -1 by a frame or two.

    Raises:
        DataError: No labels, or of another rate.
    """
    if labels is None:
        raise DataError(
            "an objective has view 'labels': give them to training and validation, "
            "e.g. --train_data_path_and_name_and_type labels.scp,labels,kaldi_ark"
        )
    if abs(labels.size(1) - frames) > SLACK:
        raise DataError(
            f"{labels.size(1)} labels for {frames} encoder frames in the longest "
            "utterance of a batch: these labels are of another rate or of other audio"
        )
    missing = max(0, frames - labels.size(1))
    labels = torch.nn.functional.pad(labels, (0, missing), value=-1)
    return labels[:, :frames].long()


def wanted_layers(wanted: list[tuple[View, bool]], kind: str) -> dict[int, bool]:
    """Which layers views of a kind ask for, and whether a gradient flows into each."""
    layers: dict[int, bool] = {}
    for view, gradient in wanted:
        if view.kind == kind and view.layer is not None:
            layers[view.layer] = layers.get(view.layer, False) or gradient
    return dict(sorted(layers.items()))
