"""SpeechBrain's BEST-RQ, from its released package, at the sizes of our configuration.

    pip install speechbrain        (1.1.2 is what docs/benchmarks.md was measured with)

It is wanted by bench/step.py --build speechbrain alone and so not among our
dependencies. Its recipe is not in the package; what the recipe puts together is, and is
put together here: features, normalisation by utterance, mask, quantizer, convolutions,
conformer (relative positions, full context, GELU), a head over all frames, of which the
masked ones are selected, cross-entropy.

Two front ends: the recipe's own, of 128 and 32 channels (``speechbrain``), which is
smaller than ESPnet's and so gives it less work than ours does; and one of as many
channels as ESPnet's (``speechbrain_equal``), for equal numbers of parameters.
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
    raise ConfigError(
        f"--build speechbrain wants its package: pip install speechbrain ({error})"
    ) from error

STACK = 4  # input frames to an encoder frame, and to a label


class SpeechBrainBestRQ(torch.nn.Module):
    """SpeechBrain's modules, wired as its BEST-RQ recipe wires them.

    Args:
        args: The configuration that our model is built from; its encoder is a conformer
            with ``input_layer: conv2d``.
        equal_front_end: Convolutions as wide as ESPnet's.

    Raises:
        ConfigError: Another encoder.
    """

    def __init__(self, args: argparse.Namespace, equal_front_end: bool = False):
        super().__init__()
        conf, features = args.encoder_conf, args.frontend_conf
        if args.encoder != "conformer" or conf.get("input_layer") != "conv2d":
            raise ConfigError(
                "--build speechbrain: wants encoder: conformer with input_layer: conv2d"
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
                tgt_vocab=1,  # of the decoder, which there is none of
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
        """Parameters of convolutions and conformer."""
        parts = (self.convolutions, self.transformer)
        return sum(p.numel() for part in parts for p in part.parameters())

    def forward(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """One step's loss in nats, and the share of masked frames.

        Args:
            batch: Waveforms (B, N), their relative lengths (B,), and the masked input
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
    """What SpeechBrain's data loader hands to training steps, masks drawn.

    Args:
        speech: (B, N) waveforms.
        mask_share: Wanted share of masked frames.
        hop_length: Samples to an input frame.
        count: How many; each has a mask of its own.
    """
    rows = [dict(id=str(i), sig=row) for i, row in enumerate(speech.cpu())]
    collated = [
        brq_mask_collate_fn(
            rows,
            get_out_len_fn=lambda samples: samples // hop_length + 1,
            mask_prob=mask_share / STACK,
            mask_length=STACK,
            n_mels=0,  # read by nothing
        )
        for _ in range(count)
    ]
    return [tuple(part.to(speech.device) for part in batch) for batch in collated]
