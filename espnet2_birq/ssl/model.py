"""Masked prediction of self-made labels, on one shared encoder.

    speech -> frontend -> normalize -> x -+-> mask -> x~ -> encoder ----> h at masked
                                          |                               frames -> head
                                          +-> frames of the input            |
                                          |        |                       logits
                                          +-> encoder, layers 1 to k         |
                                                   |                         v
                                                quantizers --> labels --> cross-entropy

With the anchor target alone this is BEST-RQ (arXiv 2202.01855); with the enhanced
target beside it, BiRQ (arXiv 2509.15430, Algorithm 1): its loss has a gradient through
the prediction and through the layers that made the label.
"""

from contextlib import contextmanager, nullcontext
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.frontend.abs_frontend import AbsFrontend
from espnet2.asr.specaug.abs_specaug import AbsSpecAug
from espnet2.layers.abs_normalize import AbsNormalize
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from typeguard import typechecked

from espnet2_birq.encoder.acceleration import accelerate as accelerate_encoder
from espnet2_birq.encoder.attention import limit_attention
from espnet2_birq.encoder.frontend import linear_padding, mirror_ends
from espnet2_birq.encoder.layers import (
    BATCH_NORM,
    DROPOUT,
    encode,
    encode_up_to,
    encoder_lengths,
    evaluating,
    running_statistics,
    subsampling_factor,
)
from espnet2_birq.errors import ConfigError
from espnet2_birq.products import takes_bfloat16
from espnet2_birq.ssl.collapse import CollapseWatch
from espnet2_birq.ssl.frame_statistics import FrameStatistics
from espnet2_birq.ssl.loss import masked_cross_entropy
from espnet2_birq.ssl.masking import SpanMasking, stack_frames
from espnet2_birq.ssl.quantizer import fit_labels
from espnet2_birq.ssl.statistics import BookTally, target_statistics
from espnet2_birq.ssl.target import QUANTIZERS, Target


