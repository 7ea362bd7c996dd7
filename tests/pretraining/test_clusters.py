"""Online clusters of a teacher's layers: each layer has its codebook and its head."""

import numpy as np
import pytest
import torch
from test_model import make_batch, make_model
from test_residual import (
    make_codebooks,
    make_optimizer,
    of_update,
    plain,
    set_codebooks,
    train,
)

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.labellers.clusters import ClusterLabeller
from espnet2_birq.pretraining.labellers.residual import ResidualLabeller

DINOSR = {
    "name": "dinosr",
    "view": "teacher layers top 2 each",
    "labeller": "clusters",
    "labeller_conf": {"num_codebooks": 2, "codebook_size": 8},
}


def test_parts_are_quantized_one_by_one():
    """Each part has its own vector quantizer; all replace codes by the same frames."""
    torch.manual_seed(0)
    together = ClusterLabeller(12, True, 3, 8, decay=0.6, reseed=0.05)
    vectors = [2.0 * torch.randn(300, 12) for _ in range(6)]
    valid = (torch.rand(300) < 0.8).float()
    together.observe(vectors[0], valid)
    together.start()
    alone = []
    for book in range(3):
        one = ResidualLabeller(4, True, 1, 8, decay=0.6, reseed=0.0)
        set_codebooks(one, together.codebooks()[book : book + 1])
        one.usage.copy_(together.usage[book])
        one.sums.copy_(together.sums[book])
        alone.append(one)
    together.reseed = 0.0
    for batch in vectors:
        of_update(together, [(batch, valid)])
        for one, part in zip(alone, batch.split(4, dim=1)):
            of_update(one, [(part, valid)])
        codes = [x.codes(p)[0] for x, p in zip(alone, batch.split(4, dim=1))]
        assert torch.equal(together.codes(batch), torch.stack(codes))
    for book, one in enumerate(alone):
        assert torch.allclose(together.codebooks()[book], one.codebooks()[0], atol=1e-5)
    error = (vectors[0] - together._quantize(vectors[0])[1]).square().mean()
    assert error < vectors[0].var()


def test_errors_are_shares_of_the_variance_of_each_part():
    """Around the mean: beside a large mean, any codebook's error would look small."""
    vectors, books = torch.randn(150, 6) + 5.0, make_codebooks(size=2) + 5.0
    labeller = ClusterLabeller(6, True, 3, 8, decay=0.0)
    set_codebooks(labeller, books)
    filler = torch.full((9, 6), 1e3)
    valid = (torch.arange(159) < 150).float()
    of_update(labeller, [(torch.cat([vectors, filler]), valid)])
    stats = labeller.statistics()
    for book in range(3):
        x = vectors[:, 2 * book : 2 * book + 2].double().numpy()
        _, made = plain(x, books[book : book + 1])
        share = np.sum((x - made) ** 2) / np.sum((x - x.mean(axis=0)) ** 2)
        assert stats[f"level{book + 1}_error"].item() == pytest.approx(share, rel=1e-4)


def test_errors_of_levels_are_shares_of_the_variance_of_the_vectors():
    """Not of the level's residuals, whose share would not fall from level to level."""
    vectors, books = torch.randn(150, 6) + 5.0, make_codebooks()
    books[0] += 5.0
    labeller = ResidualLabeller(6, True, 3, 8, decay=0.0)
    set_codebooks(labeller, books)
    of_update(labeller, [(vectors, torch.ones(150))])
    stats, x = labeller.statistics(), vectors.double().numpy()
    for level in (1, 2, 3):
        _, made = plain(x, books[:level])
        share = np.sum((x - made) ** 2) / np.sum((x - x.mean(axis=0)) ** 2)
        assert stats[f"level{level}_error"].item() == pytest.approx(share, rel=1e-4)


def test_each_layer_has_its_codes_and_its_head():
    model = make_model([DINOSR], teacher_conf=dict(decay=0.9))
    speech, lengths = make_batch((1.6, 1.1, 1.6, 0.7))
    model.prepare([dict(speech=speech, speech_lengths=lengths)])
    assert len(model.heads["dinosr"]) == 2
    codes, _ = model.eval().label(speech, lengths, "dinosr")
    batch = model._clean_batch(speech, lengths)
    labeller = model.objectives[0].labeller
    both = model._views(batch, list(model.objectives), 0).whole(
        model.objectives[0].view
    )
    for book, layer in enumerate(both.split(16, dim=2)):
        distances = torch.cdist(layer.flatten(0, 1), labeller.codebooks()[book])
        same = codes[book].flatten() == distances.argmin(dim=1)
        assert same.float().mean() > 0.99
    history = train(model.train(), make_optimizer(model), 15, seed=1)
    assert history[-1]["loss_dinosr"] < history[0]["loss_dinosr"]
    assert history[-1]["level2_usage_dinosr"] > 0.5
    assert 0 < history[-1]["level1_error_dinosr"] < 1


def test_parts_of_unequal_size():
    with pytest.raises(ConfigError, match="16 values cannot be divided into 3"):
        make_model(
            [{**DINOSR, "view": "layer 2", "labeller_conf": {"num_codebooks": 3}}]
        )
