"""Speed of matrix products and dropout, for kernels/products.py and acceleration.py.

    python bench/products.py --threads 1
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python bench/products.py
    ONEDNN_MAX_CPU_ISA=AVX512_CORE python bench/products.py

prints a linear layer's rate, forward and for both gradients, with PyTorch's default
library, with oneDNN and in bfloat16; the choice of espnet2_birq/kernels/products.py; and
the time of dropout by PyTorch and by this project. The second command disables everything
above AVX2, the third only bfloat16 instructions (which kernels/products.py ignores, since
it asks the processor).
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from espnet2_birq.kernels import products
from espnet2_birq.kernels.acceleration import FastDropout

# Rows, inputs, outputs of feed-forward and attention layers of bench/step.yaml with 8 x
# 10 s, of the second subsampling convolution, and of the head.
SIZES = [(1992, 256, 1024), (1992, 1024, 256), (1992, 256, 256), (18924, 256, 256)]
SIZES += [(1000, 256, 8192)]


def seconds(call, repeat: int) -> float:
    """Measure the median CPU time of a call, after one warm-up call."""
    call()
    times = []
    for _ in range(repeat):
        start = time.process_time()  # other work on the machine does not count
        call()
        times.append(time.process_time() - start)
    return statistics.median(times) / torch.get_num_threads()


def three(a, b):
    """Return three ways of multiplying a by the transposed b."""
    half_a, half_b = a.bfloat16(), b.bfloat16()
    return (
        lambda: torch.nn.functional.linear(a, b),
        lambda: products.onednn(a, b),
        lambda: torch.nn.functional.linear(half_a, half_b),
    )


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--repeat", type=int, default=15, help="(default: 15)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| rows, inputs, outputs | forward | gradient at inputs | at weights |")
    print("|---|---|---|---|")
    for rows, inputs, outputs in SIZES:
        x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        grad = torch.randn(rows, outputs)
        pairs = [(x, weight), (grad, weight.t()), (grad.t(), x.t())]
        flops = 2e-9 * rows * inputs * outputs
        cells = [
            " / ".join(
                f"{flops / seconds(call, args.repeat):.0f}" for call in three(*ab)
            )
            for ab in pairs
        ]
        print(f"| {rows}, {inputs}, {outputs} | {' | '.join(cells)} |")
    library = "oneDNN" if products.onednn_is_faster() else "PyTorch's default"
    precision = "bfloat16" if products.bfloat16_is_faster() else "single precision"
    print(f"chosen: {library}; cpu_bfloat16 auto: {precision}")
    x = torch.randn(8, 249, 1024)
    times = [
        seconds(lambda layer=layer: layer(x), args.repeat)
        for layer in (torch.nn.Dropout(0.1), FastDropout(0.1))
    ]
    print(f"dropout of (8, 249, 1024): {times[0] * 1e3:.1f} / {times[1] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
