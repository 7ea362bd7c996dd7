"""Time of encoding clean and masked copies in two calls, or in one of twice the batch.

    python bench/label_pass.py                          bench/step.yaml, 8 x 10 s
    python bench/label_pass.py --device cuda --dtype bfloat16 --batch 32 \
        --config conf/tuning/train_birq_c2.yaml

It times the encoder only, forward and backward:

    two calls       layers 1 to k of the clean batch, then all layers of the masked one
    one call        layers 1 to k of both at once, the others of the masked half
    two calls, cut  the first with its gradient stopped (gradient: 0)
    masked only     as in BEST-RQ
    subsampling     the input layer only, of one batch

alternately in several rounds. It also prints the share of frames whose receptive field has
no masked input frame, for which the masked copy could reuse the clean copy's input layer.
For comparison, all are without dropout and with BatchNorm's running statistics, so that
"one call" has the same outputs as "two calls" (checked here). In training, the clean half
uses running statistics and the masked half does not, which needs two calls.
"""

import argparse
import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH.parent), str(BENCH)]

import torch  # noqa: E402
from step import DTYPES, read_config  # noqa: E402

from espnet2_birq.encoders.taps import (  # noqa: E402
    BATCH_NORM,
    DROPOUT,
    encode_up_to,
    encoder_lengths,
    evaluating,
    time_convolutions,
)
from espnet2_birq.errors import ConfigError  # noqa: E402
from espnet2_birq.tasks.ssl import SSLTask  # noqa: E402


def two_calls(encoder, clean, masked, lengths, layer, keep_gradient=True):
    """Compute the label layer's output for the clean batch and the last layer's for the
    masked batch, both (B, T', E)."""
    with torch.set_grad_enabled(keep_gradient):
        (labels,) = encode_up_to(encoder, clean, lengths, [layer])
    return labels, encoder(masked, lengths)[0]


def one_call(encoder, clean, masked, lengths, layer):
    """Compute the same with one call of the first layers."""
    if layer == len(encoder.encoders):
        raise ConfigError("label layer: the last one leaves nothing to compare")
    batch, kept = len(clean), {}

    def cut(_, args):
        hs, masks = args
        hs, positions = hs if isinstance(hs, tuple) else (hs, None)
        kept["clean"] = hs[:batch]
        rest = hs[batch:]
        return rest if positions is None else (rest, positions), masks[batch:]

    hook = encoder.encoders[layer].register_forward_pre_hook(cut)
    try:
        both = torch.cat([clean, masked]), torch.cat([lengths, lengths])
        hs = encoder(*both)[0]
    finally:
        hook.remove()
    return kept["clean"], hs


def untouched_share(encoder, masking, lengths, frames) -> float:
    """Return the share of encoder frames without masked input, over many draws."""
    size, jump = 1, 1
    for kernel, stride in time_convolutions(encoder):
        size, jump = size + (kernel - 1) * jump, jump * stride
    counts = encoder_lengths(encoder, lengths)
    shares = []
    for _ in range(50):
        mask = masking.draw(counts, int(counts.max()))
        inputs = mask.repeat_interleave(jump, dim=1).float()
        inputs = torch.nn.functional.pad(inputs, (0, frames - inputs.size(1)))
        seen = torch.nn.functional.max_pool1d(inputs[:, None], size, jump)[:, 0]
        shares.append(1.0 - seen[:, : mask.size(1)].mean().item())
    return statistics.mean(shares)


