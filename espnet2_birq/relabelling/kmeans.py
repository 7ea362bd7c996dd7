"""k-means of a model's vectors, for labels as in HuBERT (arXiv 2106.07447).

speech -> vectors of all frames -> sample -> centroids, a file
speech -> vectors of all frames -> nearest centroid -> label
"""

import hashlib
import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from espnet2_birq.datadir.files import whole_file
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.reading import parse_json, read_arrays
from espnet2_birq.relabelling.settings import DEFAULT, Fit
from espnet2_birq.relabelling.sources import (
    check_view,
    load_source,
    source_vectors,
)
from espnet2_birq.relabelling.speech import SpeechList, speech_batches
from espnet2_birq.tasks.loading import resolve

NONE = "no centroids of fit_kmeans"
FROM_EACH = 50  # frames per utterance, if there are enough utterances


@dataclass(frozen=True)
class KMeans:
    """Centroids, and a record of how they were made.

    Attributes:
        centroids: (V, D) float32.
        about: ``view`` (see source_vectors), ``model`` and ``model_sha256`` (of its
            file), ``data`` and ``data_sha256`` (of the list), Fit's settings,
            ``labels_per_second``, ``sample_rate``, ``normalize`` and ``frontend`` (as
            configured), ``sampled_frames`` and ``sampled_utterances``.
    """

    centroids: np.ndarray
    about: dict[str, Any]

    def label(
        self, model: BiRQModel, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Label all frames of clean speech by their nearest centroids.

        Args:
            model: Model that the centroids were fitted to.
            speech: (B, N) waveforms, padded with zeros.
            lengths: (B,) lengths in samples.

        Returns:
            (B, T') int64 codes, and (B,) lengths in frames.
        """
        vectors, frames = source_vectors(model, self.about["view"], speech, lengths)
        return self.codes(vectors.flatten(0, 1)).view(vectors.shape[:2]), frames

    def codes(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the indices (M,) int64 of the centroids nearest to vectors (M, D)."""
        centroids = torch.from_numpy(self.centroids).to(vectors.device)
        middle = centroids.mean(dim=0)  # centring reduces rounding errors
        centroids = centroids - middle
        bias = -centroids.square().sum(dim=1)
        scores = torch.addmm(bias, vectors.float() - middle, 2.0 * centroids.T)
        return scores.argmax(dim=1)

    def save(self, path: Path) -> None:
        """Write the file, complete or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, part.open("wb") as stream:
            about = json.dumps(self.about)
            np.savez(stream, centroids=self.centroids, about=np.array(about))

    @classmethod
    def load(cls, path: Path) -> "KMeans":
        """Read a file written by save().

        Raises:
            DataError: The file is missing or has no centroids.
        """
        if not path.is_file():
            raise DataError(f"{path}: no such file, the centroids; run fit_kmeans")
        centroids, about = read_arrays(path, "centroids", "about", what=NONE)
        about = parse_json(path, str(about), remedy="make them again")
        if centroids.ndim != 2 or not {"view", "model_sha256"} <= about.keys():
            raise DataError(f"{path}: {NONE}; make them again")
        return cls(centroids, about)

    def check_model(self, path: Path, where: Path) -> None:
        """Check that the centroids were fitted to this model file.

        Args:
            path: Model file, or configuration.
            where: File of the centroids, for the message.

        Raises:
            ConfigError: They were fitted to another.
        """
        if file_hash(path) != self.about["model_sha256"]:
            raise ConfigError(
                f"{where}: these are centroids of another model than {path}: give "
                "--model the file that fit_kmeans had, or run it again"
            )


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        ConfigError: There is no such file.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fit_kmeans(
    path: Path, view: str, data: str, out: Path, fit: Fit = DEFAULT, device: str = "cpu"
) -> None:
    """Fit centroids to a sample of a model's vectors, unless this has been done.

    Args:
        path: Model, or configuration; see load_source().
        view: See source_vectors().
        data: FILE,speech,TYPE, as for ssl_train.
        out: File of the centroids.
        fit: Settings.
        device: "cpu" or "cuda".

    Raises:
        ConfigError: `view`, `data` or a number is invalid.
        DataError: Audio is bad, or there are fewer frames than clusters.
    """
    if fit.clusters < 2 or fit.frames < fit.clusters:
        raise ConfigError(
            f"--clusters {fit.clusters} of --frames {fit.frames}: give 2 clusters or "
            "more, and at least as many frames"
        )
    path = resolve(path)
    model = load_source(path, view, device)
    check_view(model, view)
    speech = SpeechList.read(data, model.sample_rate)
    wanted = {
        "view": view,
        "model": str(path),
        "model_sha256": file_hash(path),
        "data": str(speech.path),
        "data_sha256": file_hash(speech.path),
        **asdict(fit),
    }
    if _is_there(out, wanted):
        logging.info(f"{out}: already exists")
        return
    sample, utterances = _sample(model, view, speech, fit)
    if len(sample) < fit.clusters:
        raise DataError(
            f"{speech.path}: {len(sample)} frames for {fit.clusters} clusters; give "
            "more speech, or fewer --clusters"
        )
    logging.info(f"k-means of {len(sample)} frames of {utterances} utterances")
    # HuBERT's settings, but 3 instead of 20 starts, each with k-means++: with batches
    # of 10,000 frames, all starts end alike.
    kmeans = MiniBatchKMeans(
        fit.clusters,
        batch_size=10_000,
        max_iter=100,
        max_no_improvement=100,
        n_init=3,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=fit.seed,
    ).fit(sample)
    about = {
        **wanted,
        "labels_per_second": model.frame_rate,
        "sample_rate": model.sample_rate,
        "normalize": repr(model.normalize),
        "frontend": repr(model.frontend),
        "sampled_frames": len(sample),
        "sampled_utterances": utterances,
    }
    KMeans(kmeans.cluster_centers_.astype(np.float32), about).save(out)
    logging.info(f"{out}: {fit.clusters} centroids of {view}")


def _is_there(out: Path, wanted: dict[str, Any]) -> bool:
    try:
        return wanted.items() <= KMeans.load(out).about.items()
    except DataError:
        return False


def _sample(
    model: BiRQModel, view: str, speech: SpeechList, fit: Fit
) -> tuple[np.ndarray, int]:
    """Draw random frames; return them, (M, D), and their number of utterances.

    As many random utterances are used as suffice with FROM_EACH frames from each.
    """
    draw = np.random.default_rng(fit.seed)
    names = list(speech.entries)
    number = min(len(names), math.ceil(fit.frames / FROM_EACH))
    chosen = [names[i] for i in np.sort(draw.permutation(len(names))[:number])]
    each = math.ceil(fit.frames / number)
    found: list[np.ndarray] = []
    bad = 0
    for batch in speech_batches(model, speech, chosen, fit.batch_size):
        vectors, frames = source_vectors(model, view, batch.speech, batch.lengths)
        for row, (length, good) in enumerate(zip(frames.tolist(), batch.good.tolist())):
            rows = np.sort(draw.permutation(length)[:each])
            bad += not good
            if good:
                found.append(vectors[row, rows].float().cpu().numpy())
    if bad:
        logging.warning(f"{speech.path}: {bad} utterances not used, see above")
    if not found:
        raise DataError(f"{speech.path}: no utterance is usable, see above")
    return np.concatenate(found)[: fit.frames], len(found)
