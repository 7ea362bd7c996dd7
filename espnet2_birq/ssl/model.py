"""Masked prediction of self-made labels, on one shared encoder.

    speech -> frontend -> normalize -> x -+-> mask -> x~ -> encoder ----> h at masked
                                          |                               frames -> head
                                          +-> frames of the input            |
                                          |        |                       logits
                                          +-> encoder, layers 1 to k         |
                                                   |                         v
                                                quantizers --> labels --> cross-entropy

With the anchor target alone this is BEST-RQ (arXiv 2202.01855); with the enhanced
target beside it, BiRQ (arXiv 2509.15430, Algorithm 1): its loss has a gradient through
the prediction and through the layers that made the label.
"""

from contextlib import nullcontext
from typing import Dict, List, Optional, Tuple

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from typeguard import typechecked

from espnet2_birq.encoder.layers import (
    dropout_off,
    encode_up_to,
    encoder_lengths,
    subsampling_factor,
)
from espnet2_birq.ssl.loss import cross_entropy
from espnet2_birq.ssl.masking import SpanMasking, stack_frames
from espnet2_birq.ssl.statistics import target_statistics
from espnet2_birq.ssl.target import QUANTIZERS, Target


class BiRQModel(AbsESPnetModel):
    """Frontend, encoder, targets and heads; see the module's picture.

    ``frontend``, ``normalize`` and ``encoder`` are ESPnet's own, under the names of its
    ASR model: ``--init_param model.pth:encoder:encoder`` hands the encoder over. No
    other attribute may begin with one of these words, since ESPnet matches names by
    prefix.

    Args:
        frontend: Waveform to features.
        specaug: Augmentation of the features that are masked; labels stay clean.
        normalize: Normalisation of the features.
        encoder: The encoder to pretrain.
        targets: What to predict.
        masking_conf: Arguments of SpanMasking (mask_prob, mask_length_ms, noise_std).
        frame_shift_ms: Shift of a feature frame.
        cpu_bfloat16: On a CPU, run the encoder and the heads under bfloat16 autocast
            (ESPnet's ``use_amp`` works on CUDA only). Features, labels and losses stay
            in single precision.
        extract_feats_in_collect_stats: Read by ESPnet's statistics stage.
    """

    @typechecked
    def __init__(
        self,
        frontend: AbsFrontend,
        specaug: Optional[AbsSpecAug],
        normalize: Optional[AbsNormalize],
        encoder: AbsEncoder,
        targets: List[Target],
        masking_conf: Dict,
        frame_shift_ms: float = 10.0,
        cpu_bfloat16: bool = False,
        extract_feats_in_collect_stats: bool = True,
    ):
        super().__init__()
        self.frontend = frontend
        self.specaug = specaug
        self.normalize = normalize
        self.encoder = encoder
        self.targets = targets
        self.cpu_bfloat16 = cpu_bfloat16
        self.extract_feats_in_collect_stats = extract_feats_in_collect_stats
        self.subsampling = subsampling_factor(encoder)
        self.masking = SpanMasking(
            subsampling=self.subsampling, frame_shift_ms=frame_shift_ms, **masking_conf
        )
        self.quantizers = torch.nn.ModuleDict()
        self.heads = torch.nn.ModuleDict()
        for target in targets:
            input_size = (
                frontend.output_size() * self.subsampling
                if target.layer is None
                else encoder.output_size()
            )
            quantizer = QUANTIZERS[target.quantizer](
                input_size, **target.quantizer_conf
            )
            self.quantizers[target.name] = quantizer
            # The paper predicts both labels with one head: same codebook, same head.
            if quantizer.codebook_id not in self.heads:
                self.heads[quantizer.codebook_id] = torch.nn.Linear(
                    encoder.output_size(), len(quantizer.codebook)
                )

    def forward(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> Tuple[torch.Tensor, Dict[str, torch.Tensor], torch.Tensor]:
        """One step of Algorithm 1: w1 F(theta) + w2 G(theta) and its statistics.

        In evaluation mode mask and noise are drawn from a fixed seed, so validation
        losses of different epochs can be compared.

        Args:
            speech: (B, N) waveforms, padded with zeros.
            speech_lengths: (B,) samples.

        Returns:
            Loss, statistics, and the number of masked frames as the weight by which
            ESPnet averages over batches and ranks (the loss is a mean over them).
        """
        if self.training:
            return self._step(speech, speech_lengths)
        devices = [speech.device] if speech.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            return self._step(speech, speech_lengths)

    def _step(self, speech, speech_lengths):
        # x, and the mask at the encoder's rate
        xs, xs_lengths = self._extract_feats(speech, speech_lengths)  # (B, T, D)
        frames = encoder_lengths(self.encoder, xs_lengths)  # (B,)
        padded = int(encoder_lengths(self.encoder, torch.tensor(xs.size(1))))  # T'
        mask = self.masking.draw(frames, padded)  # (B, T')
        with self._autocast(xs.device):
            # Clean side: what the labels are made of
            sources = self._sources(xs, xs_lengths, mask)
            # Masked side: theta(x~)
            hs = self._encode_masked(xs, xs_lengths, mask)  # (M, E)
            logits = {key: head(hs).float() for key, head in self.heads.items()}
        total = 0.0
        stats = {"mask_share": mask.sum() / frames.sum()}
        for target in self.targets:
            quantizer = self.quantizers[target.name]
            labels = quantizer(sources[target.layer])  # y(x) or y^(k)(theta; x)
            predictions = logits[quantizer.codebook_id]  # (M, V)
            loss = cross_entropy(predictions, labels)  # G(theta) or F(theta)
            total = total + target.weight * loss
            for key, value in target_statistics(loss, predictions, labels).items():
                stats[f"{key}_{target.name}"] = value
        stats["loss"] = total.detach()
        return force_gatherable((total, stats, mask.sum()), total.device)

    def _sources(self, xs, xs_lengths, mask) -> Dict[Optional[int], torch.Tensor]:
        """The vectors that become labels, at masked frames: (M, D) for each source.

        Keys are the targets' ``layer``: a label layer k, or None for the input.
        """
        stacked = stack_frames(xs, self.subsampling, mask.size(1))
        sources = {None: stacked[mask]}  # (M, r D)
        layers = sorted({target.layer for target in self.targets} - {None})
        if layers:
            keep_gradient = torch.is_grad_enabled() and any(
                self.quantizers[target.name].keep_gradient
                for target in self.targets
                if target.layer is not None
            )
            # Without dropout: the label is what the layer says, not a draw of it.
            with dropout_off(self.encoder), torch.set_grad_enabled(keep_gradient):
                outputs = encode_up_to(self.encoder, xs, xs_lengths, layers)
            for layer, output in zip(layers, outputs):
                sources[layer] = output[mask]  # (M, E)
        return sources

    def _encode_masked(self, xs, xs_lengths, mask) -> torch.Tensor:
        """Last layer's output at masked frames, from the masked input: (M, E)."""
        if self.specaug is not None and self.training:
            xs, xs_lengths = self.specaug(xs, xs_lengths)
        masked = self.masking.apply_to(xs, mask)
        hs, _, _ = self.encoder(masked, xs_lengths)  # (B, T', E)
        if hs.shape[:2] != mask.shape:
            raise RuntimeError(
                f"encoder made {tuple(hs.shape[:2])} frames, the mask has "
                f"{tuple(mask.shape)}: its input layer is not understood"
            )
        return hs[mask]

    def _extract_feats(self, speech, speech_lengths):
        """Normalised features (B, T, D) and their lengths (B,), in single precision."""
        with torch.autocast(speech.device.type, enabled=False):
            feats, lengths = self.frontend(speech.float(), speech_lengths)
            if self.normalize is not None:
                feats, lengths = self.normalize(feats, lengths)
        return feats, lengths

    def _autocast(self, device: torch.device):
        if self.cpu_bfloat16 and device.type == "cpu":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return nullcontext()

    def collect_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> Dict[str, torch.Tensor]:
        """Features for ESPnet's statistics stage; run with ``--normalize none``."""
        feats, lengths = self._extract_feats(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": lengths}
