"""Labels against a plain nearest neighbour and against the definition of Gumbel."""

import numpy as np
import pytest
import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.labellers.gumbel_softmax import GumbelSoftmaxLabeller
from espnet2_birq.pretraining.labellers.projection import MomentSums
from espnet2_birq.pretraining.labellers.random_projection import (
    RandomProjectionLabeller,
)
from espnet2_birq.pretraining.labellers.whitening import RunningWhitening
from espnet2_birq.pretraining.losses.gumbel import gumbel_like


def of_input(size, **conf):
    return RandomProjectionLabeller(size, running=False, **conf)


def of_layer(size, **conf):
    return RandomProjectionLabeller(size, running=True, **conf)


def codes_of(labeller, vectors):
    return torch.stack([labels.codes for labels in labeller.label(vectors)])


def brute_force(points, codebook):
    """Yield distances in double precision, for a few frames at a time."""
    for part in points.double().split(500):
        yield torch.cdist(part, codebook.double(), compute_mode=EXACT)


EXACT = "donot_use_mm_for_euclid_dist"


@pytest.mark.parametrize("score", ["distance", "cosine"])
def test_codes_are_the_nearest_by_brute_force_in_double_precision(score):
    """On 100,000 frames; where single precision differs, both codes are equally far."""
    torch.manual_seed(0)
    labeller = of_input(
        40, codebook_size=512, codebook_dim=8, num_codebooks=2, score=score
    )
    vectors = torch.randn(100_000, 40)
    codes = codes_of(labeller, vectors)
    others = 0
    for book in range(2):
        points = vectors.double() @ labeller.projection[book].double()
        if score == "cosine":
            points = points / points.norm(dim=1, keepdim=True)
        blocks = codes[book].split(500)
        for ours, distances in zip(
            blocks, brute_force(points, labeller.codebook[book])
        ):
            nearest = distances.min(dim=1)
            gap = distances.gather(1, ours[:, None])[:, 0] - nearest.values
            assert gap.max() < 1e-5
            others += int((ours != nearest.indices).sum())
    assert others < 20


def test_codes_are_those_of_vector_quantize_pytorch():
    """On 100,000 frames, with the same projection and codebook on the unit sphere."""
    library = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(0)
    # One codebook: with more, version 1.32 inserts another random layer.
    sizes = dict(num_codebooks=1, codebook_size=512, codebook_dim=8)
    oracle = library.RandomProjectionQuantizer(dim=40, norm=False, **sizes)
    ours = of_input(40, score="cosine", **sizes)
    ours.projection.copy_(oracle.rand_projs)
    ours.codebook.copy_(oracle.vq._codebook.embed)
    vectors = torch.randn(100, 1000, 40)
    with torch.no_grad():
        theirs = torch.stack([oracle(part[None])[0] for part in vectors]).squeeze(-1)
    codes = codes_of(ours, vectors.flatten(0, 1)).view(100, 1000)
    assert (codes == theirs).float().mean() > 0.9999


