"""Data sheets of GPUs."""

from typing import NamedTuple


class GPU(NamedTuple):
    """A device's limits, from NVIDIA's data sheets (dense, without sparsity)."""

    memory: float  # bytes
    half: float  # FLOP/s in bfloat16 (V100: float16)
    single: float  # FLOP/s in float32, without TF32: PyTorch's default
    bandwidth: float  # bytes/s


GPUS = {
    "v100": GPU(32e9, 125e12, 15.7e12, 0.9e12),  # SXM2
    "a100-40": GPU(40e9, 312e12, 19.5e12, 1.555e12),  # SXM4
    "a100": GPU(80e9, 312e12, 19.5e12, 2.039e12),  # SXM4
    "h100": GPU(80e9, 989e12, 67e12, 3.35e12),  # SXM5
    "h200": GPU(141e9, 989e12, 67e12, 4.8e12),  # SXM5
}
