"""Recognition and pretraining in one training, with one encoder.

    labelled speech, text -> ESPnet's ASR model ------------> F -+
                                 | encoder                       +-> s F + gamma G
    unlabelled speech -----> masked prediction (BiRQModel) -> G -+

BL-JUST (arXiv 2401.06980): minimise the supervised loss F over the minimisers of the
self-supervised loss G, by a penalty gamma that grows over training. Its three phases,
exploration (only G), joint training and supervised finish (only F), are schedules of the
two weights. With a barrier beta, each step uses the smallest gamma with which G still
descends (dynamic barrier; Gong, Liu and Liu, NeurIPS 2021). With the gradients f of s F and
g of G at the encoder's parameters,

    gamma = penalty x max(beta - <f, g> / |g|^2, 0)

so that (f + gamma g) g >= beta |g|^2 if penalty is 1.
"""

from collections.abc import Iterable
from typing import Any

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.checks import BatchChecks, finite_statistics
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import Objective
from espnet2_birq.pretraining.ranks import idle, sum_over_ranks, world_size
from espnet2_birq.pretraining.schedule import Schedule, first_zero, weight_schedule
from espnet2_birq.pretraining.settings import check_number
from espnet2_birq.pretraining.when import rest

UNLABELLED = "unlabelled_"  # prefix of the second batch's arrays
SHARED = tuple(f"pretraining.{part}." for part in ("frontend", "normalize", "encoder"))

# ESPnet's losses are sums over an utterance's tokens, some hundreds at first; G is a mean
# over frames, a few nats. This makes them of one order.
SUPERVISED_WEIGHT = 0.005

# Losses of a joint training in the log, beside loss_NAME of each objective.
LOSSES = ("pretraining", "supervised", "ctc", "att", "transducer")


