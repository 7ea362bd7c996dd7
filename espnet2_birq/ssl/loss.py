"""Cross-entropy at masked frames, to hard or to soft labels."""

import torch

from espnet2_birq.ssl.quantizer import Labels


def cross_entropy(logits: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Mean cross-entropy over masked frames (F and G of BiRQ, Algorithm 1).

    Args:
        logits: (M, V) float32 predictions at the masked frames.
        labels: Labels of the same frames. Gradients flow into soft labels too: F
            depends on theta through the prediction and through the label.

    Returns:
        () mean over the M frames, in nats.
    """
    if labels.probs is None:
        return torch.nn.functional.cross_entropy(logits, labels.codes)
    return -(labels.probs * logits.log_softmax(dim=1)).sum(dim=1).mean()
