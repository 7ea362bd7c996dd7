"""What a freed block costs when it is asked for again."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy
from espnet2_birq.allocator import keep_large_blocks

if sys.argv[1] == "keep":
    assert keep_large_blocks()
for number in range(6):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(2**23)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_blocks_are_used_again_without_page_faults():
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    faults = [
        int(subprocess.check_output([sys.executable, "-c", SCRIPT, how], text=True))
        for how in ("keep", "leave")
    ]
    # Four blocks of 64 MiB are 65,536 pages, or 128 large ones.
    assert faults[0] < 50 < faults[1]
