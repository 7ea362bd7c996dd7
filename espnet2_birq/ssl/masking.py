"""Span masks, drawn at the encoder's rate and expanded to the input's.

A mask drawn on input frames and then subsampled can cover half a label frame. Drawn on
encoder frames and repeated, "masked encoder frame" and "frame whose label is predicted"
are the same thing by construction:

    encoder frames     0    [1]   [2]    3         mask        (B, T')
    input frames    0 1 2 3 [4 .... 11] 12 ...     mask_input  (B, T)
"""

import torch


class SpanMasking(torch.nn.Module):
    """Masks spans of frames, a draw of its own for each utterance, never padding.

    Args:
        mask_prob: Probability that a span starts at a 10 ms input frame, as BEST-RQ
            counts it (arXiv 2202.01855: 0.01). Spans may overlap; about
            1 - (1 - mask_prob) ** (mask_length_ms / 10) of the frames end up masked,
            33 % with the defaults. The realised share is reported as ``mask_share``.
        mask_length_ms: Length of a span in milliseconds.
        noise_std: A masked input frame is replaced by noise N(0, noise_std ** 2)
            (BEST-RQ: 0.1). The input is normalised, so this is small.
        frame_shift_ms: Shift of an input frame in milliseconds.
        subsampling: Input frames per encoder frame.
    """

    def __init__(
        self,
        mask_prob: float = 0.01,
        mask_length_ms: float = 400.0,
        noise_std: float = 0.1,
        frame_shift_ms: float = 10.0,
        subsampling: int = 4,
    ):
        super().__init__()
        shift = frame_shift_ms * subsampling
        # A span starts at an encoder frame if it starts at any of its input frames.
        self.start_prob = 1.0 - (1.0 - mask_prob) ** (shift / 10.0)
        self.span = max(1, round(mask_length_ms / shift))
        self.noise_std = noise_std
        self.subsampling = subsampling

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
        # Without a start an utterance would be encoded for nothing: its luckiest draw
        # becomes one.
        lowest = draws.masked_fill(~valid, 2.0).argmin(dim=1, keepdim=True)
        starts = (draws < self.start_prob) | (index == lowest)
        starts = (starts & valid).int()
        # A frame is masked if a span started within the last `span` frames:
        # the number of starts up to t less the number up to t - span.
        count = starts.cumsum(dim=1)
        before = torch.nn.functional.pad(count, (self.span, 0))[:, :frames]
        return (count > before) & valid

    def apply_to(self, xs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Replace the masked frames of the input by noise.

        Args:
            xs: (B, T, D) input frames; not changed.
            mask: (B, T') at the encoder's rate.

        Returns:
            (B, T, D). Encoder frame t is input frames [t r, (t + 1) r), r being the
            subsampling; what remains of the input behind T' r is left as it is.
        """
        mask = mask.repeat_interleave(self.subsampling, dim=1)[:, : xs.size(1)]
        mask = torch.nn.functional.pad(mask, (0, xs.size(1) - mask.size(1)))
        noise = torch.randn_like(xs) * self.noise_std
        return torch.where(mask[:, :, None], noise, xs)


def stack_frames(xs: torch.Tensor, factor: int, frames: int) -> torch.Tensor:
    """Put the input frames of each encoder frame side by side.

    Args:
        xs: (B, T, D) input frames.
        factor: r, input frames per encoder frame.
        frames: T', encoder frames.

    Returns:
        (B, T', r D): frame t holds xs[:, t r : (t + 1) r], the very frames that are
        hidden from the encoder when frame t is masked.
    """
    return xs[:, : frames * factor].reshape(xs.size(0), frames, factor * xs.size(2))
