"""Random-projection quantization of vectors with fixed codebooks.

    vectors (M, D) -> projection -> points (N, M, d) -> scores of the V codes -> labels

N codebooks label independently. Projections and codebooks are drawn once,
never trained, and part of every checkpoint.
"""

import torch

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.labellers.base import Labeller
from espnet2_birq.pretraining.labellers.projection import Moments, MomentSums
from espnet2_birq.pretraining.labellers.whitening import RunningWhitening
from espnet2_birq.pretraining.labels import CHUNK_NUMBERS, HardLabels, Labels
from espnet2_birq.pretraining.settings import check_flag, check_one_of, check_whole

PROJECTIONS = ("xavier", "whitened", "pca", "pca_whitened")
SCORES = ("distance", "cosine")


class RandomProjectionLabeller(Labeller):
    """Nearest code after a fixed projection (BEST-RQ, arXiv 2202.01855; BiRQ Eq. 2).

    Args:
        input_size: D, size of the vectors.
        running: Whether the vectors change during training (hidden states), requiring
            running moments; else moments are estimated once, before the
            first update.
        num_codebooks: N. Multiple codebooks stabilise BEST-RQ (arXiv 2501.16131); each
            has its own prediction head, and their losses are averaged.
        codebook_size: V, codes per codebook.
        codebook_dim: d, size of a code.
        projection: ``xavier``: random, as in the papers; on real speech most codes
            remain unused. ``whitened``: the same, whitened to unit covariance. ``pca``:
            the first d principal components, scaled to mean variance 1
            (arXiv 2606.30671). ``pca_whitened``: the same, each scaled to variance 1.
            Neither of the two is for layers.
        score: ``distance``: squared Euclidean; ``cosine``: the same between
            unit-length points and codes.
        layer_norm: Normalise each vector over its D values first, without affine
            parameters. Useful for hidden states (their scale drifts in training); input
            frames are already normalised.
        seed: Seed of projection and codebooks. The codebooks do not depend on
            ``input_size``: labellers of the same seed and shape share them.

    Raises:
        ConfigError: Unknown projection or score; ``pca`` or ``pca_whitened`` of a
            layer; ``layer_norm`` with a projection made from the input's moments.

    Example:
        >>> labeller = RandomProjectionLabeller(320, running=False, codebook_size=8192)
        >>> (labels,) = labeller.label(torch.randn(5, 320))
        >>> labels.codes.shape
        torch.Size([5])
    """

    codebook: torch.Tensor  # (N, V, d)
    projection: torch.Tensor  # (N, D, d)
    mean: torch.Tensor  # (D,)

    def __init__(
        self,
        input_size: int,
        running: bool,
        num_codebooks: int = 1,
        codebook_size: int = 8192,
        codebook_dim: int = 16,
        projection: str = "xavier",
        score: str = "distance",
        layer_norm: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        check_one_of("projection", projection, PROJECTIONS)
        check_one_of("score", score, SCORES)
        check_whole("num_codebooks", num_codebooks, 1)
        check_whole("codebook_size", codebook_size, 2)
        check_whole("codebook_dim", codebook_dim, 1)
        check_whole("seed", seed)
        check_flag("layer_norm", layer_norm)
        if running and projection.startswith("pca"):
            raise ConfigError(
                f"projection {projection!r} is for the input; of a layer, whose "
                "principal components change order, use 'whitened'"
            )
        if layer_norm and not running and projection != "xavier":
            raise ConfigError(
                f"layer_norm and projection {projection!r} of the input exclude each "
                "other: set layer_norm: false, or projection: xavier"
            )
        self.kind = projection
        self.score = score
        self.layer_norm = layer_norm
        self.num_codebooks = num_codebooks
        self.codebook_size = codebook_size
        generator = torch.Generator().manual_seed(seed)
        codebook = torch.randn(
            num_codebooks, codebook_size, codebook_dim, generator=generator
        )
        matrix = torch.empty(num_codebooks, input_size, codebook_dim)
        for book in matrix:
            torch.nn.init.xavier_uniform_(book, generator=generator)
        if score == "cosine":
            codebook = torch.nn.functional.normalize(codebook, dim=-1)
        self.register_buffer("codebook", codebook)
        self.register_buffer("projection", matrix)
        self.register_buffer("mean", torch.zeros(input_size))
        self.whitening = None
        if running and projection == "whitened":
            self.whitening = RunningWhitening(num_codebooks, codebook_dim)
        self.ready = running or projection == "xavier"
        self.sums = MomentSums(input_size)
        self.register_buffer("started", torch.tensor(float(self.ready)))
        self.remember(
            dict(
                input_size=input_size,
                num_codebooks=num_codebooks,
                codebook_size=codebook_size,
                codebook_dim=codebook_dim,
                projection=projection,
                score=score,
                layer_norm=layer_norm,
                seed=seed,
            )
        )

    remedy = (
        "whiten its labels (labeller_conf: {projection: whitened}), or look at the data "
        "(check_data)"
    )

    @torch.no_grad()
    def observe(self, vectors: torch.Tensor, valid: torch.Tensor):
        """Update moments: of a layer always, of the input until ``start``."""
        if self.whitening is not None:
            with torch.autocast(vectors.device.type, enabled=False):
                self.whitening.observe(self._project(vectors), valid)
        elif not self.ready:
            self.sums.add(vectors, valid)

    def start(self):
        """Fix the projection from the observed moments, identically on all ranks."""
        if not self.ready:
            self.start_from(self.sums.moments())
            self.sums = MomentSums(self.sums.size)

    def start_from(self, moments: Moments):
        """Fix the projection from given moments.

        Raises:
            DataError: The vectors have fewer than d independent directions.
        """
        if self.kind == "whitened":
            matrix = torch.stack([moments.whiten(x.cpu()) for x in self.projection])
        else:  # the same for all codebooks: they differ in their codes
            components = moments.principal_components(
                self.codebook.size(2), whiten=self.kind == "pca_whitened"
            )
            matrix = components.repeat(self.num_codebooks, 1, 1)
        self.projection.copy_(matrix)
        self.mean.copy_(torch.from_numpy(moments.mean))
        if torch.distributed.is_initialized():  # processors round differently
            torch.distributed.broadcast(self.projection, 0)
            torch.distributed.broadcast(self.mean, 0)
        self.started.fill_(1.0)
        self.ready = True

    def points(self, vectors: torch.Tensor) -> torch.Tensor:
        """Project vectors (M, D) into the codebook spaces: (N, M, d), at least float32.

        Raises:
            DataError: The projection's moments are not known yet.
        """
        if not self.ready:
            raise DataError(
                f"projection '{self.kind}' is computed from the training data's moments, "
                "which ssl_train takes before the first update: call "
                "BiRQModel.prepare(batches), or load a trained model"
            )
        # Not under autocast: rounding to bfloat16 would change labels.
        with torch.autocast(vectors.device.type, enabled=False):
            points = self._project(vectors)
            if self.whitening is not None:
                points = self.whitening(points)
            if self.score == "cosine":
                points = torch.nn.functional.normalize(points, dim=-1)
        return points

    def _project(self, vectors):
        vectors = vectors.to(self.projection.dtype)
        if self.layer_norm:
            vectors = torch.nn.functional.layer_norm(vectors, vectors.shape[-1:])
        return (vectors - self.mean) @ self.projection

    def code_layer(
        self, book: int, scale: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Express scores as a linear layer: -scale |v - c|^2 = 2 scale v.c - scale |c|^2.

        The term -scale |v|^2, equal for all codes, is omitted: neither argmax nor
        softmax needs it.

        Returns:
            (V, d) weight and (V,) bias.
        """
        codes = self.codebook[book]
        return 2.0 * scale * codes, -scale * codes.square().sum(dim=1)

    @torch.no_grad()
    def codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the nearest codes (N, M) int64 of M vectors."""
        points = self.points(vectors)
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

    def label(self, vectors: torch.Tensor, update: int = 0) -> list[Labels]:
        """Label M vectors by their nearest codes."""
        return [HardLabels(codes) for codes in self.codes(vectors)]
