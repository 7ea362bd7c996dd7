"""Features of a long recording computed in windows, compared with those of one pass.

    python bench/long_audio.py --model exp/ssl_train_birq_raw --audio FILE [FILE ...]

The recording is the given files one after the other, e.g. a chapter of LibriSpeech. For
each window and context (seconds): the relative error of the encoder's output (root mean
square, over its standard deviation), its cosine with that of one pass, and, at seams, the
error relative to the mean error and the step between frames relative to that of one pass.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
import torch

from espnet2_birq import pretrained
from espnet2_birq.api import load
from espnet2_birq.encoders.long_audio import windows_of
from espnet2_birq.evaluation.markdown import markdown_table

PAIRS = ((20, 0), (20, 1), (30, 1), (30, 5), (30, 10), (60, 1), (60, 5), (60, 10))
HEAD = ("window, s", "context, s", "error", "cosine", "error at seams", "step at seams")


def main():
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--audio", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load(args.model, window=None)
    samples = [soundfile.read(path, dtype="float32")[0] for path in args.audio]
    speech = np.concatenate(samples)
    expected = model([speech])[0][0]
    spread = (expected - expected.mean(dim=0)).pow(2).sum(dim=1).mean().sqrt()
    rows = []
    for window, context in PAIRS:
        model.window, pretrained.CONTEXT = float(window), float(context)
        found = model([speech])[0][0]
        longest, around = (int(x / model.frame_shift) for x in (window, context))
        plan = windows_of(model.model.encoder, len(found), longest, around)
        seams = torch.tensor([one.begin for one in plan][1:])
        error = (found - expected).norm(dim=1)
        steps = [x.diff(dim=0).norm(dim=1)[seams - 1].mean() for x in (found, expected)]
        cosine = torch.cosine_similarity(found, expected, dim=1).mean()
        numbers = (
            error.pow(2).mean().sqrt() / spread,
            cosine,
            error[seams].mean() / error.mean(),
            steps[0] / steps[1],
        )
        rows.append([str(window), str(context), *(f"{x:.3f}" for x in numbers)])
    print(f"{len(speech) / model.sample_rate:.0f} s\n{markdown_table(HEAD, rows)}")


if __name__ == "__main__":
    main()
