"""Mask, labels and predictions of one utterance, for inspection."""

import logging
from typing import NamedTuple

import torch

from espnet2_birq.encoders.taps import encode, encoder_lengths, listening_to
from espnet2_birq.errors import DataError
from espnet2_birq.pretrained import WINDOW
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import makers


class Codes(NamedTuple):
    """Codes of an objective's first codebook at all frames, (T',)."""

    labels: torch.Tensor
    predictions: torch.Tensor  # most likely codes, given the masked input
    size: int  # V, codes in the codebook


class Glance(NamedTuple):
    """An utterance as the model sees it in training."""

    features: torch.Tensor  # (T, D) normalised input frames
    mask: torch.Tensor  # (T',) bool, encoder frames
    codes: dict[str, Codes]  # by objective
    shift: float  # seconds per encoder frame


@torch.no_grad()
def glance(model: BiRQModel, speech: torch.Tensor, seed: int = 0) -> Glance:
    """Mask an utterance as in training and predict its labels.

    Args:
        model: Model in evaluation mode.
        speech: (N,) samples; of a long recording, the beginning is used.
        seed: Random seed of mask and noise.

    Raises:
        DataError: The utterance is too short.
    """
    most = int(WINDOW * model.sample_rate)
    if len(speech) > most:  # memory grows with its square
        logging.warning(f"only the first {WINDOW:g} s of the recording are looked at")
        speech = speech[:most]
    xs, lengths = model._extract_feats(speech[None], torch.tensor([len(speech)]))
    xs = xs[:, : int(lengths)]
    frames = encoder_lengths(model.encoder, lengths)
    if not int(frames):
        raise DataError(f"{len(speech)} samples are too short for an encoder frame")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mask = model.masking.draw(frames, int(frames))  # (1, T')
        masked = model.masking.apply_to(xs, mask)
        layers = {x for one in model.objectives for x in one.student[:1]}
        with listening_to(model.encoder, layers) as outputs:
            last = encode(model.encoder, masked, lengths)
    codes = {}
    for one in makers(model.objectives):
        labels, _ = model.label(speech[None], torch.tensor([len(speech)]), one.name)
        (hidden,) = outputs[one.student[0]] if one.student else last
        scores = model.heads[one.head][0](hidden)
        codes[one.name] = Codes(
            labels[0, 0, : len(mask[0])],
            scores.argmax(dim=1),
            one.labeller.codebook_size,
        )
    shift = model.frontend.hop_length * model.subsampling / model.sample_rate
    return Glance(xs[0], mask[0], codes, shift)
