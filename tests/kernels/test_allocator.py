"""Memory kept by training on a CPU, and the cost of freed blocks."""

import ctypes
import os
import subprocess
import sys

import pytest
from checkout import copy_checkout

from espnet2_birq.kernels import allocator

BLOCKS = """
import resource, sys
import numpy
from espnet2_birq.kernels.allocator import keep_large_blocks

if sys.argv[1] == "keep":
    assert keep_large_blocks()
for number in range(6):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(2**23)  # 64 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

# Growth of a process in MiB when a small model runs on batches of different lengths, after
# the first ten.
TRAINING = """
import sys
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2_birq.kernels.allocator import keep_large_blocks
from espnet2_birq.kernels.acceleration import accelerate

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

if sys.argv[1] == "keep":
    keep_large_blocks()
torch.set_num_threads(1)
encoder = accelerate(ConformerEncoder(80, output_size=32, linear_units=64, num_blocks=1))
for number in range(120):
    frames = 100 + 397 * number % 1120  # each length once, short and long ones in turn
    with torch.autocast("cpu", torch.bfloat16, enabled=sys.argv[2] == "bfloat16"):
        ys, *_ = encoder(torch.randn(2, frames, 80), torch.tensor([frames, frames]))
    ys.sum().backward()
    if number == 9:
        before = resident()
print(resident() - before)
"""


# Difference in resident memory, in MiB, between a process that has freed 512 MiB but keeps
# them and a fork of it.
FORK = """
import os, time
import numpy
from espnet2_birq.kernels.allocator import keep_large_blocks

keep_large_blocks()
blocks = [numpy.ones(2**13) for _ in range(2**13)]  # of 64 KiB
last = numpy.ones(2**13)
del blocks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

before = resident()
if os.fork() == 0:
    print(before - resident(), flush=True)
    os._exit(0)
os.wait()
assert before - resident() < 50  # where they were freed, they are kept
"""


def glibc() -> bool:
    return hasattr(ctypes.CDLL(None), "mallopt")


def number(script: str, *arguments: str, **variables: str) -> float:
    """Return the number that a script prints in its own process."""
    command = [sys.executable, "-c", script, *arguments]
    environment = {
        k: v for k, v in os.environ.items() if k not in allocator.variables()
    }
    return float(subprocess.check_output(command, env={**environment, **variables}))


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
def test_freed_blocks_are_used_again_without_page_faults():
    kept, left = number(BLOCKS, "keep"), number(BLOCKS, "leave")
    # Four blocks of 64 MiB are 65,536 pages, or 128 large ones.
    assert kept < 50 < left
    assert number(BLOCKS, "leave", **allocator.variables()) < 50


@pytest.mark.skipif(not glibc(), reason="the C library is not glibc")
def test_a_reader_of_batches_does_not_keep_what_training_has_freed():
    assert number(FORK) > 400


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_memory_does_not_grow_with_every_new_length(precision):
    """Without a bound on oneDNN's caches, bfloat16 would take 700 MiB."""
    assert number(TRAINING, "keep", precision) < 200


def test_variables_are_those_of_the_environment_where_it_has_them(monkeypatch):
    for name in allocator.variables():
        monkeypatch.delenv(name, raising=False)
    own = allocator.variables()
    assert own["MALLOC_MMAP_MAX_"] == "0" and own["LRU_CACHE_CAPACITY"] == "128"
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    assert allocator.variables() == {**own, "LRU_CACHE_CAPACITY": "7"}
    printed = subprocess.check_output(
        [sys.executable, "-m", "espnet2_birq.kernels.allocator"], text=True
    )
    assert dict(x.split("=") for x in printed.split()) == allocator.variables()


def test_recipes_give_the_same_to_espnets_own_training(tmp_path, an4_tarball):
    """finetune.sh runs asr_train, which does not import this package."""
    top = copy_checkout(tmp_path, an4_tarball.parents[3])
    script = ". ./path.sh; cpu_training 3; exec env"
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    said = subprocess.check_output(
        ["bash", "-euc", script],
        cwd=top / "egs2" / "mini_an4" / "asr1",
        env={**os.environ, "PATH": path},
        text=True,
    )
    found = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    expected = {"OMP_NUM_THREADS": "3", **allocator.variables()}
    assert expected.items() <= found.items()
