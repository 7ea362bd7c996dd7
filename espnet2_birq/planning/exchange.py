"""Measure gradient exchange with few imports, since every process repeats them."""

import statistics
import time

import torch
import torch.distributed as dist

from espnet2_birq.errors import ConfigError


def check_processes(processes: int, device: str) -> None:
    """Check that there is a GPU for each process.

    Args:
        processes: Number of processes.
        device: cpu or cuda.

    Raises:
        ConfigError: Fewer GPUs than processes.
    """
    if device == "cuda" and torch.cuda.device_count() < processes:
        raise ConfigError(
            f"--processes {processes}: there are {torch.cuda.device_count()} GPUs"
        )


def exchange_rate(numbers: int, processes: int, device: str) -> float:
    """Measure an all-reduce of gradients among processes of this machine.

    Args:
        numbers: Number of parameters whose gradients are exchanged.
        processes: Number of processes, one for each GPU.
        device: cpu (gloo) or cuda (NCCL).

    Returns:
        Bytes of gradients per second.

    Raises:
        ConfigError: Fewer GPUs than processes.
    """
    check_processes(processes, device)
    context = torch.multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(
        _exchange, (processes, store.port, numbers, device, results), processes
    )
    return 4 * numbers / results.get()


def _exchange(rank, processes, port, numbers, device, results):
    store = dist.TCPStore("localhost", port, is_master=False)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes)
    if device == "cuda":
        torch.cuda.set_device(rank)
    gradients, seconds = torch.ones(numbers, device=device), []
    for _ in range(6):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(gradients)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        results.put(statistics.median(seconds[1:]))
    dist.destroy_process_group()
