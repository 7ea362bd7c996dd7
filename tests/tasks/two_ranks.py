"""A model in two processes, which import this module, so it is kept small."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from espnet2_birq.tasks.finetuning import build_optimizer


class Encoder(torch.nn.Module):
    """Encoder with the relevant names and no randomness."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Linear(3, 4)
        self.encoders = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        for layer in [self.embed, *self.encoders]:
            x = torch.tanh(layer(x))
        return x


class Model(torch.nn.Module):
    """An encoder with a layer above it."""

    def __init__(self):
        super().__init__()
        self.encoder, self.ctc = Encoder(), torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.ctc(self.encoder(x))


def train(args, wrap, rows):
    """Make five updates on some rows of the same batches."""
    torch.manual_seed(1)
    data, model = torch.randn(5, 4, 3), Model()
    optimizer = build_optimizer(args, model, torch.optim.AdamW)
    wrapped = wrap(model)
    for batch in data:
        optimizer.zero_grad()
        wrapped(batch[rows]).square().mean().backward()
        optimizer.step()
    return model.state_dict()


def one_rank(rank, port, args, path):
    """Run one of the two processes."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    state = train(args, DistributedDataParallel, slice(2 * rank, 2 * rank + 2))
    torch.save(state, f"{path}{rank}")
    dist.destroy_process_group()
