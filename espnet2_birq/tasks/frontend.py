"""A pretrained model of this package as the frontend of an ESPnet ASR model.

ESPnet's own frontend for SSL models, ``espnet_ssl``, only loads models of its own task.
"""

from collections.abc import Sequence

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from humanfriendly import parse_size

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretrained import PretrainedModel
from espnet2_birq.tasks.loading import load_model


class BiRQFrontend(AbsFrontend):
    """Features of a frozen pretrained model: a learned mean of layers, as in SUPERB.

    The model stays in evaluation mode, without gradients, and normalises its own input.
    Its parameters are saved with the ASR model, but the ASR configuration still refers
    to the model file: the config.yaml beside that file says how to build the model.

    Args:
        model: Model file, folder, packed zip or name on the hub, as for api.load.
        layers: Layers, counted from 1, or from the last if negative; None: all. The
            weights of several layers are learned, starting from equal weights.
        fs: Sample rate of the speech in Hz, e.g. 16000 or 16k.

    Raises:
        ConfigError: The model or a layer does not exist, or the sample rate differs.
    """

    def __init__(
        self,
        model: str,
        layers: Sequence[int] | None = None,
        fs: int | str = 16000,
    ):
        super().__init__()
        self.source = model
        self.upstream = load_model(model).requires_grad_(False)
        self.pretrained = PretrainedModel(self.upstream)  # not a Module: adds no names
        rate = parse_size(fs) if isinstance(fs, str) else fs
        if rate != self.upstream.sample_rate:
            raise ConfigError(
                f"frontend_conf: fs {rate}, and {model} takes speech at "
                f"{self.upstream.sample_rate} Hz; give asr.sh --fs"
            )
        self.layers = self.pretrained.layer_numbers(layers)
        if 0 in self.layers:
            raise ConfigError("frontend_conf: layers are counted from 1")
        self.weights = torch.nn.Parameter(torch.zeros(len(self.layers)))

    def output_size(self) -> int:
        """Return D, the size of the features."""
        return self.upstream.encoder.output_size()

    def train(self, mode: bool = True) -> "BiRQFrontend":
        """Set the mode of the weights; the model stays in evaluation mode."""
        super().train(mode)
        self.upstream.eval()
        return self

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute features.

        Args:
            input: (B, N) waveforms, padded at the end.
            input_lengths: (B,) lengths in samples.

        Returns:
            (B, T, D) features, zero on padding, and (B,) lengths in frames.
        """
        found, frames = self.pretrained.extract_features(
            input.float(), input_lengths, self.layers
        )
        weights = self.weights.softmax(dim=0)
        return torch.einsum("l,lbtd->btd", weights, torch.stack(found)), frames

    def reload_pretrained_parameters(self):
        """Undo ESPnet's ``init``, which re-initialises all parameters of a model."""
        self.upstream.load_state_dict(load_model(self.source).state_dict())
