"""Target branch and teacher: the encoder's forward pass on the clean input."""

import copy
from contextlib import contextmanager, nullcontext

import torch

from espnet2_birq.encoders.taps import RunningStatistics, encode_up_to, evaluating
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.schedule import Schedule
from espnet2_birq.pretraining.settings import check_flag, check_whole

GOLDEN = (5**0.5 - 1) / 2


class TargetBranch:
    """Runs the encoder's lower layers on the clean input.

    Always in evaluation mode: no dropout, no stochastic depth, and BatchNorm uses its
    running statistics. A frame's label then depends neither on the other utterances of
    its batch nor on the rank, and is the same in evaluation; with batch statistics, 35 %
    of the labels matched those of evaluation, and 10 % without updating the running
    statistics; losses agreed within 0.1 (bench/batch_norm.py, bench/README.md). Only the
    separate call on the masked input, masking noise included, updates the running
    statistics.

    Args:
        encoder: ESPnet encoder, shared with the masked input.
        checkpoint: Activation checkpointing of this pass, useful if a gradient is
            kept.
        utterances: n: process only every n-th utterance of a batch, in turn; only these
            get labels of a layer. In evaluation, process all.
        copies: M differently masked copies of a batch share its labels; the loss is
            averaged over them. A step costs M + k / K steps of BEST-RQ.

        used: Whether there is a view of a layer; without one, only ``copies`` matters.

    Raises:
        ConfigError: An option is out of range, or has no effect.
    """

    def __init__(
        self,
        encoder: torch.nn.Module,
        checkpoint: bool = False,
        utterances: int = 1,
        copies: int = 1,
        used: bool = True,
    ):
        check_whole("target_branch_conf: utterances", utterances, 1)
        check_whole("target_branch_conf: copies", copies, 1)
        check_flag("target_branch_conf: checkpoint", checkpoint)
        if not used and (checkpoint or utterances > 1):
            raise ConfigError(
                "target_branch_conf: no objective has a view of a layer; leave out "
                "checkpoint and utterances"
            )
        # In a tuple, so that the encoder is not registered as a submodule twice.
        self._encoder = (encoder,)
        self.checkpoint = checkpoint
        self.utterances = utterances
        self.copies = copies

    @property
    def encoder(self) -> torch.nn.Module:
        """The encoder, shared with the masked input."""
        return self._encoder[0]

    def hidden_states(
        self,
        xs: torch.Tensor,
        lengths: torch.Tensor,
        layers: dict[int, bool],
        update: int = 0,
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor | None]:
        """Compute hidden states of some layers, without running layers above them.

        Args:
            xs: (B, T, D) clean input.
            lengths: (B,) lengths in input frames.
            layers: Layers, counted from 1, and whether each needs a gradient.
            update: Optimizer updates so far.

        Returns:
            (B, T', E) for each layer; and (B,) 1 for utterances that were processed, 0
            for others, or None if all were.
        """
        keeps_gradient = torch.is_grad_enabled() and any(layers.values())
        # The backward pass needs BatchNorm's statistics of this forward pass, which the
        # masked input will have changed by then: if there is a gradient, copy them.
        kept = RunningStatistics(self.encoder) if keeps_gradient else None

        @contextmanager
        def target_mode():
            with kept.restored() if kept else nullcontext(), evaluating(self.encoder):
                yield

        rows = self._rows(len(xs), update)
        with target_mode(), torch.set_grad_enabled(keeps_gradient):
            outputs = encode_up_to(
                self.encoder,
                xs[rows],
                lengths[rows],
                list(layers),
                recompute_in=target_mode if self.checkpoint else None,
            )
        if len(outputs[0]) == len(xs):
            return dict(zip(layers, outputs)), None
        labelled = xs.new_zeros(len(xs))
        labelled[rows] = 1.0
        return {
            layer: _spread(output, rows, len(xs))
            for layer, output in zip(layers, outputs)
        }, labelled

    def _rows(self, size: int, update: int) -> slice:
        if not self.encoder.training:
            return slice(None)
        every = min(self.utterances, size)
        # A multiple of the golden ratio: in turn, but never in step with a `when: every`.
        return slice(int(update * GOLDEN % 1 * every), None, every)


def _spread(output: torch.Tensor, rows: slice, size: int) -> torch.Tensor:
    """Scatter the outputs of some utterances into (B, T', E), with zeros elsewhere."""
    whole = output.new_zeros(size, *output.shape[1:])
    whole[rows] = output
    return whole


class Teacher(torch.nn.Module):
    """An exponential moving average of the encoder, without gradients.

    Its parameters become decay x old + (1 - decay) x the encoder's after every n-th
    optimizer update (data2vec, arXiv 2202.03555); decay 0 gives
    a copy refreshed every n updates (Latent-RQ). Buffers, such as
    BatchNorm's statistics, are copied; with decay 1, nothing changes.

    Args:
        encoder: Encoder to average.
        decay: A number or a schedule.
        every: n, optimizer updates per update of the teacher.

    Raises:
        ConfigError: ``decay`` is outside [0, 1], or ``every`` less than 1.
    """

    def __init__(
        self,
        encoder: torch.nn.Module,
        decay: float | list = 0.999,
        every: int = 1,
    ):
        super().__init__()
        self.network = copy.deepcopy(encoder).requires_grad_(False)
        self.decay = Schedule(decay)
        self.every = every
        check_whole("teacher_conf: every", every, 1)
        if not all(0 <= value <= 1 for _, value in self.decay.points):
            raise ConfigError(f"teacher_conf: decay is between 0 and 1, got {decay!r}")

    def copy(self, encoder: torch.nn.Module):
        """Copy an encoder's parameters and buffers."""
        self.network.load_state_dict(encoder.state_dict())

    @torch.no_grad()
    def follow(self, encoder: torch.nn.Module, update: int):
        """Move towards the encoder after an optimizer update, counted from 1."""
        if update % self.every:
            return
        share = 1.0 - self.decay.at(update)
        if share == 0.0:
            return
        for mine, other in zip(self.network.parameters(), encoder.parameters()):
            mine.lerp_(other, share)
        for kept, new in zip(self.network.buffers(), encoder.buffers()):
            kept.copy_(new)


def build_teacher(encoder: torch.nn.Module, conf: dict, wanted: bool) -> Teacher | None:
    """Build the teacher if an objective, or the tokenizer, learns from its layers.

    Args:
        encoder: Encoder to average.
        conf: ``teacher_conf``: arguments of Teacher.
        wanted: Whether there is a view of a teacher's layers.

    Raises:
        ConfigError: No such view, but ``teacher_conf``; or see Teacher.
    """
    if wanted:
        return Teacher(encoder, **conf)
    if conf:
        raise ConfigError(
            "teacher_conf: no objective has a view 'teacher ...'; add one, or leave it out"
        )
    return None
