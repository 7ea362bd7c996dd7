"""Dependence of labels on the frames from which the input's moments are computed.

    python bench/start_frames.py --librispeech DIR [--train PART] [--test PART]

ssl_train computes the moments from the first 100,000 encoder frames, before the first
update. Here two projections are computed from that many frames of different readers. Both
label frames of other readers, and the share of equal codes is printed.
"""

import argparse
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

import soundfile  # noqa: E402
import torch  # noqa: E402

from espnet2_birq.pretraining.statistics import perplexity  # noqa: E402
from espnet2_birq.pretraining.views import stack_frames  # noqa: E402
from espnet2_birq.tasks.ssl import SSLTask  # noqa: E402

CONFIG = BENCH.parent / "conf" / "mini_librispeech" / "train_best_rq.yaml"


@torch.no_grad()
def frames_of(model, files):
    """Return stacked, normalised input frames (M, D) of some recordings."""
    found = []
    for file in files:
        samples = torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None]
        xs, _ = model._extract_feats(samples, torch.tensor([samples.size(1)]))
        frames = xs.size(1) // model.subsampling
        found.append(stack_frames(xs, model.subsampling, frames)[0])
    return torch.cat(found)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--librispeech", type=Path, required=True)
    parser.add_argument("--train", default="train-clean-100", help="split into halves")
    parser.add_argument("--test", default="test-other", help="part to be labelled")
    own = parser.parse_args()
    args = SSLTask.get_parser().parse_args(
        ["--config", str(CONFIG), "--output_dir", "-"]
    )
    model = SSLTask.build_model(args).eval()
    readers = sorted((own.librispeech / own.train).iterdir())
    halves = [
        frames_of(
            model, sorted(x for one in readers[i::2] for x in one.rglob("*.flac"))
        )
        for i in range(2)
    ]
    test = frames_of(model, sorted((own.librispeech / own.test).rglob("*.flac")))
    print(f"frames: {len(halves[0])} and {len(halves[1])}, labelled {len(test)}")
    print(
        "| projection | frames | same code % | perplexity |\n| --- | --- | --- | --- |"
    )
    for projection in ("pca", "pca_whitened", "whitened"):
        for number in (1_000, 10_000, 30_000, 100_000):
            number = min(number, *map(len, halves))
            codes = []
            for half in halves:
                row = dict(name="anchor", labeller_conf={"projection": projection})
                args.objectives = [row]
                labeller = SSLTask.build_model(args).objectives[0].labeller
                rows = torch.randperm(
                    len(half), generator=torch.Generator().manual_seed(0)
                )
                labeller.observe(half[rows[:number]], torch.ones(number))
                labeller.start()
                codes.append(labeller.codes(test)[0])
            same = 100 * (codes[0] == codes[1]).float().mean()
            used = perplexity(torch.bincount(codes[0], minlength=8192).float())
            print(f"| {projection} | {number} | {same:.1f} | {used:.0f} |", flush=True)


if __name__ == "__main__":
    main()
