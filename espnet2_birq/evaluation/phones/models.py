"""Uniform access to models, so that the other modules here do not need their classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet2_birq import api
from espnet2_birq.checkpoint import check_model_file
from espnet2_birq.config import find_config, read_config, sampling_rate
from espnet2_birq.encoders.frontend import linear_padding, mirrored_feats
from espnet2_birq.encoders.taps import (
    batch_limit,
    encode_up_to,
    encoder_lengths,
    subsampling_factor,
)
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.objective import Objective, makers
from espnet2_birq.pretraining.views import LAYER, stack_frames
from espnet2_birq.tasks.asr import ASRTask


class Look(NamedTuple):
    """Outputs of a model for one utterance.

    Attributes:
        layers: Mapping from layer to its output, (T', D) float32. Layer 0 is the
            normalised input frames of each encoder frame, stacked, as used for anchor
            labels.
        labels: Mapping from objective to its codes, (N, T') for N codebooks.
    """

    layers: dict[int, np.ndarray]
    labels: dict[str, np.ndarray]


class SpeechModel:
    """Model in evaluation mode, without masking, dropout and augmentation.

    Attributes:
        depth: Number of encoder layers K.
        sample_rate: Required sample rate of audio in Hz.
        shift: Encoder frame shift in seconds.
        parameters: Number of encoder parameters.
    """

    def __init__(
        self,
        model: AbsESPnetModel,
        sample_rate: int,
        objectives: Sequence[Objective] = (),
        device: str = "cpu",
    ):
        """Wrap a model.

        Args:
            model: ESPnet model with frontend, normalize and encoder.
            sample_rate: Required sample rate of audio in Hz.
            objectives: Objectives of the model whose labels to compute.
            device: "cpu" or "cuda".
        """
        self._model = model.eval().to(device)
        self._objectives = objectives
        self._encoder = model.encoder
        self._device = device
        self._factor = subsampling_factor(model.encoder)
        self.depth = len(model.encoder.encoders)
        self.sample_rate = sample_rate
        self.shift = model.frontend.hop_length * self._factor / sample_rate
        self.parameters = sum(x.numel() for x in model.encoder.parameters())

    @torch.no_grad()
    def look(self, waves: Sequence[np.ndarray], layers: Sequence[int]) -> list[Look]:
        """Run the encoder on unmasked speech.

        Outputs of an utterance do not depend on the others.

        Args:
            waves: Samples of each utterance, (N,) float32.
            layers: Layers to return, 0 to `depth`.

        Raises:
            TooShortUttError: The longest waveform is too short for the encoder's input layer.
        """
        if len(waves) > batch_limit(self._model, len(waves)):
            return [found for wave in waves for found in self.look([wave], layers)]
        speech = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(wave) for wave in waves], batch_first=True
        ).to(self._device)
        samples = torch.tensor([len(wave) for wave in waves], device=self._device)
        xs, lengths = self._input(speech, samples)
        frames = encoder_lengths(self._encoder, lengths)
        padded = int(encoder_lengths(self._encoder, torch.tensor(xs.size(1))))
        own = [
            one
            for one in self._objectives
            if one.view.kind in ("input", LAYER) and not one.view.top
        ]
        needed = {one.view.layer or 0 for one in own} | set(layers)
        blocks = sorted(needed - {0})
        views = {0: stack_frames(xs, self._factor, padded)}
        if blocks:
            views.update(zip(blocks, encode_up_to(self._encoder, xs, lengths, blocks)))
        codes = {
            one.name: _codes(one.labeller, views[one.view.layer or 0]) for one in own
        }
        for one in self._objectives:  # of a teacher or of several layers
            if one.name not in codes:
                codes[one.name] = self._model.label(speech, samples, one.name)[0]
        return [
            Look(
                {layer: views[layer][row, :length].cpu().numpy() for layer in layers},
                {name: x[:, row, :length].cpu().numpy() for name, x in codes.items()},
            )
            for row, length in enumerate(frames.tolist())
        ]

    def _input(self, speech, samples):
        """Compute normalised features (B, T, D) and lengths (B,)."""
        with linear_padding():
            xs, lengths = mirrored_feats(self._model.frontend, speech, samples)
            if self._model.normalize is not None:
                xs, lengths = self._model.normalize(xs, lengths)
        return xs, lengths


def _codes(labeller, vectors: torch.Tensor) -> torch.Tensor:
    """Compute a labeller's hard codes (N, B, T') of vectors (B, T', D)."""
    return labeller.codes(vectors.flatten(0, 1)).unflatten(1, vectors.shape[:2])


def load_model(path: Path, device: str = "cpu") -> SpeechModel:
    """Load a pretrained model, or an ASR model fine-tuned from it.

    Args:
        path: Parameter file next to its config.yaml; or a configuration (.yaml), for an
            untrained model with its seed and without labels.
        device: "cpu" or "cuda".

    Raises:
        DataError: Parameters and configuration do not match.
        ConfigError: A file is missing, or the model's input is not a waveform.
    """
    config = find_config(path)
    conf = vars(read_config(config))
    if "encoder" not in conf:
        raise DataError(f"{config}: not a configuration of a model with an encoder")
    objectives: list[Objective] = []
    if "token_list" in conf:
        model = _load_asr(path, config, device)
    elif config == path:
        model = api.untrained(path)
    else:
        model = api.load(path, device).model
        objectives = makers(model.objectives)
    frontend = getattr(model, "frontend", None)
    if not hasattr(frontend, "hop_length") or not hasattr(model.encoder, "encoders"):
        raise ConfigError(
            f"{config}: the frontend must be 'default', and the encoder have blocks, "
            "as ESPnet's conformer has"
        )
    if getattr(model, "preencoder", None) is not None:
        raise ConfigError(f"{config}: a model with a preencoder cannot be measured")
    rate = sampling_rate(conf.get("frontend_conf"))
    return SpeechModel(model, rate, objectives, device)


def _load_asr(path: Path, config: Path, device: str) -> AbsESPnetModel:
    if path == config:
        with torch.random.fork_rng(devices=[]):
            args = read_config(config)
            torch.manual_seed(getattr(args, "seed", 0))  # ESPnet's default
            return ASRTask.build_model(args)
    check_model_file(path)
    try:
        return ASRTask.build_model_from_file(config, path, device)[0]
    except RuntimeError as error:  # from load_state_dict()
        raise DataError(f"{path}: {' '.join(str(error).split())[:300]}") from error
