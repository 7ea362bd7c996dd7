"""Use of a pretrained model: features of any layer, and labels of speech.

The model runs in evaluation mode, without masks or noise, and normalises its input. An
utterance's results depend neither on the rest of its batch nor on padding.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from espnet2_birq.datadir.audio import (
    LARGEST_SAMPLE,
    NOT_FINITE,
    decoding,
    probe,
    read_samples,
)
from espnet2_birq.encoders.frontend import FeatureInput, feature_frames
from espnet2_birq.encoders.long_audio import LongAudio, Read, input_frames, windows_of
from espnet2_birq.encoders.taps import (
    batch_limit,
    encode,
    encoder_lengths,
    evaluating,
)
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import makers
from espnet2_birq.pretraining.views import LAYER, Batch, View

WINDOW = 60.0  # seconds of audio in one pass
CONTEXT = 5.0  # seconds around a window's core, if attention is full; docs/features.md

Waveforms = torch.Tensor | np.ndarray | Sequence[torch.Tensor | np.ndarray]


class Wanted(NamedTuple):
    """Results to compute."""

    layers: tuple[int, ...] = ()  # 0: the input; 1 to K: the encoder's blocks
    output: bool = False  # the encoder's output, after its final normalisation
    labels: tuple[str, ...] = ()  # names of objectives


OUTPUT = Wanted(output=True)


class PretrainedModel:
    """A pretrained model for extracting features and labels.

    Args:
        model: Pretrained model.
        window: Longest audio in one pass, in seconds. Longer audio is processed in
            overlapping windows of this length, normalised by statistics of the whole
            recording, so memory does not grow with its length. None: always one pass.

    Attributes:
        model: The pretrained model, an ESPnet model.
        sample_rate: Sample rate of the waveforms in Hz.
        frame_shift: Frame shift of features and labels in seconds.
        depth: K, number of encoder layers.
        objectives: Names of the objectives that make labels.
    """

    def __init__(self, model: BiRQModel, window: float | None = WINDOW):
        if window is not None and not window >= 4 * CONTEXT:
            raise ConfigError(
                f"window: give at least {4 * CONTEXT:g} seconds, or None, got {window}"
            )
        if isinstance(model.frontend, FeatureInput):
            raise ConfigError(
                "a model of vectors (input_size), not of speech: use "
                "tasks.loading.load_model() and its method vectors()"
            )
        self.model = model.eval()
        self.window = window
        self.sample_rate = model.sample_rate
        self.frame_shift = (
            model.frontend.hop_length * model.subsampling / model.sample_rate
        )
        self.depth = len(model.encoder.encoders)
        self.objectives = [one.name for one in makers(model.objectives)]

    @property
    def device(self) -> torch.device:
        """Device of the model; results are on it."""
        return self.model.updates.device

    def to(self, device: str | torch.device) -> "PretrainedModel":
        """Move the model to a device and return it."""
        self.model.to(device)
        return self

    def __call__(
        self, waveforms: Waveforms, lengths: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the encoder's output, from which fine-tuning starts.

        Args:
            waveforms: (B, N) floating-point samples, padded at the end, or a list of
                (N,) samples.
            lengths: (B,) lengths in samples; None: whole waveforms.

        Returns:
            (B, T, E) features, zero on padding, and (B,) lengths in frames.

        Raises:
            DataError: Samples are too few, not finite, or integers.
        """
        (output,), frames = self._run(waveforms, lengths, OUTPUT)
        return output, frames

    def extract_features(
        self,
        waveforms: Waveforms,
        lengths: torch.Tensor | None = None,
        layers: Sequence[int] | None = None,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Compute the outputs of the encoder's layers.

        Args:
            waveforms: (B, N) floating-point samples, padded at the end, or a list of
                (N,) samples.
            lengths: (B,) lengths in samples; None: whole waveforms.
            layers: Layers, counted from 1 or, if negative, from the last; None: 1 to K.
                Layer 0 is the input: each encoder frame's normalised input frames,
                concatenated.

        Returns:
            (B, T, D) features of each layer, zero on padding, and (B,) lengths in
            frames. As in ESPnet, the last layer is taken before the normalisation
            that follows it in the encoder's output.

        Raises:
            DataError: Samples are too few, not finite, or integers.
            ConfigError: No such layer, or an empty list.
        """
        return self._run(waveforms, lengths, Wanted(self.layer_numbers(layers)))

    def labels(
        self, waveforms: Waveforms, lengths: torch.Tensor | None = None
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Compute the objectives' codes of unmasked speech, without noise.

        Args:
            waveforms: (B, N) floating-point samples, padded at the end, or a list of
                (N,) samples.
            lengths: (B,) lengths in samples; None: whole waveforms.

        Returns:
            Mapping from objective to (B, C, T) int64 codes in its C codebooks, -1 on
            padding; and (B,) lengths in frames.

        Raises:
            DataError: Samples are too few, not finite, or integers.
            ConfigError: The model makes no labels: it was trained on labels from disk.
        """
        if not self.objectives:
            raise ConfigError(
                "this model was trained on labels from disk and makes none itself"
            )
        wanted = Wanted(labels=tuple(self.objectives))
        codes, frames = self._run(waveforms, lengths, wanted, padding=-1)
        named = zip(self.objectives, codes)
        return {name: found.transpose(1, 2) for name, found in named}, frames

    def layer_numbers(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        """Convert layers that may be counted from the last to layers counted from 1.

        Raises:
            ConfigError: No such layer.
        """
        if layers is None:
            return tuple(range(1, self.depth + 1))
        if len(layers) == 0:
            raise ConfigError("layers: give at least one, or None for all")
        for layer in layers:
            if layer not in range(-self.depth, self.depth + 1):
                raise ConfigError(f"no layer {layer}: there are 0 to {self.depth}")
        return tuple(int(x if x >= 0 else self.depth + 1 + x) for x in layers)

    @torch.no_grad()
    def stream(
        self, audio: str | Path | torch.Tensor | np.ndarray, wanted: Wanted = OUTPUT
    ) -> Iterator[list[torch.Tensor]]:
        """Process a recording of any length, piece by piece, in little memory.

        Args:
            audio: Audio file at the model's sample rate, or (N,) samples.
            wanted: Layers, output and labels to compute.

        Yields:
            For each successive piece, (t, D) features of the layers, (t, E) output and
            (t, C) codes of the objectives, in this order.

        Raises:
            DataError: The audio cannot be used.
            ConfigError: As by compute().
        """
        wanted = self._checked(wanted)
        if isinstance(audio, (torch.Tensor, np.ndarray)):
            (row,) = _rows([audio], None)
            self._check_length(len(row), "the waveform")
            yield from self._pieces(lambda a, b: row[a:b], len(row), wanted)
            return
        samples = probe(audio, self.sample_rate).frames
        self._check_length(samples, str(audio))
        with soundfile.SoundFile(audio) as file:

            def read(start: int, stop: int) -> torch.Tensor:
                with decoding(str(audio)):
                    file.seek(start)
                found = torch.from_numpy(read_samples(file, stop - start, str(audio)))
                _check_samples(found, str(audio))
                return found

            yield from self._pieces(read, samples, wanted)

    def _run(
        self,
        waveforms: Waveforms,
        lengths: torch.Tensor | None,
        wanted: Wanted,
        padding: float = 0,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Compute the wanted results, padded to (B, T, ...), and their lengths (B,)."""
        found = self.compute(_rows(waveforms, lengths), wanted)
        frames = torch.tensor([len(one[0]) for one in found], device=self.device)
        return [
            torch.nn.utils.rnn.pad_sequence(list(column), True, padding)
            for column in zip(*found)
        ], frames

    @torch.no_grad()
    def compute(
        self, rows: Sequence[torch.Tensor], wanted: Wanted
    ) -> list[list[torch.Tensor]]:
        """Compute the wanted results for (N,) waveforms of any lengths.

        Args:
            rows: Finite floating-point samples of each waveform.
            wanted: Layers, output and labels to compute.

        Returns:
            For each waveform, (t, D) features of the layers, (t, E) output and (t, C)
            codes of the objectives, in this order.

        Raises:
            DataError: A waveform is too short for a frame.
            ConfigError: No such layer, or no such objective that makes labels.
        """
        wanted = self._checked(wanted)
        for number, row in enumerate(rows):
            self._check_length(len(row), f"waveform {number}")
        long = [self.is_long(len(row)) for row in rows]
        short = [row for row, is_long in zip(rows, long) if not is_long]
        batches = itertools.batched(short, batch_limit(self.model, max(len(short), 1)))
        together = iter([x for batch in batches for x in self._batch(batch, wanted)])
        return [
            self._windows(row, wanted) if is_long else next(together)
            for row, is_long in zip(rows, long)
        ]

    def _checked(self, wanted: Wanted) -> Wanted:
        """Return what is wanted with layers counted from the first.

        Raises:
            ConfigError: No such layer, or no such objective that makes labels.
        """
        for name in wanted.labels:
            if name not in self.objectives:
                raise ConfigError(
                    f"no objective '{name}' that makes labels; there are "
                    f"{', '.join(self.objectives) or 'none'}"
                )
        layers = self.layer_numbers(wanted.layers) if len(wanted.layers) else ()
        return wanted._replace(layers=layers)

    def _check_length(self, samples: int, name: str):
        if self.frames(samples) <= 0:
            raise DataError(
                f"{name}: {samples} samples are too few for one encoder frame"
            )

    def is_long(self, samples: int) -> bool:
        """Whether audio of this many samples is processed in windows."""
        return self.window is not None and samples > self.window * self.sample_rate

    def _batch(
        self, rows: Sequence[torch.Tensor], wanted: Wanted
    ) -> list[list[torch.Tensor]]:
        """Compute the wanted results for all waveforms in one pass."""
        speech = torch.nn.utils.rnn.pad_sequence(list(rows), True).to(self.device)
        samples = torch.tensor([len(row) for row in rows], device=self.device)
        with evaluating(self.model):
            xs, lengths = self.model._extract_feats(speech, samples)
            columns, frames = self._compute(xs, lengths, wanted)
        return [
            [column[row, :length] for column in columns]
            for row, length in enumerate(frames.tolist())
        ]

    def _windows(self, row: torch.Tensor, wanted: Wanted) -> list[torch.Tensor]:
        """Compute the wanted results for a long waveform."""
        pieces = self._pieces(lambda start, stop: row[start:stop], len(row), wanted)
        return [torch.cat(column) for column in zip(*pieces)]

    def _pieces(
        self, read: Read, samples: int, wanted: Wanted
    ) -> Iterator[list[torch.Tensor]]:
        """Yield the wanted results for a recording, window by window."""
        if not self.is_long(samples):
            yield self._batch([read(0, samples)], wanted)[0]
            return
        model = self.model
        audio = LongAudio(read, samples, model.frontend, model.normalize, self.device)
        longest, context = (
            int(seconds / self.frame_shift) for seconds in (self.window, CONTEXT)
        )
        frames = self.frames(samples)
        for window in windows_of(model.encoder, frames, longest, context):
            with evaluating(model):
                xs = audio.features(*input_frames(model.encoder, window))
                lengths = torch.tensor([xs.size(1)], device=self.device)
                columns, _ = self._compute(xs, lengths, wanted)
            kept = slice(window.begin - window.first, window.end - window.first)
            yield [column[0, kept] for column in columns]

    def frames(self, samples: int) -> int:
        """Return the number of encoder frames of this many samples."""
        inputs = torch.tensor(feature_frames(self.model.frontend, samples))
        return int(encoder_lengths(self.model.encoder, inputs))

    def _compute(
        self, xs: torch.Tensor, lengths: torch.Tensor, wanted: Wanted
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Compute the wanted results (B, T', ...) for normalised features (B, T, D)."""
        model = self.model
        frames = encoder_lengths(model.encoder, lengths)
        padded = int(encoder_lengths(model.encoder, torch.tensor(xs.size(1))))
        named = {one.name: one for one in model.objectives}
        objectives = [named[name] for name in wanted.labels]
        layers = [View(LAYER, x) if x else View("input") for x in wanted.layers]
        wanted_views = [*layers, *(x.view for x in objectives)]
        views = model.views_of(
            Batch(xs, lengths, frames, padded),
            [(view, False) for view in wanted_views],
            model.update_number(),
        )
        found = [views.whole(view) for view in layers]
        if wanted.output:
            found.append(encode(model.encoder, xs, lengths))
        for one in objectives:
            vectors = views.whole(one.view)
            codes = one.labeller.codes(vectors.flatten(0, 1))  # (C, B T')
            found.append(codes.T.unflatten(0, vectors.shape[:2]))
        return found, frames


def _rows(waveforms: Waveforms, lengths: torch.Tensor | None) -> list[torch.Tensor]:
    """Check waveforms and return the (N,) float32 samples of each."""
    # An array may be a view that torch refuses, such as one in reverse.
    arrays = (
        np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x for x in waveforms
    )
    rows = [torch.as_tensor(row) for row in arrays]
    if not rows or any(row.dim() != 1 for row in rows):
        raise DataError(
            "waveforms: give (B, N) samples, or a list of (N,) samples; of one "
            "waveform, waveform[None]"
        )
    if lengths is not None:
        if len(lengths) != len(rows):
            raise DataError(f"{len(lengths)} lengths of {len(rows)} waveforms")
        limits = [int(length) for length in lengths]
        for number, (row, limit) in enumerate(zip(rows, limits)):
            if not 0 < limit <= len(row):
                raise DataError(
                    f"waveform {number}: length {limit} of {len(row)} samples; give "
                    "lengths in samples"
                )
        rows = [row[:limit] for row, limit in zip(rows, limits)]
    for number, row in enumerate(rows):
        _check_samples(row, f"waveform {number}")
    return [row.float() for row in rows]


def _check_samples(samples: torch.Tensor, name: str) -> None:
    if not samples.is_floating_point():
        raise DataError(
            f"{name}: samples are {samples.dtype}; give floating point between -1 and "
            "1, of 16-bit integers samples / 32768"
        )
    if not bool((samples.abs() < LARGEST_SAMPLE).all()):
        raise DataError(f"{name}: {NOT_FINITE}")
