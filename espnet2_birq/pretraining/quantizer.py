"""Random-projection quantizers: vectors in, labels over fixed codebooks out.

    vectors (M, D) -> projection -> points (N, M, d) -> scores of the V codes -> labels

N codebooks label independently of one another. Neither projection nor codebook is
trained, averaged or stored: both are rebuilt from a seed (and, for the input, a file of
statistics) in the configuration, so every checkpoint and every rank holds the same.
"""

from typing import List, Optional, Union

import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.frame_statistics import FrameStatistics
from espnet2_birq.pretraining.loss import CHUNK_NUMBERS, Labels
from espnet2_birq.pretraining.schedule import Schedule
from espnet2_birq.pretraining.whitening import RunningWhitening

PROJECTIONS = ("xavier", "whitened", "pca", "pca_whitened")
SCORES = ("distance", "cosine")


class RandomProjectionQuantizer(torch.nn.Module):
    """Nearest code after a fixed projection (BEST-RQ, arXiv 2202.01855; BiRQ Eq. 2).

    Args:
        input_size: D, size of the vectors.
        num_codebooks: N. Several books stabilise BEST-RQ (arXiv 2501.16131); each has a
            prediction head of its own, and the target's loss is the mean over books.
        codebook_size: V.
        codebook_dim: d, size of a code.
        projection: ``xavier``: random, as in the papers; on real speech it leaves most
            codes without use. ``whitened``: the same, then to unit covariance: by exact
            statistics for the input, by running ones for a layer. ``pca``: the d first
            principal components, by one common factor of mean variance 1 (arXiv
            2606.30671), and ``pca_whitened``: each of variance 1; for the input only.
        score: ``distance``: the squared Euclidean; ``cosine``: the same between points
            and codes of length 1.
        layer_norm: Normalise each vector over its D values first, without affine
            parameters. Hidden states want it (their scale drifts in training); input
            frames come normalised.
        seed: Decides projection and codebooks. The codebooks do not depend on
            ``input_size``: quantizers of the same seed and shape share them.
        statistics: Mean and covariance of the vectors; None: ``whitened`` keeps running
            statistics.

    Raises:
        ConfigError: Unknown projection or score; ``pca`` and ``pca_whitened`` without
            statistics.

    Example:
        >>> quantizer = RandomProjectionQuantizer(320, codebook_size=8192)
        >>> (labels,) = quantizer(torch.randn(5, 320))
        >>> labels.codes.shape
        torch.Size([5])
    """

    keep_gradient = False  # the nearest code has none

    def __init__(
        self,
        input_size: int,
        num_codebooks: int = 1,
        codebook_size: int = 8192,
        codebook_dim: int = 16,
        projection: str = "xavier",
        score: str = "distance",
        layer_norm: bool = False,
        seed: int = 0,
        statistics: Optional[FrameStatistics] = None,
    ):
        super().__init__()
        _check("projection", projection, PROJECTIONS)
        _check("score", score, SCORES)
        self.score = score
        self.layer_norm = layer_norm
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        # The identity of the books: targets that share them share prediction heads.
        self.codebook_id = f"n{num_codebooks}_v{codebook_size}_d{codebook_dim}_s{seed}"
        generator = torch.Generator().manual_seed(seed)
        codebook = torch.randn(
            num_codebooks, codebook_size, codebook_dim, generator=generator
        )
        matrix = torch.empty(num_codebooks, input_size, codebook_dim)
        for book in matrix:
            torch.nn.init.xavier_uniform_(book, generator=generator)
        mean = torch.zeros(input_size)
        self.whitening = None
        if projection != "xavier" and statistics is not None:
            statistics.check(input_size)
            if layer_norm:
                raise ConfigError(
                    f"layer_norm and projection {projection!r}: the statistics are of "
                    "frames without it, leave one out"
                )
            mean = torch.tensor(statistics.mean, dtype=torch.float32)
            if projection == "whitened":
                matrix = torch.stack([statistics.whiten(book) for book in matrix])
            else:  # the same for all books: what tells them apart are their codes
                components = statistics.principal_components(
                    codebook_dim, whiten=projection == "pca_whitened"
                )
                matrix = components.repeat(num_codebooks, 1, 1)
        elif projection == "whitened":
            self.whitening = RunningWhitening(num_codebooks, codebook_dim)
        elif projection != "xavier":
            raise ConfigError(
                f"projection {projection!r} is for the input, with --frame_statistics; "
                "for a layer use 'whitened'"
            )
        if score == "cosine":
            codebook = torch.nn.functional.normalize(codebook, dim=-1)
        self.register_buffer("codebook", codebook, persistent=False)
        self.register_buffer("projection", matrix, persistent=False)
        self.register_buffer("mean", mean, persistent=False)

    def points(
        self, vectors: torch.Tensor, present: Optional[torch.Tensor] = None
    ) -> torch.Tensor:
        """Project M vectors to where the codes are, in single precision.

        Args:
            vectors: (M, D), any floating type.
            present: (M,) 1 where a row counts, 0 where it fills up; None: all count.

        Returns:
            (N, M, d).
        """
        # Not under autocast: rounding to bfloat16 would change labels.
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.to(self.projection.dtype)
            if self.layer_norm:
                vectors = torch.nn.functional.layer_norm(vectors, vectors.shape[-1:])
            points = (vectors - self.mean) @ self.projection
            if self.whitening is not None:
                points = self.whitening(points, present)
            if self.score == "cosine":
                points = torch.nn.functional.normalize(points, dim=-1)
        return points

    def code_layer(self, book: int, scale: float = 1.0):
        """Scores as a linear layer: -scale |v - c|^2 = 2 scale v.c - scale |c|^2 + ...

        |v|^2 is the same for all codes, so neither argmax nor softmax needs it.

        Returns:
            (V, d) weight and (V,) bias.
        """
        codes = self.codebook[book]
        return 2.0 * scale * codes, -scale * codes.square().sum(dim=1)

    @torch.no_grad()
    def nearest(self, points: torch.Tensor) -> torch.Tensor:
        """The nearest codes of points (N, M, d): (N, M) int64."""
        nearest = torch.empty(points.shape[:2], dtype=torch.long, device=points.device)
        size = max(1, CHUNK_NUMBERS // self.codebook_size)
        with torch.autocast(points.device.type, enabled=False):
            for book in range(self.num_codebooks):
                weight, bias = self.code_layer(book)
                for start in range(0, points.size(1), size):
                    rows = slice(start, start + size)
                    scores = torch.addmm(bias, points[book, rows], weight.T)
                    nearest[book, rows] = scores.argmax(dim=1)
        return nearest

    @torch.no_grad()
    def forward(
        self,
        vectors: torch.Tensor,
        present: Optional[torch.Tensor] = None,
        step: int = 0,
    ) -> List[Labels]:
        """Label M vectors by their nearest codes.

        Args:
            vectors: (M, D).
            present: (M,) 1 where a row counts, 0 where it fills up; None: all count.
            step: Updates done so far, for schedules.

        Returns:
            Hard labels, one for each codebook.
        """
        return [Labels(codes=x) for x in self.nearest(self.points(vectors, present))]


class GumbelSoftmaxQuantizer(RandomProjectionQuantizer):
    """A random draw over the codes, differentiable in the vectors (BiRQ Eq. 4).

    Labels are softmax((scores + Gumbel noise) / temperature): a code is the likeliest
    with probability softmax(scores), and the gradient of the loss reaches the layer
    that made the vectors.

    Args:
        input_size: D, size of the vectors.
        temperature: The paper's 0.5. Towards 0 labels become one-hot. A number or a
            schedule.
        score_scale: Factor on the squared distance. Gumbel noise has a standard
            deviation of 1.28, so this decides how often the nearest code wins
            (reported as ``hit``).
        keep_gradient: Let the loss change the layers that made the label, as the paper
            does. Cut, the label pass costs no backward pass and labels move only with
            what the other targets teach the encoder.
        straight_through: Labels are the one code drawn; the gradient is the soft one's.
        layer_norm: See RandomProjectionQuantizer.
        **projection: See RandomProjectionQuantizer.
    """

    def __init__(
        self,
        input_size: int,
        temperature: Union[float, List] = 0.5,
        score_scale: float = 1.0,
        keep_gradient: bool = True,
        straight_through: bool = False,
        layer_norm: bool = True,
        **projection,
    ):
        super().__init__(input_size, layer_norm=layer_norm, **projection)
        self.temperature = Schedule(temperature)
        self.score_scale = score_scale
        self.keep_gradient = keep_gradient
        self.straight_through = straight_through

    def forward(
        self,
        vectors: torch.Tensor,
        present: Optional[torch.Tensor] = None,
        step: int = 0,
    ) -> List[Labels]:
        """Prepare soft labels for M vectors; they are drawn where the loss is made.

        Args:
            vectors: (M, D); gradients flow back to them if they carry any.
            present: (M,) 1 where a row counts, 0 where it fills up; None: all count.
            step: Updates done so far, for schedules.

        Returns:
            Soft labels, one for each codebook.
        """
        if not self.keep_gradient:
            vectors = vectors.detach()  # another target may have kept it
        points = self.points(vectors, present)
        labels = []
        for book in range(self.num_codebooks):
            weight, bias = self.code_layer(book, self.score_scale)
            labels.append(
                Labels(
                    points=points[book],
                    code_weight=weight,
                    code_bias=bias,
                    temperature=self.temperature.at(step),
                    straight_through=self.straight_through,
                )
            )
        return labels


class GivenLabels(torch.nn.Module):
    """Labels that another model made, read from disk with the speech.

    Args:
        codebook_size: V, how many different labels there are.
    """

    keep_gradient = False
    num_codebooks = 1

    def __init__(self, codebook_size: int):
        super().__init__()
        self.codebook_size = codebook_size
        self.codebook_id = f"given_v{codebook_size}"

    def forward(
        self,
        vectors: torch.Tensor,
        present: Optional[torch.Tensor] = None,
        step: int = 0,
    ) -> List[Labels]:
        """Hand labels (M,) through; -1 is a frame without one."""
        return [Labels(codes=vectors)]


def fit_labels(labels: Optional[torch.Tensor], frames: int) -> torch.Tensor:
    """Make labels from disk as long as the encoder's output.

    Args:
        labels: (B, L) integers, padded with -1.
        frames: T', encoder frames of the padded batch.

    Returns:
        (B, T'), cut or filled up with -1 by a frame or two.

    Raises:
        DataError: No labels, or of another rate.
    """
    if labels is None:
        raise DataError(
            "a target has source 'disk': give its labels to training and validation, "
            "e.g. --train_data_path_and_name_and_type labels.scp,labels,kaldi_ark"
        )
    if abs(labels.size(1) - frames) > 2:
        raise DataError(
            f"{labels.size(1)} labels for {frames} encoder frames in the longest "
            "utterance of a batch: these labels are of another rate or of other audio"
        )
    missing = max(0, frames - labels.size(1))
    labels = torch.nn.functional.pad(labels, (0, missing), value=-1)
    return labels[:, :frames].long()


def _check(name, value, known):
    if value not in known:
        raise ConfigError(f"unknown {name} {value!r}, use one of {list(known)}")
