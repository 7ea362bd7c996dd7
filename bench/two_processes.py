"""Data-parallel training on a CPU: one process compared with two, one thread each.

    python bench/two_processes.py
    python bench/two_processes.py --batch 2 --seconds 5 --steps 3 --rounds 1

It alternately runs one process alone and two under DistributedDataParallel (gloo), with the
same batch per process; and two without the exchange of statistics (codebook use, losses and
frames of all ranks, one message per step). Efficiency is the throughput of two processes
divided by twice that of one. Bytes are counted per rank and step: gradients (in DDP's
communication hook), others in torch.distributed.all_reduce (statistics, and numbers of
labelled frames, which the loss needs), and buffers that DDP broadcasts.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from step import METHODS, random_speech, read_config  # noqa: E402
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks  # noqa: E402

from espnet2_birq.pretraining import statistics as ssl_statistics  # noqa: E402
from espnet2_birq.tasks.ssl import SSLTask  # noqa: E402


class Count:
    """Counter of bytes in all-reduce."""

    def __init__(self):
        self.gradients = self.others = 0
        self.inside_hook = False
        self.all_reduce = dist.all_reduce

    def hook(self, state, bucket):
        """Exchange a bucket as DDP does, and count its bytes."""
        self.gradients += bucket.buffer().nbytes
        self.inside_hook = True
        try:
            return default_hooks.allreduce_hook(state, bucket)
        finally:
            self.inside_hook = False

    def counted(self, tensor, *args, **kwargs):
        """Replace torch.distributed.all_reduce, and count its bytes."""
        if not self.inside_hook:
            self.others += tensor.nbytes
        return self.all_reduce(tensor, *args, **kwargs)


def train(rank: int, world: int, exchange: bool, args, folder: str):
    """Run the steps in one process; rank 0 writes its results to a file."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    conf = read_config(args.config, args.method)
    conf.model_conf = dict(conf.model_conf, cpu_bfloat16=args.bfloat16)
    model = SSLTask.build_model(conf).train()
    (optimizer,) = SSLTask.build_optimizers(conf, model)
    ignored = model._ddp_params_and_buffers_to_ignore
    buffers = sum(x.nbytes for name, x in model.named_buffers() if name not in ignored)
    args.seed += rank  # different speech and masks per rank
    speech, lengths = random_speech(args)
    torch.manual_seed(args.seed)
    count, step_model = Count(), model
    if world > 1:
        store = dist.FileStore(os.path.join(folder, "store"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
        step_model = torch.nn.parallel.DistributedDataParallel(model)
        step_model.register_comm_hook(None, count.hook)
        dist.all_reduce = count.counted
        if not exchange:
            ssl_statistics.sum_over_ranks = lambda message: message
    model.prepare([dict(speech=speech, speech_lengths=lengths)])
    seconds = []
    for _ in range(args.warmup + args.steps):
        count.gradients = count.others = 0
        start = time.perf_counter()
        loss, _, _ = step_model(speech, lengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), conf.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        found = dict(
            seconds=statistics.median(seconds[args.warmup :]),
            gradient_bytes=count.gradients,
            other_bytes=count.others,
            broadcast_bytes=buffers if world > 1 else 0,
            parameter_bytes=sum(4 * p.numel() for p in model.parameters()),
        )
        Path(folder, "result.json").write_text(json.dumps(found))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def measure(world: int, exchange: bool, args):
    """Run `world` processes and return rank 0's results."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            train, args=(world, exchange, args, folder), nprocs=world
        )
        return json.loads(Path(folder, "result.json").read_text())


VARIANTS = {
    "one process": (1, True),
    "two processes": (2, True),
    "two, no statistics": (2, False),
}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--method", choices=METHODS, default="birq", help="default: %(default)s")
    add("--config", default=str(BENCH / "step.yaml"), help="of ssl_train; step.yaml")
    add("--bfloat16", action="store_true", help="cpu_bfloat16")
    add("--batch", type=int, default=4, help="utterances per process (%(default)s)")
    add("--seconds", type=float, default=10.0, help="of each (%(default)s)")
    add("--steps", type=int, default=5, help="timed steps (%(default)s)")
    add("--warmup", type=int, default=2, help="warm-up steps (%(default)s)")
    add("--rounds", type=int, default=2, help="default: %(default)s")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    args.device = "cpu"
    rounds = []
    for _ in range(args.rounds):
        rounds.append({n: measure(*v, args) for n, v in VARIANTS.items()})
    for name in VARIANTS:
        found = [r[name] for r in rounds]
        last = found[-1]
        print(
            f"{name:18} {statistics.median(x['seconds'] for x in found):.3f} s a step; "
            f"bytes a rank and step: gradients {last['gradient_bytes']}, statistics "
            f"{last['other_bytes']}, broadcast {last['broadcast_bytes']}"
        )
    print(f"parameters, in bytes: {rounds[-1]['one process']['parameter_bytes']}")
    for name in list(VARIANTS)[1:]:
        shares = [r["one process"]["seconds"] / r[name]["seconds"] for r in rounds]
        print(
            f"efficiency, {name}: {statistics.median(shares):.0%} "
            f"[{min(shares):.0%}, {max(shares):.0%}]"
        )


if __name__ == "__main__":
    main()
