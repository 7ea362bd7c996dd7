"""Memory settings of glibc and oneDNN for training on a CPU.

glibc returns freed blocks above some hundred KiB to the system at once, and allocating
them again causes page faults: up to half the time of a step of a small conformer
(docs/benchmarks.md). So large blocks are kept.

oneDNN compiles a primitive for each shape and caches the last 1024, and
PyTorch's layer above it 1024 of its own: a few hundred KiB each. A step needs about 50.
Batches of speech all differ in length, so old primitives are useless: they take half
a GiB, and as much again by fragmenting the heap (bench/README.md).

    export $(python -m espnet2_birq.kernels.allocator)

does the same for processes that do not call ``keep_large_blocks``, such as ESPnet's.
"""

import ctypes
import os

# Environment variable of glibc, its parameter of mallopt(3), value
_MALLOC = (
    ("MALLOC_MMAP_MAX_", -4, 0),  # large blocks come from the heap, too
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**31 - 1),  # keep up to 2 GiB free at its end
    ("MALLOC_TOP_PAD_", -2, 2**26),  # grow it by 64 MiB at a time
)
_PRIMITIVES = 128
_CACHES = {  # read by both libraries on first use
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": _PRIMITIVES,
    "LRU_CACHE_CAPACITY": _PRIMITIVES,
}


def keep_large_blocks() -> bool:
    """Keep freed memory in this process, and limit oneDNN's caches.

    Call once, before the first matmul. Variables already set take precedence.

    Returns:
        Whether it took effect: False if the C library is not glibc.
    """
    for name, value in _CACHES.items():
        os.environ.setdefault(name, str(value))
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    # Forked data loaders would keep copies of memory that this process frees and
    # reuses.
    os.register_at_fork(after_in_child=lambda: libc.malloc_trim(0))
    own = [setting for setting in _MALLOC if setting[0] not in os.environ]
    return all(libc.mallopt(parameter, value) == 1 for _, parameter, value in own)


def variables() -> dict[str, str]:
    """Return the same settings as environment variables for another process."""
    values = {name: value for name, _, value in _MALLOC} | _CACHES
    return {name: os.environ.get(name, str(value)) for name, value in values.items()}


if __name__ == "__main__":
    print(*(f"{name}={value}" for name, value in variables().items()), sep="\n")
