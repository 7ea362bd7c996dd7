"""The encoder where it makes labels: the forward pass on the clean input."""

import copy
from contextlib import contextmanager, nullcontext

import torch

from espnet2_birq.encoders.taps import RunningStatistics, encode_up_to, evaluating
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.schedule import Schedule


class TargetBranch:
    """Runs the encoder's lower layers on the clean input.

    In evaluation mode, whatever the mode of the model: no dropout, no stochastic depth,
    and BatchNorm takes its running statistics. A frame's label is then the same alone,
    in any batch, on any rank, and in evaluation; with the batch's own statistics, 35 %
    of the labels were those of evaluation, and 10 % when these do not move the running
    ones; losses were the same within 0.1 (bench/batch_norm.py, bench/README.md). The
    masked input is another call, whose statistics, with the masking noise in them, are
    the ones that are kept.

    Args:
        encoder: An ESPnet encoder, shared with the masked input.
        checkpoint: Activation checkpointing: keep no activations of this pass, compute
            them again in the backward pass. It matters where a gradient is kept.
        utterances: n: run on every n-th utterance of a batch only, on others in the
            next update; only these get labels of a layer. In evaluation on all.

    Raises:
        ConfigError: Not 1 or more utterances.
    """

    def __init__(
        self, encoder: torch.nn.Module, checkpoint: bool = False, utterances: int = 1
    ):
        if utterances < 1:
            raise ConfigError(
                f"target_branch_conf: utterances is 1 or more, got {utterances}"
            )
        # In a tuple, so that the encoder is not a module of the model twice.
        self._encoder = (encoder,)
        self.checkpoint = checkpoint
        self.utterances = utterances

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
        """Compute outputs of some layers; no layer above the last of them is run.

        Args:
            xs: (B, T, D) clean input.
            lengths: (B,) input frames.
            layers: Layers counted from 1, with whether a gradient has to flow into each.
            update: Optimizer updates made so far.

        Returns:
            (B, T', E) for each layer; and (B,) 1 for each utterance that was run, 0
            for others, or None if all were.
        """
        keeps_gradient = torch.is_grad_enabled() and any(layers.values())
        # The backward pass needs BatchNorm's statistics of this forward pass, which the
        # masked input will have moved by then: hence, for a gradient, a copy of them.
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
        return slice(update % every, None, every)


def _spread(output: torch.Tensor, rows: slice, size: int) -> torch.Tensor:
    """Put the output of some utterances among zeros of the others: (B, T', E)."""
    whole = output.new_zeros(size, *output.shape[1:])
    whole[rows] = output
    return whole


class Teacher(torch.nn.Module):
    """A copy of the encoder that follows it slowly, and learns nothing by itself.

    Its parameters become decay x old + (1 - decay) x the encoder's after every n-th
    optimizer update: an exponential moving average (data2vec, arXiv 2202.03555), or with
    decay 0 a copy that is refreshed every n updates (Latent-RQ). Buffers, such as
    BatchNorm's statistics, are copied.

    Args:
        encoder: What to follow.
        decay: A number or a schedule.
        every: n.

    Raises:
        ConfigError: A decay outside [0, 1], or not 1 or more updates.
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
        if every < 1 or not all(0 <= value <= 1 for _, value in self.decay.points):
            raise ConfigError(
                "teacher_conf: decay is between 0 and 1, every is 1 or more, got "
                f"{decay!r} and {every!r}"
            )

    def copy(self, encoder: torch.nn.Module):
        """Become the same as an encoder."""
        self.network.load_state_dict(encoder.state_dict())

    @torch.no_grad()
    def follow(self, encoder: torch.nn.Module, update: int):
        """Move after an optimizer update, counted from 1."""
        if update % self.every:
            return
        share = 1.0 - self.decay.at(update)
        for mine, other in zip(self.network.parameters(), encoder.parameters()):
            mine.lerp_(other, share)
        for kept, new in zip(self.network.buffers(), encoder.buffers()):
            kept.copy_(new)
