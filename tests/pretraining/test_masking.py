"""Masks: per utterance, never on padding, aligned with the frames they hide."""

import pytest
import torch

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.masking import SpanMasking
from espnet2_birq.pretraining.views import stack_frames


def plain_mask(draws, lengths, start_prob, span):
    """Apply the rule frame by frame, as a slow independent version."""
    mask = torch.zeros(draws.shape, dtype=torch.bool)
    for b, length in enumerate(lengths.tolist()):
        starts = [t for t in range(length) if draws[b, t] < start_prob]
        if not starts:
            starts = [min(range(length), key=lambda t: draws[b, t].item())]
        for start in starts:
            mask[b, start : min(start + span, length)] = True
    return mask


@pytest.mark.parametrize("mask_prob", [0.0, 0.01, 0.1, 1.0])
def test_draw_equals_the_plain_rule(mask_prob):
    masking = SpanMasking(5, mask_prob=mask_prob)
    lengths = torch.tensor([60, 41, 7, 1])
    for seed in range(20):
        torch.manual_seed(seed)
        mask = masking.draw(lengths, 60)
        torch.manual_seed(seed)
        expected = plain_mask(
            torch.rand(4, 60), lengths, masking.start_prob, masking.span
        )
        assert torch.equal(mask, expected)
        assert mask.any(dim=1).all()


def test_span_and_probability_follow_the_frame_rate():
    for subsampling, span in [(4, 10), (2, 20), (1, 40)]:
        masking = SpanMasking(5, subsampling=subsampling)
        assert masking.span == span  # 400 ms
        torch.manual_seed(0)
        mask = masking.draw(torch.full((200,), 600), 600)
        # 1 - 0.99 ** 40 = 0.331 of the frames, at every rate
        assert abs(mask.float().mean() - 0.331) < 0.02
    # An encoder frame of 40 ms, whatever it is made of, has four chances of a start.
    one, other = SpanMasking(5), SpanMasking(5, frame_shift_ms=20, subsampling=2)
    assert one.start_prob == other.start_prob == pytest.approx(1 - 0.99**4)
    assert one.span == other.span == 10


def test_utterances_have_masks_of_their_own():
    torch.manual_seed(0)
    mask = SpanMasking(5).draw(torch.full((8,), 200), 200)
    assert len({tuple(row.tolist()) for row in mask}) == 8


@pytest.mark.parametrize("subsampling", [1, 2, 4])
def test_what_is_hidden_is_what_the_label_is_made_of(subsampling):
    torch.manual_seed(0)
    masking = SpanMasking(5, subsampling=subsampling, mask_prob=0.05)
    frames = 200 // subsampling - 1
    xs = torch.rand(3, 203, 5) + 10.0  # clearly different from the noise
    mask = masking.draw(torch.full((3,), frames), frames)
    masked = masking.apply_to(xs, mask)
    assert masked.shape == xs.shape
    stacked = stack_frames(masked, subsampling, frames)
    assert (stacked[mask] < 5).all()  # every input frame of a masked frame is noise
    assert torch.equal(stacked[~mask], stack_frames(xs, subsampling, frames)[~mask])
    assert torch.equal(masked[:, frames * subsampling :], xs[:, frames * subsampling :])
    assert abs(stacked[mask].std() - 0.1) < 0.01


def test_stack_frames_puts_neighbours_side_by_side():
    xs = torch.arange(14.0).view(1, 7, 2)
    assert stack_frames(xs, 3, 2).tolist() == [
        [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    ]


@pytest.mark.parametrize("mask_prob", [0.0, 0.02, 0.3, 1.0])
def test_masked_frames_are_gathered_in_order_without_asking_how_many(mask_prob):
    torch.manual_seed(0)
    masking = SpanMasking(5, mask_prob=mask_prob)
    for lengths in ([50, 33, 2], [7], [90] * 20):
        lengths = torch.tensor(lengths)
        mask = masking.draw(lengths, int(lengths.max()) + 1)
        index, present = masking.gather_index(mask)
        assert len(index) == len(present) == masking.capacity(*mask.shape)
        count = int(mask.sum())
        assert torch.equal(index[:count], mask.flatten().nonzero()[:, 0])
        assert present[:count].all() and not present[count:].any()


def test_capacity_is_enough_and_not_much_more():
    torch.manual_seed(0)
    # In long utterances, only the standard deviations are left as a margin.
    for utterances, frames in ((16, 300), (2, 40), (2, 4000), (4, 3000)):
        masking = SpanMasking(5)
        lengths = torch.full((utterances,), frames)
        counts = torch.tensor(
            [int(masking.draw(lengths, frames).sum()) for _ in range(2000)]
        )
        assert counts.max() <= masking.capacity(utterances, frames)
    assert masking.capacity(64, 600) < 1.25 * 0.331 * 64 * 600 + 64 * masking.span


def test_what_does_not_fit_is_left_out_and_nothing_else():
    masking = SpanMasking(5, mask_prob=0.001, mask_length_ms=40)
    mask = torch.ones(4, 100, dtype=torch.bool)
    size = masking.capacity(4, 100)
    assert size < 400
    index, present = masking.gather_index(mask)
    assert torch.equal(index, torch.arange(size)) and present.all()


def test_replacements():
    torch.manual_seed(0)
    xs = torch.ones(1, 40, 5)
    mask = torch.zeros(1, 10, dtype=torch.bool)
    mask[0, 2:4] = True
    zero = SpanMasking(5, replacement="zero").apply_to(xs, mask)
    assert not zero[0, 8:16].any() and zero[0, 16:].all() and zero[0, :8].all()
    masking = SpanMasking(5, replacement="learned")
    learned = masking.apply_to(xs, mask)
    assert torch.equal(learned[0, 9], masking.embedding)
    learned.sum().backward()
    assert torch.equal(masking.embedding.grad, torch.full((5,), 8.0))
    with pytest.raises(ConfigError, match="unknown replacement 'nosie', use one of"):
        SpanMasking(5, replacement="nosie")
    with pytest.raises(ConfigError, match="mask_prob is a number from 0 to 1, got 1.5"):
        SpanMasking(5, mask_prob=1.5)
    with pytest.raises(ConfigError, match="mask_length_ms is a number of 1 or more"):
        SpanMasking(5, mask_length_ms=-100)
