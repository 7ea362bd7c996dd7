"""Memory of training on a CPU: what glibc and oneDNN keep, set in one place.

glibc hands blocks of some hundred KiB and more back to the system as soon as they are
freed, and every one that a step asks for comes back as fresh pages: in a step of a
small conformer up to half of the time (docs/benchmarks.md). So large blocks stay.

oneDNN compiles a primitive for each shape that it meets and keeps the last 1024, and
PyTorch's layer above it 1024 of its own: a few hundred KiB each. A step needs about 50.
Batches of speech are all of other lengths, so the old ones are of no use: they take half
a GiB, and, strewn over the heap, they keep its large holes from being used again, which
takes as much again (bench/README.md).

    export $(python -m espnet2_birq.kernels.allocator)

is for processes that do not call ``keep_large_blocks``, such as ESPnet's own.
"""

import ctypes
import os

# What glibc reads at the start of a process, the same parameter of mallopt(3), its value
_MALLOC = (
    ("MALLOC_MMAP_MAX_", -4, 0),  # large blocks come from the heap, too;
    ("MALLOC_TRIM_THRESHOLD_", -1, 2**31 - 1),  # up to 2 GiB free at its end stay;
    ("MALLOC_TOP_PAD_", -2, 2**26),  # and it grows by 64 MiB at once
)
_PRIMITIVES = 128
_CACHES = {  # both libraries read theirs when they need it first
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": _PRIMITIVES,
    "LRU_CACHE_CAPACITY": _PRIMITIVES,
}


def keep_large_blocks() -> bool:
    """Let this process keep freed memory, and few of oneDNN's primitives.

    To be called once, before the first product. What the environment sets stays.

    Returns:
        Whether glibc does so: not where the C library is another one.
    """
    for name, value in _CACHES.items():
        os.environ.setdefault(name, str(value))
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return False
    # A process that reads batches starts as a copy of this one, and what this one frees
    # and uses again would stay there as it was.
    os.register_at_fork(after_in_child=lambda: libc.malloc_trim(0))
    own = [setting for setting in _MALLOC if setting[0] not in os.environ]
    return all(libc.mallopt(parameter, value) == 1 for _, parameter, value in own)


def variables() -> dict[str, str]:
    """The same settings, for the environment of another process."""
    values = {name: value for name, _, value in _MALLOC} | _CACHES
    return {name: os.environ.get(name, str(value)) for name, value in values.items()}


if __name__ == "__main__":
    print(*(f"{name}={value}" for name, value in variables().items()), sep="\n")
