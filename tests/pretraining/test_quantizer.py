"""Labels against a plain nearest neighbour and against the definition of Gumbel."""

import pytest
import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.frame_statistics import FrameStatistics
from espnet2_birq.pretraining.loss import gumbel_like
from espnet2_birq.pretraining.quantizer import GumbelSoftmaxQuantizer, RandomProjectionQuantizer


def codes_of(quantizer, vectors):
    return torch.stack([labels.codes for labels in quantizer(vectors)])


def brute_force(points, codebook):
    """Distances in double precision, a few frames at a time."""
    for part in points.double().split(500):
        yield torch.cdist(part, codebook.double(), compute_mode=EXACT)


EXACT = "donot_use_mm_for_euclid_dist"


@pytest.mark.parametrize("score", ["distance", "cosine"])
def test_codes_are_the_nearest_by_brute_force_in_double_precision(score):
    """On 100,000 frames; where single precision picks another, both are equally far."""
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(
        40, codebook_size=512, codebook_dim=8, num_codebooks=2, score=score
    )
    vectors = torch.randn(100_000, 40)
    codes = codes_of(quantizer, vectors)
    others = 0
    for book in range(2):
        points = vectors.double() @ quantizer.projection[book].double()
        if score == "cosine":
            points = points / points.norm(dim=1, keepdim=True)
        blocks = codes[book].split(500)
        for ours, distances in zip(
            blocks, brute_force(points, quantizer.codebook[book])
        ):
            nearest = distances.min(dim=1)
            gap = distances.gather(1, ours[:, None])[:, 0] - nearest.values
            assert gap.max() < 1e-5
            others += int((ours != nearest.indices).sum())
    assert others < 20


def test_codes_are_those_of_vector_quantize_pytorch():
    """100,000 frames, the same projection and codebook, both on the unit sphere."""
    library = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    # One book: with more, version 1.32 puts a random layer of its own between.
    sizes = dict(num_codebooks=1, codebook_size=512, codebook_dim=8)
    oracle = library.RandomProjectionQuantizer(dim=40, norm=False, **sizes)
    ours = RandomProjectionQuantizer(40, score="cosine", **sizes)
    ours.projection.copy_(oracle.rand_projs)
    ours.codebook.copy_(oracle.vq._codebook.embed)
    vectors = torch.randn(100, 1000, 40)
    with torch.no_grad():
        theirs = torch.stack([oracle(part[None])[0] for part in vectors]).squeeze(-1)
    codes = codes_of(ours, vectors.flatten(0, 1)).view(100, 1000)
    assert (codes == theirs).float().mean() > 0.9999


