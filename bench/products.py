"""What espnet2_birq/products.py and encoder/acceleration.py gain, piece by piece.

    python bench/products.py --threads 1

prints a linear layer's rate, forward and at both gradients, through PyTorch's default
library and through oneDNN, and the time of dropout drawn by PyTorch and by us.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from espnet2_birq.encoder.acceleration import FastDropout  # noqa: E402

# Rows, inputs, outputs: feed-forward and attention layers of bench/step.yaml with 8 x
# 10 s, the subsampling's second convolution, the head
SIZES = [(1992, 256, 1024), (1992, 1024, 256), (1992, 256, 256), (18924, 256, 256)]
SIZES += [(1000, 256, 8192)]


def seconds(call, repeat: int) -> float:
    """Median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def onednn(x, weight):
    """A product by oneDNN: x times the transposed weight."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


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
        calls = [
            (lambda: x @ weight.t(), lambda: onednn(x, weight)),
            (lambda: grad @ weight, lambda: onednn(grad, weight.t())),
            (lambda: grad.t() @ x, lambda: onednn(grad.t(), x.t())),
        ]
        flops = 2e-9 * rows * inputs * outputs
        cells = [
            " / ".join(f"{flops / seconds(call, args.repeat):.0f}" for call in pair)
            for pair in calls
        ]
        print(f"| {rows}, {inputs}, {outputs} | {' | '.join(cells)} |")
    x = torch.randn(8, 249, 1024)
    times = [
        seconds(lambda: layer(x), args.repeat)
        for layer in (torch.nn.Dropout(0.1), FastDropout(0.1))
    ]
    print(f"dropout of (8, 249, 1024): {times[0] * 1e3:.1f} / {times[1] * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
