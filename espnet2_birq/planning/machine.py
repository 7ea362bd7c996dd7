"""Description of a machine, its matrix product rate, and memory of a process."""

import os
import platform
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from espnet2_birq.kernels.products import onednn, onednn_has

SIZES = {
    "cpu": 2048,
    "cuda": 8192,
}  # sizes of the square matrices for measuring rates


def describe(device: str) -> dict[str, Any]:
    """Describe processor, cores in use, memory, versions and load of the machine."""
    machine = dict(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(memory_of("cpu") / 2**30, 1),
        torch=torch.__version__,
        python=platform.python_version(),
        load=round(os.getloadavg()[0], 1),
    )
    if device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    return machine


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor()


def peak_memory_mib(device: str) -> dict[str, int]:
    """Return the peak memory so far, of the process with imports and of the GPU."""
    peak = {"peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10}
    if device == "cuda":
        peak["peak_cuda_mib"] = torch.cuda.max_memory_allocated() // 2**20
    return peak


def matrix_rate(device: str, dtype: torch.dtype, repeat: int = 5) -> float:
    """Measure the best rate of a large matrix product, in FLOP per second.

    On a CPU, both of PyTorch's libraries are tried (espnet2_birq/kernels/products.py), if
    oneDNN supports the precision there. In single precision on a GPU, TF32 is used only if
    set in ``torch.backends``.
    """
    size = SIZES[device]
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    products = [lambda: a @ b]
    if device == "cpu" and onednn_has(dtype):
        products.append(lambda: onednn(a, b))
    best = float("inf")
    for product in products * (repeat + 1):
        _synchronize(device)
        start = time.perf_counter()
        product()
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _synchronize(device: str):
    if device == "cuda":
        torch.cuda.synchronize()


def memory_of(device: str) -> float:
    """Return the memory of the GPU, or what this process may use of the machine's.

    A container or a Slurm job may have less than the machine, by a control group.

    Returns:
        Bytes.
    """
    if device == "cuda":
        return float(torch.cuda.get_device_properties(0).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(min([machine, *_group_limits()]))


def _group_limits(
    groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """Yield the memory limits of this process's control groups, in bytes."""
    lines = groups.read_text().splitlines() if groups.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        # Version 2 has one tree; version 1 a tree for memory.
        tree = root / controllers
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = tree / path.lstrip("/")
        # A group's limit holds for the groups below; in a container, the path may be
        # that of the host, where only the top is visible.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(tree):
                break
            file = folder / name
            text = file.read_text().strip() if file.is_file() else "max"
            if text != "max":
                yield int(text)
