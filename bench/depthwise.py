"""Time the conformer's depthwise convolution in several formulations, gradients included.

    python bench/depthwise.py --batch 4 --seconds 12 --size 512 --kernel 31
    python bench/depthwise.py --device cuda --dtype bfloat16 --batch 64 --size 1536 --compile

    conv1d   torch.nn.functional.conv1d, as in ESPnet: channels first
    conv2d   PyTorch's convolution of an image of height 1, channels last in memory
    ours     espnet2_birq/kernels/depthwise.py: on a CPU, what the accelerated encoders use
    compiled with --compile: a sum of shifted products through torch.compile

Inputs and outputs are (B, T, C), as in the encoder, at 50 frames a second. Prints medians of
the time of a forward and a backward pass, and the distance from conv1d in single precision.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch.nn import functional

from espnet2_birq.kernels.depthwise import LEAST_CHANNELS, depthwise


def conv1d(x, weight, bias):
    """Convolve with channels first."""
    half = weight.size(2) // 2
    y = functional.conv1d(
        x.transpose(1, 2), weight, bias, padding=half, groups=len(weight)
    )
    return y.transpose(1, 2)


def conv2d(x, weight, bias):
    """Convolve with channels last."""
    image, half = x.transpose(1, 2).unsqueeze(2), weight.size(2) // 2
    kernel, padding = weight.unsqueeze(2), (0, half)
    y = functional.conv2d(image, kernel, bias, padding=padding, groups=len(weight))
    return y.squeeze(2).transpose(1, 2)


def shifted(x, weight, bias):
    """Add up shifted products."""
    kernel = weight.size(2)
    padded = functional.pad(x, (0, 0, kernel // 2, kernel // 2))
    y = bias.float()
    for shift in range(kernel):
        y = y + padded[:, shift : shift + x.size(1)].float() * weight[:, 0, shift]
    return y.to(x.dtype)


def measure(function, inputs, grad, steps: int) -> tuple[torch.Tensor, float, float]:
    """Return the output, and median seconds of a forward and of a backward pass."""
    forward, backward = [], []
    for _ in range(steps + 2):
        start = now(grad)
        y = function(*inputs)
        middle = now(grad)
        torch.autograd.grad(y, inputs, grad)
        forward.append(middle - start)
        backward.append(now(grad) - middle)
    return y.detach(), *(statistics.median(x[2:]) for x in (forward, backward))


def now(tensor: torch.Tensor) -> float:
    """Wait for the device and return the time in seconds."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def main():
    """Print one line per formulation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="float32")
    add("--batch", type=int, default=4)
    add("--seconds", type=float, default=10.0, help="of each utterance")
    add("--size", type=int, default=512, help="channels")
    add("--kernel", type=int, default=31)
    add("--steps", type=int, default=10)
    add("--threads", type=int, default=1)
    add("--compile", action="store_true", help="also time the compiled one")
    args = parser.parse_args()
    if args.device == "cpu" and args.size < LEAST_CHANNELS:
        parser.error(f"--size: give {LEAST_CHANNELS} or more, fewer may never return")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    conf = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    shape = (args.batch, round(50 * args.seconds), args.size)
    inputs = [
        torch.randn(x, **conf).requires_grad_()
        for x in (shape, (args.size, 1, args.kernel), (args.size,))
    ]
    grad = torch.randn(shape, **conf)
    exact = conv1d(*(x.detach().float() for x in inputs))
    functions = {"conv1d": conv1d, "conv2d": conv2d, "ours": depthwise}
    if args.compile:
        functions["compiled"] = torch.compile(shifted)
    for name, function in functions.items():
        y, forward, backward = measure(function, inputs, grad, args.steps)
        off = float((y - exact).norm() / exact.norm())
        print(
            f"{name:9} {1e3 * forward:8.3f} ms forward, {1e3 * backward:8.3f} ms backward, "
            f"off by {off:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
