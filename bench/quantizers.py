"""Time of the search for nearest codes, in this project and in released packages.

    python bench/quantizers.py --library ours
    python bench/compare.py bench/quantizers.yaml           all, alternately

Random frames (8, 250, 320) in single precision are projected to 16 dimensions and labelled
with the nearest of 8192 codes. Both are normalised to length 1, and projection and codebook
are the same for all packages. "agree" is the share of frames with the same label as in
double precision. "extra_mib" is the growth of the process's peak memory by the search.

NVIDIA NeMo's quantizer is not included: its package cannot be imported without its extra
``asr``, and with the versions of constraints.txt, that extra resolves only to a release of
2021 (``pip install "nemo_toolkit[asr]" -c constraints.txt``).
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

import torch  # noqa: E402

from espnet2_birq.planning.machine import describe, peak_memory_mib  # noqa: E402
from espnet2_birq.pretraining.labellers.random_projection import (  # noqa: E402
    RandomProjectionLabeller,
)

BATCH, FRAMES, SIZE, CODES, CODE_SIZE = 8, 250, 320, 8192, 16


def ours(projection, codebook):
    """Return this project's function from frames (B, T, D) to labels (B, T)."""
    labeller = RandomProjectionLabeller(
        SIZE, False, codebook_size=CODES, codebook_dim=CODE_SIZE, score="cosine"
    )
    labeller.projection[0] = projection
    labeller.codebook[0] = codebook
    return lambda xs: labeller.codes(xs.flatten(0, 1))[0].view(xs.shape[:2])


def vector_quantize_pytorch(projection, codebook):
    """Return the same function by vector-quantize-pytorch."""
    from vector_quantize_pytorch import RandomProjectionQuantizer as Quantizer

    quantizer = Quantizer(
        dim=SIZE, codebook_size=CODES, codebook_dim=CODE_SIZE, norm=False
    )
    quantizer.rand_projs[0] = projection
    quantizer.vq._codebook.embed.data[0] = codebook
    return lambda xs: quantizer(xs).view(xs.shape[:2])


def speechbrain(projection, codebook):
    """Return the same function by SpeechBrain."""
    from speechbrain.nnet.quantisers import RandomProjectionQuantizer as Quantizer

    quantizer = Quantizer(SIZE, CODE_SIZE, CODES)
    quantizer.P.copy_(projection)
    quantizer.CB.copy_(codebook)
    return quantizer


LIBRARIES = dict(
    ours=ours,
    vector_quantize_pytorch=vector_quantize_pytorch,
    speechbrain=speechbrain,
)


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict:
    """Label the frames repeatedly, and measure."""
    torch.manual_seed(0)
    xs = torch.randn(BATCH, FRAMES, SIZE)
    projection = torch.nn.init.xavier_uniform_(torch.empty(SIZE, CODE_SIZE))
    codebook = torch.randn(CODES, CODE_SIZE)
    codebook = torch.nn.functional.normalize(codebook, dim=1)
    label = LIBRARIES[args.library](projection, codebook)
    label(xs[:1, :4])  # warm-up
    before = peak_memory_mib("cpu")["peak_rss_mib"]
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        codes = label(xs)
        seconds.append(time.perf_counter() - start)
    extra = peak_memory_mib("cpu")["peak_rss_mib"] - before
    points = torch.nn.functional.normalize(xs.double() @ projection.double(), dim=2)
    exact = (points @ codebook.double().T).argmax(dim=2)
    return dict(
        library=args.library,
        threads=args.threads,
        seconds=round(statistics.median(seconds), 5),
        seconds_min=round(min(seconds), 5),
        seconds_max=round(max(seconds), 5),
        extra_mib=extra,
        agree=round(float((codes == exact).float().mean()), 5),
        machine=describe("cpu"),
    )


def main():
    """Measure one and print a JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", choices=sorted(LIBRARIES), required=True)
    parser.add_argument("--repeat", type=int, default=20, help="default: %(default)s")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="default: the cores")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps(measure(args)))


if __name__ == "__main__":
    main()
