"""Joint training on two ranks equals that of one."""

import socket
from types import SimpleNamespace

import pytest
import torch
from espnet2.torch_utils.recursive_op import recursive_average
from test_joint import BATCH, CONFIG, OBJECTIVES, build, run

from espnet2_birq.pretraining.joint import JointModel

ROWS = (slice(0, 1), slice(1, 2))  # of the labelled batch, by rank


def model_of(rows, **changes):
    """Build a model whose masks are those of some rows of a batch."""
    torch.set_num_threads(1)
    # Without BatchNorm, whose statistics differ between ranks.
    encoder = {k: v for k, v in CONFIG["encoder_conf"].items() if k != "linear_units"}
    model = build(
        encoder="e_branchformer",
        encoder_conf=encoder,
        objectives=OBJECTIVES[:1],
        normalize=None,
        **changes,
    )
    mask = torch.zeros(3, 24, dtype=torch.bool)
    mask[0, 3:9], mask[1, 5:8], mask[2, 2:20] = True, True, True
    model.pretraining.masking.draw = lambda *_: mask[rows]
    model.pretraining.masking.noise_std = 0.0
    return model


def gamma_of(rows):
    model = model_of(rows, barrier=2.0)
    batch = {key: x[rows] for key, x in BATCH.items()}
    return run(model, **batch)[1]["gamma"]


def one_rank(rank, port, path, function, parts):
    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    torch.save(function(parts[rank]), f"{path}{rank}")
    torch.distributed.destroy_process_group()


def on_two_ranks(function, path, parts):
    """Return a function's values of two parts, each computed by a rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, path, function, parts)
    torch.multiprocessing.spawn(one_rank, args=arguments, nprocs=2)
    return [torch.load(f"{path}{rank}") for rank in (0, 1)]


def test_the_barrier_is_that_of_the_joint_batch(tmp_path):
    one, other = on_two_ranks(gamma_of, tmp_path / "rank", ROWS)
    threads = torch.get_num_threads()
    whole = gamma_of(slice(0, 2))
    torch.set_num_threads(threads)
    assert torch.equal(one, other) and whole > 0
    assert float(one) == pytest.approx(float(whole), rel=1e-3)


UNEVEN = (slice(0, 2), slice(2, 3))  # of three labelled utterances, by rank
WAVES = 0.1 * torch.randn(3, 16000, generator=torch.Generator().manual_seed(2))
THREE = dict(
    speech=WAVES,
    speech_lengths=torch.tensor([16000, 12000, 16000]),
    text=torch.tensor([[2, 3, 2], [3, 2, -1], [2, -1, -1]]),
    text_lengths=torch.tensor([3, 2, 1]),
)


def update_of(rows):
    """Make a step as ESPnet's trainer does; return gradients and averaged statistics."""
    model = model_of(rows, supervised_weight=0.7, penalty=0.3)
    loss, stats, weight = run(model, **{key: x[rows] for key, x in THREE.items()})
    stats = {key: x for key, x in stats.items() if x is not None}
    ranks = torch.distributed.is_initialized()
    loss = (loss * weight).sum()
    stats, weight = recursive_average(stats, weight, ranks)
    (loss / weight * (torch.distributed.get_world_size() if ranks else 1)).backward()
    if ranks:
        for parameter in model.parameters():  # as in DistributedDataParallel
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()
    gradients = {name: x.grad for name, x in model.named_parameters()}
    return gradients, {key: float(x) for key, x in stats.items()}


def test_ranks_of_unequal_shares_equal_one(tmp_path):
    (one, seen), (other, _) = on_two_ranks(update_of, tmp_path / "rank", UNEVEN)
    threads = torch.get_num_threads()
    whole, expected = update_of(slice(0, 3))
    torch.set_num_threads(threads)
    assert {"loss_ctc", "loss_supervised", "loss_pretraining"} < expected.keys()
    assert seen == pytest.approx(expected, rel=1e-4, nan_ok=True)
    for name, gradient in whole.items():
        assert torch.equal(one[name], other[name]), name
        torch.testing.assert_close(one[name], gradient, rtol=1e-3, atol=1e-5)


def gamma_of_layers(slopes):
    """Compute gamma for two layers of one parameter; None: the layer was skipped."""
    layers = [torch.nn.Linear(1, 1, bias=False) for _ in range(2)]
    upper, lower = (
        sum(
            slope * x.weight.sum() for slope, x in zip(row, layers) if slope is not None
        )
        for row in slopes
    )
    model = SimpleNamespace(encoder=torch.nn.ModuleList(layers), barrier=2.0)
    return JointModel._above_barrier(model, upper, lower, 1.0)


def test_the_barrier_if_ranks_skip_other_layers(tmp_path):
    """With stochastic depth; the slopes of F and of G, by rank, are those of the layers."""
    slopes = [([1.0, 2.0], [None, 5.0]), ([None, 4.0], [6.0, 7.0])]
    gammas = on_two_ranks(gamma_of_layers, tmp_path / "rank", slopes)
    f, g = (0.5, 3.0), (3.0, 6.0)  # means over the ranks
    expected = 2.0 - (f[0] * g[0] + f[1] * g[1]) / (g[0] ** 2 + g[1] ** 2)
    assert gammas == [pytest.approx(expected)] * 2


def test_labellers_are_not_broadcast():
    """They sum over ranks and thus stay equal; rank 0's would overwrite the others'."""
    model = build()
    there = {name for name, _ in model.named_buffers()}
    of_labellers = {x for x in there if x.startswith("pretraining.objectives.")}
    ignored = set(model._ddp_params_and_buffers_to_ignore)
    assert of_labellers and of_labellers <= ignored <= there
