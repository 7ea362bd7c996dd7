"""K-means, which makes the first codebooks, and the sample that it works on."""

import numpy as np
import pytest
import torch

from espnet2_birq.pretraining.labellers.kmeans import FrameSample, kmeans, nearest


def test_kmeans_is_as_good_as_scikit_learns():
    cluster = pytest.importorskip("sklearn.cluster")
    torch.manual_seed(0)
    centres = 4.0 * torch.randn(30, 5)
    vectors = centres[torch.randint(30, (3000,))] + 0.5 * torch.randn(3000, 5)

    def inertia(centroids):
        codes = nearest(vectors, centroids)
        return (vectors - centroids[codes]).square().sum().item()

    ours = [inertia(kmeans(vectors, 30, torch.Generator().manual_seed(s))) for s in R]
    theirs = [
        cluster.KMeans(30, n_init=1, max_iter=10, random_state=s).fit(vectors).inertia_
        for s in R
    ]
    assert np.median(ours) < 1.05 * np.median(theirs)


R = range(7)


def test_kmeans_of_fewer_vectors_than_codes_does_not_fail():
    vectors = torch.randn(3, 4).repeat(50, 1)
    centroids = kmeans(vectors, 8, torch.Generator().manual_seed(0))
    assert centroids.isfinite().all()
    assert (vectors - centroids[nearest(vectors, centroids)]).abs().max() < 1e-3


def test_the_sample_is_spread_over_all_that_was_added():
    sample = FrameSample(100)
    torch.manual_seed(0)
    place = 0
    for _ in range(60):
        number = int(torch.randint(1, 40, ()))
        vectors = torch.arange(place, place + number)[:, None].float()
        place += number
        filler = torch.full((2, 1), -1.0)
        valid = torch.tensor([1.0] * number + [0.0] * 2)
        sample.add(torch.cat([vectors, filler]), valid)
    kept = sample.gather(torch.zeros(0, 1))[:, 0]
    assert 100 <= len(kept) <= 200
    assert kept.diff().unique().tolist() == [sample.every]
