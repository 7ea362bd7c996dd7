"""SpeechBrain's BEST-RQ, from its released package, with the sizes of our configuration.

    pip install speechbrain        (docs/benchmarks.md was measured with 1.1.2)

Only bench/step.py --build speechbrain needs it, so it is not a dependency. The package does
not contain the recipe, but all of its parts, which are combined here: features,
normalisation per utterance, mask, quantizer, convolutions, conformer (relative positions,
full context, GELU), a head over all frames, selection of masked frames, cross-entropy.

There are two front ends: the recipe's, with 128 and 32 channels (``speechbrain``), which is
smaller than ESPnet's; and one with as many channels as ESPnet's (``speechbrain_equal``),
for equal numbers of parameters.
"""

import argparse

import torch

from espnet2_birq.errors import ConfigError

try:
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.BESTRQ import brq_mask_collate_fn
    from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
    from speechbrain.lobes.models.transformer.TransformerASR import (
        EncoderWrapper,
        TransformerASR,
    )
    from speechbrain.nnet.linear import Linear
    from speechbrain.nnet.quantisers import RandomProjectionQuantizer
    from speechbrain.processing.features import InputNormalization
except ImportError as error:
    if __name__ != "__main__":
        raise ConfigError(
            f"--build speechbrain needs its package: pip install speechbrain ({error})"
        ) from error

STACK = 4  # input frames per encoder frame, and per label


class SpeechBrainBestRQ(torch.nn.Module):
    """SpeechBrain's modules, combined as in its BEST-RQ recipe.

    Args:
        args: Configuration of our model, with a conformer with ``input_layer: conv2d``.
        equal_front_end: Whether convolutions are as wide as ESPnet's.

    Raises:
        ConfigError: The configuration has another encoder.
    """

    def __init__(self, args: argparse.Namespace, equal_front_end: bool = False):
        super().__init__()
        conf, features = args.encoder_conf, args.frontend_conf
        if args.encoder != "conformer" or conf.get("input_layer") != "conv2d":
            raise ConfigError(
                "--build speechbrain: needs encoder: conformer with input_layer: conv2d"
            )
        width, bins = conf["output_size"], features["n_mels"]
        channels = (width, width) if equal_front_end else (128, 32)
        book = dict(args.objectives[0].get("labeller_conf") or {})
        codes, code_size = book.get("codebook_size", 8192), book.get("codebook_dim", 16)
        self.noise_std = args.masking_conf.get("noise_std", 0.1)
        self.features = Fbank(
            n_fft=400, n_mels=bins, hop_length=features["hop_length"] // 16
        )
        self.normalize = InputNormalization(norm_type="sentence")
        self.quantizer = RandomProjectionQuantizer(STACK * bins, code_size, codes)
        self.convolutions = ConvolutionFrontEnd(
            input_shape=(8, 10, bins),
            num_blocks=2,
            num_layers_per_block=1,
            out_channels=channels,
            kernel_sizes=(3, 3),
            strides=(2, 2),
            residuals=(False, False),
        )
        self.transformer = EncoderWrapper(
            TransformerASR(
                tgt_vocab=1,  # for the decoder, which does not exist here
                input_size=channels[1] * bins // STACK,
                d_model=width,
                nhead=conf["attention_heads"],
                num_encoder_layers=conf["num_blocks"],
                num_decoder_layers=0,
                d_ffn=conf["linear_units"],
                dropout=conf["dropout_rate"],
                kernel_size=conf["cnn_module_kernel"],
                activation=torch.nn.GELU,
                conformer_activation=torch.nn.GELU,
                encoder_module="conformer",
                attention_type="RelPosMHAXL",
                normalize_before=True,
                causal=False,
            )
        )
        self.head = Linear(input_size=width, n_neurons=codes)

    def encoder_parameters(self) -> int:
        """Count the parameters of convolutions and conformer."""
        parts = (self.convolutions, self.transformer)
        return sum(p.numel() for part in parts for p in part.parameters())

    def forward(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute one step's loss in nats, and the share of masked frames.

        Args:
            batch: Waveforms (B, N), relative lengths (B,), and indices of masked input
                frames (M,), in runs of ``STACK``, the same for all utterances.
        """
        waveforms, lengths, masked = batch
        with torch.no_grad():
            feats = self.normalize(self.features(waveforms), lengths)  # (B, T, D)
            missing = -feats.size(1) % STACK
            feats = torch.nn.functional.pad(feats, (0, 0, 0, missing))
            utterances, frames, bins = feats.shape
            index = masked[::STACK] // STACK  # in encoder frames
            stacked = feats.view(utterances, frames // STACK, STACK * bins)
            codes = self.quantizer(stacked[:, index])  # (B, M / 4)
            noise = torch.randn(utterances, len(masked), bins, device=feats.device)
            feats[:, masked] = self.noise_std * noise
        hs = self.transformer(self.convolutions(feats), lengths)
        logits = self.head(hs)[:, index]  # (B, M / 4, V)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten())
        return loss, index.new_tensor(len(index) * STACK / frames, dtype=torch.float32)


def batches(
    speech: torch.Tensor, mask_share: float, hop_length: int, count: int
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Make batches like SpeechBrain's data loader, with masks.

    Args:
        speech: Waveforms (B, N).
        mask_share: Share of frames to mask.
        hop_length: Samples per input frame.
        count: Number of batches; each has a new mask.
    """
    rows = [dict(id=str(i), sig=row) for i, row in enumerate(speech.cpu())]
    collated = [
        brq_mask_collate_fn(
            rows,
            get_out_len_fn=lambda samples: samples // hop_length + 1,
            mask_prob=mask_share / STACK,
            mask_length=STACK,
            n_mels=0,  # unused
        )
        for _ in range(count)
    ]
    return [tuple(part.to(speech.device) for part in batch) for batch in collated]


if __name__ == "__main__":  # no command of its own
    print(__doc__)
