"""Masked prediction of self-generated labels with one shared encoder.

    speech -> frontend -> normalize -> x -+-> mask -> x~ -> encoder ----> hidden states
                                          |                               at masked
                                          +-> input frames                frames -> heads
                                          |        |                         |
                                          +-> encoder, layers 1 to k       logits
                                                   |                         v
                                                labellers -> labels --> cross-entropy

With only an input objective this is BEST-RQ (arXiv 2202.01855); with an additional layer
objective, BiRQ (arXiv 2509.15430, Algorithm 1): gradients flow through the prediction and
through the layers that produce the label.
"""

from collections.abc import Iterable
from typing import Any

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from typeguard import typechecked

from espnet2_birq.encoders.frontend import linear_padding, mirrored_feats
from espnet2_birq.encoders.taps import (
    encode,
    encoder_lengths,
    listening_to,
    subsampling_factor,
)
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.kernels.acceleration import accelerate as accelerate_encoder
from espnet2_birq.kernels.attention import limit_attention
from espnet2_birq.kernels.products import autocast, check_precision
from espnet2_birq.pretraining.checks import BatchChecks, finite_statistics, label_sizes
from espnet2_birq.pretraining.collapse import CollapseWatch, StartWatch
from espnet2_birq.pretraining.containers import ListOf
from espnet2_birq.pretraining.diagnostics import GradientPaths, Windows
from espnet2_birq.pretraining.heads import Heads, Hidden
from espnet2_birq.pretraining.labels import Labels
from espnet2_birq.pretraining.losses.usage import usage_entropies
from espnet2_birq.pretraining.masking import SpanMasking
from espnet2_birq.pretraining.objective import (
    Objective,
    Row,
    build_objective,
    maker_of,
    start_labellers,
)
from espnet2_birq.pretraining.ranks import idle, sum_over_ranks
from espnet2_birq.pretraining.statistics import StepStatistics
from espnet2_birq.pretraining.target_branch import TargetBranch, build_teacher
from espnet2_birq.pretraining.tokenizer import SIZE, build_tokenizer
from espnet2_birq.pretraining.views import (
    LAYER,
    TEACHER,
    TOKENIZER,
    Batch,
    MaskedRows,
    View,
    Views,
    all_rows,
)
from espnet2_birq.pretraining.when import When, check_always_on, is_skipped, rest


