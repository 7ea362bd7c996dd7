"""The chunked loss against autograd, also with autocast, checkpointing, compilation."""

from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch.utils.checkpoint import checkpoint

from espnet2_birq.pretraining.labels import HardLabels, SoftLabels
from espnet2_birq.pretraining.losses.cross_entropy import (
    SUMS,
    masked_cross_entropy,
    score_std,
)
from espnet2_birq.pretraining.losses.gumbel import (
    gumbel_from_exponential,
    gumbel_like,
)
from espnet2_birq.pretraining.statistics import BookTally, objective_statistics


def plain(hs, weight, bias, present, labels, weights, noises):
    """Compute the definition, for all frames at once, with gradients by autograd."""
    logp = torch.nn.functional.linear(hs, weight, bias).log_softmax(dim=1)
    total = 0.0
    for label, factor, noise in zip(labels, weights, noises):
        rows = present.bool()
        if isinstance(label, HardLabels):
            rows = rows & (label.codes >= 0)
            losses = -logp.gather(1, label.codes.clamp(min=0)[:, None])[:, 0]
        else:
            scores = label.points @ label.code_weight.T + label.code_bias
            y = torch.softmax((scores + noise) / label.temperature, dim=1)
            losses = -(y * logp).sum(dim=1)
            if label.straight_through:
                hard = torch.nn.functional.one_hot(y.argmax(dim=1), y.size(1))
                losses = -((hard - y.detach() + y) * logp).sum(dim=1)
        if rows.any():
            total = total + factor * losses[rows].mean()
    return total


def make_case(seed, dtype=torch.float64, frames=None, codes=None):
    """Draw random sizes and a mix of hard, soft, cut and straight-through labels."""
    torch.manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high + 1, ()))  # noqa: E731
    frames, codes, size, dim = (
        frames or draw(1, 60),
        codes or draw(2, 40),
        draw(2, 20),
        draw(1, 6),
    )
    leaves = dict(
        hs=torch.randn(frames, size, dtype=dtype),
        weight=torch.randn(codes, size, dtype=dtype),
        bias=torch.randn(codes, dtype=dtype),
    )
    present = (torch.rand(frames) < 0.8).to(dtype)
    labels, weights = [], []
    for number in range(draw(1, 4)):
        weights.append(float(torch.rand(())) * 3)
        if draw(0, 2) == 0:
            labels.append(HardLabels(torch.randint(-1, codes, (frames,))))
            continue
        points = torch.randn(frames, dim, dtype=dtype)
        if draw(0, 3) > 0:
            leaves[f"points{number}"] = points
        labels.append(
            SoftLabels(
                points=points,
                code_weight=torch.randn(codes, dim, dtype=dtype),
                code_bias=torch.randn(codes, dtype=dtype),
                temperature=0.3 + float(torch.rand(())),
                straight_through=draw(0, 1) == 1,
            )
        )
    for leaf in leaves.values():
        leaf.requires_grad_()
    return leaves, present, labels, weights


def draw_noises(seed, labels, frames, codes, chunk):
    """Draw noise in the order of the chunked loss: chunk by chunk, label by label."""
    torch.manual_seed(seed)
    noises = [[] for _ in labels]
    for start in range(0, frames, chunk):
        for noise, label in zip(noises, labels):
            if isinstance(label, SoftLabels):
                rows = min(chunk, frames - start)
                noise.append(gumbel_like(label.points.new_empty(rows, codes)))
    return [torch.cat(noise) if noise else None for noise in noises]


@pytest.mark.parametrize("draw", [gumbel_like, gumbel_from_exponential])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_standard_gumbel(draw, dtype):
    torch.manual_seed(0)
    noise = draw(torch.empty(1001, 1999, dtype=dtype))
    assert noise.dtype == dtype and noise.isfinite().all()
    noise = noise.double().flatten()
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 0.01
    # Euler's constant, pi^2 / 6; standard errors are 0.0009 and 0.0024.
    assert noise.mean() == pytest.approx(0.577216, abs=0.004)
    assert noise.var() == pytest.approx(1.644934, abs=0.01)
    # The upper tail decides which code is drawn: 1 in 22026 is above 10.
    assert (noise > 10).sum() == pytest.approx(len(noise) / 22026, abs=40)
    # Neighbours that share a random draw are independent.
    pairs = noise[: len(noise) // 2 * 2].view(-1, 2).T
    assert abs(torch.corrcoef(pairs)[0, 1]) < 0.004
    assert len(noise.unique()) > 0.8 * len(noise)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_finite_at_the_ends_of_the_random_bits(dtype, monkeypatch):
    ends = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31), 2**30], dtype=torch.int32)
    monkeypatch.setattr(
        torch.Tensor, "random_", lambda bits, *_: bits.copy_(ends.view(torch.int64))
    )
    noise = gumbel_like(torch.empty(1, 6, dtype=dtype))[0]
    assert noise.isfinite().all()
    assert noise[0] < -3.0 and noise[1] == noise[2] < -3.0  # u = 0, 2^-31
    assert noise[3] > 16 and noise[4] > 16  # u = 1
    half = -torch.tensor(2.0, dtype=dtype).log().log()  # u = 1 / 2
    assert torch.allclose(noise[5], half, atol=1e-6)


