"""What tells a learning model from a collapsed one, computed per batch.

All values are tensors: nothing here waits for a GPU.
"""

from typing import Dict

import torch

from espnet2_birq.ssl.quantizer import Labels


def perplexity(counts: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of code use: the number of codes in equal use.

    Args:
        counts: (V,) how often each code occurs.

    Returns:
        () between 1 and V.
    """
    shares = counts / counts.sum()
    return torch.special.entr(shares).sum().exp()


def coverage(counts: torch.Tensor) -> torch.Tensor:
    """Share of the codebook that occurs at all; () between 0 and 1."""
    return (counts > 0).float().mean()


@torch.no_grad()
def target_statistics(
    loss: torch.Tensor, logits: torch.Tensor, labels: Labels
) -> Dict[str, torch.Tensor]:
    """Statistics of one target at the M masked frames of a batch.

    Perplexity and coverage are those of the batch: M frames cannot use more than M
    codes, so compare them at equal batch sizes only.

    Args:
        loss: () the target's own loss, without its weight.
        logits: (M, V) predictions.
        labels: Labels of the same frames.

    Returns:
        ``loss`` (nats), ``acc`` (share of frames whose likeliest prediction is the
        label), ``label_ppl``, ``label_cov``, ``pred_ppl``, ``pred_cov`` (codebook
        perplexity and coverage of labels and predictions), ``label_entropy`` (nats, of
        the label given the frame: 0 for hard labels) and ``hit`` (share of frames whose
        label is the nearest code).
    """
    num_codes = logits.size(1)
    predicted = logits.argmax(dim=1)
    label_counts = torch.bincount(labels.codes, minlength=num_codes).float()
    predicted_counts = torch.bincount(predicted, minlength=num_codes).float()
    if labels.probs is None:
        label_entropy = loss.new_zeros(())
    else:
        label_entropy = torch.special.entr(labels.probs).sum(dim=1).mean()
    return {
        "loss": loss.detach(),
        "acc": (predicted == labels.codes).float().mean(),
        "label_ppl": perplexity(label_counts),
        "label_cov": coverage(label_counts),
        "pred_ppl": perplexity(predicted_counts),
        "pred_cov": coverage(predicted_counts),
        "label_entropy": label_entropy,
        "hit": (labels.codes == labels.nearest).float().mean(),
    }
