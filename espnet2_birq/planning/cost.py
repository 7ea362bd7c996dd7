"""Cost of a training step, counted on fake tensors.

``count_step`` runs the forward and backward passes of the configured model on PyTorch's
fake tensors and counts, for each operation,

- FLOPs of matrix products and convolutions, two for each multiplication and addition;
- bytes read and written by all other operations, which determine their time;
- live bytes, and their peak.

Nothing is computed, and nothing of the model's size is allocated, so counting takes
seconds and no GPU, for any model and batch. With ``gpu``, the operations are those of a
GPU under ESPnet's ``use_amp``; without, those of a CPU, which can be measured anywhere.
"""

import argparse
import copy
import math
import weakref
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from espnet2_birq.kernels import attention
from espnet2_birq.kernels.acceleration import ON_GPU, accelerate_parts
from espnet2_birq.pretraining.losses import cross_entropy
from espnet2_birq.pretraining.losses.gumbel import gumbel_from_exponential
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.when import When
from espnet2_birq.tasks.prepared import check_frozen
from espnet2_birq.tasks.ssl import SSLTask

aten = torch.ops.aten


class StepCost(NamedTuple):
    """Cost of the forward and backward pass of one batch."""

    flops: int  # of matrix products and convolutions
    moved: int  # bytes read and written by all other operations
    peak: int  # most bytes alive at once, without parameters and gradients of earlier
    # steps but with the gradients that the step makes


class Parameters(NamedTuple):
    """Numbers of trainable parameters."""

    encoder: int
    heads: int
    others: int

    @property
    def all(self) -> int:
        """The sum."""
        return sum(self)


def plain_args(args: argparse.Namespace, gpu: bool) -> argparse.Namespace:
    """Return arguments of the same model with ESPnet's own, countable operations.

    Args:
        args: Arguments of SSLTask.
        gpu: Whether to disable bfloat16 autocast for CPUs.
    """
    args = copy.deepcopy(args)
    conf = model_conf(args)
    conf["accelerate"] = False
    if gpu:
        conf["cpu_bfloat16"] = False
    args.init = None
    args.specaug = None  # works on the input, without gradients
    return args


def model_conf(args: argparse.Namespace) -> dict:
    """Return model_conf of ssl_train, or pretraining_conf of joint training."""
    return getattr(args, "pretraining_conf", args.model_conf)


def count_parameters(whole: torch.nn.Module, model: BiRQModel) -> Parameters:
    """Count trainable parameters.

    Args:
        whole: Module of everything that is trained, real or fake.
        model: Its part with the objectives.
    """
    everything = _numbers(whole)
    encoder, heads = _numbers(model.encoder), _numbers(model.heads)
    return Parameters(encoder, heads, everything - encoder - heads)


def _numbers(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def optimizer_numbers(args: argparse.Namespace) -> float:
    """Count the optimizer's state values per parameter: 2 for AdamW.

    Measured in one step of a small real model, for any optimizer.

    Args:
        args: Arguments of SSLTask.
    """
    layer = torch.nn.Linear(64, 64, bias=False)
    layer(torch.randn(2, 64)).sum().backward()
    (optimizer,) = SSLTask.build_optimizers(args, layer)
    optimizer.step()
    state = sum(
        value.numel()
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, torch.Tensor) and value.dim() > 0
    )
    return state / layer.weight.numel()


def late_updates(model: BiRQModel) -> range:
    """Start all objectives of a model, and return one period of its late updates.

    Args:
        model: Real or fake model; its occasional diagnostics are switched off.

    Returns:
        One period of its schedules, which repeats from then on.
    """
    model.paths.every = 0
    for objective in model.objectives:
        objective._begun = 0
    whens = model.whens
    last = max(max(when.start, when.stop or 0) for when in whens)
    return range(last, last + math.lcm(*(when.every for when in whens)))


def active_sets(whens: Sequence[When], updates: range) -> list[tuple[int, int]]:
    """Group updates by which objectives are active in them.

    Args:
        whens: When each objective, or tokenizer, is active.
        updates: Successive updates.

    Returns:
        For each set of active objectives, the first of its updates and their number.
    """
    edges = {updates.start, updates.stop}
    for when in whens:
        edges |= {edge for edge in (when.start, when.stop or 0) if edge in updates}
    period = math.lcm(*(when.every for when in whens))
    found: dict[tuple[bool, ...], tuple[int, int]] = {}
    for start, stop in pairwise(sorted(edges)):  # between them, activity is periodic
        for update in range(start, min(stop, start + period)):
            on = tuple(when.includes(update) for when in whens)
            first, number = found.get(on, (update, 0))
            found[on] = first, number + len(range(update, stop, period))
    return list(found.values())