def test_codes_are_drawn_as_often_as_the_scores_say():
    """Gumbel-max: code v wins with probability softmax(scores)_v."""
    torch.manual_seed(0)
    scores = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    draws = (scores + gumbel_like(torch.empty(200_000, 5))).argmax(dim=1)
    expected = 200_000 * scores.softmax(dim=0)
    found = torch.bincount(draws, minlength=5)
    assert stats.chisquare(found.numpy(), expected.numpy(), sum_check=False).pvalue > (
        0.01
    )


def test_spread_of_scores_is_that_of_the_scores():
    torch.manual_seed(0)
    book = 3.0 * torch.randn(500, 7)
    label = SoftLabels(torch.randn(40, 7), book, -book.square().sum(dim=1))
    scores = label.points @ label.code_weight.T + label.code_bias
    assert torch.allclose(score_std(label), scores.std(dim=1), rtol=1e-4)


def head(leaves):
    return leaves["hs"], leaves["weight"], leaves["bias"]


@pytest.mark.parametrize("seed", range(40))
def test_loss_and_gradients_equal_those_of_autograd(seed):
    leaves, present, labels, weights = make_case(seed)
    frames, codes = len(present), len(leaves["bias"])
    chunk = 1 + seed % 17
    noises = draw_noises(seed, labels, frames, codes, chunk)
    expected = plain(*head(leaves), present, labels, weights, noises)
    torch.manual_seed(seed)
    total, _ = masked_cross_entropy(
        *head(leaves), present, labels, weights, chunk_numbers=chunk * codes
    )
    assert torch.allclose(total, torch.as_tensor(expected), rtol=0, atol=1e-8)
    if not torch.is_tensor(expected):
        return  # no frame is labelled
    upstream = 1.7
    ours = torch.autograd.grad(upstream * total, list(leaves.values()))
    theirs = torch.autograd.grad(upstream * expected, list(leaves.values()))
    for name, one, other in zip(leaves, ours, theirs):
        assert torch.allclose(one, other, rtol=0, atol=1e-8), name


def test_sums_over_counts_of_several_ranks():
    """With counts of the whole batch, the losses of its parts add up to its loss."""
    leaves, present, labels, weights = make_case(8)
    # At such a high temperature, noise has no effect.
    still = dict(temperature=1e9, straight_through=False)
    soft = [x._replace(**still) for x in labels if isinstance(x, SoftLabels)]
    labels = [HardLabels(torch.randint(0, 5, (len(present),))), *soft]
    weights = torch.rand(len(labels)).tolist()

    def loss(rows, counts=None):
        part = [HardLabels(labels[0].codes[rows])]
        part += [x._replace(points=x.points[rows]) for x in soft]
        hidden = leaves["hs"][rows]
        return masked_cross_entropy(
            hidden,
            leaves["weight"],
            leaves["bias"],
            present[rows],
            part,
            weights,
            counts,
        )[0]

    whole = loss(slice(None))
    counts = present.sum().expand(len(labels))
    parts = loss(slice(0, 9), counts) + loss(slice(9, None), counts)
    assert torch.allclose(whole, parts, rtol=0, atol=1e-6)
    for one, other in zip(grads(whole, leaves), grads(parts, leaves)):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_finite_differences_through_prediction_and_label():
    """Both paths at once, with the paper's w1, w2 and temperature."""
    torch.manual_seed(0)
    frames, codes, size, dim = 7, 11, 5, 3
    double = dict(dtype=torch.float64)
    inputs = [
        torch.randn(*shape, **double).requires_grad_()
        for shape in ((frames, size), (codes, size), (codes,), (frames, dim))
    ]
    code_weight, code_bias = torch.randn(codes, dim, **double), torch.randn(codes)
    hard = torch.randint(codes, (frames,))

    def loss(hs, weight, bias, points):
        torch.manual_seed(1)  # the same noise at every evaluation
        soft = SoftLabels(points, code_weight, code_bias.double(), 0.5)
        labels = [HardLabels(hard), soft]
        present = torch.ones(frames)
        return masked_cross_entropy(hs, weight, bias, present, labels, [2.4, 0.1])[0]

    assert torch.autograd.gradcheck(loss, inputs)