def test_seed_decides_and_checkpoints_hold_all():
    one, same, other = (of_input(40, codebook_size=50, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.codebook, same.codebook)
    assert torch.equal(one.projection, same.projection)
    assert not torch.equal(one.codebook, other.codebook)
    assert not torch.equal(one.projection, other.projection)
    # Labellers of other inputs have the same codebook, but not the same projection.
    assert torch.equal(one.codebook, of_input(9, codebook_size=50, seed=3).codebook)
    # Tensors come from the checkpoint, not from the seed.
    state = one.state_dict()
    state["codebook"] = one.codebook + 1.0
    same.load_state_dict(state)
    assert torch.equal(same.codebook, one.codebook + 1.0)


def test_a_checkpoint_of_another_configuration_is_named():
    state = of_input(40, seed=3).state_dict()
    with pytest.raises(ConfigError, match=r"says '.*seed=4', the checkpoint .*seed=3'"):
        of_input(40, seed=4).load_state_dict(state)
    with pytest.raises(ConfigError, match="projection=pca .*projection=xavier"):
        of_input(40, seed=3, projection="pca").load_state_dict(state)
    # ESPnet averages models by dividing their sum.
    averaged = {key: (value + value + value) / 3 for key, value in state.items()}
    of_input(40, seed=3).load_state_dict(averaged)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_no_state_is_kept_in_half_precision(cast):
    labeller = of_layer(40, codebook_size=50, projection="whitened")
    model = torch.nn.ModuleList([labeller, torch.nn.Linear(2, 2)])
    getattr(model, cast)()
    assert model[1].weight.dtype != torch.float32
    assert all(buffer.dtype == torch.float32 for buffer in labeller.buffers())
    vectors = torch.randn(100, 40).to(model[1].weight.dtype)
    assert codes_of(labeller, vectors).unique().numel() > 1
    assert labeller.double().codebook.dtype == torch.float64


def test_projected_variance_suits_the_codebook():
    torch.manual_seed(0)
    labeller = of_input(320)
    projected = labeller.points(torch.randn(2000, 320))
    assert 1.7 < projected.var() < 2.1  # 2 D / (D + d), Xavier; the codes' is 1


def test_labels_do_not_depend_on_autocast():
    torch.manual_seed(0)
    labeller = of_input(320)
    vectors = torch.randn(500, 320)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = codes_of(labeller, vectors)
    assert torch.equal(inside, codes_of(labeller, vectors))


def test_layer_norm_makes_labels_independent_of_scale():
    torch.manual_seed(0)
    labeller = of_layer(40, layer_norm=True)
    vectors = torch.randn(100, 40)
    assert torch.equal(codes_of(labeller, vectors), codes_of(labeller, 7 * vectors + 3))


def soft_probs(labels):
    scores = labels.points @ labels.code_weight.T + labels.code_bias
    return ((scores + gumbel_like(scores)) / labels.temperature).softmax(dim=1)


def test_gumbel_labels_are_drawn_with_the_softmax_of_minus_the_squared_distances():
    torch.manual_seed(0)
    labeller = GumbelSoftmaxLabeller(
        6, running=True, codebook_size=5, codebook_dim=3, score_scale=0.7
    )
    vector = torch.randn(1, 6)
    (labels,) = labeller.label(vector.expand(40000, 6))
    normed = torch.nn.functional.layer_norm(vector, (6,))
    distances = torch.cdist(normed @ labeller.projection[0], labeller.codebook[0])
    expected = torch.softmax(-0.7 * distances.square(), dim=1)[0]
    probs = soft_probs(labels)
    drawn = torch.bincount(probs.argmax(dim=1), minlength=5) / 40000
    assert (drawn - expected).abs().max() < 0.01


def test_temperature_follows_its_schedule():
    torch.manual_seed(0)
    labeller = GumbelSoftmaxLabeller(
        6, running=True, codebook_size=50, temperature=[[0, 2.0], [100, 0.001]]
    )
    vectors = torch.randn(100, 6)
    first, last = (labeller.label(vectors, update)[0] for update in (0, 100))
    assert first.temperature == 2.0
    assert soft_probs(last).max(dim=1).values.mean() > 0.99
    assert soft_probs(first).max(dim=1).values.mean() < 0.9
    # Validation losses of different epochs are of one temperature.
    (evaluated,) = labeller.eval().label(torch.randn(3, 6), update=0)
    assert evaluated.temperature == 0.001


def test_books_are_independent():
    torch.manual_seed(0)
    labeller = of_input(40, num_codebooks=3, codebook_size=64)
    assert labeller.codebook.shape == (3, 64, 16)
    codes = codes_of(labeller, torch.randn(1000, 40))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(labeller.codebook[one], labeller.codebook[other])
        assert (codes[one] == codes[other]).float().mean() < 0.1


def crowded(number=4000, size=40):
    """Draw vectors that differ mostly along a few directions."""
    torch.manual_seed(0)
    scales = 5.0 * 0.5 ** torch.arange(size).clamp(max=6)
    turn = torch.linalg.qr(torch.randn(size, size)).Q
    return 3.0 * torch.randn(size) + (torch.randn(number, size) * scales) @ turn


def started(labeller, vectors):
    """Observe the vectors in parts, with some invalid rows, and start the labeller."""
    for part in vectors.split(300):
        filling = torch.full((7, vectors.size(1)), 1e3)
        valid = torch.cat([torch.ones(len(part)), torch.zeros(7)])
        labeller.observe(torch.cat([part, filling]), valid)
    labeller.start()
    return labeller


@pytest.mark.parametrize("projection", ["whitened", "pca_whitened"])
def test_moments_whiten_the_points_and_spread_the_labels(projection):
    vectors = crowded()
    plain = of_input(40, codebook_size=256)
    conf = dict(codebook_size=256, projection=projection, num_codebooks=2)
    labeller = started(of_input(40, **conf), vectors)
    for points in labeller.points(vectors):
        assert points.mean(dim=0).abs().max() < 1e-3
        assert (torch.cov(points.T) - torch.eye(16)).abs().max() < 1e-2
    assert len(codes_of(plain, vectors).unique()) < 30
    assert len(codes_of(labeller, vectors)[0].unique()) > 100
    # After the start, the projection is fixed and part of the checkpoint.
    codes = codes_of(labeller, vectors)
    labeller.observe(vectors + 5.0, torch.ones(len(vectors)))
    assert torch.equal(codes_of(labeller, vectors), codes)
    loaded = of_input(40, **conf)
    assert not loaded.ready
    with pytest.raises(DataError, match="before the first update"):
        loaded.label(vectors)
    loaded.load_state_dict(labeller.state_dict())
    assert torch.equal(codes_of(loaded, vectors), codes)


def test_a_settled_labeller_may_start_anew_from_an_earlier_checkpoint():
    vectors = crowded()
    before = of_input(40, projection="pca").state_dict()
    labeller = started(of_input(40, projection="pca"), vectors)
    codes = codes_of(labeller, vectors)
    labeller.load_state_dict(before)
    assert torch.equal(codes_of(started(labeller, vectors), vectors), codes)


def test_moments_equal_numpy_s_and_leave_out_what_is_not_finite():
    vectors = crowded()
    sums = MomentSums(40)
    for part in vectors.split(500):
        part = torch.cat([part, torch.full((1, 40), torch.nan)])
        sums.add(part, torch.ones(501))
    moments = sums.moments()
    assert moments.count == len(vectors)
    expected = torch.cov(vectors.double().T, correction=0)
    assert torch.allclose(torch.from_numpy(moments.covariance), expected, atol=1e-9)
    mean = vectors.double().mean(dim=0)
    assert torch.allclose(torch.from_numpy(moments.mean), mean, atol=1e-12)


def test_pca_keeps_the_proportions_of_the_largest_variances():
    vectors = crowded()
    labeller = started(of_input(40, codebook_dim=4, projection="pca"), vectors)
    (points,) = labeller.points(vectors)
    covariance = torch.cov(points.T)
    expected = torch.linalg.eigvalsh(torch.cov(vectors.T)).flip(0)[:4]
    expected = expected / expected.mean()
    assert torch.allclose(covariance, torch.diag(expected), atol=1e-2)


def test_a_layer_is_whitened_by_running_moments():
    vectors = crowded(200_000)
    conf = dict(codebook_size=256, projection="whitened", num_codebooks=2)
    labeller = of_layer(40, **conf)
    valid = torch.ones(500)
    valid[400:] = 0.0
    for part in vectors.split(500):
        part = part.clone()
        part[400:] = 1e3  # invalid rows do not count
        labeller.observe(part, valid)
    for points in labeller.points(vectors):
        assert points.mean(dim=0).abs().max() < 0.1
        assert (torch.cov(points.T) - torch.eye(16)).abs().max() < 0.1
    # A frame's label does not depend on its batch, and stays the same after resuming.
    codes = codes_of(labeller, vectors[:500])
    assert torch.equal(codes[:, :5], codes_of(labeller, vectors[:5]))
    resumed = of_layer(40, **conf)
    assert not torch.equal(codes_of(resumed, vectors[:500]), codes)
    resumed.load_state_dict(labeller.state_dict())
    assert torch.equal(codes_of(resumed, vectors[:500]), codes)


@pytest.mark.parametrize("ratio", [1e3, 3e3, 1e4])
def test_whitening_of_points_whose_spread_is_small_beside_their_mean(ratio):
    torch.manual_seed(0)
    points = ratio + torch.randn(1, 4000, 3)
    whitening = RunningWhitening(1, 3)
    for part in points.split(500, dim=1):
        whitening.observe(part, torch.ones(500))
    whitened = whitening(points)
    assert torch.allclose(whitened.std(dim=1), torch.ones(3), atol=0.05)


def observed(number):
    """Observe batches, whose means differ; return their 40 of 50 rows that are valid."""
    torch.manual_seed(0)
    whitening, valid = RunningWhitening(2, 3), (torch.arange(50) < 40).float()
    batches = 3.0 * torch.randn(number, 2, 1, 3) + torch.randn(number, 2, 50, 3)
    for points in batches:
        whitening.observe(points, valid)
    return whitening, batches[:, :, :40].double().numpy()


def test_the_first_batches_have_equal_weights():
    """Else the spread between batches would be left out of, or inflate, the covariance."""
    whitening, batches = observed(5)
    for book in range(2):
        union = np.concatenate(batches[:, book])
        assert np.allclose(whitening.mean[book], np.mean(union, axis=0), atol=1e-5)
        covariance = np.cov(union.T, ddof=0)
        assert np.allclose(whitening.covariance[book], covariance, atol=1e-4)


def test_a_later_batch_has_the_weight_of_a_hundredth():
    """With more, labels would drift with every batch; with less, lag behind the layer."""
    whitening, batches = observed(300)
    for book in range(2):
        mean, square = np.zeros(3), np.zeros((3, 3))
        for number, points in enumerate(batches[:, book], start=1):
            rate = max(1 / number, 0.01)
            mean = (1 - rate) * mean + rate * points.mean(axis=0)
            square = (1 - rate) * square + rate * points.T @ points / len(points)
        assert np.allclose(whitening.mean[book], mean, atol=1e-5)
        covariance = square - np.outer(mean, mean)
        assert np.allclose(whitening.covariance[book], covariance, atol=1e-4)


def test_whitening_of_constant_points_and_of_batches_without_a_frame():
    whitening = RunningWhitening(1, 3)
    whitening.observe(torch.full((1, 10, 3), torch.nan), torch.zeros(10))
    whitening.observe(torch.ones(1, 10, 3), torch.zeros(10))
    assert whitening.batches == 0
    whitening.observe(torch.full((1, 10, 3), 7.0), torch.ones(10))
    assert whitening(torch.full((1, 5, 3), 7.0)).abs().max() < 1e-3
    # Rounding errors are not scaled to unit variance.
    near = 7.0 + 1e-6 * torch.randn(1, 50, 3)
    assert whitening(near).std() < 0.5


def test_a_collapsing_layer_does_not_look_healthy():
    """Hidden states whose spread is 1/3,000 of their norm are whitened to unit spread."""
    torch.manual_seed(0)
    labeller = of_layer(144, codebook_size=512, projection="whitened", layer_norm=True)
    vectors = torch.randn(144) + 3e-4 * torch.randn(4000, 144)
    for part in vectors.split(500):
        labeller.observe(part, torch.ones(500))
    (points,) = labeller.points(vectors)
    assert 0.5 < points.std() < 1.5


@pytest.mark.parametrize(
    "running, conf, words",
    [
        (True, dict(projection="pca"), "projection 'pca' is for the input"),
        (False, dict(projection="lda"), "unknown projection 'lda', use one of"),
        (False, dict(score="dot"), "unknown score 'dot', use one of"),
        (
            False,
            dict(projection="pca", layer_norm=True),
            "layer_norm and projection 'pca' .*: set layer_norm: false",
        ),
    ],
)
def test_errors(running, conf, words):
    with pytest.raises(ConfigError, match=words):
        RandomProjectionLabeller(40, running, **conf)


@pytest.mark.parametrize("temperature", [0, -0.5, [[0, 0.5], [100, 0]]])
def test_a_temperature_must_stay_above_zero(temperature):
    with pytest.raises(ConfigError, match="temperature is above 0"):
        GumbelSoftmaxLabeller(6, True, codebook_size=4, temperature=temperature)


@pytest.mark.parametrize("projection", ["whitened", "pca"])
def test_too_little_speech(projection):
    with pytest.raises(DataError, match="9 frames have fewer than 16 independent"):
        started(of_input(40, projection=projection), torch.randn(9, 40))
    with pytest.raises(DataError, match="no frame"):
        of_input(40, projection=projection).start()


def test_ignored_mismatches_do_not_hide_other_labels():
    """ESPnet's ignore_init_mismatch leaves out buffers of another size."""
    from test_model import ANCHOR, SMALL, make_model

    one = make_model([ANCHOR])
    other = make_model([{**ANCHOR, "labeller_conf": {**SMALL, "seed": 10}}])
    state, own = one.state_dict(), other.state_dict()
    kept = {k: x for k, x in state.items() if x.shape == own[k].shape}
    with pytest.raises(ConfigError, match="seed=10"):
        other.load_state_dict({**own, **kept})
    (name,) = (x for x in state if x.endswith("identity"))
    text = bytes(state[name].int().tolist()).rstrip(b"\0")
    state[name] = torch.tensor(list(text)).float()  # of an older version
    one.load_state_dict(state)
