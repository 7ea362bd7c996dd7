"""The linear probe against scikit-learn's, and statistics of its accuracies."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from espnet2_birq.evaluation.phones.probing import (
    accuracy_of_speakers,
    effective_rank,
    fit_linear_probe,
    mean_and_error,
    paired_difference,
)


def problem(frames=600, size=8, classes=5, seed=0):
    """Draw overlapping classes; each feature has its own scale and offset."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=frames)
    centres = generator.standard_normal((classes, size))
    features = centres[labels] + generator.standard_normal((frames, size))
    features = features * 10.0 ** generator.integers(-2, 3, size) + 5
    return features.astype(np.float32), labels


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_it_is_scikit_learn_s_logistic_regression(l2):
    features, labels = problem()
    probe = fit_linear_probe(
        torch.from_numpy(features), torch.from_numpy(labels), 5, l2, iterations=500
    )
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    theirs = LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-8, max_iter=5000)
    theirs.fit(scaled, labels)
    # A common offset of all biases has no effect; scikit-learn's sum to 0.
    bias = probe.bias - probe.bias.mean()
    assert np.abs(probe.weight.numpy() - theirs.coef_).max() < 2e-3
    assert np.abs(bias.numpy() - theirs.intercept_).max() < 2e-3
    new, _ = problem(seed=1)
    scaled = StandardScaler().fit(features).transform(new)
    assert (
        probe.predict(torch.from_numpy(new)) == theirs.predict(scaled)
    ).mean() > 0.995


def test_training_is_deterministic():
    features, labels = map(torch.from_numpy, problem())
    one, two = (fit_linear_probe(features, labels, 5) for _ in range(2))
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)


def test_a_constant_value_and_a_class_without_frames():
    features, labels = problem()
    features[:, 3] = 7.0
    probe = fit_linear_probe(torch.from_numpy(features), torch.from_numpy(labels), 9)
    assert probe.weight.isfinite().all()
    assert probe.predict(torch.from_numpy(features)).max() < 5


def test_it_can_be_trained_where_gradients_are_off():
    features, labels = map(torch.from_numpy, problem())
    with torch.no_grad():
        probe = fit_linear_probe(features, labels, 5)
    assert (probe.predict(features) == labels.numpy()).mean() > 0.7


def test_accuracy_of_speakers():
    correct = np.array([True, False, True, True, False])
    speakers = ["b", "a", "b", "a", "b"]
    found = accuracy_of_speakers(correct, speakers)
    assert found == {"a": 0.5, "b": pytest.approx(2 / 3)}
    mean, error = mean_and_error(list(found.values()))
    assert mean == pytest.approx(7 / 12)
    assert error == pytest.approx(abs(2 / 3 - 0.5) / 2)  # half the distance
    assert mean_and_error([0.5]) == (0.5, None)


def test_paired_difference_does_not_see_how_hard_speakers_are():
    one = {"a": 0.30, "b": 0.50, "c": 0.70}
    other = {"c": 0.68, "b": 0.49, "a": 0.28}
    mean, error = paired_difference(one, other)
    assert mean == pytest.approx(0.05 / 3)
    assert error == pytest.approx(np.std([0.02, 0.01, 0.02], ddof=1) / 3**0.5)
    assert error < mean_and_error(list(one.values()))[1] / 10
    with pytest.raises(ValueError, match="different speakers"):
        paired_difference(one, {"a": 0.3})


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_effective_rank_is_rankme(scale):
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((500, 12)) * scale ** np.linspace(0, 1, 12)
    vectors = vectors.astype(np.float32) + 0.5
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares = values / values.sum()
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(torch.from_numpy(vectors)).item() == pytest.approx(expected)


def test_effective_rank_at_its_ends():
    assert effective_rank(torch.eye(7).repeat(3, 1)).item() == pytest.approx(7.0)
    assert effective_rank(torch.ones(30, 5)).item() == pytest.approx(1.0, abs=1e-4)
