"""Similarity of an encoder's layers."""

from collections.abc import Sequence

import torch

from espnet2_birq.pretrained import PretrainedModel


def linear_cka(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Compute the linear centred kernel alignment (CKA) of all pairs of layers.

    It is 1 for representations that differ only by rotation and scale, and 0 for those
    without any linear relation (Kornblith et al. 2019, arXiv:1905.00414, Eq. 3 with a
    linear kernel). It is too large if frames are few relative to the number of values.

    Args:
        layers: (N, D) values of each layer, for the same N frames.

    Returns:
        (L, L) similarities.
    """
    centred = [values.double() - values.double().mean(0) for values in layers]
    # |X'Y|^2 / (|X'X| |Y'Y|): the same value as from the (N, N) similarities of frames,
    # which would not fit into memory for long speech.
    products = torch.empty(len(layers), len(layers), dtype=torch.double)
    for i, x in enumerate(centred):
        for j, y in enumerate(centred[: i + 1]):
            products[i, j] = products[j, i] = (x.T @ y).square().sum()
    norms = products.diagonal().sqrt()
    return products / norms.outer(norms)


def layer_similarity(
    model: PretrainedModel, waveforms: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Compute the similarity of the input and all layers of a model.

    Args:
        model: Pretrained model.
        waveforms: (N,) samples of each utterance.

    Returns:
        (K + 1, K + 1) linear CKA; the first row is the input's.
    """
    frames: list[list[torch.Tensor]] = [[] for _ in range(model.depth + 1)]
    for waveform in waveforms:
        features, _ = model.extract_features([waveform], layers=range(model.depth + 1))
        for values, one in zip(frames, features):
            values.append(one[0].cpu())
    return linear_cka([torch.cat(values) for values in frames])
