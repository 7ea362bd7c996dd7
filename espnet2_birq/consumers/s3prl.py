"""Pretrained models as upstreams of S3PRL, without importing S3PRL.

S3PRL finds upstreams in s3prl/upstream/NAME/hubconf.py if s3prl/hub.py imports them.
Two lines register ours, the first in a new upstream/birq/hubconf.py (beside an empty
__init__.py), the second in hub.py:

    from espnet2_birq.consumers.s3prl import birq
    from s3prl.upstream.birq.hubconf import *

Then ``S3PRLUpstream("birq", path_or_url=MODEL)`` or ``run_downstream.py -u birq -k MODEL``.
S3PRL 0.4.18 imports names that torchaudio no longer has (set_audio_backend, sox_effects).
"""

from collections.abc import Sequence

import torch

from espnet2_birq.api import load


class UpstreamExpert(torch.nn.Module):
    """Features of all layers of a frozen model, in S3PRL's interface.

    Args:
        ckpt: Model file, folder, packed zip or name on the hub, as for api.load.
        **kwargs: Other arguments of S3PRL's runner, unused.
    """

    def __init__(self, ckpt: str, **kwargs):
        super().__init__()
        self.pretrained = load(ckpt)
        self.upstream = self.pretrained.model.requires_grad_(False)

    def train(self, mode: bool = True) -> "UpstreamExpert":
        """Stay in evaluation mode."""
        return super().train(False)

    def get_downsample_rates(self, key: str = "hidden_states") -> int:
        """Return samples per frame.

        Args:
            key: Name of the features; all have the same rate.
        """
        return round(self.pretrained.frame_shift * self.pretrained.sample_rate)

    def forward(self, wavs: Sequence[torch.Tensor]) -> dict[str, object]:
        """Compute features.

        Args:
            wavs: (N,) waveforms at the model's sample rate.

        Returns:
            hidden_states: (B, T, D) of layers 1 to K; last_hidden_state: the last of
            them; both zero on padding.
        """
        layers, _ = self.pretrained.extract_features(list(wavs))
        return {"hidden_states": tuple(layers), "last_hidden_state": layers[-1]}


def birq(ckpt: str, *args, **kwargs) -> UpstreamExpert:
    """Make the upstream; S3PRL's hub calls this."""
    return UpstreamExpert(ckpt)
