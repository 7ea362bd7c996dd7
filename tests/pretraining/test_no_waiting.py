"""A training step never asks a device for a value.

Fake tensors have shapes but no values: reading one (item, nonzero, a boolean index, an if)
raises. On a GPU, the step would have to wait there.
"""

import pytest
import torch
from planted import CONFORMER
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode

from espnet2_birq.encoders.frontend import mirror_ends
from espnet2_birq.pretraining.labellers.gumbel_softmax import GumbelSoftmaxLabeller
from espnet2_birq.pretraining.labellers.random_projection import (
    RandomProjectionLabeller,
)
from espnet2_birq.pretraining.labellers.residual import ResidualLabeller
from espnet2_birq.pretraining.losses.cross_entropy import masked_cross_entropy
from espnet2_birq.pretraining.masking import SpanMasking
from espnet2_birq.pretraining.statistics import BookTally, objective_statistics
from espnet2_birq.pretraining.views import (
    LABELS,
    Batch,
    View,
    fit_labels,
    stack_frames,
)
from espnet2_birq.tasks.ssl import SSLTask

SIZES = dict(output_size=32, linear_units=64, num_blocks=3, attention_heads=2)
ENCODERS = [
    ("conformer", CONFORMER, None),
    ("conformer", CONFORMER, 10),
    ("e_branchformer", dict(SIZES, cgmlp_linear_units=64), 10),
    ("shaw_conformer", SIZES, None),
]


class Frontend(torch.nn.Module):
    """Frontend with only the attributes that mirror_ends reads."""

    def __init__(self):
        super().__init__()
        self.stft = torch.nn.Module()
        self.stft.center, self.stft.n_fft = True, 512


def test_what_reads_a_value_raises_here():
    with FakeTensorMode():
        mask = torch.rand(3, 20) < 0.5
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            torch.rand(3, 20)[mask]
        with pytest.raises(DataDependentOutputException):
            mask.sum().item()


def test_codebooks_that_move():
    with FakeTensorMode():
        labeller = ResidualLabeller(16, running=True, codebook_size=8)
        labeller.ready = True
        vectors, valid = torch.randn(50, 16), torch.ones(50)
        for _ in range(2):
            labeller.observe(vectors, valid)
        labeller.label(vectors)
        labeller.step()
        assert labeller.observed is None
        assert labeller.statistics()["level4_usage"].shape == ()


@pytest.mark.parametrize("replacement", ["noise", "zero", "learned"])
def test_a_step_around_the_encoder(replacement):
    with FakeTensorMode():
        speech, samples = torch.randn(3, 3200), torch.randint(400, 3200, (3,))
        mirror_ends(speech, samples, Frontend())
        masking = SpanMasking(20, replacement=replacement)
        xs, frames = torch.randn(3, 80, 20), torch.randint(5, 20, (3,))
        mask = masking.draw(frames, 20)
        index, present = masking.gather_index(mask)
        masking.apply_to(xs, mask).sum()
        given = {"labels": torch.randint(9, (3, 19))}
        batch = Batch(xs, frames, frames, 20, given=given)
        fit_labels(batch, View(LABELS, name="labels"))
        conf = dict(num_codebooks=2, codebook_size=64)
        anchor = RandomProjectionLabeller(80, running=False, **conf)
        enhanced = GumbelSoftmaxLabeller(
            16, running=True, projection="whitened", **conf
        )
        head = torch.nn.Linear(16, 64)
        hs = torch.randn(3, 20, 16, requires_grad=True).flatten(0, 1)[index]
        hard = anchor.label(stack_frames(xs, 4, 20).flatten(0, 1)[index])
        enhanced.observe(hs.detach() * 2.0, present)
        soft = enhanced.label(hs * 2.0, update=3)
        books, total = [], 0.0
        for labels in zip(hard, soft):
            loss, tally = masked_cross_entropy(
                hs, head.weight, head.bias, present, list(labels), [2.4, 0.1]
            )
            books.append(BookTally(["anchor", "enhanced"], [False, True], tally))
            total = total + loss
        total.backward()
        assert objective_statistics(books)["loss_anchor"].shape == ()


def make_model(encoder, conf, window, **rest):
    """A BiRQ model in training mode."""
    args = SSLTask.get_parser().parse_args(["--output_dir", "-"])
    args.encoder, args.encoder_conf = encoder, dict(conf)
    args.model_conf["attention_window"] = window
    vars(args).update(rest)
    model = SSLTask.build_model(args).train()
    for one in model.objectives:
        one.labeller.ready = True
    return model


CODES = {"num_codebooks": 2, "codebook_size": 8}
RELATIVES = {
    "objectives": [
        {"name": "bridle", "view": "tokenizer", "labeller": "residual"},
        {"name": "spidr", "view": "layers top 2 each", "labeller": "clusters"},
    ],
    "tokenizer_conf": {"layers": 1, "attention_heads": 2, "size": 8},
}
RELATIVES["objectives"][0]["labeller_conf"] = CODES
RELATIVES["objectives"][1].update(labeller_conf=CODES, student="each")


class OnThisSide(TorchFunctionMode):
    """Answer for CPU tensors, which need no waiting: ESPnet's encoders draw a number for
    each layer, to skip some."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.item, torch.Tensor.__bool__) and args[0].is_cpu:
            return 1.0
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch without CUDA")
@pytest.mark.parametrize(
    "encoder, conf, window, rest",
    [(*one, {}) for one in ENCODERS] + [(*ENCODERS[0], RELATIVES)],
)
def test_a_whole_forward_pass_on_a_gpu_without_numbers(encoder, conf, window, rest):
    """Includes features and ESPnet's encoder; fake tensors need no GPU."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng(devices=[]):
        model = make_model(encoder, conf, window, **rest)
        model._update = 0  # the only value that the first step reads
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, x in tensors.items():
                    if x is not None:
                        moved = torch.empty(x.shape, dtype=x.dtype, device="cuda")
                        if isinstance(x, torch.nn.Parameter):
                            moved = torch.nn.Parameter(moved, x.requires_grad)
                        tensors[name] = moved
        speech = torch.randn(2, 32000, device="cuda")
        lengths = torch.randint(16000, 32000, (2,), device="cuda")
        with OnThisSide():
            loss, *_ = model(speech, lengths)
    assert loss.device.type == "cuda" and loss.requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("encoder, conf, window", ENCODERS)
def test_a_whole_training_step_on_a_gpu(encoder, conf, window):
    """PyTorch raises wherever the host would wait."""
    model = make_model(encoder, conf, window).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    speech = torch.randn(2, 32000, device="cuda")
    lengths = torch.tensor([32000, 20000], device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss, *_ = model(speech, lengths)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):  # libraries choose their kernels first
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
