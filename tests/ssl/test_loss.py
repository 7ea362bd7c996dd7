"""The loss against its definition, and its gradient through soft labels."""

import torch

from espnet2_birq.ssl.loss import cross_entropy
from espnet2_birq.ssl.quantizer import Labels


def test_hard_labels():
    torch.manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64)
    codes = torch.randint(5, (7,))
    expected = -sum(logits[m].log_softmax(0)[codes[m]] for m in range(7)) / 7
    loss = cross_entropy(logits, Labels(codes, None, codes))
    assert torch.allclose(loss, expected)


def test_soft_labels_and_both_gradients():
    torch.manual_seed(0)
    logits = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    scores = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)

    def loss_of(logits, scores):
        probs = torch.softmax(scores, dim=1)
        return cross_entropy(logits, Labels(probs.argmax(1), probs, probs.argmax(1)))

    probs = torch.softmax(scores, dim=1)
    expected = 0.0
    for m in range(7):
        for v in range(5):
            expected -= probs[m, v] * logits[m].log_softmax(0)[v] / 7
    assert torch.allclose(loss_of(logits, scores), expected)
    assert torch.autograd.gradcheck(loss_of, (logits, scores))
    # One-hot soft labels are hard labels.
    codes = torch.randint(5, (7,))
    one_hot = torch.nn.functional.one_hot(codes, 5).double()
    assert torch.allclose(
        cross_entropy(logits, Labels(codes, one_hot, codes)),
        cross_entropy(logits, Labels(codes, None, codes)),
    )
