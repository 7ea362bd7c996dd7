"""Comparison of BatchNorm modes in the label pass, by pretraining.

    python bench/batch_norm.py --mode frozen -- OPTIONS OF ssl_train

trains with the label pass in one of these modes. Then it labels the validation set twice
with the last model, in training and in evaluation mode. It prints the share of equal
labels and the last validation losses (in evaluation mode):

    updating   statistics of the clean batch, which also update the running ones
    frozen     statistics of the clean batch; the masked copy updates the running ones
    running    running statistics, as in evaluation
    joint      clean and masked copies in one call up to layer k, one set of statistics
"""

import argparse
import json
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from espnet2_birq.encoders.taps import (
    BATCH_NORM,
    DROPOUT,
    encode_up_to,
    encoder_lengths,
    evaluating,
)
from espnet2_birq.pretraining import model as ssl_model
from espnet2_birq.pretraining.heads import Hidden
from espnet2_birq.pretraining.target_branch import TargetBranch
from espnet2_birq.tasks.ssl import SSLTask


@contextmanager
def frozen(encoder):
    """Use the batch's statistics in BatchNorm, without updating the running ones."""
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
    """Return a context for the label pass in a mode."""
    kinds = (DROPOUT, BATCH_NORM) if mode == "running" else (DROPOUT,)
    with evaluating(encoder, *kinds):
        with frozen(encoder) if mode == "frozen" else nullcontext():
            yield


class Branch(TargetBranch):
    """Target branch in one of the modes; ``joint`` also keeps the masked output."""

    mode = "running"

    def hidden_states(self, xs, lengths, layers, update=0):
        """Compute hidden states as TargetBranch, but with the mode's statistics."""
        if self.mode == "running":
            return super().hidden_states(xs, lengths, layers, update)
        if self.mode == "joint":
            return self._joint(xs, lengths, *layers), None
        keeps_gradient = torch.is_grad_enabled() and any(layers.values())
        with label_pass(self.encoder, self.mode):
            with torch.set_grad_enabled(keeps_gradient):
                outputs = encode_up_to(self.encoder, xs, lengths, list(layers))
        return dict(zip(layers, outputs)), None

    def _joint(self, xs, lengths, layer):
        """Encode both copies in one call, the clean half up to the label layer only."""
        batch, kept = len(xs), {}

        def cut(_, args):
            (hs, positions), masks = args
            kept[layer] = hs[:batch]
            return (hs[batch:], positions), masks[batch:]

        masking, mask = Masking.last
        masked = masking.apply_to(xs, mask)
        hook = self.encoder.encoders[layer].register_forward_pre_hook(cut)
        both = self.encoder(torch.cat([xs, masked]), torch.cat([lengths] * 2))
        hook.remove()
        self.masked = both[0]
        return kept


class Masking(ssl_model.SpanMasking):
    """Masking that keeps its last mask and a reference to itself."""

    last = None

    def draw(self, *sizes):
        """Draw as SpanMasking does, and keep the mask."""
        Masking.last = self, super().draw(*sizes)
        return Masking.last[1]


def joint_encode_masked(self, batch, mask, rows):
    """Return the masked output, which the label pass has already computed."""
    return Hidden(self.branch.masked.flatten(0, 1)[rows.index])


def patch(mode):
    """Patch BiRQModel to use the mode."""
    Branch.mode = mode
    ssl_model.TargetBranch = Branch
    if mode == "joint":
        ssl_model.SpanMasking = Masking
        ssl_model.BiRQModel._encode_masked = joint_encode_masked


@torch.no_grad()
def same_labels(args, mode):
    """Return the share of validation frames with equal labels in both modes."""
    model = SSLTask.build_model(args)
    state = torch.load(Path(args.output_dir) / "latest.pth", map_location="cpu")
    model.load_state_dict(state)
    (objective,) = [one for one in model.objectives if one.view.layer]
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
                (hs,) = encode_up_to(model.encoder, xs, lengths, [objective.view.layer])
            (found,) = objective.labeller.codes(hs.flatten(0, 1))
            codes.append(found.view(hs.shape[:2]))
        frames_of = encoder_lengths(model.encoder, lengths)
        valid = torch.arange(hs.size(1)) < frames_of[:, None]
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
    stats = torch.load(checkpoint, weights_only=True)["reporter"]["stats"]
    valid = stats[max(stats)]["valid"]
    result = dict(mode=own.mode, same_labels=round(same_labels(args, own.mode), 4))
    for name in ("anchor", "enhanced"):
        result[f"valid_loss_{name}"] = round(valid[f"loss_{name}"], 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
