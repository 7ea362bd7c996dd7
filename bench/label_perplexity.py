"""Number of codes that real speech uses, by projection and score.

    python bench/label_perplexity.py [--model FILE.pth] \\
        --config CONF --train_data_path_and_name_and_type wav.scp,speech,sound ...

Options of ssl_train define features and encoder. Every 20th utterance is read; projections
use the moments of all frames that are read. Labels are made of 4,000 frames of the input
and of the layer at 70 % of the depth (untrained, or from --model).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from espnet2_birq.checkpoint import check_model_file
from espnet2_birq.encoders.taps import encode_up_to
from espnet2_birq.pretraining.labellers.random_projection import (
    RandomProjectionLabeller,
)
from espnet2_birq.pretraining.statistics import perplexity
from espnet2_birq.pretraining.views import (
    DEFAULT_DEPTH,
    layer_at,
    stack_frames,
)
from espnet2_birq.tasks.ssl import SSLTask


@torch.no_grad()
def read_frames(args, model, layer):
    """Return stacked input frames and hidden states of every 20th utterance."""
    batches = SSLTask.build_streaming_iterator(
        args.train_data_path_and_name_and_type,
        preprocess_fn=None,
        collate_fn=SSLTask.build_collate_fn(args, train=False),
        batch_size=1,
        dtype="float32",
        num_workers=1,
    )
    inputs, states = [], []
    for number, (_, batch) in enumerate(batches):
        if number % 20 == 0:
            xs, lengths = model._extract_feats(batch["speech"], batch["speech_lengths"])
            (hs,) = encode_up_to(model.encoder, xs, lengths, [layer])
            states.append(hs[0])
            inputs.append(stack_frames(xs, model.subsampling, hs.size(1))[0])
    return torch.cat(inputs), torch.cat(states)


@torch.no_grad()
def measure(vectors, **conf):
    """Compute the perplexity of the nearest codes of 4,000 vectors."""
    labeller = RandomProjectionLabeller(vectors.size(1), **conf)
    labeller.observe(vectors, torch.ones(len(vectors)))
    labeller.start()
    torch.manual_seed(0)
    chosen = vectors[torch.randperm(len(vectors))[:4000]]
    (codes,) = labeller.codes(chosen)
    return perplexity(torch.bincount(codes, minlength=8192).float()).item()


def main():
    """Print a line for each view, score, projection and seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="pretrained; without, an untrained encoder")
    own, rest = parser.parse_known_args()
    args = SSLTask.get_parser().parse_args(rest)
    args.objectives = [dict(name="anchor")]
    torch.manual_seed(0)
    model = SSLTask.build_model(args).eval()
    if own.model:
        check_model_file(own.model)
        state = torch.load(own.model, map_location="cpu")
        model.encoder.load_state_dict(
            {k[8:]: x for k, x in state.items() if k.startswith("encoder.")}
        )
    layer = layer_at(DEFAULT_DEPTH, len(model.encoder.encoders))
    inputs, states = read_frames(args, model, layer)
    for score in ("distance", "cosine"):
        for projection in ("xavier", "whitened", "pca", "pca_whitened"):
            for seed in (0, 1):
                conf = dict(score=score, projection=projection, seed=seed)
                line = f"{score} {projection} seed {seed}:"
                line += f" input {measure(inputs, running=False, **conf):.0f}"
                if not projection.startswith("pca"):
                    ppl = measure(states, running=True, layer_norm=True, **conf)
                    line += f", layer {layer} {ppl:.0f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
