"""Several processes with parts of a batch compute the gradients of the whole batch."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from test_given import GIVEN
from test_model import (
    ANCHOR,
    BOOKS,
    ENHANCED,
    MANY,
    SMALL,
    make_batch,
    make_model,
)

from espnet2_birq.pretraining.labellers.kmeans import FrameSample
from espnet2_birq.pretraining.losses import cross_entropy

STEPS = 2  # the second uses running moments from the first
SECONDS = (1.6, 1.1, 1.6, 0.7)
HALVES = (slice(0, 2), slice(2, 4))
THIRDS = (slice(0, 1), slice(1, 3), slice(3, 4))  # of unequal size


def masks():
    """Make masks at the encoder's rate, with different sizes in the parts."""
    mask = torch.zeros(4, 39, dtype=torch.bool)
    for row, (start, end) in enumerate([(2, 20), (5, 9), (1, 12), (3, 10)]):
        mask[row, start:end] = True
    return mask


def labels_of(share):
    """Make labels for a share of the frames, most of them on the first rank."""
    torch.manual_seed(7)
    labels = torch.randint(7, (4, 39))
    chance = torch.tensor([1.9, 1.0, 0.3, 0.1])[:, None] * share
    return labels.masked_fill(torch.rand(4, 39) >= chance, -1) if share < 1 else labels


def run_steps(rows, objectives, conf, share):
    """Run steps like ESPnet's trainer; return gradients and statistics."""
    torch.set_num_threads(1)
    # An encoder without BatchNorm, whose statistics differ between ranks.
    model = make_model(objectives, EBranchformerEncoder, **conf).train()
    mask = masks()[rows]
    speech, lengths = make_batch(SECONDS)
    feats, frames = model._extract_feats(speech, lengths)  # in single precision
    model.double()
    model._extract_feats = lambda *_: (feats[rows].double(), frames[rows])
    model.masking.draw = lambda lengths, frames: mask[:, :frames]
    model.masking.capacity = lambda *_: int(mask.sum()) + 3
    model.masking.noise_std = 0.0
    cross_entropy.gumbel_like = torch.zeros_like
    if conf:  # choose utterances of the joint batch, not of the rank's
        chosen = [row - rows.start for row in (0, 1, 3) if row in range(4)[rows]]
        model.branch._rows = lambda size, update: chosen
    given = {} if share is None else {"labels": labels_of(share)[rows]}
    for update in range(STEPS):
        model._update = update
        loss, stats, weight = model(speech[rows], lengths[rows], **given)
        model.zero_grad()
        if dist.is_initialized():  # as in espnet2/train/trainer.py and DDP
            total = weight.clone()
            dist.all_reduce(total)
            (loss * weight / total * dist.get_world_size()).sum().backward()
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        else:
            loss.sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return gradients, stats, dict(model.named_buffers())


OWN = {**GIVEN, "head": "given"}
DIVERSE = {**MANY[1], "gradient": 0.3, "diversity": 0.7}
CASES = [
    (MANY, {}, None),
    ([ANCHOR, {**DIVERSE, "head": "own"}], {}, None),
    ([ANCHOR, {**ENHANCED, "when": {"every": 2}}], {}, None),
    (MANY, dict(target_branch_conf=dict(utterances=2)), None),
    ([ANCHOR, OWN], {}, 0.1),
    ([ANCHOR, OWN], {}, 0.5),
    ([ANCHOR, OWN], {}, 1.0),
    ([OWN], {}, 0.5),
    ([OWN], {}, 0.0),
]


def run_cases(rows):
    return [run_steps(rows, *case) for case in CASES]


def _one_rank(rank, port, path, function, parts):
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(parts)
    )
    torch.save(function(parts[rank]), f"{path}{rank}")
    dist.destroy_process_group()


def spawn(function, path, parts):
    """Run a function on each part, in a process group with one process per part.

    Returns:
        Return values by rank.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_one_rank, args=(port, path, function, parts), nprocs=len(parts))
    return [torch.load(f"{path}{rank}") for rank in range(len(parts))]


@pytest.mark.parametrize(
    "parts", [HALVES, pytest.param(THIRDS, marks=pytest.mark.slow)]
)
def test_parts_equal_the_joint_batch(parts, tmp_path, monkeypatch):
    """Also if ranks have unequal shares of the labelled frames, or none."""
    monkeypatch.setattr(cross_entropy, "gumbel_like", cross_entropy.gumbel_like)
    ranks = spawn(run_cases, tmp_path / "rank", parts)
    threads = torch.get_num_threads()
    whole = run_cases(slice(0, 4))
    torch.set_num_threads(threads)
    for number, (expected, expected_stats, expected_buffers) in enumerate(whole):
        for gradients, stats, buffers in (results[number] for results in ranks):
            assert gradients.keys() == expected.keys()
            for name, gradient in expected.items():
                difference = (gradients[name] - gradient).abs().max()
                assert difference < 1e-10, (number, name, difference)
            for key in expected_stats:
                if key != "loss":  # it is averaged by ESPnet
                    close = torch.allclose(
                        stats[key], expected_stats[key], atol=1e-6, equal_nan=True
                    )
                    assert close, (number, key)
            for name, buffer in expected_buffers.items():
                if name.startswith("objectives"):
                    difference = (buffers[name] - buffer).abs().max()
                    assert difference < 1e-10, (number, name)
        largest = max(gradient.abs().max() for gradient in expected.values())
        assert largest > 1e-2 or CASES[number][-1] == 0.0


def test_no_parameter_goes_without_gradient(tmp_path):
    """DistributedDataParallel, as used by ESPnet, waits for the gradients of all."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        rare = [MANY[0], *(dict(row, when={"every": 2}) for row in MANY[1:])]
        model = make_model(rare, target_branch_conf=dict(utterances=2))
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        for update in range(4):  # a missing gradient would fail in the next step
            model._update = update
            parallel(*make_batch())[0].backward()
            assert all(p.grad is not None for p in model.parameters())
        # Labellers sum over ranks and thus stay equal; their buffers are not broadcast.
        broadcast = [x.data_ptr() for x in parallel.modules_buffers]
        for objective in model.objectives:
            assert not {x.data_ptr() for x in objective.buffers()} & set(broadcast)
    finally:
        dist.destroy_process_group()


def sample_of(numbers):
    sample = FrameSample(20)
    sample.add(numbers, torch.ones(len(numbers)))
    return sample.gather(numbers)


def test_the_sample_is_spread_evenly_over_ranks(tmp_path):
    """Also if one rank has seen so many frames that it has to thin them out."""
    parts = torch.arange(16.0)[:, None], 100 + torch.arange(24.0)[:, None]
    one, other = spawn(sample_of, tmp_path / "rank", parts)
    expected = [*range(0, 16, 2), *range(100, 124, 2)]
    assert one.flatten().tolist() == other.flatten().tolist() == expected


def prepared(rows):
    """Return the projection computed from the moments of some rows."""
    conf = dict(SMALL, num_codebooks=BOOKS["num_codebooks"], projection="pca_whitened")
    model = make_model([dict(name="anchor", labeller_conf=conf)])
    speech, lengths = make_batch(SECONDS)
    seen = model.prepare([dict(speech=speech[rows], speech_lengths=lengths[rows])])
    assert seen == 39 + 27 + 39 + 17
    return model.objectives[0].labeller.projection


def test_moments_are_those_of_all_ranks(tmp_path):
    one, other = spawn(prepared, tmp_path / "rank", HALVES)
    assert torch.equal(one, other)
    assert torch.allclose(one, prepared(slice(0, 4)), atol=1e-3)