class JointModel(ESPnetASRModel):
    """ESPnet's ASR model whose encoder also learns the objectives of pretraining.

    A checkpoint holds the ASR model under ESPnet's names, so that ESPnet's commands load
    it, and the additions of pretraining (heads, labellers) under ``pretraining.``.
    """

    pretraining: BiRQModel
    supervised_weight: Schedule
    penalty: Schedule
    barrier: float | None

    def join(
        self,
        pretraining: BiRQModel,
        supervised_weight: float | list = SUPERVISED_WEIGHT,
        penalty: float | list = 1.0,
        barrier: float | None = None,
    ) -> "JointModel":
        """Add the objectives; call once, after construction.

        Args:
            pretraining: Model of the objectives, with this model's frontend,
                normalisation and encoder.
            supervised_weight: s, weight of the supervised loss: a number or a schedule.
            penalty: gamma, weight of the self-supervised loss: a number or a schedule.
            barrier: beta; None: gamma is the penalty itself.

        Returns:
            The model.

        Raises:
            ConfigError: An option is out of range, an objective's name is taken, or both
                weights are 0 in some update, or the supervised one and the barrier.
        """
        for one in pretraining.objectives:
            if one.name in LOSSES:
                raise ConfigError(
                    f"objective '{one.name}': loss_{one.name} is another loss of a joint "
                    "training; give it another name"
                )
        if barrier is not None:
            check_number("barrier", barrier)
        self.barrier = barrier
        self.encoder = pretraining.encoder  # perhaps accelerated
        self.pretraining = pretraining
        self.supervised_weight = weight_schedule("supervised_weight", supervised_weight)
        self.penalty = weight_schedule("penalty", penalty)
        idle_update = first_zero(self.supervised_weight, self.penalty)
        if idle_update is not None:
            raise ConfigError(
                f"supervised_weight and penalty are both 0 in update {idle_update}: "
                "nothing would be learned; let one of them be above 0"
            )
        idle_update = first_zero(self.supervised_weight, self.supervised_weight)
        if barrier == 0 and idle_update is not None:
            raise ConfigError(
                f"barrier is 0, and so is supervised_weight in update {idle_update}: "
                "nothing would be learned; set barrier above 0"
            )
        self.register_state_dict_post_hook(_drop_shared)
        self.register_load_state_dict_pre_hook(_share)
        self._ddp_params_and_buffers_to_ignore = [
            f"pretraining.{name}"
            for name in pretraining._ddp_params_and_buffers_to_ignore
        ]
        return self

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        text: torch.Tensor,
        text_lengths: torch.Tensor,
        **kwargs,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Compute s F + gamma G and their statistics.

        In evaluation mode the loss is F, the objective of the upper level, whatever the
        schedules say, so that epochs are comparable.

        Args:
            speech: (B, N) labelled waveforms, padded with zeros.
            speech_lengths: (B,) lengths in samples.
            text: (B, L) token ids, padded with -1.
            text_lengths: (B,) lengths in tokens.
            **kwargs: The unlabelled batch, arguments of BiRQModel.forward with the prefix
                ``unlabelled_``; without it, G is computed on the labelled speech. Other
                arguments go to the ASR model.

        Returns:
            Loss, statistics, and the weight for ESPnet's averages: the number of labelled
            utterances on all ranks. The loss of a rank is its share of the joint batch's
            loss, as in BiRQModel.
        """
        unlabelled = _unlabelled(
            dict(kwargs, speech=speech, speech_lengths=speech_lengths)
        )
        supervised, penalty = 1.0, 0.0
        if self.training:
            update = self.pretraining.update_number()
            supervised, penalty = (
                self.supervised_weight.at(update),
                self.penalty.at(update),
            )
        with finite_statistics(self.encoder):  # of layers in training mode
            return self._losses(
                (speech, speech_lengths, text, text_lengths),
                {k: v for k, v in kwargs.items() if not k.startswith(UNLABELLED)},
                unlabelled,
                supervised,
                penalty,
            )

    def _losses(self, labelled, others, unlabelled, supervised: float, penalty: float):
        """Compute s F + gamma G and their statistics; see forward()."""
        speech = labelled[0]
        batch = speech.new_full((), len(speech))
        total_batch = sum_over_ranks(batch)
        # ESPnet's means over ranks then are means over utterances.
        share = batch * world_size() / total_batch
        loss, lower = speech.new_zeros(()), None
        stats: dict[str, torch.Tensor] = {}
        # G first: its labels depend on BatchNorm's running statistics, which F moves.
        if penalty or not self.training:
            lower, found, _ = self.pretraining(**unlabelled)
            stats.update({k: v for k, v in found.items() if k != "loss"})
            stats["loss_pretraining"] = found["loss"]
        else:
            loss = loss + idle(self.pretraining, skip=("encoder.",))
        if supervised:
            upper, found, _ = super().forward(*labelled, **others)
            found["loss_supervised"] = found["loss"]
            stats.update({k: v if v is None else v * share for k, v in found.items()})
            loss = loss + supervised * share * upper
        else:
            loss = loss + idle(self, skip=("pretraining.", "encoder."))
        if penalty and lower is not None:
            gamma = torch.full_like(lower, penalty)
            if self.barrier is not None:
                gamma = gamma * self._above_barrier(loss, lower, supervised)
                stats["gamma"] = gamma
            loss = loss + gamma * lower
        stats["loss"] = loss.detach()
        return force_gatherable((loss, stats, total_batch), loss.device)

    def _above_barrier(self, upper, lower, supervised: float) -> torch.Tensor:
        """Compute max(beta - <f, g> / |g|^2, 0) of the joint batch's gradients."""
        barrier = lower.new_full((), self.barrier)
        if not supervised:
            return barrier
        parameters = [x for x in self.encoder.parameters() if x.requires_grad]
        if not parameters:
            raise ConfigError(
                "barrier compares gradients of the encoder, none of whose parameters is "
                "trained (freeze_param): leave one of the two out"
            )
        products = lower.new_zeros(2, dtype=torch.float64)
        f, g = (
            torch.autograd.grad(x, parameters, retain_graph=True, allow_unused=True)
            for x in (upper, lower)
        )
        for parameter, found in zip(parameters, zip(f, g)):
            # One all-reduce per parameter for both gradients: together, all are large.
            # Also without a gradient: with stochastic depth, another rank may have one.
            pair = [torch.zeros_like(parameter) if x is None else x for x in found]
            of_upper, of_lower = (
                sum_over_ranks(torch.stack(pair).float()) / world_size()
            )
            products[0] += (of_upper * of_lower).sum()
            products[1] += of_lower.square().sum()
        ratio = products[0] / products[1].clamp(min=torch.finfo(torch.float64).tiny)
        return (barrier - ratio).clamp(min=0.0).to(lower)

    # Attributes and methods that the trainer expects of a model with objectives.
    @property
    def updates(self) -> torch.Tensor:
        """() number of optimizer updates so far."""
        return self.pretraining.updates

    @property
    def objectives(self) -> list[Objective]:
        """Objectives of the unlabelled batches."""
        return list(self.pretraining.objectives)

    @property
    def checks(self) -> BatchChecks:
        """Checks of the unlabelled batches."""
        return self.pretraining.checks

    @property
    def unprepared(self) -> list[str]:
        """Names of objectives whose labellers need speech before training."""
        return self.pretraining.unprepared

    def begin(self):
        """Reset the update count, which init_param may have loaded."""
        self.pretraining.begin()

    def prepare(self, batches: Iterable[dict[str, Any]]) -> int:
        """Initialise labellers on the unlabelled speech; see BiRQModel.prepare."""
        return self.pretraining.prepare(_unlabelled(batch) for batch in batches)

    def count_updates_of(self, optimizer: torch.optim.Optimizer):
        """Count an optimizer's updates from now on, for schedules."""
        optimizer.register_step_pre_hook(lambda *_: rest(self._resting()))
        self.pretraining.count_updates_of(optimizer, shared=True)

    def _resting(self) -> list[torch.nn.Module]:
        """Return the modules of a loss whose weight is 0 in this update."""
        update, resting = self.pretraining.update_number(), []
        if not self.supervised_weight.at(update):
            # joint_network: of transducers only
            resting += [self.ctc, self.decoder, getattr(self, "joint_network", None)]
        if not self.penalty.at(update):
            resting += [self.pretraining.heads, self.pretraining.masking]
            resting += [self.pretraining.tokenizer]
        return [module for module in resting if module is not None]


def _unlabelled(batch: dict[str, Any]) -> dict[str, Any]:
    """Return the unlabelled part of a batch, or its labelled speech if there is none."""
    found = {
        key.removeprefix(UNLABELLED): value
        for key, value in batch.items()
        if key.startswith(UNLABELLED)
    }
    names = ("speech", "speech_lengths", "utt_id")
    return found or {name: batch[name] for name in names if name in batch}


def _drop_shared(module, state, prefix, metadata):
    """Drop the shared modules' second names from a state dict."""
    for key in [
        key for key in state if key.startswith(tuple(prefix + x for x in SHARED))
    ]:
        del state[key]


def _share(module, state, prefix, *_):
    """Add the shared modules' second names to a state dict again."""
    for part in SHARED:
        name = prefix + part.removeprefix("pretraining.")
        found = {key: state[key] for key in state if key.startswith(name)}
        for key, value in found.items():
            state[prefix + "pretraining." + key.removeprefix(prefix)] = value
