"""Span masks, drawn at the encoder rate and expanded to the input rate.

A mask drawn on input frames and then subsampled can cover half a label frame. Drawn on
encoder frames and repeated, masked encoder frames are exactly the frames whose labels
are predicted:

    encoder frames     0    [1]   [2]    3         mask        (B, T')
    input frames    0 1 2 3 [4 .... 11] 12 ...     mask_input  (B, T)

The number of masked frames is never read from a GPU, which would synchronise in the
middle of a step: masked frames are gathered into a fixed number of rows.
"""

import math

import torch

from espnet2_birq.pretraining.settings import check_number, check_one_of

REPLACEMENTS = ("noise", "zero", "learned")


class SpanMasking(torch.nn.Module):
    """Random span masking, independent per utterance, never on padding.

    Args:
        input_size: D, size of an input frame.
        mask_prob: Probability that a span starts at a 10 ms input frame, as defined by
            BEST-RQ (arXiv 2202.01855: 0.01). Spans may overlap; about
            1 - (1 - mask_prob) ** (mask_length_ms / 10) of the frames are masked,
            33 % with the defaults. The realised share is reported as ``mask_share``.
        mask_length_ms: Span length in milliseconds.
        replacement: Content of masked input frames: ``noise`` (BEST-RQ), ``zero``,
            or ``learned``, one trained vector.
        noise_std: Standard deviation of the noise (BEST-RQ: 0.1), small because the
            input is normalised.
        frame_shift_ms: Frame shift of the input in milliseconds.
        subsampling: r, input frames per encoder frame.

    Raises:
        ConfigError: Unknown replacement, or a number out of range.
    """

    def __init__(
        self,
        input_size: int,
        mask_prob: float = 0.01,
        mask_length_ms: float = 400.0,
        replacement: str = "noise",
        noise_std: float = 0.1,
        frame_shift_ms: float = 10.0,
        subsampling: int = 4,
    ):
        super().__init__()
        check_one_of("replacement", replacement, REPLACEMENTS)
        check_number("mask_prob", mask_prob, most=1.0)
        check_number("mask_length_ms", mask_length_ms, 1.0)
        check_number("noise_std", noise_std)
        shift = frame_shift_ms * subsampling
        # A span starts at an encoder frame if it starts at one of its input frames.
        self.start_prob = 1.0 - (1.0 - mask_prob) ** (shift / 10.0)
        self.span = max(1, round(mask_length_ms / shift))
        self.replacement = replacement
        self.noise_std = noise_std
        self.subsampling = subsampling
        if replacement == "learned":
            self.embedding = torch.nn.Parameter(0.1 * torch.randn(input_size))

    def draw(self, lengths: torch.Tensor, frames: int) -> torch.Tensor:
        """Draw a mask, with at least one span in every utterance.

        Args:
            lengths: (B,) encoder frames of each utterance.
            frames: T', encoder frames of the padded batch.

        Returns:
            (B, T') bool, True where masked; False on padding.
        """
        index = torch.arange(frames, device=lengths.device)
        valid = index < lengths[:, None]  # (B, T')
        draws = torch.rand(len(lengths), frames, device=lengths.device)
        # Guarantee at least one span per utterance: force a start at the lowest draw.
        lowest = draws.masked_fill(~valid, 2.0).argmin(dim=1, keepdim=True)
        starts = (draws < self.start_prob) | (index == lowest)
        starts = (starts & valid).int()
        # A frame is masked if a span started within the last `span` frames:
        # starts up to t minus starts up to t - span.
        count = starts.cumsum(dim=1)
        before = torch.nn.functional.pad(count, (self.span, 0))[:, :frames]
        return (count > before) & valid

    def capacity(self, utterances: int, frames: int) -> int:
        """Compute a number of rows that suffices for all but about 1 in 10^6 batches.

        Args:
            utterances: B, utterances in the batch.
            frames: T', encoder frames of the padded batch.

        Returns:
            The expected number without padding, plus one span per utterance and six
            standard deviations (starts are independent, each masks up to a span).
        """
        every = utterances * frames
        share = 1.0 - (1.0 - self.start_prob) ** self.span
        deviation = math.sqrt(every * share * (1.0 - share) * self.span)
        return min(
            every, math.ceil(every * share + utterances * self.span + 6 * deviation)
        )

    def gather_index(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the indices of the masked frames.

        Args:
            mask: (B, T') bool.

        Returns:
            (M,) sorted positions in the flattened mask, M being the capacity; and
            (M,) float, 1 for masked frames, 0 for filler rows.
        """
        size = self.capacity(*mask.shape)
        mask = mask.flatten()
        # The n-th masked frame goes to row n; unmasked frames and any overflow go to a
        # dummy last row.
        row = torch.where(mask, mask.cumsum(0) - 1, size).clamp(max=size)
        index = row.new_full((size + 1,), -1)
        index.scatter_(0, row, torch.arange(len(row), device=row.device))
        index = index[:size]
        return index.clamp(min=0), (index >= 0).float()

    def apply_to(self, xs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Replace the masked frames of the input.

        Args:
            xs: (B, T, D) input frames, not modified.
            mask: (B, T') bool, at the encoder rate.

        Returns:
            (B, T, D) masked input. Encoder frame t covers input frames
            [t r, (t + 1) r), r being the subsampling; input after T' r is unchanged.
        """
        mask = mask.repeat_interleave(self.subsampling, dim=1)[:, : xs.size(1)]
        mask = torch.nn.functional.pad(mask, (0, xs.size(1) - mask.size(1)))
        if self.replacement == "noise":
            instead = torch.randn_like(xs) * self.noise_std
        elif self.replacement == "zero":
            instead = xs.new_zeros(())
        else:
            instead = self.embedding.to(xs.dtype)
        return torch.where(mask[:, :, None], instead, xs)
