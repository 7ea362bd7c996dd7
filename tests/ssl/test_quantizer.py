"""Labels against a plain nearest neighbour and against the definition of Gumbel."""

import torch

from espnet2_birq.ssl.quantizer import GumbelSoftmaxQuantizer, RandomProjectionQuantizer


def test_codes_are_the_nearest_by_brute_force_in_double_precision():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(40, codebook_size=500, codebook_dim=8)
    vectors = torch.randn(300, 40)
    projected = vectors.double() @ quantizer.projection.double()
    distances = torch.cdist(projected[None], quantizer.codebook.double()[None])[0]
    nearest = distances.argmin(dim=1)
    codes = quantizer(vectors).codes
    # Where single precision picks another code, the two are equally far.
    gap = distances.gather(1, codes[:, None]) - distances.gather(1, nearest[:, None])
    assert gap.max() < 1e-5
    assert (codes == nearest).float().mean() > 0.99


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
    assert torch.equal(one.codebook, RandomProjectionQuantizer(9, 50, seed=3).codebook)


def test_projected_variance_suits_the_codebook():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(320)
    projected = torch.randn(2000, 320) @ quantizer.projection
    assert 1.7 < projected.var() < 2.1  # 2 D / (D + d), Xavier; the codes' is 1


def test_labels_do_not_depend_on_autocast():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(320)
    vectors = torch.randn(500, 320)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = quantizer(vectors).codes
    assert torch.equal(inside, quantizer(vectors).codes)


def test_layer_norm_makes_labels_independent_of_scale():
    torch.manual_seed(0)
    quantizer = RandomProjectionQuantizer(40, layer_norm=True)
    vectors = torch.randn(100, 40)
    assert torch.equal(quantizer(vectors).codes, quantizer(7 * vectors + 3).codes)


def test_gumbel_labels_are_drawn_with_the_softmax_of_the_scores():
    torch.manual_seed(0)
    quantizer = GumbelSoftmaxQuantizer(6, codebook_size=5, codebook_dim=3)
    vector = torch.randn(1, 6)
    expected = torch.softmax(quantizer.scores(vector), dim=1)[0]
    labels = quantizer(vector.expand(40000, 6))
    drawn = torch.bincount(labels.codes, minlength=5) / 40000
    assert (drawn - expected).abs().max() < 0.01
    assert torch.allclose(labels.probs.sum(dim=1), torch.ones(40000), atol=1e-5)
    assert (labels.nearest == expected.argmax()).all()


def test_low_temperature_gives_one_hot_labels():
    torch.manual_seed(0)
    quantizer = GumbelSoftmaxQuantizer(6, codebook_size=50, temperature=1e-3)
    assert quantizer(torch.randn(100, 6)).probs.max(dim=1).values.mean() > 0.99


def test_batch_norm_standardises_the_projection_and_spreads_the_labels():
    torch.manual_seed(0)
    # Vectors that differ little from one another, as an untrained layer's do.
    vectors = torch.randn(40) * 5 + 0.1 * torch.randn(2000, 40)
    plain = RandomProjectionQuantizer(40, codebook_size=256)
    normed = RandomProjectionQuantizer(40, codebook_size=256, batch_norm=True)
    assert len(plain(vectors).codes.unique()) < 30
    labels = normed(vectors).codes
    assert len(labels.unique()) > 100
    projected = (vectors @ normed.projection).double()
    standard = (projected - projected.mean(0)) / projected.std(0, unbiased=False)
    distances = torch.cdist(standard, normed.codebook.double())
    assert (distances.argmin(dim=1) == labels).float().mean() > 0.99
    # In evaluation a frame's label does not depend on what is in its batch.
    for _ in range(200):
        normed(vectors)
    normed.eval()
    assert torch.equal(normed(vectors).codes[:5], normed(vectors[:5]).codes)
    assert (normed(vectors).codes == labels).float().mean() > 0.9