class Case:
    """Encoder of a configuration, with a batch of features."""

    def __init__(self, args):
        conf = read_config(args.config, "birq")
        conf.model_conf = dict(conf.model_conf, cpu_bfloat16=False)
        torch.manual_seed(args.seed)
        model = SSLTask.build_model(conf).to(args.device).train()
        self.encoder, self.device = model.encoder, args.device
        self.dtype = DTYPES[args.dtype]
        (self.layer,) = {one.view.layer for one in model.objectives} - {None}
        frames = round(100 * args.seconds)
        shape = args.batch, frames, model.frontend.output_size()
        self.clean = torch.randn(shape, device=args.device)
        self.lengths = torch.full((args.batch,), frames, device=args.device)
        counts = encoder_lengths(self.encoder, self.lengths)
        mask = model.masking.draw(counts, int(counts[0]))
        self.masked = model.masking.apply_to(self.clean, mask)
        self.untouched = untouched_share(
            model.encoder, model.masking, self.lengths, frames
        )

    def outputs(self, name):
        """Compute a variant's outputs, a tuple of tensors."""
        encoder = self.encoder
        inputs = self.clean, self.masked, self.lengths, self.layer
        if name == "one call":
            return one_call(encoder, *inputs)
        if name == "masked only":
            return encoder(self.masked, self.lengths)[:1]
        if name == "subsampling":
            batch, frames, _ = self.clean.shape
            masks = torch.ones(
                batch, 1, frames, dtype=torch.bool, device=self.clean.device
            )
            hs = (
                encoder.embed(self.clean, masks)[0]
                if time_convolutions(encoder)
                else encoder.embed(self.clean)
            )
            return (hs[0] if isinstance(hs, tuple) else hs,)
        return two_calls(encoder, *inputs, keep_gradient=name == "two calls")

    def autocast(self):
        """Return a context with the requested precision."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device, dtype=self.dtype)

    def seconds(self, name) -> float:
        """Time one forward and backward pass."""
        start = self.now()
        with self.autocast():
            outputs = [x for x in self.outputs(name) if x.requires_grad]
        torch.autograd.backward(outputs, [torch.ones_like(x) for x in outputs])
        self.encoder.zero_grad(set_to_none=True)
        return self.now() - start

    def now(self):
        """Return the time after the device has finished its work."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def check(self):
        """Check that one call has the same outputs as two.

        Raises:
            RuntimeError: The outputs differ.
        """
        exact = torch.backends.cudnn.flags(allow_tf32=False)
        with torch.no_grad(), exact:
            for one, two in zip(self.outputs("one call"), self.outputs("two calls")):
                torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


VARIANTS = ("two calls", "one call", "two calls, cut", "masked only", "subsampling")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config", default=str(BENCH / "step.yaml"), help="with layer labels")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--dtype", choices=sorted(DTYPES), default="float32", help="bfloat16: autocast")
    add("--batch", type=int, default=8, help="utterances (%(default)s)")
    add("--seconds", type=float, default=10.0, help="of each (%(default)s)")
    add("--rounds", type=int, default=5, help="default: %(default)s")
    add("--threads", type=int, default=1, help="default: %(default)s")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        case = Case(args)
        with evaluating(case.encoder, BATCH_NORM, DROPOUT):
            case.check()
            rounds = [
                {name: case.seconds(name) for name in VARIANTS}
                for _ in range(args.rounds + 1)
            ][1:]
    except ConfigError as error:
        sys.exit(f"bench/label_pass.py: {error}")
    seconds = {name: statistics.median(r[name] for r in rounds) for name in VARIANTS}
    ratio = statistics.median(r["two calls"] / r["one call"] for r in rounds)
    share = statistics.median(r["subsampling"] / r["two calls"] for r in rounds)
    for name, value in seconds.items():
        least = min(r[name] for r in rounds)
        print(f"{name:15} {value:.3f} s, fastest {least:.3f} s")
    print(f"two calls / one call: {ratio:.2f}")
    print(
        f"subsampling of one copy: {share:.1%} of two calls; frames that see nothing "
        f"masked: {case.untouched:.1%}; sharing them saves {share * case.untouched:.1%}"
    )
    print(json.dumps(dict(seconds=seconds, ratio=ratio, untouched=case.untouched)))


if __name__ == "__main__":
    main()
