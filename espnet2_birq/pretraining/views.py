"""Views of a batch, the sources of labels, each computed at most once per step.

    input            normalised input frames, stacked to the encoder rate
    layer k          output of encoder layer k on the clean input
    teacher layer k  the same of the teacher, a moving average of the encoder
    layers top n     mean of the last n layers, each normalised over time; also of the
                     teacher (data2vec, arXiv 2202.03555). With `each`: side by side
                     instead (DinoSR, arXiv 2305.10005)
    tokenizer        output of a network that learns from the encoder (BRIDLE)
    labels NAME      integers read from disk with the speech, the data called NAME

Each covers all frames of the clean input at the encoder rate; labels are predicted at
masked frames. The configuration names a view (plain `layer`, or `layer 70%`, is relative
to the depth).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.target_branch import TargetBranch

# The paper's choice of label layer: 7 of 10.
DEFAULT_DEPTH = 0.7
KNOWN = (
    "'input', 'layer', 'layer K', 'layer P%', 'layers top N', 'layers top N each', the "
    "same after 'teacher', 'tokenizer', 'labels' or 'labels NAME'"
)
LAYER, TEACHER, LABELS = "layer", "teacher layer", "labels"
TOKENIZER = "tokenizer"
# labels [NAME] [every N]
LABELS_VIEW = r"labels(?: +(?!every\b)([A-Za-z_]\w*))?(?: +every +(\d{1,9}))?"
RESERVED = ("speech", "utt_id")  # names of other data in a batch


class View(NamedTuple):
    """A source of labels, parsed."""

    kind: str  # "input", LAYER, TEACHER, TOKENIZER or LABELS
    layer: int | None = None  # of LAYER and TEACHER, counted from 1
    top: int = 0  # n: of n layers, the last of which is `layer`; 0: that layer alone
    each: bool = False  # the n layers side by side; else their mean
    name: str = ""  # of LABELS: name of the data
    every: int = 1  # of LABELS: labels on disk per encoder frame

    def __str__(self):
        if self.kind == LABELS:
            name = f" {self.name}" if self.name != LABELS else ""
            return LABELS + name + (f" every {self.every}" if self.every > 1 else "")
        if self.top:
            return f"{self.kind}s top {self.top}" + self.each * " each"
        return self.kind if self.layer is None else f"{self.kind} {self.layer}"

    @property
    def layers(self) -> list[int]:
        """The layers that the view is made of, lowest first."""
        if self.layer is None:
            return []
        return list(range(self.layer + 1 - max(1, self.top), self.layer + 1))


def parse_view(text: str, num_blocks: int) -> View:
    """Read a view from the configuration.

    Args:
        text: E.g. ``layer 7``.
        num_blocks: K, depth of the encoder.

    Raises:
        ConfigError: Unknown view or layer.
    """
    if text in ("input", TOKENIZER):
        return View(text)
    if match := re.fullmatch(LABELS_VIEW, str(text)):
        name, every = match[1] or LABELS, int(match[2] or 1)
        if name in RESERVED or name.endswith("_lengths") or every < 1:
            raise ConfigError(
                f"view {text!r}: give the labels another name than "
                f"{', '.join(RESERVED)} and ..._lengths, and take every 1st or more"
            )
        return View(LABELS, name=name, every=every)
    match = re.fullmatch(r"((?:teacher +)?)layers +top +(\d{1,9})( +each)?", str(text))
    if match is not None:
        if not 1 <= int(match[2]) <= num_blocks:
            raise ConfigError(
                f"view '{text}': the encoder has {num_blocks} layers; change it, or "
                "encoder_conf's num_blocks"
            )
        kind = TEACHER if match[1] else LAYER
        return View(kind, num_blocks, int(match[2]), match[3] is not None)
    match = re.fullmatch(r"((?:teacher +)?)layer(?: +(\d{1,9})(%?))?", str(text))
    if match is None:
        raise ConfigError(f"unknown view {text!r}, use {KNOWN}")
    kind = TEACHER if match[1] else LAYER
    if match[2] is None:
        return View(kind, layer_at(DEFAULT_DEPTH, num_blocks))
    if match[3] and int(match[2]) <= 100:
        return View(kind, layer_at(int(match[2]) / 100, num_blocks))
    layer = int(match[2])
    if match[3] or not 1 <= layer <= num_blocks:
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
    utterances: Sequence[str] = ()  # B names, for messages
    # Labels from disk by name, (B, L) padded with -1; NAME_lengths: (B,)
    given: Mapping[str, torch.Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class MaskedRows:
    """Positions of a batch's masked frames in M rows, some of them filler."""

    index: torch.Tensor  # (M,) positions in a flattened (B, T')
    valid: torch.Tensor  # (M,) 1 for masked frames, 0 for filler rows


def all_rows(batch: Batch) -> MaskedRows:
    """Return the positions of all frames of a batch; those of padding are filler."""
    frame = torch.arange(batch.padded, device=batch.frames.device)
    valid = (frame < batch.frames[:, None]).flatten()
    return MaskedRows(torch.arange(len(valid), device=valid.device), valid.float())