def test_seed_decides_and_checkpoints_hold_nothing():
    one, same, other = (
        RandomProjectionQuantizer(40, codebook_size=50, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(one.codebook, same.codebook)
    assert torch.equal(one.projection, same.projection)
    assert not torch.equal(one.codebook, other.codebook)
    assert not torch.equal(one.projection, other.projection)
    assert not one.state_dict()
    # The codebook is shared by quantizers of other inputs, the projection cannot be.
    assert torch.equal(
        one.codebook, RandomProjectionQuantizer(9, codebook_size=50, seed=3).codebook
    )


def test_projected_variance_suits_the_codebook():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(320)
    projected = quantizer.points(torch.randn(2000, 320))
    assert 1.7 < projected.var() < 2.1  # 2 D / (D + d), Xavier; the codes' is 1


def test_labels_do_not_depend_on_autocast():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(320)
    vectors = torch.randn(500, 320)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = codes_of(quantizer, vectors)
    assert torch.equal(inside, codes_of(quantizer, vectors))


def test_layer_norm_makes_labels_independent_of_scale():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(40, layer_norm=True)
    vectors = torch.randn(100, 40)
    assert torch.equal(
        codes_of(quantizer, vectors), codes_of(quantizer, 7 * vectors + 3)
    )


def soft_probs(labels):
    scores = labels.points @ labels.code_weight.T + labels.code_bias
    return ((scores + gumbel_like(scores)) / labels.temperature).softmax(dim=1)


def test_gumbel_labels_are_drawn_with_the_softmax_of_minus_the_squared_distances():
    torch.manual_seed(0)
    quantizer = GumbelSoftmaxQuantizer(
        6, codebook_size=5, codebook_dim=3, score_scale=0.7
    )
    vector = torch.randn(1, 6)
    (labels,) = quantizer(vector.expand(40000, 6))
    normed = torch.nn.functional.layer_norm(vector, (6,))
    distances = torch.cdist(normed @ quantizer.projection[0], quantizer.codebook[0])
    expected = torch.softmax(-0.7 * distances.square(), dim=1)[0]
    probs = soft_probs(labels)
    drawn = torch.bincount(probs.argmax(dim=1), minlength=5) / 40000
    assert (drawn - expected).abs().max() < 0.01


def test_temperature_follows_its_schedule():
    torch.manual_seed(0)
    quantizer = GumbelSoftmaxQuantizer(
        6, codebook_size=50, temperature=[[0, 2.0], [100, 0.001]]
    )
    vectors = torch.randn(100, 6)
    first, last = (quantizer(vectors, step=step)[0] for step in (0, 100))
    assert first.temperature == 2.0
    assert soft_probs(last).max(dim=1).values.mean() > 0.99
    assert soft_probs(first).max(dim=1).values.mean() < 0.9


def test_gradient_is_kept_or_cut():
    vectors = torch.randn(10, 6, requires_grad=True)
    for kept in (True, False):
        quantizer = GumbelSoftmaxQuantizer(6, codebook_size=50, keep_gradient=kept)
        assert quantizer(vectors)[0].points.requires_grad == kept


def test_books_are_independent():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(40, num_codebooks=3, codebook_size=64)
    assert quantizer.codebook.shape == (3, 64, 16)
    codes = codes_of(quantizer, torch.randn(1000, 40))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(quantizer.codebook[one], quantizer.codebook[other])
        assert (codes[one] == codes[other]).float().mean() < 0.1


def crowded(number=4000, size=40):
    """Vectors that differ from one another along a few directions mostly."""
    torch.manual_seed(0)
    scales = 5.0 * 0.5 ** torch.arange(size).clamp(max=6)
    turn = torch.linalg.qr(torch.randn(size, size)).Q
    return 3.0 * torch.randn(size) + (torch.randn(number, size) * scales) @ turn


def statistics_of(vectors):
    covariance = torch.cov(vectors.T.double(), correction=0)
    return FrameStatistics(
        vectors.double().mean(dim=0).numpy(), covariance.numpy(), len(vectors)
    )


@pytest.mark.parametrize("projection", ["whitened", "pca_whitened"])
def test_statistics_whiten_the_points_and_spread_the_labels(projection):
    vectors = crowded()
    plain = RandomProjectionQuantizer(40, codebook_size=256)
    quantizer = RandomProjectionQuantizer(
        40,
        codebook_size=256,
        projection=projection,
        num_codebooks=2,
        statistics=statistics_of(vectors),
    )
    for points in quantizer.points(vectors):
        assert points.mean(dim=0).abs().max() < 1e-3
        assert (torch.cov(points.T) - torch.eye(16)).abs().max() < 1e-2
    assert len(codes_of(plain, vectors).unique()) < 30
    assert len(codes_of(quantizer, vectors)[0].unique()) > 100
    assert not quantizer.state_dict()


def test_pca_keeps_the_proportions_of_the_largest_variances():
    vectors = crowded()
    quantizer = RandomProjectionQuantizer(
        40, codebook_dim=4, projection="pca", statistics=statistics_of(vectors)
    )
    (points,) = quantizer.points(vectors)
    covariance = torch.cov(points.T)
    expected = torch.linalg.eigvalsh(torch.cov(vectors.T)).flip(0)[:4]
    expected = expected / expected.mean()
    assert torch.allclose(covariance, torch.diag(expected), atol=1e-2)


def test_a_layer_is_whitened_by_running_statistics():
    vectors = crowded(200_000)
    quantizer = RandomProjectionQuantizer(
        40, codebook_size=256, projection="whitened", num_codebooks=2
    )
    present = torch.ones(500)
    present[400:] = 0.0
    for part in vectors.split(500):
        part = part.clone()
        part[400:] = 1e3  # rows that fill up do not count
        quantizer(part, present)
    quantizer.eval()
    for points in quantizer.points(vectors):
        assert points.mean(dim=0).abs().max() < 0.1
        assert (torch.cov(points.T) - torch.eye(16)).abs().max() < 0.1
    # A frame's label does not depend on what is in its batch, and resuming keeps it.
    codes = codes_of(quantizer, vectors[:500])
    assert torch.equal(codes[:, :5], codes_of(quantizer, vectors[:5]))
    resumed = RandomProjectionQuantizer(
        40, codebook_size=256, projection="whitened", num_codebooks=2
    ).eval()
    assert not torch.equal(codes_of(resumed, vectors[:500]), codes)
    resumed.load_state_dict(quantizer.state_dict())
    assert torch.equal(codes_of(resumed, vectors[:500]), codes)


@pytest.mark.parametrize(
    "conf, words",
    [
        (dict(projection="pca"), "projection 'pca' is for the input"),
        (dict(projection="lda"), "unknown projection 'lda', use one of"),
        (dict(score="dot"), "unknown score 'dot', use one of"),
        (
            dict(
                projection="pca",
                layer_norm=True,
                statistics=statistics_of(torch.randn(99, 40)),
            ),
            "layer_norm and projection 'pca'",
        ),
        (
            dict(projection="whitened", statistics=statistics_of(torch.randn(9, 40))),
            "frame statistics of 9 frames have fewer than 16 independent directions",
        ),
        (
            dict(projection="pca", statistics=statistics_of(torch.randn(9, 40))),
            "frame statistics of 9 frames have fewer than 16 independent directions",
        ),
        (
            dict(projection="pca", statistics=statistics_of(torch.randn(99, 7))),
            "statistics are of 7 numbers a frame, the model's frames have 40",
        ),
    ],
)
def test_errors(conf, words):
    with pytest.raises((ConfigError, DataError), match=words):
        RandomProjectionQuantizer(40, **conf)
