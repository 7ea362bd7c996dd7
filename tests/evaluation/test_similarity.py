"""Similarity of layers against its definition, and its bounds."""

import pytest
import torch
from planted import write_experiment
from torch.testing import assert_close

from espnet2_birq.api import load
from espnet2_birq.evaluation.similarity import layer_similarity, linear_cka
from espnet2_birq.tasks.ssl import SSLTask


def plain(x, y):
    """Compute CKA by its definition: the cosine of the centred similarities of frames."""
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    one, other = x @ x.T, y @ y.T
    return (one * other).sum() / (one.norm() * other.norm())


@pytest.mark.parametrize("frames", [200, 6])
def test_against_the_definition(frames):
    torch.manual_seed(0)
    layers = [torch.randn(frames, size) for size in (5, 8, 8)]
    layers.append(layers[1] + 0.5 * torch.randn(frames, 8))
    expected = torch.stack([torch.stack([plain(x, y) for y in layers]) for x in layers])
    assert_close(linear_cka(layers), expected)


def test_memory_does_not_grow_with_the_square_of_the_frames():
    """Similarities of all pairs of these frames would take terabytes."""
    x = torch.randn(1_000_000, 2)
    assert_close(linear_cka([x, -x]), torch.ones(2, 2).double())


def test_rotations_and_scales_make_no_difference():
    torch.manual_seed(0)
    x = torch.randn(300, 6)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6))
    similar = linear_cka([x, 7.0 * x @ rotation + 3.0, torch.randn(300, 6)])
    assert similar[0, 1] == pytest.approx(1.0, abs=1e-5) and similar[0, 2] < 0.1


def test_of_a_model(tmp_path):
    """All utterances' frames count together; repeating all has no effect."""
    model = load(write_experiment(tmp_path / "exp", SSLTask))
    torch.manual_seed(0)
    waves = [0.1 * torch.randn(16000), 0.1 * torch.randn(8000)]
    similarity = layer_similarity(model, waves)
    assert similarity.shape == (model.depth + 1, model.depth + 1)
    assert_close(similarity.diagonal(), torch.ones(model.depth + 1).double())
    assert_close(layer_similarity(model, waves + waves), similarity)
