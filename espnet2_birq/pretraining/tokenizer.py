"""A tokenizer that learns from the encoder and makes labels for it (BRIDLE, BEATs).

    input -> network -> z -> codebooks -> codes, the labels of an objective
                              |  straight-through
                              +-> estimator -> encoder's output on the clean input

The tokenizer distils the encoder: from the quantized z, a small network estimates the
encoder's output, which is detached; the loss is 1 - cosine. In turn, the encoder predicts
the codes of the tokenizer, which gets no gradient from this (BRIDLE, arXiv 2502.02118;
with one codebook BEATs, arXiv 2212.09058). Codebooks move when the tokenizer learns.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F

from espnet2_birq.encoders.taps import padding_mask
from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.containers import ListOf
from espnet2_birq.pretraining.labellers.codebooks import MovingCodebooks
from espnet2_birq.pretraining.labellers.kmeans import nearest
from espnet2_birq.pretraining.labels import precise
from espnet2_birq.pretraining.objective import Objective
from espnet2_birq.pretraining.ranks import idle, sum_over_ranks, world_size
from espnet2_birq.pretraining.schedule import weight_schedule
from espnet2_birq.pretraining.settings import check_number
from espnet2_birq.pretraining.views import TOKENIZER, View, Views, all_rows, parse_view
from espnet2_birq.pretraining.when import parse_when

SIZE = 256  # of z, in BRIDLE and BEATs
TURNS = {"every": 4}  # as in BRIDLE, alongside the encoder
INPUT = View("input")


class FrameTransformer(torch.nn.Module):
    """A transformer over a sequence of vectors, with pre-norm as in vision transformers.

    Without dropout or BatchNorm: an utterance's vectors are the same in training and in
    evaluation, alone and in any batch.

    Args:
        input_size: Size of the vectors.
        width: E, size of the hidden states.
        heads: Number of attention heads, a divisor of E.
        layers: Number of layers.
        kernel: Kernel size in frames of the positional convolution (wav2vec 2.0's, but
            depthwise).
    """

    def __init__(
        self, input_size: int, width: int, heads: int, layers: int, kernel: int = 31
    ):
        super().__init__()
        self.input = torch.nn.Linear(input_size, width)
        self.position = torch.nn.Conv1d(
            width, width, kernel, padding=kernel // 2, groups=width
        )
        # Not torch.nn.TransformerEncoder, whose layers start as copies of one layer.
        self.layers = ListOf(
            torch.nn.TransformerEncoderLayer(
                width,
                heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(layers)
        )
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, xs: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Compute hidden states (B, T', E).

        Args:
            xs: (B, T', D).
            frames: (B,) frames of each utterance.
        """
        padding = padding_mask(frames.clamp(min=1), xs.size(1))
        xs = self.input(xs).masked_fill(padding[:, :, None], 0.0)
        positions = self.position(xs.transpose(1, 2)).transpose(1, 2)
        xs = xs + F.gelu(positions)
        for layer in self.layers:
            xs = layer(xs, src_key_padding_mask=padding)
        return self.norm(xs)