class BiRQModel(AbsESPnetModel):
    """Self-supervised model of frontend, encoder, objectives and heads.

    ``frontend``, ``normalize`` and ``encoder`` are ESPnet's own, named as in its
    ASR model: ``--init_param model.pth:encoder:encoder`` transfers the encoder. No
    other attribute may begin with one of these words, since ESPnet matches names by
    prefix. A checkpoint contains everything labels depend on.

    Args:
        frontend: Waveform-to-feature module.
        specaug: Augmentation of the masked features; labels stay clean.
        normalize: Normalisation of the features.
        encoder: Encoder to pretrain.
        objectives: Rows of the configuration, one per objective.
        masking_conf: Arguments of SpanMasking.
        target_branch_conf: Arguments of TargetBranch (checkpoint, utterances, copies).
        teacher_conf: Arguments of Teacher (decay, every), for objectives of its layers.
        tokenizer_conf: Arguments of Tokenizer (layers, when, ...), and its ``target``, for
            an objective with view ``tokenizer``; see build_tokenizer().
        sample_rate: Sample rate of the waveforms in Hz.
        frame_shift_ms: Frame shift of the features in milliseconds.
        stop_at_collapse: Stop training instead of warning when the labels of an
            objective collapse. See CollapseWatch.
        diagnose_every: Updates between two logs of the gradient norms through labels
            and through predictions (0: never). See diagnostics.GradientPaths.
        cpu_bfloat16: On a CPU, run the encoder and the heads under bfloat16 autocast
            (ESPnet's ``use_amp`` works on CUDA only): True, False, or "auto": if the
            processor has instructions for it. Features, labels and losses stay in
            single precision.
        accelerate: Use faster implementations of ESPnet's encoder modules with the same
            results; see kernels/acceleration.py.
        attention_window: Block length, in encoder frames, to which attention of the
            stock encoders is restricted; None: full attention, as in ESPnet, which loads
            the same parameters. (``shaw_conformer`` has its own, in ``encoder_conf``.)
        extract_feats_in_collect_stats: Flag of ESPnet's statistics stage.
    """

    updates: torch.Tensor  # () optimizer updates so far, for schedules

    @typechecked
    def __init__(
        self,
        frontend: AbsFrontend,
        specaug: AbsSpecAug | None,
        normalize: AbsNormalize | None,
        encoder: AbsEncoder,
        objectives: list[Row],
        masking_conf: dict[str, Any],
        target_branch_conf: dict[str, Any] | None = None,
        teacher_conf: dict[str, Any] | None = None,
        tokenizer_conf: dict[str, Any] | None = None,
        sample_rate: int = 16000,
        frame_shift_ms: float = 10.0,
        stop_at_collapse: bool = False,
        diagnose_every: int = 200,
        cpu_bfloat16: bool | str = "auto",
        accelerate: bool = True,
        attention_window: int | None = None,
        extract_feats_in_collect_stats: bool = True,
    ):
        super().__init__()
        if getattr(specaug, "apply_time_warp", False):
            raise ConfigError(
                "specaug: time warping would shift the masked input against its "
                "labels; set apply_time_warp: false in specaug_conf"
            )
        self.frontend = frontend
        self.specaug = specaug
        self.normalize = normalize
        self.encoder = accelerate_encoder(encoder) if accelerate else encoder
        if attention_window is not None:
            limit_attention(encoder, attention_window)
        self.sample_rate = sample_rate
        check_precision(cpu_bfloat16)
        self.cpu_bfloat16 = cpu_bfloat16
        self.extract_feats_in_collect_stats = extract_feats_in_collect_stats
        self.subsampling = subsampling_factor(encoder)
        self.frame_rate = 1000 / (frame_shift_ms * self.subsampling)  # encoder's, in Hz
        self.masking = SpanMasking(
            input_size=frontend.output_size(),
            subsampling=self.subsampling,
            frame_shift_ms=frame_shift_ms,
            **masking_conf,
        )
        self._tokenizer_conf = dict(tokenizer_conf or {})
        self.objectives = ListOf(
            build_objective(row, self._size_of(row.view)) for row in objectives
        )
        self.tokenizer = build_tokenizer(
            self.objectives,
            self._tokenizer_conf,
            self._size_of,
            encoder.output_size(),
            len(encoder.encoders),
        )
        check_always_on(self.whens)
        self.heads = Heads(encoder.output_size(), list(self.objectives))
        learned = [one.view for one in self.objectives]
        if self.tokenizer is not None:
            learned.append(self.tokenizer.target)
        conf = dict(target_branch_conf or {}, used=any(x.layers for x in learned))
        self.branch = TargetBranch(encoder, **conf)
        self.branches = {LAYER: self.branch}
        taught = any(view.kind == TEACHER for view in learned)
        self.teacher = build_teacher(encoder, teacher_conf or {}, taught)
        if self.teacher is not None:
            self.branches[TEACHER] = TargetBranch(self.teacher.network, **conf)
        self.collapse = CollapseWatch(self.objectives, stop=stop_at_collapse)
        self.starts = StartWatch(self.objectives)
        self.checks = BatchChecks()
        self.label_sizes = label_sizes(self.objectives)
        self.windows = Windows()
        self.paths = GradientPaths(diagnose_every)
        # Not an integer: ESPnet sums integers when averaging checkpoints.
        self.register_buffer("updates", torch.zeros(()))
        self._update: int | None = None  # host copy, read once
        # Labellers sum observations over ranks: their buffers need no broadcasting.
        self._ddp_params_and_buffers_to_ignore = [
            name for name, _ in self.named_buffers() if name.startswith("objectives.")
        ]

    def _size_of(self, view: View) -> int:
        """Return the size of a view's vectors."""
        if view.kind == "input":
            return self.frontend.output_size() * self.subsampling
        if view.kind == TOKENIZER:
            return self._tokenizer_conf.get("size", SIZE)
        return self.encoder.output_size() * (view.top if view.each else 1)

    def forward(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Compute w1 F(theta) + w2 G(theta) of Algorithm 1 and its statistics.

        In evaluation mode, masks and noise use a fixed seed, and weights the last value
        of their schedules, so that validation losses are comparable between epochs.

        Args:
            speech: (B, N) waveforms, padded with zeros.
            speech_lengths: (B,) lengths in samples.
            **kwargs: Labels from disk, for objectives with view 'labels NAME': NAME,
                (B, T') integers padded with -1, and NAME_lengths; ``utt_id``, B names
                for messages.

        Returns:
            Loss, statistics, and the weight for ESPnet's averages over batches and
            ranks: the number of masked frames on all ranks (of all frames if only the
            tokenizer learns). The loss of a rank is its share of the joint batch's, so
            that its mean over ranks is the mean over all frames, however uneven.
            (Batches accumulated by ``accum_grad`` are averaged individually, as
            everywhere in ESPnet: later frame counts are unknown.)
        """
        if self.training:
            with finite_statistics(self.encoder):
                return self._step(speech, speech_lengths, **kwargs)
        self.checks.report()
        with torch.random.fork_rng(devices=[speech.device] if speech.is_cuda else []):
            torch.manual_seed(0)
            return self._step(speech, speech_lengths, **kwargs)

    def _step(self, speech, speech_lengths, **kwargs):
        update = self.update_number()
        # Clean input x
        batch = self._clean_batch(speech, speech_lengths, **kwargs)
        self.checks.check_labels(batch, self.label_sizes)
        active = self._active(update)
        views = self._views(batch, active, update)
        if active:
            total, stats, frames = self._predict(batch, active, views, update)
        else:  # only the tokenizer learns
            total, stats = idle(self, skip=("tokenizer.",)), {}
            frames = sum_over_ranks(batch.frames.sum().float())
        if self.tokenizer is not None:
            with autocast(speech.device, self.cpu_bfloat16):
                loss, found = self.tokenizer.loss(views, update)
            total, stats = total + loss, stats | found
        for one in active:
            state = one.labeller.statistics()
            stats.update({f"{key}_{one.name}": x for key, x in state.items()})
        stats["loss"] = total.detach()
        self.checks.check_finite(batch, stats["loss"], self.training)
        if self.training:
            self.collapse.watch(stats)
            self.starts.watch(stats, update)
        return force_gatherable((total, stats, frames), total.device)

    def _predict(
        self, batch: Batch, active: list[Objective], views: Views, update: int
    ):
        """Compute the objectives' loss, its statistics and the number of masked frames."""
        found = StepStatistics(self.branch.copies)
        weights = {x.name: x.weight_at(update) for x in active}
        spread = {x.name: x.diversity for x in active if x.diversity}
        total = masked = torch.zeros((), device=batch.xs.device)
        frames_of_all = sum_over_ranks(batch.frames.sum().float())
        for copy in range(found.copies):
            mask = self.masking.draw(batch.frames, batch.padded)  # (B, T')
            rows = MaskedRows(*self.masking.gather_index(mask))
            with autocast(batch.xs.device, self.cpu_bfloat16):
                # Clean side: y(x) and y^(k)(theta; x)
                labels = {
                    x.name: x.labels(views, rows, update, copy == 0) for x in active
                }
                # Masked side: theta(x~)
                hidden = self._encode_masked(batch, mask, rows)
                # w1 F(theta) + w2 G(theta)
                loss, books, frames = self.heads.loss(
                    hidden, rows.valid, active, labels, weights
                )
                # - lambda H(q): keeps codes in use if labels have a gradient
                entropies = usage_entropies({name: labels[name] for name in spread})
                for name, entropy in entropies.items():
                    loss = loss - spread[name] * entropy
                if copy == 0 and self.training and self.paths.due(active, update):
                    found.paths = self._gradient_paths(hidden, rows, active, labels)
                found.add(books, entropies, frames / frames_of_all)
            total, masked = total + loss / found.copies, masked + frames
        windows = self.windows if self.training else None
        levels = {x.name for x in active if x.labeller.levels}
        return total, found.means(windows, levels), masked

    def _active(self, update: int) -> list[Objective]:
        """Return the objectives active in an update; in evaluation, all of them."""
        if not self.training:
            return list(self.objectives)
        return [one for one in self.objectives if one.is_on(update)]

    def _views(self, batch: Batch, active: Iterable[Objective], update: int) -> Views:
        wanted = [(one.view, one.keeps_gradient) for one in active]
        if self.tokenizer is not None and self.tokenizer.learns(update):
            wanted.append((self.tokenizer.target, False))
        return self.views_of(batch, wanted, update)

    def views_of(
        self, batch: Batch, wanted: list[tuple[View, bool]], update: int
    ) -> Views:
        """Return the views of a batch; see Views."""
        tokenize = None if self.tokenizer is None else self.tokenizer.vectors
        return Views(batch, self.branches, self.subsampling, wanted, update, tokenize)

    def _encode_masked(self, batch: Batch, mask, rows: MaskedRows) -> Hidden:
        """Encode the masked input; return hidden states at masked frames."""
        xs, lengths = batch.xs, batch.lengths
        if self.specaug is not None and self.training:
            xs, lengths = self.specaug(xs.clone(), lengths)  # it masks in place
        masked = self.masking.apply_to(xs, mask)
        layers = {x for one in self.objectives for x in one.student}
        with listening_to(self.encoder, layers) as outputs:
            hidden = encode(self.encoder, masked, lengths)  # (B, T', E)
        if hidden.shape[:2] != mask.shape:
            raise RuntimeError(
                f"encoder made {tuple(hidden.shape[:2])} frames, the mask has "
                f"{tuple(mask.shape)}: its input layer is not understood"
            )
        outputs = {x: y.flatten(0, 1)[rows.index] for x, y in outputs.items()}
        return Hidden(hidden.flatten(0, 1)[rows.index], outputs)

    def _gradient_paths(self, hidden, rows, active, made) -> dict[str, torch.Tensor]:
        def loss_of(one: Objective, labels: list[Labels]) -> torch.Tensor:
            return self.heads.loss(
                hidden, rows.valid, [one], {one.name: labels}, {one.name: 1.0}
            )[0]

        return self.paths.measure(self.encoder, active, made, loss_of)

    # ------------------------------------------------------------------ updates
    @property
    def whens(self) -> list[When]:
        """When each objective, and the tokenizer, is active."""
        tokenizer = [] if self.tokenizer is None else [self.tokenizer.when]
        return [one.when for one in self.objectives] + tokenizer

    def count_updates_of(self, optimizer: torch.optim.Optimizer, shared: bool = False):
        """Count an optimizer's updates from now on, for schedules.

        Updates that ESPnet skips for a non-finite gradient do not count.

        Args:
            optimizer: Optimizer.
            shared: Whether another loss trains the same encoder.
        """
        optimizer.register_step_pre_hook(lambda *_: rest(self._resting(shared)))
        optimizer.register_step_post_hook(
            lambda stepped, *_: None if is_skipped(stepped) else self._count_update()
        )

    def _resting(self, shared: bool) -> list[torch.nn.Module]:
        """Return the modules that do not learn in this update."""
        update = self.update_number()
        active = self._active(update)
        resting: list[torch.nn.Module] = self.heads.without(active)
        if self.tokenizer is not None and not self.tokenizer.learns(update):
            resting.append(self.tokenizer)
        if not active:
            resting += [self.masking] + ([] if shared else [self.encoder])
        return resting

    def _count_update(self):
        self.updates += 1
        if self._update is not None:
            self._update += 1
        for one in self.objectives:
            one.labeller.step()
        if self.teacher is not None:
            self.teacher.follow(self.encoder, self.update_number())

    def update_number(self) -> int:
        """Return the number of optimizer updates so far."""
        if self._update is None:
            self._update = int(self.updates)  # once: synchronises with a GPU
        return self._update

    def _load_from_state_dict(self, *args, **kwargs):
        self._update = None
        super()._load_from_state_dict(*args, **kwargs)

    # ------------------------------------------------------- before the first update
    @torch.no_grad()
    def begin(self):
        """Reset what init_param may have loaded: counts of updates, and the teacher."""
        self.updates.zero_()
        self._update = None
        for one in self.objectives:
            one.restart()
        if self.teacher is not None:
            self.teacher.copy(self.encoder)

    @property
    def unprepared(self) -> list[str]:
        """Names of objectives whose labellers need speech before training."""
        return [one.name for one in self.objectives if not one.labeller.ready]

    @torch.no_grad()
    def prepare(self, batches: Iterable[dict[str, Any]]) -> int:
        """Initialise labellers on speech before the first update.

        Args:
            batches: Batches of training data, arguments of ``forward``; all ranks take
                part and stop after the same batch, once they have seen START_FRAMES.

        Returns:
            Encoder frames seen over all ranks; 0 if no labeller needs any.

        Raises:
            DataError: Too little speech.
        """
        waiting = [one for one in self.objectives if not one.labeller.ready]

        def start_views(batch: dict[str, Any]) -> tuple[Views, MaskedRows]:
            clean = self._clean_batch(**batch)
            return self._views(clean, waiting, 0), all_rows(clean)

        return start_labellers(waiting, map(start_views, batches)) if waiting else 0

    # ---------------------------------------------------------------------- features
    def _clean_batch(self, speech, speech_lengths, utt_id=(), **given) -> Batch:
        """Compute features, and lengths at the encoder rate."""
        xs, lengths = self._extract_feats(speech, speech_lengths)  # (B, T, D)
        frames = encoder_lengths(self.encoder, lengths)  # (B,)
        padded = int(encoder_lengths(self.encoder, torch.tensor(xs.size(1))))  # T'
        if padded * len(xs) < 1 + self.training:  # BatchNorm has no variance of one
            needed = ("one encoder frame", "two encoder frames in all")[padded]
            names = f": {', '.join(utt_id)}" if utt_id else ""
            raise DataError(
                f"utterances too short for {needed}{names} (up to {speech.size(1)} "
                "samples); leave them out (--min_wav_duration)"
            )
        return Batch(xs, lengths, frames, padded, utt_id, given)

    def _extract_feats(self, speech, speech_lengths):
        """Compute normalised features (B, T, D) and lengths (B,) in single precision."""
        with torch.autocast(speech.device.type, enabled=False), linear_padding():
            xs = speech.float()
            feats, lengths = mirrored_feats(self.frontend, xs, speech_lengths)
            if self.normalize is not None:
                feats, lengths = self.normalize(feats, lengths)
        return feats, lengths

    def collect_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> dict[str, torch.Tensor]:
        """Compute features for ESPnet's statistics stage, with ``--normalize none``."""
        feats, lengths = self._extract_feats(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": lengths}

    @torch.no_grad()
    def label(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, name: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute an objective's noise-free labels for all frames of clean speech.

        Args:
            speech: (B, N) waveforms, padded with zeros.
            speech_lengths: (B,) lengths in samples.
            name: Name of an objective that computes its own labels.

        Returns:
            (N, B, T') int64 codes of each codebook, and (B,) lengths in frames.

        Raises:
            ConfigError: No such objective.
        """
        one = maker_of(self.objectives, name)
        vectors, frames = self.vectors(speech, speech_lengths, one.view)
        codes = one.labeller.codes(vectors.flatten(0, 1))
        return codes.view(-1, *vectors.shape[:2]), frames

    @torch.no_grad()
    def vectors(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, view: View
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a view's (B, T', D) vectors of clean speech, and (B,) lengths."""
        batch = self._clean_batch(speech, speech_lengths)
        views = self.views_of(batch, [(view, False)], self.update_number())
        return views.whole(view), batch.frames
