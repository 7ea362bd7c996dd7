"""Two processes with half a batch each give the gradients of one with all of it."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from test_model import MANY, make_batch, make_model

from espnet2_birq.pretraining import loss as loss_module

STEPS = 2  # the second sees running statistics of the first


def masks():
    """Fixed masks at the encoder's rate, of different sizes in the two halves."""
    mask = torch.zeros(4, 39, dtype=torch.bool)
    for row, (start, end) in enumerate([(2, 20), (5, 9), (1, 12), (3, 10)]):
        mask[row, start:end] = True
    return mask


def run_steps(rows, conf):
    """Forward and backward as ESPnet's trainer does it; gradients and statistics."""
    # Without BatchNorm, whose statistics are a rank's own.
    model = make_model(MANY, EBranchformerEncoder, **conf).train()
    mask = masks()[rows]
    model.masking.draw = lambda lengths, frames: mask[:, :frames]
    model.masking.capacity = lambda *_: int(mask.sum()) + 3
    model.masking.noise_std = 0.0
    loss_module.gumbel_like = torch.zeros_like
    speech, lengths = make_batch((1.6, 1.1, 1.6, 0.7))
    for _ in range(STEPS):
        loss, stats, weight = model(speech[rows], lengths[rows])
        model.zero_grad()
        if dist.is_initialized():  # espnet2/train/trainer.py: a mean over all frames
            total = weight.clone()
            dist.all_reduce(total)
            (loss * weight / total).sum().backward()
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
        else:
            loss.sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return gradients, stats, dict(model.named_buffers())


def one_rank(rank, port, path, conf):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    result = run_steps(slice(2 * rank, 2 * rank + 2), conf)
    if rank == 0:
        torch.save(result, path)
    dist.destroy_process_group()


# With label_every the second step is one without labels of a layer.
@pytest.mark.parametrize("conf", [{}, {"label_every": 2}])
def test_two_ranks_equal_one_with_the_joint_batch(conf, tmp_path, monkeypatch):
    monkeypatch.setattr(loss_module, "gumbel_like", loss_module.gumbel_like)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(one_rank, args=(port, tmp_path / "rank0.pt", conf), nprocs=2)
    gradients, stats, buffers = torch.load(tmp_path / "rank0.pt")
    expected, expected_stats, expected_buffers = run_steps(slice(0, 4), conf)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(gradients[name], gradient, rtol=0, atol=1e-5), name
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2
    for key in expected_stats:
        # The loss is averaged by ESPnet; gradient shares are of a rank's own means.
        if key not in ("loss", "mask_share") and not key.startswith("grad_share"):
            assert torch.allclose(stats[key], expected_stats[key], atol=1e-4), key
    whitening = [name for name in expected_buffers if "whitening" in name]
    assert whitening
    for name in whitening:
        assert torch.allclose(buffers[name], expected_buffers[name], atol=1e-5), name


def test_no_parameter_goes_without_gradient(tmp_path):
    """DistributedDataParallel, as ESPnet makes it, waits for the gradients of all."""
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = make_model(MANY, label_every=2, label_utterances=2)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        for _ in range(4):  # a missing gradient is an error in the next step
            parallel(*make_batch())[0].backward()
            assert all(p.grad is not None for p in model.parameters())
    finally:
        dist.destroy_process_group()