class Tokenizer(torch.nn.Module):
    """Network, estimator and their loss; the codebooks are those of an objective.

    Args:
        labeller: Codebooks of the objective with view ``tokenizer``.
        input_size: Size of the stacked input frames.
        width: E, size of the encoder's and of the tokenizer's hidden states.
        target: View to estimate.
        target_size: Size of the target's vectors.
        layers: Number of layers of the network.
        attention_heads: Number of attention heads of network and estimator.
        estimator_layers: Number of layers of the estimator.
        size: Size of z.
        commitment: Weight of the squared distance of z to its codes, averaged over
            values and codebooks.
        weight: Weight of the whole loss, a number or a schedule.
        when: Updates in which it learns, as for an objective; default: every 4th.

    Raises:
        ConfigError: An option is out of range.
    """

    def __init__(
        self,
        labeller: MovingCodebooks,
        input_size: int,
        width: int,
        target: View,
        target_size: int,
        layers: int,
        attention_heads: int = 4,
        estimator_layers: int = 3,
        size: int = SIZE,
        commitment: float = 0.25,
        weight: float | list = 0.2,
        when: dict | None = None,
    ):
        super().__init__()
        least = min(layers, estimator_layers, size, attention_heads)
        if least < 1 or width % attention_heads:
            raise ConfigError(
                "tokenizer_conf: layers, estimator_layers, size and attention_heads are 1 "
                f"or more; attention_heads divides the encoder's output_size {width}"
            )
        # In a tuple, so that its buffers are not registered twice.
        self._labeller = (labeller,)
        self.target = target
        check_number("tokenizer_conf: commitment", commitment)
        self.commitment = commitment
        self.weight = weight_schedule("tokenizer_conf: weight", weight)
        self.when = parse_when(TURNS if when is None else when)
        if self.when.once is not None:
            raise ConfigError(
                "tokenizer_conf: when: once is for objectives; leave it out"
            )
        self.network = FrameTransformer(input_size, width, attention_heads, layers)
        self.project = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, size)
        )
        self.estimator = FrameTransformer(
            size, width, attention_heads, estimator_layers
        )
        self.output = torch.nn.Linear(width, target_size)

    @property
    def labeller(self) -> MovingCodebooks:
        """The codebooks, which belong to an objective."""
        return self._labeller[0]

    def learns(self, update: int) -> bool:
        """Whether it learns in this update; true in evaluation, to compute its loss."""
        return not self.training or self.when.includes(update)

    def forward(self, inputs: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Compute z, which the codebooks quantize.

        Args:
            inputs: (B, T', D) stacked input frames.
            frames: (B,) frames of each utterance.

        Returns:
            (B, T', size) in single precision, each vector of mean 0 and variance 1:
            the scale is not learned, since the codes could not follow it.
        """
        z = precise(self.project(self.network(inputs, frames)))
        return F.layer_norm(z, z.shape[-1:])

    @torch.no_grad()
    def vectors(self, inputs: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """Compute z for labels, without a gradient."""
        return self(inputs, frames)

    def loss(
        self, views: Views, update: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss of a batch; in training, the codebooks observe it.

        Args:
            views: Views of the batch, with ``target`` among the wanted ones.
            update: Optimizer updates so far.

        Returns:
            () weighted loss, averaged over the frames of all ranks; 0 if the tokenizer
            does not learn in this update. Statistics: ``distillation``, 1 - cosine, and
            ``commitment``.
        """
        if not self.learns(update):
            return idle(self), {}
        batch = views.batch
        targets, valid = views.at(self.target, all_rows(batch))
        z = self(views.whole(INPUT), batch.frames)  # (B, T', size)
        vectors = z.flatten(0, 1)
        if self.training:
            self.labeller.observe(vectors.detach(), all_rows(batch).valid)
        quantized, distance = straight_through(self.labeller, vectors)
        hidden = self.estimator(quantized.view_as(z), batch.frames)
        estimates = precise(self.output(hidden)).flatten(0, 1)
        error = 1.0 - F.cosine_similarity(estimates, precise(targets.detach()), dim=1)
        rows = valid > 0
        sums = torch.stack([torch.where(rows, x, 0.0).sum() for x in (error, distance)])
        # The mean over ranks of world size x sum / count is sum / count.
        count = sum_over_ranks(valid.sum()).clamp(min=1.0)
        error, distance = sums * world_size() / count
        means = sum_over_ranks(sums.detach()) / count
        stats = {"distillation": means[0], "commitment": means[1]}
        weight = self.weight.at(update) if self.training else self.weight.last
        return weight * (error + self.commitment * distance), stats


def straight_through(
    labeller: MovingCodebooks, vectors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize vectors, with the gradient of the identity.

    Args:
        labeller: Codebooks.
        vectors: (M, D) with a gradient.

    Returns:
        (M, D) quantized vectors; (M,) squared distance of the vectors that codebooks
        quantize from their codes, averaged over values and codebooks.
    """
    labeller.check_ready()
    books, distances = labeller.codebooks(), []

    def visit(book, x):
        made = books[book][nearest(x.detach(), books[book])]
        distances.append((x - made).square().mean(dim=1))
        return made

    # Not under autocast: rounding to bfloat16 would change labels.
    with torch.autocast(vectors.device.type, enabled=False):
        made = labeller.walk(vectors.to(books.dtype), visit)
    # The value is that of the codes, up to rounding; the gradient is the identity's.
    return vectors + (made - vectors).detach(), torch.stack(distances).mean(dim=0)


def build_tokenizer(
    objectives: Iterable[Objective],
    conf: dict,
    size_of: Callable[[View], int],
    width: int,
    num_blocks: int,
) -> Tokenizer | None:
    """Build the tokenizer if an objective has view ``tokenizer``.

    Args:
        objectives: All objectives of the model.
        conf: ``tokenizer_conf``: arguments of Tokenizer from ``layers`` on (default: as
            many as the encoder has), and ``target``, a view of layers (default: the last).
        size_of: Function from a view to the size of its vectors.
        width: E, size of the encoder's hidden states.
        num_blocks: K, layers of the encoder.

    Raises:
        ConfigError: Several such objectives, or none, but ``tokenizer_conf``; the labeller
            is not MovingCodebooks; or ``target`` is not a layer.
    """
    mine = [one for one in objectives if one.view.kind == TOKENIZER]
    if not mine:
        if conf:
            raise ConfigError(
                "tokenizer_conf: no objective has view 'tokenizer'; add one, or leave "
                "it out"
            )
        return None
    labeller = mine[0].labeller
    if len(mine) > 1 or not isinstance(labeller, MovingCodebooks):
        raise ConfigError(
            f"objective '{mine[-1].name}': one objective has view 'tokenizer', with "
            "labeller residual (one codebook: num_codebooks: 1)"
        )
    conf = dict(conf)
    target = parse_view(conf.pop("target", "layer 100%"), num_blocks)
    if target.layer is None:
        raise ConfigError(
            f"tokenizer_conf: target '{target}' is no layer; give 'layer K', 'layer P%' "
            "or one of a teacher"
        )
    conf.setdefault("layers", num_blocks)
    return Tokenizer(labeller, size_of(INPUT), width, target, size_of(target), **conf)
