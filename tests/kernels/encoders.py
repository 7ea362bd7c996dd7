"""Small ESPnet encoders, and functions to run them."""

import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder

SMALL = dict(
    input_size=20,
    output_size=64,
    attention_heads=4,
    linear_units=96,
    num_blocks=2,
    input_layer="conv2d",
    dropout_rate=0.0,
    positional_dropout_rate=0.0,
    attention_dropout_rate=0.0,
    rel_pos_type="latest",
)


def conformer(**conf):
    """Make ESPnet's unchanged conformer."""
    return ConformerEncoder(
        **{**SMALL, **conf},
        macaron_style=True,
        pos_enc_layer_type="rel_pos",
        selfattention_layer_type="rel_selfattn",
        cnn_module_kernel=7,
    )


def e_branchformer(**conf):
    """Make ESPnet's unchanged E-Branchformer."""
    return EBranchformerEncoder(
        **{**SMALL, **conf},
        use_ffn=True,
        macaron_ffn=True,
        cgmlp_linear_units=96,
        cgmlp_conv_kernel=7,
        merge_conv_kernel=3,
        attention_layer_type="rel_selfattn",
        pos_enc_layer_type="rel_pos",
    )


def outcome(encoder, xs, lengths):
    """Return output without padding, all gradients (also the input's), statistics."""
    encoder.zero_grad()
    xs = xs.clone().requires_grad_()
    ys, frames, _ = encoder(xs, lengths)
    real = torch.arange(ys.size(1), device=ys.device)[None] < frames[:, None]
    weights = torch.linspace(-1, 1, ys.size(2), device=ys.device)
    (ys.square() * weights)[real].sum().backward()
    gradients = [x.grad.flatten() for x in (xs, *encoder.parameters())]
    # E-Branchformer has no running statistics.
    statistics = torch.cat([ys.new_zeros(1), *(b.flatten() for b in encoder.buffers())])
    return ys[real].detach(), torch.cat(gradients), statistics
