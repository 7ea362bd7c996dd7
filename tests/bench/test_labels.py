"""bench/label_perplexity.py: perplexities differ between projections."""

import sys
from pathlib import Path

import pytest
import torch

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import label_perplexity  # noqa: E402


@pytest.fixture(scope="module")
def frames():
    """Vectors with most of their variance along few of 40 directions."""
    torch.manual_seed(0)
    scales = 10.0 ** torch.linspace(1, -1, 40)
    mixing = torch.linalg.qr(torch.randn(40, 40)).Q
    return 3.0 + (scales * torch.randn(20_000, 40)) @ mixing


@pytest.mark.parametrize("running", [False, True])
def test_whitened_points_use_more_codes(frames, running):
    random, whitened = (
        label_perplexity.measure(frames, running=running, projection=projection)
        for projection in ("xavier", "whitened")
    )
    # 4,000 draws from a normal distribution, 8192 codes drawn from the same: about 1,800
    assert 1 < random < 0.5 * whitened < whitened < 4000
