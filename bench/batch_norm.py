"""What BatchNorm should see where labels are made: pretraining in four modes.

    python bench/batch_norm.py --mode frozen -- OPTIONS OF ssl_train

trains with the label pass in one of these modes, then labels the validation set twice
with the last model, as in training and as in evaluation, and prints both the share of
labels that are the same and the last validation losses (made in evaluation mode):

    updating   statistics of the clean batch, which also move the running ones
    frozen     statistics of the clean batch; the masked copy moves the running ones
    running    running statistics, as in evaluation
    joint      clean and masked copies in one call up to layer k, one set of statistics
"""

import argparse
import json
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch  # noqa: E402

from espnet2_birq.encoder.layers import (  # noqa: E402
    BATCH_NORM,
    DROPOUT,
    encode_up_to,
    evaluating,
)
from espnet2_birq.pretraining.model import BiRQModel  # noqa: E402
from espnet2_birq.tasks.ssl import SSLTask  # noqa: E402


@contextmanager
def frozen(encoder):
    """BatchNorm by the batch's statistics, which leave the running ones alone."""
    norms = [layer for layer in encoder.modules() if isinstance(layer, BATCH_NORM)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum


@contextmanager
def label_pass(encoder, mode):
    """How the encoder runs where it makes labels."""
    kinds = (DROPOUT, BATCH_NORM) if mode == "running" else (DROPOUT,)
    with evaluating(encoder, *kinds):
        with frozen(encoder) if mode == "frozen" else nullcontext():
            yield


def joint_sources(self, targets, xs, xs_lengths, index, padded, given):
    """Labels and predictions from one call; the clean half goes up to layer k only."""
    (layer,) = [t.source for t in targets if t.of_layer]
    batch, kept = len(xs), {}

    def cut(_, args):
        (hs, positions), masks = args
        kept["clean"] = hs[:batch]
        return (hs[batch:], positions), masks[batch:]

    masked = self.masking.apply_to(xs, self.mask)
    hook = self.encoder.encoders[layer].register_forward_pre_hook(cut)
    both = self.encoder(torch.cat([xs, masked]), torch.cat([xs_lengths] * 2))
    hook.remove()
    self.joint = both[0].flatten(0, 1)[index]
    others = [t for t in targets if not t.of_layer]
    sources = BiRQModel.plain_sources(
        self, others, xs, xs_lengths, index, padded, given
    )
    return {**sources, layer: kept["clean"].flatten(0, 1)[index]}


def patch(mode):
    """Give BiRQModel the mode."""
    BiRQModel._label_pass = lambda self, _: lambda: label_pass(self.encoder, mode)
    if mode != "joint":
        return
    BiRQModel.plain_sources = BiRQModel._sources
    BiRQModel._sources = joint_sources
    step = BiRQModel._step

    def joint_step(self, *args):
        draw = self.masking.draw

        def remember(*sizes):
            self.mask = draw(*sizes)
            return self.mask

        self.masking.draw = remember
        self._encode_masked = lambda *_: self.joint
        try:
            return step(self, *args)
        finally:
            del self.masking.draw, self._encode_masked

    BiRQModel._step = joint_step


@torch.no_grad()
def same_labels(args, mode):
    """Share of validation frames labelled alike in training and evaluation mode."""
    model = SSLTask.build_model(args)
    state = torch.load(Path(args.output_dir) / "latest.pth", map_location="cpu")
    model.load_state_dict(state)
    (target,) = [t for t in model.targets if isinstance(t.source, int)]
    quantizer = model.quantizers[target.name].eval()
    batches = SSLTask.build_streaming_iterator(
        args.valid_data_path_and_name_and_type,
        preprocess_fn=None,
        collate_fn=SSLTask.build_collate_fn(args, train=False),
        batch_size=8,
        dtype="float32",
        num_workers=0,
    )
    same = frames = 0
    for _, batch in batches:
        xs, lengths = model._extract_feats(batch["speech"], batch["speech_lengths"])
        codes = []
        for training in (True, False):
            model.encoder.train(training)
            with label_pass(model.encoder, mode):
                (hs,) = encode_up_to(model.encoder, xs, lengths, [target.source])
            points = quantizer.points(hs.flatten(0, 1))
            codes.append(quantizer.nearest(points)[0].view(hs.shape[:2]))
        valid = torch.arange(hs.size(1)) < (lengths // model.subsampling)[:, None]
        same += int((codes[0] == codes[1])[valid].sum())
        frames += int(valid.sum())
    return same / frames


def main():
    """Train and measure one mode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = ["updating", "frozen", "running", "joint"]
    parser.add_argument("--mode", choices=modes, required=True)
    parser.add_argument("ssl_train", nargs="+", help="after --, options of ssl_train")
    own = parser.parse_args()
    patch(own.mode)
    SSLTask.main(cmd=own.ssl_train)
    args = SSLTask.get_parser().parse_args(own.ssl_train)
    checkpoint = Path(args.output_dir) / "checkpoint.pth"
    stats = torch.load(checkpoint, weights_only=False)["reporter"]["stats"]
    valid = stats[max(stats)]["valid"]
    result = dict(mode=own.mode, same_labels=round(same_labels(args, own.mode), 4))
    for name in ("anchor", "enhanced"):
        result[f"valid_loss_{name}"] = round(valid[f"loss_{name}"], 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
