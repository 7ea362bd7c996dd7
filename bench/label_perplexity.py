"""How many codes real speech uses, by projection and score.

    python bench/label_perplexity.py --frame_statistics FILE [--model FILE.pth] \\
        --config CONF --train_data_path_and_name_and_type wav.scp,speech,sound ...

Options of ssl_train say what features and encoder are; FILE is what
espnet2_birq.bin.frame_statistics made of them. Every 20th utterance is read; labels are
of 4,000 frames, of the input and of the label layer (untrained, or of --model).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from espnet2_birq.checkpoint import check_model_file  # noqa: E402
from espnet2_birq.encoder.layers import encode_up_to  # noqa: E402
from espnet2_birq.pretraining.frame_statistics import FrameStatistics  # noqa: E402
from espnet2_birq.pretraining.masking import stack_frames  # noqa: E402
from espnet2_birq.pretraining.quantizer import RandomProjectionQuantizer  # noqa: E402
from espnet2_birq.pretraining.statistics import perplexity  # noqa: E402
from espnet2_birq.pretraining.target import default_label_layer  # noqa: E402
from espnet2_birq.tasks.ssl import SSLTask  # noqa: E402


@torch.no_grad()
def read_frames(args, model, layer):
    """Stacked input frames and states of a layer, of every 20th utterance."""
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


def measure(vectors, **conf):
    """Perplexity of the nearest codes of 4,000 vectors."""
    quantizer = RandomProjectionQuantizer(vectors.size(1), **conf).train()
    if quantizer.whitening is not None:
        quantizer.points(vectors)  # its running statistics
    torch.manual_seed(0)
    chosen = vectors[torch.randperm(len(vectors))[:4000]]
    codes = quantizer.eval()(chosen)[0].codes
    return perplexity(torch.bincount(codes, minlength=8192).float()).item()


def main():
    """Print a line for each source, score, projection and seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frame_statistics", required=True)
    parser.add_argument("--model", help="pretrained; without, an untrained encoder")
    own, rest = parser.parse_known_args()
    args = SSLTask.get_parser().parse_args(rest)
    args.targets = [dict(name="anchor")]
    torch.manual_seed(0)
    model = SSLTask.build_model(args).eval()
    if own.model:
        check_model_file(own.model)
        state = torch.load(own.model, map_location="cpu")
        model.encoder.load_state_dict(
            {k[8:]: x for k, x in state.items() if k.startswith("encoder.")}
        )
    layer = default_label_layer(len(model.encoder.encoders))
    inputs, states = read_frames(args, model, layer)
    statistics = FrameStatistics.load(own.frame_statistics)
    for score in ("distance", "cosine"):
        for projection in ("xavier", "whitened", "pca", "pca_whitened"):
            for seed in (0, 1):
                conf = dict(score=score, projection=projection, seed=seed)
                line = f"{score} {projection} seed {seed}:"
                line += f" input {measure(inputs, statistics=statistics, **conf):.0f}"
                if not projection.startswith("pca"):
                    ppl = measure(states, layer_norm=True, **conf)
                    line += f", layer {layer} {ppl:.0f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
