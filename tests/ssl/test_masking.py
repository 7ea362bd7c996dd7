"""Masks: per utterance, never on padding, in line with the frames they hide."""

import pytest
import torch

from espnet2_birq.ssl.masking import SpanMasking, stack_frames


def plain_mask(draws, lengths, start_prob, span):
    """The rule, frame by frame: a slow independent version."""
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
    masking = SpanMasking(mask_prob=mask_prob)
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
        masking = SpanMasking(subsampling=subsampling)
        assert masking.span == span  # 400 ms
        torch.manual_seed(0)
        mask = masking.draw(torch.full((200,), 600), 600)
        # 1 - 0.99 ** 40 = 0.331 of the frames, at every rate
        assert abs(mask.float().mean() - 0.331) < 0.02


def test_utterances_have_masks_of_their_own():
    torch.manual_seed(0)
    mask = SpanMasking().draw(torch.full((8,), 200), 200)
    assert len({tuple(row.tolist()) for row in mask}) == 8


@pytest.mark.parametrize("subsampling", [1, 2, 4])
def test_what_is_hidden_is_what_the_label_is_made_of(subsampling):
    torch.manual_seed(0)
    masking = SpanMasking(subsampling=subsampling, mask_prob=0.05)
    frames = 200 // subsampling - 1
    xs = torch.rand(3, 203, 5) + 10.0  # far from the noise
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