def test_straight_through_has_the_loss_of_the_code_drawn():
    leaves, present, _, _ = make_case(3, frames=20, codes=9)
    points = torch.randn(20, 4, dtype=torch.float64)
    book = torch.randn(9, 4).double(), torch.randn(9).double()
    label = SoftLabels(points, *book, temperature=0.5, straight_through=True)
    torch.manual_seed(0)
    total, _ = masked_cross_entropy(*head(leaves), present, [label], [1.0])
    (noise,) = draw_noises(0, [label], 20, 9, 20)
    codes = (points @ book[0].T + book[1] + noise).argmax(dim=1)
    hard, _ = masked_cross_entropy(*head(leaves), present, [HardLabels(codes)], [1.0])
    assert torch.allclose(total, hard)


def run(case, **options):
    leaves, present, labels, weights = case
    torch.manual_seed(5)
    return masked_cross_entropy(*head(leaves), present, labels, weights, **options)


def grads(total, leaves):
    return torch.autograd.grad(total, list(leaves.values()))


def test_in_bfloat16_under_autocast():
    case = make_case(0, torch.float32, frames=50, codes=30)
    leaves = case[0]
    total, tally = run(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, low_tally = run(case)
    assert low.dtype == torch.float32 and tally.sums.dtype == torch.float32
    assert torch.allclose(total, low, rtol=2e-2) and not torch.equal(total, low)
    # Labels are not computed in bfloat16.
    assert torch.equal(tally.label_counts, low_tally.label_counts)
    for one, other in zip(grads(total, leaves), grads(low, leaves)):
        assert one.dtype == other.dtype
        assert (one - other).norm() < 0.03 * one.norm() + 1e-6


def test_a_gradient_scaler_s_factor_only_scales():
    leaves, present, labels, weights = make_case(1, torch.float32, 300, 40)
    half = {**leaves, "hs": leaves["hs"].detach().half().requires_grad_()}
    torch.manual_seed(0)
    total, _ = masked_cross_entropy(*head(leaves), present, labels, weights)
    torch.manual_seed(0)
    low, _ = masked_cross_entropy(*head(half), present, labels, weights)
    scale = 2.0**16
    for one, other in zip(grads(total, leaves), grads(low * scale, half)):
        other = other.float() / scale
        assert (one - other).norm() < 1e-2 * one.norm() + 1e-7


def test_under_activation_checkpointing():
    case = make_case(2, frames=30, codes=20)
    leaves, present, labels, weights = case
    expected = grads(run(case)[0], leaves)

    def loss(hs, weight, bias):
        return masked_cross_entropy(hs, weight, bias, present, labels, weights)[0]

    torch.manual_seed(5)
    # Only the head's side is compared, since the labels' points are not arguments here.
    total = checkpoint(loss, *head(leaves), use_reentrant=False)
    ours = torch.autograd.grad(total, head(leaves))
    for one, other in zip(ours, expected):
        assert torch.equal(one, other)


def test_inside_a_compiled_function():
    case = make_case(4, frames=30, codes=20)
    leaves, present, labels, weights = case
    loss = lambda hs, weight, bias: masked_cross_entropy(  # noqa: E731
        hs * 2.0, weight, bias, present, labels, weights
    )[0]
    compiled = torch.compile(loss, backend="aot_eager")
    results = []
    for function in (loss, compiled):
        torch.manual_seed(0)
        total = function(*head(leaves))
        results.append((total, *torch.autograd.grad(total, head(leaves))))
    for one, other in zip(*results):
        assert torch.allclose(one, other, atol=1e-12)


def test_statistics_equal_plain_ones():
    torch.manual_seed(0)
    frames, codes, dim = 60, 13, 4
    hs, weight, bias = torch.randn(frames, 8), torch.randn(codes, 8), torch.randn(codes)
    present = (torch.rand(frames) < 0.7).float()
    book = torch.randn(codes, dim), torch.randn(codes)
    soft = SoftLabels(torch.randn(frames, dim), *book, temperature=0.5)
    hs.requires_grad_()
    _, noise = draw_noises(1, [None, soft], frames, codes, 70 // codes)
    logits = hs @ weight.T + bias
    scores = soft.points @ book[0].T + book[1]
    y = ((scores + noise) / 0.5).softmax(dim=1)
    hard = torch.randint(codes, (frames,))
    hard[:30] = y.argmax(dim=1)[:30]  # else no two would be equal by more than chance
    hard[30:50] = logits.argmax(dim=1)[30:50]
    torch.manual_seed(1)
    total, tally = masked_cross_entropy(
        hs, weight, bias, present, [HardLabels(hard), soft], [2.4, 0.1], None, 70
    )
    stats = objective_statistics(
        [BookTally(["anchor", "enhanced"], [False, True], tally)]
    )
    rows = present.bool()
    drawn, predicted = y.argmax(dim=1)[rows], logits.argmax(dim=1)[rows]

    def ppl(labels):
        shares = torch.bincount(labels, minlength=codes) / len(labels)
        return torch.distributions.Categorical(shares).entropy().exp()

    losses = [
        torch.nn.functional.cross_entropy(logits[rows], x)
        for x in (hard[rows], y[rows])
    ]
    norms = [
        torch.autograd.grad(w * loss, hs, retain_graph=True)[0].norm()
        for w, loss in zip((2.4, 0.1), losses)
    ]
    expected = {
        "loss_anchor": losses[0],
        "loss_enhanced": losses[1],
        "acc_anchor": (predicted == hard[rows]).float().mean(),
        "acc_enhanced": (predicted == drawn).float().mean(),
        "hit_enhanced": (scores.argmax(dim=1)[rows] == drawn).float().mean(),
        "agree_enhanced": (hard[rows] == drawn).float().mean(),
        "label_entropy_enhanced": torch.special.entr(y[rows]).sum(dim=1).mean(),
        "score_std_enhanced": scores[rows].std(dim=1).mean(),
        "label_ppl_anchor": ppl(hard[rows]),
        "label_ppl_enhanced": ppl(drawn),
        "pred_ppl_anchor": ppl(predicted),
        "label_cov_enhanced": torch.tensor(len(drawn.unique()) / codes),
        "pred_cov_anchor": torch.tensor(len(predicted.unique()) / codes),
        "grad_share_anchor": norms[0] / sum(norms),
        "grad_share_enhanced": norms[1] / sum(norms),
    }
    for key, value in expected.items():
        assert torch.allclose(stats[key], value, atol=1e-5), key
    values = sorted(x.item() for x in expected.values())
    assert min(y - x for x, y in pairwise(values)) > 1e-3  # none passes for another
    assert torch.allclose(total, 2.4 * losses[0] + 0.1 * losses[1], atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_agreement_is_that_of_frames_with_both_labels(share):
    """A frame without a label in the first objective does not agree with code 0."""
    torch.manual_seed(0)
    leaves, present, _, _ = make_case(0, frames=200, codes=3)
    labels = [torch.randint(3, (200,)) for _ in range(2)]
    labels[0][torch.rand(200) >= share] = -1
    labels[1][torch.rand(200) >= 0.8] = -1
    both = present.bool() & (labels[0] >= 0) & (labels[1] >= 0)
    same = both & (labels[0] == labels[1])
    _, tally = masked_cross_entropy(
        *head(leaves), present, [HardLabels(x) for x in labels], [1.0, 1.0], None, 70
    )
    counts = [tally.sums[1, SUMS.index(key)].item() for key in ("both", "agree")]
    assert counts == [both.sum().item(), same.sum().item()]
    stats = objective_statistics([BookTally(["one", "other"], 2 * [False], tally)])
    expected = same.sum().double() / both.sum()  # NaN, not 1, if no frame has both
    assert torch.allclose(stats["agree_other"], expected, equal_nan=True)


def test_nothing_of_size_frames_by_codes_is_kept():
    """Compare the size of autograd's saved tensors with frames x codes."""
    leaves, present, labels, weights = make_case(7, torch.float32, 2000, 3000)
    saved = []
    pack = lambda x: saved.append(x.numel()) or x  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        total, _ = masked_cross_entropy(
            *head(leaves), present, labels, weights, chunk_numbers=3000 * 100
        )
    grads(total, leaves)
    assert 0 < sum(saved) < 2000 * 3000 / 10
