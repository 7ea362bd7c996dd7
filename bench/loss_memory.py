"""Peak memory and time of the loss: `python bench/loss_memory.py` runs all versions.

Each version runs in its own process, forward and backward, with anchor (hard) and enhanced
(soft) labels on one head. `plain` is the definition in autograd, for all frames at once;
`chunked` is masked_cross_entropy; `anchor` is the same without soft labels. On a CPU, the
peak is the process's growth from before the first forward pass; on a GPU (--device cuda),
it is that of torch's allocator.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def plain(hs, head, points, codebook, codes):
    """Compute cross-entropies to both labels by their definitions."""
    import torch

    logits = head(hs)
    scores = -torch.cdist(points, codebook).square()
    probs = torch.nn.functional.gumbel_softmax(scores, tau=0.5)
    enhanced = -(probs * logits.log_softmax(dim=1)).sum(dim=1).mean()
    return 0.1 * enhanced + 2.4 * torch.nn.functional.cross_entropy(logits, codes)


def chunked(hs, head, points, codebook, codes, soft=True):
    """Compute the same with the package."""
    from espnet2_birq.pretraining.labels import HardLabels, SoftLabels
    from espnet2_birq.pretraining.losses.cross_entropy import masked_cross_entropy

    labels, weights = [HardLabels(codes)], [2.4]
    if soft:
        bias = -codebook.square().sum(dim=1)
        labels.append(SoftLabels(points, 2.0 * codebook, bias, temperature=0.5))
        weights.append(0.1)
    valid = hs.new_ones(len(hs))
    return masked_cross_entropy(hs, head.weight, head.bias, valid, labels, weights)[0]


def anchor(*args):
    """Compute the loss of hard labels only, with the package."""
    return chunked(*args, soft=False)


def peak_mib(device):
    """Return the peak memory so far, in MiB."""
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(args):
    """Run one version and print its numbers as JSON."""
    import torch

    torch.manual_seed(0)
    device = args.device
    head = torch.nn.Linear(args.size, args.codes).to(device)
    hs = torch.randn(args.frames, args.size, device=device, requires_grad=True)
    points = torch.randn(args.frames, 16, device=device, requires_grad=True)
    codebook = torch.randn(args.codes, 16, device=device)
    codes = torch.randint(args.codes, (args.frames,), device=device)
    function = dict(plain=plain, chunked=chunked, anchor=anchor)[args.version]
    half = args.dtype == "bfloat16"
    # Library buffers of the first matrix product do not belong to the loss.
    with torch.autocast(device, torch.bfloat16, enabled=half):
        loss = function(hs[:64], head, points[:64], codebook, codes[:64])
    loss.backward()
    before = peak_mib(device)
    seconds = []
    for _ in range(args.repeat):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = function(hs, head, points, codebook, codes)
        loss.backward()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    print(
        json.dumps(
            dict(
                version=args.version,
                peak_mib=round(peak_mib(device) - before),
                seconds=round(sorted(seconds)[len(seconds) // 2], 3),
                loss=round(loss.item(), 4),
            )
        )
    )


def main():
    """Measure one version, or all and the ratios of the first two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    versions = ["plain", "chunked", "anchor"]
    parser.add_argument("--version", choices=versions, help="default: all")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--frames", type=int, default=16384, help="masked frames")
    parser.add_argument("--codes", type=int, default=8192, help="size of the codebook")
    parser.add_argument("--size", type=int, default=512, help="encoder's output size")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeat", type=int, default=3, help="runs for the median")
    args = parser.parse_args()
    if args.version:
        return measure(args)
    results = []
    for version in versions:
        command = [sys.executable, __file__, "--version", version, *sys.argv[1:]]
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        print(line.stdout.strip(), flush=True)
        results.append(json.loads(line.stdout))
    for key in ("peak_mib", "seconds"):
        ratio = results[0][key] / results[1][key]
        print(f"plain / chunked, {key}: {ratio:.1f}")


if __name__ == "__main__":
    main()