class BiRQModel(AbsESPnetModel):
    """Frontend, encoder, targets and heads; see the module's picture.

    ``frontend``, ``normalize`` and ``encoder`` are ESPnet's own, under the names of its
    ASR model: ``--init_param model.pth:encoder:encoder`` hands the encoder over. No
    other attribute may begin with one of these words, since ESPnet matches names by
    prefix.

    Args:
        frontend: Waveform to features.
        specaug: Augmentation of the features that are masked; labels stay clean.
        normalize: Normalisation of the features.
        encoder: The encoder to pretrain.
        targets: What to predict.
        masking_conf: Arguments of SpanMasking (mask_prob, mask_length_ms, replacement,
            noise_std).
        frame_statistics: Statistics of the input frames, for targets whose projection
            is made from them.
        frame_shift_ms: Shift of a feature frame.
        accum_grad: Steps that make an update; schedules count updates.
        label_dropout: Keep dropout on where a layer makes labels.
        stop_at_collapse: Stop training when a target's labels have become a few codes;
            without, a collapse is a warning in the log. See CollapseWatch.
        cpu_bfloat16: On a CPU, run the encoder and the heads under bfloat16 autocast
            (ESPnet's ``use_amp`` works on CUDA only): True, False, or "auto", where the
            processor has instructions for it. Features, labels and losses stay in
            single precision.
        accelerate: Compute the encoder in faster ways than ESPnet's, to the same
            numbers; see encoder/acceleration.py.
        attention_window: Length, in encoder frames, of the blocks inside which
            attention of the stock encoders stays; None: attention to all frames.
            Parameters are the same, so ESPnet loads the encoder, and then attends to
            all frames. (``shaw_conformer`` has an
            ``attention_window`` of its own in its ``encoder_conf``.)
        checkpoint_labels: Keep no activations of the layers that make labels, compute
            them again in the backward pass: less memory for more time. It matters for
            targets whose gradient is kept.
        label_every: n: layers make labels in every n-th update only, with n times the
            weight, so that the mean gradient is the same. In between, a step is that of
            the other targets. All ranks decide alike, by the number of the update.
        label_utterances: n: layers label every n-th utterance of a batch only, others
            in the next update.
        extract_feats_in_collect_stats: Read by ESPnet's statistics stage.
    """

    @typechecked
    def __init__(
        self,
        frontend: AbsFrontend,
        specaug: Optional[AbsSpecAug],
        normalize: Optional[AbsNormalize],
        encoder: AbsEncoder,
        targets: List[Target],
        masking_conf: Dict[str, Any],
        frame_statistics: Optional[FrameStatistics] = None,
        frame_shift_ms: float = 10.0,
        accum_grad: int = 1,
        label_dropout: bool = False,
        stop_at_collapse: bool = False,
        cpu_bfloat16: Union[bool, str] = "auto",
        accelerate: bool = True,
        attention_window: Optional[int] = None,
        checkpoint_labels: bool = False,
        label_every: int = 1,
        label_utterances: int = 1,
        extract_feats_in_collect_stats: bool = True,
    ):
        super().__init__()
        self.frontend = frontend
        self.specaug = specaug
        self.normalize = normalize
        self.encoder = accelerate_encoder(encoder) if accelerate else encoder
        if attention_window is not None:
            limit_attention(encoder, attention_window)
        self.targets = targets
        self.accum_grad = accum_grad
        self.label_dropout = label_dropout
        self.collapse = CollapseWatch(targets, stop=stop_at_collapse)
        if cpu_bfloat16 not in (True, False, "auto"):
            raise ConfigError(
                f"model_conf: cpu_bfloat16 is auto, true or false, got {cpu_bfloat16!r}"
            )
        self.cpu_bfloat16 = cpu_bfloat16
        self.checkpoint_labels = checkpoint_labels
        self.label_every = _count("label_every", label_every)
        self.label_utterances = _count("label_utterances", label_utterances)
        if label_every > 1 and all(target.of_layer for target in targets):
            raise ConfigError(
                f"model_conf: label_every {label_every} leaves updates without a "
                "target; add one that is not of a layer, e.g. 'anchor'"
            )
        self.extract_feats_in_collect_stats = extract_feats_in_collect_stats
        self.subsampling = subsampling_factor(encoder)
        self.masking = SpanMasking(
            input_size=frontend.output_size(),
            subsampling=self.subsampling,
            frame_shift_ms=frame_shift_ms,
            **masking_conf,
        )
        self.quantizers = torch.nn.ModuleDict()
        self.heads = torch.nn.ModuleDict()
        for target in targets:
            quantizer = self._quantizer(target, frame_statistics)
            self.quantizers[target.name] = quantizer
            # The paper predicts both labels with one head: same codebook, same head.
            if quantizer.codebook_id not in self.heads:
                self.heads[quantizer.codebook_id] = torch.nn.ModuleList(
                    torch.nn.Linear(encoder.output_size(), quantizer.codebook_size)
                    for _ in range(quantizer.num_codebooks)
                )
        # Training steps so far, for schedules; in floating point since ESPnet sums
        # integers when it averages checkpoints.
        self.register_buffer("steps", torch.zeros(()))
        self._step_number = None  # its copy on this side, read once

    def _quantizer(self, target: Target, statistics: Optional[FrameStatistics]):
        conf = dict(target.quantizer_conf)
        if target.source == "input":
            conf["input_size"] = self.frontend.output_size() * self.subsampling
            if target.wants_frame_statistics:
                if statistics is None:
                    raise ConfigError(
                        f"target '{target.name}': projection {conf['projection']!r} of "
                        "the input wants --frame_statistics FILE, made by python -m "
                        "espnet2_birq.bin.frame_statistics"
                    )
                conf["statistics"] = statistics
        elif target.source != "disk":
            conf["input_size"] = self.encoder.output_size()
        return QUANTIZERS[target.quantizer](**conf)

    def forward(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> Tuple[torch.Tensor, Dict[str, torch.Tensor], torch.Tensor]:
        """One step of Algorithm 1: w1 F(theta) + w2 G(theta) and its statistics.

        In evaluation mode mask and noise are drawn from a fixed seed, so validation
        losses of different epochs can be compared.

        Args:
            speech: (B, N) waveforms, padded with zeros.
            speech_lengths: (B,) samples.
            **kwargs: ``labels``: (B, T') integers for targets from disk, padded with
                -1, one for each encoder frame.

        Returns:
            Loss, statistics, and the number of masked frames as the weight by which
            ESPnet averages over batches and ranks (the loss is a mean over them).
        """
        if self.training:
            result = self._step(speech, speech_lengths, kwargs.get("labels"))
            self.steps += 1
            self._step_number += 1
            return result
        devices = [speech.device] if speech.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            return self._step(speech, speech_lengths, kwargs.get("labels"))

    def _step(self, speech, speech_lengths, given):
        # x, and the mask at the encoder's rate
        xs, xs_lengths = self._extract_feats(speech, speech_lengths)  # (B, T, D)
        frames = encoder_lengths(self.encoder, xs_lengths)  # (B,)
        padded = int(encoder_lengths(self.encoder, torch.tensor(xs.size(1))))  # T'
        mask = self.masking.draw(frames, padded)  # (B, T')
        index, present = self.masking.gather_index(mask)  # (M,), (M,)
        update = self._update()
        with self._autocast(xs.device):
            # Clean side: y(x) and y^(k)(theta; x)
            targets = self._targets_of(update)
            sources = self._sources(targets, xs, xs_lengths, index, padded, given)
            labels = {}
            for target in targets:
                there = present
                if target.of_layer:
                    there = self._labelled(present, index, len(xs), padded)
                found = self.quantizers[target.name](
                    sources[target.source], there, update
                )
                labels[target.name] = [x._replace(present=there) for x in found]
            # Masked side: theta(x~)
            hs = self._encode_masked(xs, xs_lengths, mask, index)  # (M, E)
            # w1 F(theta) + w2 G(theta)
            total, books = self._loss(hs, present, labels, update)
        stats = target_statistics(books, gradients=torch.is_grad_enabled())
        stats["mask_share"] = mask.sum() / frames.sum()
        stats["loss"] = total.detach()
        if self.training:
            self.collapse.watch(stats)
        return force_gatherable((total, stats, present.sum()), total.device)

    def _targets_of(self, update):
        """What is predicted in an update; in evaluation everything."""
        if not self.training or update % self.label_every == 0:
            return self.targets
        return [target for target in self.targets if not target.of_layer]

    def _weight(self, target, update):
        """A target's weight; where labels of layers are rare, theirs is larger."""
        rare = self.training and target.of_layer
        return target.weight.at(update) * (self.label_every if rare else 1)

    def _rows(self, utterances) -> slice:
        """The utterances of a batch that layers label in this update."""
        if not self.training:
            return slice(None)
        every = min(self.label_utterances, utterances)
        return slice(self._update() // self.label_every % every, None, every)

    def _labelled(self, present, index, utterances, padded):
        """(M,) 1 where a layer labels a frame; ``present`` if it labels all."""
        if self.label_utterances == 1 or not self.training:
            return present
        labelled = present.new_zeros(utterances)
        labelled[self._rows(utterances)] = 1.0
        return present * labelled[index // padded]

    def _sources(self, targets, xs, xs_lengths, index, padded, given):
        """What becomes labels, at masked frames: (M, D) for each source of a target."""
        wanted = {target.source for target in targets}
        sources = {}
        if "input" in wanted:
            stacked = stack_frames(xs, self.subsampling, padded)  # (B, T', r D)
            sources["input"] = stacked.flatten(0, 1)[index]
        if "disk" in wanted:
            sources["disk"] = fit_labels(given, padded).flatten()[index]  # (M,)
        layers = sorted(wanted - {"input", "disk"})
        if layers:
            keep_gradient = torch.is_grad_enabled() and any(
                self.quantizers[target.name].keep_gradient
                for target in targets
                if target.of_layer
            )
            label_pass = self._label_pass(keep_gradient)
            rows = self._rows(len(xs))
            with label_pass(), torch.set_grad_enabled(keep_gradient):
                again = label_pass if self.checkpoint_labels else None
                outputs = encode_up_to(
                    self.encoder, xs[rows], xs_lengths[rows], layers, again
                )
            for layer, output in zip(layers, outputs):
                if len(output) < len(xs):
                    some = output
                    output = some.new_zeros(len(xs), *some.shape[1:])
                    output[rows] = some
                sources[layer] = output.flatten(0, 1)[index]  # (M, E)
        return sources

    def _label_pass(self, keep_gradient: bool):
        """How the encoder runs where it makes labels: makes contexts for that.

        BatchNorm takes its running statistics: a frame's label is then the same alone,
        in any batch, on any rank, and in evaluation. With the batch's own, 35 % of the
        labels were those of evaluation, and 10 % when these do not move the running
        ones; losses were the same within 0.1 (bench/batch_norm.py, bench/README.md).
        For the same reason there is no dropout, unless asked for. So the masked copy is
        another call, whose statistics, with the masking noise in them, are the ones
        that are kept. The backward pass needs the statistics of the forward pass, which
        the masked copy will have moved by then: hence, for a gradient, a copy of them.
        """
        kinds = (BATCH_NORM,) if self.label_dropout else (BATCH_NORM, DROPOUT)
        as_they_are = running_statistics(self.encoder) if keep_gradient else nullcontext

        @contextmanager
        def label_pass():
            with as_they_are(), evaluating(self.encoder, *kinds):
                yield

        return label_pass

    def _encode_masked(self, xs, xs_lengths, mask, index) -> torch.Tensor:
        """Last layer's output at masked frames, from the masked input: (M, E)."""
        if self.specaug is not None and self.training:
            xs, xs_lengths = self.specaug(xs, xs_lengths)
        masked = self.masking.apply_to(xs, mask)
        hs = encode(self.encoder, masked, xs_lengths)  # (B, T', E)
        if hs.shape[:2] != mask.shape:
            raise RuntimeError(
                f"encoder made {tuple(hs.shape[:2])} frames, the mask has "
                f"{tuple(mask.shape)}: its input layer is not understood"
            )
        return hs.flatten(0, 1)[index]

    def _loss(self, hs, present, labels, update):
        """The weighted sum over targets, one product for each head; and its tallies."""
        total, books = 0.0, []
        for codebook_id, heads in self.heads.items():
            targets = [
                target
                for target in self.targets
                if target.name in labels
                and self.quantizers[target.name].codebook_id == codebook_id
            ]
            if not targets:  # a gradient of zeros: other ranks wait for one
                total = total + 0.0 * sum(x.sum() for x in heads.parameters())
                continue
            for book, head in enumerate(heads):
                loss, tally = masked_cross_entropy(
                    hs,
                    head.weight,
                    head.bias,
                    present,
                    [labels[target.name][book] for target in targets],
                    [self._weight(target, update) / len(heads) for target in targets],
                )
                total = total + loss
                names = [target.name for target in targets]
                soft = [labels[name][book].points is not None for name in names]
                books.append(BookTally(names, soft, tally))
        return total, books

    def _update(self) -> int:
        """Updates so far, counting accumulated steps as one."""
        if self._step_number is None:
            self._step_number = int(self.steps)  # once: this waits for a GPU
        return self._step_number // self.accum_grad

    def _load_from_state_dict(self, *args, **kwargs):
        self._step_number = None
        super()._load_from_state_dict(*args, **kwargs)

    def _extract_feats(self, speech, speech_lengths):
        """Normalised features (B, T, D) and their lengths (B,), in single precision."""
        with torch.autocast(speech.device.type, enabled=False), linear_padding():
            speech = mirror_ends(speech.float(), speech_lengths, self.frontend)
            feats, lengths = self.frontend(speech, speech_lengths)
            if self.normalize is not None:
                feats, lengths = self.normalize(feats, lengths)
        return feats, lengths

    def _autocast(self, device: torch.device):
        if device.type == "cpu" and takes_bfloat16(self.cpu_bfloat16):
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return nullcontext()

    def collect_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> Dict[str, torch.Tensor]:
        """Features for ESPnet's statistics stage; run with ``--normalize none``."""
        feats, lengths = self._extract_feats(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": lengths}


def _count(name: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"model_conf: {name} is 1 or more, got {value}")
    return value