def freeze(module: torch.nn.Module, names: Iterable[str]) -> None:
    """Exclude parameters from training, as ESPnet does for ``freeze_param``.

    Args:
        module: Module of everything that is trained.
        names: Names of parameters, or of modules with some.
    """
    for key, parameter in module.named_parameters():
        if any(key == name or key.startswith(f"{name}.") for name in names):
            parameter.requires_grad = False


def blank_labels(
    model: BiRQModel, utterances: int, samples: int
) -> dict[str, torch.Tensor]:
    """Make labels of 0 in place of those that objectives read from disk.

    Args:
        model: Real or fake model.
        utterances: B, batch size.
        samples: Length of each utterance.
    """
    shift = model.frontend.hop_length * model.subsampling
    return {
        view.name: torch.zeros(utterances, samples // shift * view.every).long()
        for view in model.label_sizes
    }


class FakeModel:
    """A model of fake tensors, for counting steps on different batches.

    Args:
        args: Arguments of SSLTask.
        gpu: Whether to count a GPU's operations, under bfloat16 autocast if
            ``args.use_amp``; otherwise a CPU's.

    Attributes:
        updates: Updates whose steps are counted; at first, one period late in training.
        phases: Updates until then, among which are all sets of active objectives.

    Raises:
        ConfigError: Invalid configuration.
    """

    def __init__(self, args: argparse.Namespace, gpu: bool = True):
        self.gpu = gpu
        self.half = gpu and args.use_amp
        self.mode = _FakeMode()
        # A teacher is a deep copy, which fake tensors allow only under FakeCopyMode.
        copies = FakeCopyMode(self.mode)
        with self.mode, copies, torch.random.fork_rng(devices=[]):
            self.whole, self.model = self._build(plain_args(args, gpu))
            self.whole.train()
            check_frozen(args, self.whole)
            freeze(self.whole, args.freeze_param)
        # Fake tensors have no values: skip checks and initialisation from data.
        self.model.checks.on = False
        for objective in self.model.objectives:
            objective.labeller.ready = True
        self.updates = late_updates(self.model)
        self.phases = range(self.updates.stop)
        if gpu and model_conf(args).get("accelerate", True):
            accelerate_parts(self.model.encoder, ON_GPU)
        self.parameters = count_parameters(self.whole, self.model)

    def _build(self, args) -> tuple[torch.nn.Module, BiRQModel]:
        """Build the whole trained module; return it and its part with the objectives."""
        model = SSLTask.build_model(args)
        return model, model

    def count_step(
        self,
        utterances: int,
        samples: int,
        accumulate: bool = False,
        updates: range | None = None,
    ) -> StepCost:
        """Count the cost of a step on utterances of equal length.

        Args:
            utterances: B, batch size.
            samples: Length of each utterance in samples.
            accumulate: Whether gradients exist already and are accumulated.
            updates: Updates to average over, which matters if some objectives are active
                only in some; default: those of the attribute. An objective that waits
                for a condition (``when: once``) counts as started.

        Returns:
            FLOPs and bytes moved, averages over updates; peak of live bytes, the largest.
        """
        updates = updates or self.updates
        costs = [
            (self._count_step(update, utterances, samples, accumulate), number)
            for update, number in active_sets(self.model.whens, updates)
        ]
        flops = sum(number * cost.flops for cost, number in costs)
        moved = sum(number * cost.moved for cost, number in costs)
        return StepCost(
            round(flops / len(updates)),
            round(moved / len(updates)),
            max(cost.peak for cost, _ in costs),
        )

    def _count_step(self, update, utterances, samples, accumulate):
        self.model._update = update
        with ExitStack() as stack:
            stack.enter_context(self.mode)
            for parameter in self.whole.parameters():
                keep = accumulate and parameter.requires_grad
                parameter.grad = torch.empty_like(parameter) if keep else None
            meter = _Meter([*self.whole.parameters(), *self.whole.buffers()])
            if accumulate:
                gradients = (p.grad for p in self.whole.parameters())
                meter.know(grad for grad in gradients if grad is not None)
            stack.enter_context(_AsOnGPU() if self.gpu else _NoValues())
            if self.gpu:
                fused = mock.patch.object(attention, "fused", lambda x: True)
                stack.enter_context(fused)
                noise = gumbel_from_exponential
                stack.enter_context(
                    mock.patch.object(cross_entropy, "gumbel_like", noise)
                )
            stack.enter_context(meter)
            self._step(utterances, samples)
        for parameter in self.whole.parameters():
            parameter.grad = None
        return StepCost(meter.flops, meter.moved, meter.peak)

    def _step(self, utterances, samples):
        speech = torch.empty(utterances, samples)
        lengths = torch.tensor([samples] * utterances)
        given = blank_labels(self.model, utterances, samples)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            total, *_ = self.model(speech, lengths, **given)
        total.backward()


class _FakeMode(FakeTensorMode):
    """Fake tensors, except for utterance lengths, whose values models read."""

    def may_turn_const(self, t: torch.Tensor) -> bool:
        # FakeTensorMode keeps only the values of scalars.
        if t.dtype == torch.int64 and t.device.type == "cpu":
            return not self.is_our_fake(t) and t.numel() <= 2**22
        return super().may_turn_const(t)


class _NoValues(TorchFunctionMode):
    """Stand in for values that ESPnet's models read: drop no layer, accept all lengths."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.item and args[0].constant is None:
            return 1.0
        if func is torch.Tensor.__bool__ and args[0].constant is None:
            return True  # what ESPnet's models assert about lengths
        return func(*args, **(kwargs or {}))


class _AsOnGPU(_NoValues):
    """Emulate GPU operations that save other tensors for backward than a CPU's."""

    SINGLE = (  # in single precision under CUDA's autocast, but not under CPU's
        F.layer_norm,
        F.softmax,
        torch.softmax,
        torch.Tensor.softmax,
        F.log_softmax,
        torch.log_softmax,
        torch.Tensor.log_softmax,
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.SINGLE and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        elif func is F.dropout:
            return _dropout(*args, **kwargs)
        elif func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)


def _dropout(x, p=0.5, training=True, inplace=False):
    return torch.native_dropout(x, p, training)[0] if training and p else x


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
    """Emulate the memory-efficient kernel, the fastest with a differentiable bias."""
    if torch.is_autocast_enabled("cpu"):
        q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    if attn_mask is not None:
        attn_mask = attn_mask.to(q.dtype).expand(*q.shape[:-1], k.size(-2))
    return aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, q.requires_grad, dropout_p, is_causal, scale=scale
    )[0]


