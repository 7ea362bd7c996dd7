"""The label layer's output and the frame arithmetic, against ESPnet's own forward."""

import pytest
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.legacy.nets.pytorch_backend.nets_utils import make_pad_mask

from espnet2_birq.encoders.shaw_conformer import ShawConformerEncoder
from espnet2_birq.encoders.taps import (
    BATCH_NORM,
    DROPOUT,
    RunningStatistics,
    encode,
    encode_up_to,
    encoder_lengths,
    evaluating,
    padding_mask,
    subsampling_factor,
)

LENGTHS = torch.tensor([97, 64, 31])
FACTORS = {"conv2d": 4, "conv2d1": 1, "conv2d2": 2, "conv2d6": 6, "conv2d8": 8}


def make_encoder(kind=ConformerEncoder, input_layer="conv2d", dropout=0.0):
    torch.manual_seed(0)
    return kind(
        input_size=20,
        output_size=16,
        attention_heads=2,
        linear_units=16,
        num_blocks=4,
        input_layer=input_layer,
        dropout_rate=dropout,
        positional_dropout_rate=dropout,
        **({"rel_pos_type": "latest"} if kind is ConformerEncoder else {}),
    )


@pytest.mark.parametrize("input_layer", [*FACTORS, "linear"])
def test_lengths_are_those_the_encoder_reports(input_layer):
    encoder = make_encoder(input_layer=input_layer).eval()
    _, expected, _ = encoder(torch.randn(3, 97, 20), LENGTHS)
    assert encoder_lengths(encoder, LENGTHS).tolist() == expected.tolist()
    assert subsampling_factor(encoder) == FACTORS.get(input_layer, 1)


def test_padding_masks_are_espnets():
    assert torch.equal(padding_mask(LENGTHS, 97), make_pad_mask(LENGTHS))


@pytest.mark.parametrize("kind", [ConformerEncoder, EBranchformerEncoder])
def test_encode_is_the_encoders_output(kind):
    encoder = make_encoder(kind).eval()
    xs = torch.randn(3, 97, 20)
    assert torch.equal(encode(encoder, xs, LENGTHS), encoder(xs, LENGTHS)[0])
    encoder = ShawConformerEncoder(20, 16, 2, 16, 2).eval()
    assert torch.equal(encode(encoder, xs, LENGTHS), encoder(xs, LENGTHS)[0])


@pytest.mark.parametrize("kind", [ConformerEncoder, EBranchformerEncoder])
@pytest.mark.parametrize("input_layer", ["conv2d", "linear"])
def test_layer_outputs_equal_return_all_hs(kind, input_layer):
    encoder = make_encoder(kind, input_layer).eval()
    xs = torch.randn(3, 97, 20)
    (_, expected), _, _ = encoder(xs, LENGTHS, return_all_hs=True)
    second, third = encode_up_to(encoder, xs, LENGTHS, [2, 3])
    assert torch.equal(second, expected[1])
    assert torch.equal(third, expected[2])


def test_no_block_beyond_the_label_layer_runs():
    encoder = make_encoder().eval()
    ran = []
    for number, block in enumerate(encoder.encoders, start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    encode_up_to(encoder, torch.randn(3, 97, 20), LENGTHS, [2])
    assert ran == [1, 2]


def test_dropout_off_makes_training_mode_repeatable_and_is_undone():
    encoder = make_encoder(dropout=0.5).train()
    xs = torch.randn(3, 97, 20)
    with evaluating(encoder, DROPOUT):
        one = encode_up_to(encoder, xs, LENGTHS, [2])[0]
        two = encode_up_to(encoder, xs, LENGTHS, [2])[0]
    assert torch.equal(one, two)
    assert all(module.training for module in encoder.modules())
    three = encode_up_to(encoder, xs, LENGTHS, [2])[0]
    assert not torch.equal(one, three)


def test_evaluating_switches_the_kinds_asked_for_and_switches_back():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
    module[1].eval()  # must stay in evaluation mode
    xs = torch.randn(50, 4) * 3 + 1
    with evaluating(module, BATCH_NORM):
        assert torch.equal(module[0](xs), xs / (1 + 1e-5) ** 0.5)
        assert module.training and not module[0].training
    assert module[0].training and not module[1].training
    module.train()
    with evaluating(module, BATCH_NORM, DROPOUT):
        assert torch.equal(module(xs), module(xs))
    assert not torch.equal(module(xs), module(xs))


def test_running_statistics_come_back_where_there_are_some():
    norms = torch.nn.Sequential(
        torch.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4, track_running_stats=False)
    )
    statistics = RunningStatistics(norms)
    norms(torch.randn(8, 4) + 3.0)
    moved = norms[0].running_mean.clone()
    for _ in range(2):
        with statistics.restored():
            assert not norms[0].running_mean.any()
    assert torch.equal(norms[0].running_mean, moved) and moved.all()