class Views:
    """The views of one batch, computed lazily.

    Args:
        batch: The clean side.
        branches: Target branches of encoder (LAYER) and teacher (TEACHER).
        subsampling: r, input frames per encoder frame.
        wanted: Views that will be used, and whether each needs a gradient, so that one
            forward pass of a branch yields all of its layers.
        update: Optimizer updates so far.
        tokenize: Function from (B, T', D) input and (B,) frames to the view
            'tokenizer'; None if there is no tokenizer.
    """

    def __init__(
        self,
        batch: Batch,
        branches: dict[str, TargetBranch],
        subsampling: int,
        wanted: list[tuple[View, bool]],
        update: int,
        tokenize: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ):
        self.tokenize = tokenize
        self.batch, self.branches, self.subsampling = batch, branches, subsampling
        self.wanted, self.update = wanted, update
        self._whole: dict[View, torch.Tensor] = {}
        # (B,) 1 for utterances processed by a branch; None: all
        self._labelled: dict[str, torch.Tensor | None] = {}

    def at(self, view: View, rows: MaskedRows) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather a view at masked frames.

        Returns:
            (M, D) vectors, or (M,) labels from disk; and (M,) 1 for rows that have
            one, else 0.
        """
        vectors = self.whole(view).flatten(0, 1)[rows.index]
        labelled = self._labelled.get(view.kind)
        if labelled is None:
            return vectors, rows.valid
        return vectors, rows.valid * labelled[rows.index // self.batch.padded]

    def whole(self, view: View) -> torch.Tensor:
        """Return a view of all frames: (B, T', D), or (B, T') labels from disk."""
        if view not in self._whole:
            self._compute(view)
        return self._whole[view]

    def _compute(self, view: View):
        batch, kind = self.batch, view.kind
        if kind == "input":
            stacked = stack_frames(batch.xs, self.subsampling, batch.padded)
            self._whole[view] = stacked
        elif kind == LABELS:
            self._whole[view] = fit_labels(batch, view)
        elif kind == TOKENIZER:
            assert self.tokenize is not None
            self._whole[view] = self.tokenize(self.whole(View("input")), batch.frames)
        else:
            outputs, self._labelled[kind] = self.branches[kind].hidden_states(
                batch.xs, batch.lengths, wanted_layers(self.wanted, kind), self.update
            )
            for view in {one for one, _ in self.wanted if one.kind == kind}:
                made = [outputs[layer] for layer in view.layers]
                self._whole[view] = made[0]
                if view.top:
                    made = [normalize_over_time(x, batch.frames) for x in made]
                    self._whole[view] = (
                        torch.cat(made, dim=2)
                        if view.each
                        else torch.stack(made).mean(dim=0)
                    )


def normalize_over_time(xs: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Normalise each value to mean 0 and variance 1 over an utterance's frames.

    Args:
        xs: (B, T', E), any floating type.
        frames: (B,) frames of each utterance; padding is not counted.

    Returns:
        (B, T', E) in single precision or better, 0 on padding.
    """
    xs = xs.to(torch.promote_types(xs.dtype, torch.float32))
    valid = torch.arange(xs.size(1), device=xs.device) < frames[:, None]
    valid, count = valid[:, :, None], frames.clamp(min=1)[:, None, None]
    xs = xs - torch.where(valid, xs, 0.0).sum(dim=1, keepdim=True) / count
    xs = torch.where(valid, xs, 0.0)
    variance = xs.square().sum(dim=1, keepdim=True) / count
    return xs * (variance + 1e-5).rsqrt()


def stack_frames(xs: torch.Tensor, factor: int, frames: int) -> torch.Tensor:
    """Stack the input frames of each encoder frame.

    Args:
        xs: (B, T, D) input frames.
        factor: r, input frames per encoder frame.
        frames: T', encoder frames.

    Returns:
        (B, T', r D): frame t holds xs[:, t r : (t + 1) r], exactly the frames
        replaced when frame t is masked.
    """
    return xs[:, : frames * factor].reshape(xs.size(0), frames, factor * xs.size(2))


# Allowed difference in frames between labels and the encoder's output.
SLACK = 2


def fit_labels(batch: Batch, view: View) -> torch.Tensor:
    """Take one label per encoder frame, padded or trimmed to the encoder's output.

    Args:
        batch: B utterances.
        view: View of kind LABELS; of `every` labels per frame, the middle one is taken.

    Returns:
        (B, T') labels, trimmed or padded with -1 by up to SLACK frames.

    Raises:
        DataError: No labels, or labels of another rate.
    """
    labels = batch.given.get(view.name)
    if labels is None:
        raise DataError(
            f"an objective has view '{view}': give these labels to training and "
            "validation, e.g. --train_data_path_and_name_and_type "
            f"labels.scp,{view.name},kaldi_ark"
        )
    chosen = labels[:, view.every // 2 :: view.every]
    if abs(chosen.size(1) - batch.padded) > SLACK:
        # Utterances without any label, such as audio that could not be read (see
        # SpeechCollateFn), may be longer than the others.
        labelled = batch.frames.to(labels.device)[(labels >= 0).any(dim=1)]
        longest = int(labelled.max()) if len(labelled) else chosen.size(1)
        if abs(chosen.size(1) - longest) > SLACK:
            raise DataError(
                f"{labels.size(1)} labels '{view.name}' for {longest} encoder frames "
                "in the longest labelled utterance of a batch"
                + other_rate(labels.size(1), longest, view)
            )
    missing = max(0, batch.padded - chosen.size(1))
    chosen = torch.nn.functional.pad(chosen, (0, missing), value=-1)
    return chosen[:, : batch.padded].long()


def other_rate(labels: int, frames: int, view: View) -> str:
    """Explain a number of labels that does not fit, with a remedy if there is one."""
    every = round(labels / max(1, frames))
    if every > 1 and abs(labels - every * frames) <= SLACK * every + every:
        return (
            f": these are {every} for each; view '{view._replace(every=every)}' takes "
            "the middle one"
        )
    return ": these are of another rate, or of other audio"


def wanted_layers(wanted: list[tuple[View, bool]], kind: str) -> dict[int, bool]:
    """Return the layers needed by views of a kind, and whether each needs a gradient."""
    layers: dict[int, bool] = {}
    for view, gradient in wanted:
        for layer in view.layers if view.kind == kind else ():
            layers[layer] = layers.get(layer, False) or gradient
    return dict(sorted(layers.items()))
