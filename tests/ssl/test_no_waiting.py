"""Masking, labels, loss and statistics never ask a device for a value.

Fake tensors have shapes and no values: whatever reads one (item, nonzero, a boolean
index, an if) raises. On a GPU these are the places where a step would wait.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from espnet2_birq.encoder.frontend import mirror_ends
from espnet2_birq.ssl.loss import masked_cross_entropy
from espnet2_birq.ssl.masking import SpanMasking, stack_frames
from espnet2_birq.ssl.quantizer import (
    GumbelSoftmaxQuantizer,
    RandomProjectionQuantizer,
    fit_labels,
)
from espnet2_birq.ssl.statistics import BookTally, target_statistics


class Frontend(torch.nn.Module):
    """Only what mirror_ends looks at."""

    def __init__(self):
        super().__init__()
        self.stft = torch.nn.Module()
        self.stft.center, self.stft.n_fft = True, 512


def test_what_reads_a_value_raises_here():
    with FakeTensorMode():
        mask = torch.rand(3, 20) < 0.5
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            torch.rand(3, 20)[mask]
        with pytest.raises(DataDependentOutputException):
            mask.sum().item()


@pytest.mark.parametrize("replacement", ["noise", "zero", "learned"])
def test_a_step_around_the_encoder(replacement):
    with FakeTensorMode():
        speech, samples = torch.randn(3, 3200), torch.randint(400, 3200, (3,))
        mirror_ends(speech, samples, Frontend())
        masking = SpanMasking(20, replacement=replacement)
        xs, frames = torch.randn(3, 80, 20), torch.randint(5, 20, (3,))
        mask = masking.draw(frames, 20)
        index, present = masking.gather_index(mask)
        masking.apply_to(xs, mask).sum()
        fit_labels(torch.randint(9, (3, 19)), 20)
        anchor = RandomProjectionQuantizer(80, num_codebooks=2, codebook_size=64)
        conf = dict(num_codebooks=2, codebook_size=64, projection="whitened")
        enhanced = GumbelSoftmaxQuantizer(16, **conf).train()
        head = torch.nn.Linear(16, 64)
        hs = torch.randn(3, 20, 16, requires_grad=True).flatten(0, 1)[index]
        hard = anchor(stack_frames(xs, 4, 20).flatten(0, 1)[index], present)
        soft = enhanced(hs * 2.0, present, step=3)
        books, total = [], 0.0
        for labels in zip(hard, soft):
            loss, tally = masked_cross_entropy(
                hs, head.weight, head.bias, present, list(labels), [2.4, 0.1]
            )
            books.append(BookTally(["anchor", "enhanced"], [False, True], tally))
            total = total + loss
        total.backward()
        assert target_statistics(books)["loss_anchor"].shape == ()
