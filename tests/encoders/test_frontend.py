"""Padding masks in linear memory give the same features as ESPnet's."""

import pytest
import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers import utterance_mvn
from espnet2.layers.utterance_mvn import UtteranceMVN

from espnet2_birq.encoders.frontend import linear_padding
from espnet2_birq.planning.cost import counted

LENGTHS = torch.tensor([16000, 9000, 400, 0])


@pytest.mark.parametrize("norm_means", [True, False])
def test_features_are_espnets(norm_means):
    frontend = DefaultFrontend(n_fft=512, win_length=400, hop_length=160, n_mels=20)
    normalize = UtteranceMVN(norm_means=norm_means, norm_vars=True)
    speech = torch.randn(4, 16000)  # padding is not zero
    theirs = normalize(*frontend(speech.clone(), LENGTHS))
    stock = utterance_mvn.make_pad_mask
    with linear_padding():
        ours = normalize(*frontend(speech.clone(), LENGTHS))
    for one, other in zip(ours, theirs):
        assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))
    assert utterance_mvn.make_pad_mask is stock


def test_memory_is_linear_in_the_length():
    def peak(frames):
        features, lengths = torch.randn(1, frames, 20), torch.tensor([frames])
        with counted() as meter:
            UtteranceMVN(norm_vars=True)(features, lengths)
        return meter.peak

    assert peak(4000) > 10 * peak(1000)
    with linear_padding():
        assert peak(4000) == pytest.approx(4 * peak(1000), rel=0.01)