class _Meter(TorchDispatchMode):
    """Counts FLOPs, bytes moved and live bytes of all operations."""

    def __init__(self, known):
        super().__init__()
        self.flops = self.moved = self.alive = self.peak = 0
        self.storages = {}
        self.known = set()
        self.kept = []
        self.know(known)

    def know(self, tensors):
        """Exclude the memory of existing tensors."""
        for tensor in tensors:
            self.kept.append(tensor.untyped_storage())
            self.known.add(self.kept[-1]._cdata)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        outputs = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        elif not (func.is_view or func.namespace == "prim") and (
            func._overloadpacket not in EMPTY
        ):  # "prim" has queries, such as for a tensor's device
            inputs = tree_leaves((args, kwargs))
            for x in (*inputs, *outputs):
                if isinstance(x, torch.Tensor):
                    self.moved += min(x.nbytes, x.untyped_storage().nbytes())
        for x in outputs:
            self._see(x.untyped_storage())
        return out

    def _see(self, storage):
        key = storage._cdata
        if key in self.known or key in self.storages:
            return
        size = storage.nbytes()
        # Called when the last tensor using the storage is freed.
        gone = weakref.ref(storage, lambda _: self._forget(key))
        self.storages[key] = (gone, size)
        self.alive += size
        self.peak = max(self.peak, self.alive)

    def _forget(self, key):
        _, size = self.storages.pop(key)
        self.alive -= size


def _convolution_backward(
    grad, x, weight, bias, stride, padding, dilation, transposed, *rest, **kwargs
):
    # PyTorch's own formula ignores the groups of depthwise convolutions.
    output_mask = rest[2]
    forward = 2 * grad.numel() * weight[0].numel()
    if transposed:
        forward = 2 * x.numel() * weight[0].numel()
    return forward * (output_mask[0] + output_mask[1])


def _linear_pointwise(x, weight, *args, **kwargs):
    return 2 * x.numel() * weight.size(0)


FORMULAS = {
    **flop_registry,
    aten.convolution_backward: _convolution_backward,
}
# The products with which espnet2_birq.kernels.products replaces PyTorch's on some CPUs.
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    FORMULAS[torch.ops.mkldnn._linear_pointwise] = _linear_pointwise

EMPTY = {aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.detach}
EMPTY |= {aten.new_empty_strided, aten.lift_fresh, aten._unsafe_view, aten.alias}


@contextmanager
def counted():
    """Count the cost of real operations, e.g. of a timed step.

    Yields:
        An object with ``flops``, ``moved``, and ``peak`` (see StepCost).
    """
    with _Meter([]) as meter:
        yield meter
