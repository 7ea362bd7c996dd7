"""Memory of training on a CPU: large blocks stay with the process.

glibc hands blocks of some hundred KiB and more back to the system as soon as they are
freed, and every one that a step asks for comes back as fresh pages: in a step of a
small conformer up to half of the time (docs/benchmarks.md).
"""

import ctypes

# Parameters of mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD = 2**28  # bytes by which the heap grows at once


def keep_large_blocks() -> bool:
    """Let glibc keep freed memory for this process; its size stays at its peak.

    Returns:
        Whether it has been done: not without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Large blocks from the heap, too; the heap is never cut; it grows in large pieces.
    wanted = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD))
    return all([mallopt(parameter, value) == 1 for parameter, value in wanted])
