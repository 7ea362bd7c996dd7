"""Error rates of decoded sets: ASR experiments of asr.sh, or plain pairs of files."""

import glob
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.wer.alignment import count_errors
from espnet2_birq.evaluation.wer.grouping import (
    Labels,
    label,
    make_clusters,
    make_groups,
)
from espnet2_birq.evaluation.wer.normalization import Normalization, get_normalization
from espnet2_birq.evaluation.wer.significance import bootstrap_interval
from espnet2_birq.evaluation.wer.transcripts import Transcripts, fold_case, read_pair

KINDS = ("wer", "cer")


class DecodedSet(NamedTuple):
    """Set with a system's hypotheses.

    Attributes:
        experiment: Folder of the experiment, or hypothesis file.
        decoding: Name of the decoding, "-" for plain files.
        name: Name of the set, or reference file.
        pairs: Mapping from "wer", "cer" and "ter" to the files of reference and
            hypothesis in words, characters and tokens. Only "wer" is always present.
    """

    experiment: str
    decoding: str
    name: str
    pairs: dict[str, tuple[Path, Path]]


class Options(NamedTuple):
    """Scoring options.

    Attributes:
        normalization: Normalisation of references and hypotheses.
        cluster: Unit of the bootstrap, as in make_clusters().
        data: Data directory of the set, as in label().
        by: Groups to score separately, as in make_groups().
    """

    normalization: Normalization = get_normalization("none")
    cluster: str | None = None
    data: Path | None = None
    by: str | None = None


def find_sets(experiment: Path) -> list[DecodedSet]:
    """Find the scored sets of an experiment.

    Args:
        experiment: Folder of the experiment, for example exp/asr_train, or one of its
            decodings.

    Returns:
        Sets <decoding>/<set>, or .../org/<set>, sorted.

    Raises:
        DataError: The folder is missing or has no decoded set.
    """
    if not experiment.is_dir():
        raise DataError(f"{experiment}: no such folder; give one as exp/asr_train")
    # asr.sh writes the decoded validation set below org/.
    of_decoding = ("*/score_[wc]er", "org/*/score_[wc]er")
    top, prefix = experiment, "*/"
    if any(found for pattern in of_decoding for found in experiment.glob(pattern)):
        experiment = experiment if experiment.name else experiment.resolve()
        top, prefix = experiment.parent, f"{glob.escape(experiment.name)}/"
    found = {
        score.parent for pattern in of_decoding for score in top.glob(prefix + pattern)
    }
    if not found:
        raise DataError(
            f"{experiment}/decode_*/<set>/score_wer/ref.trn: no such file; "
            "run asr.sh with --stage 12 --stop_stage 13"
        )
    sets = []
    for folder in sorted(found):
        decoding, _, name = folder.relative_to(top).as_posix().partition("/")
        sets.append(DecodedSet(str(top), decoding, name, _trn_pairs(folder)))
    return sets


def scored_set(folder: Path) -> DecodedSet:
    """Return the set of a folder <experiment>/<decoding>/<set>."""
    return DecodedSet(str(folder.parent), "-", folder.name, _trn_pairs(folder))


def _trn_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    kinds = (*KINDS, "ter") if (folder / "score_ter").is_dir() else KINDS
    return {
        kind: (folder / f"score_{kind}/ref.trn", folder / f"score_{kind}/hyp.trn")
        for kind in kinds
    }


def plain_set(ref: Path, hyp: Path) -> DecodedSet:
    """Return the set of two files with words (trn or Kaldi text)."""
    return DecodedSet(str(hyp), "-", str(ref), {"wer": (ref, hyp)})


def characters(text: str) -> list[str]:
    """Split text into characters, including spaces, as in ESPnet."""
    return list(" ".join(text.split()))


def goes_with(kind: str, normalization: Normalization) -> bool:
    """Whether an error rate is defined after a normalisation.

    Characters of optional words are undefined; tokens exist only for the decoded text.
    """
    words_only = normalization.optional or kind == "ter"
    return not (words_only and _rewrites(kind, normalization))


def _rewrites(kind: str, normalization: Normalization) -> bool:
    return kind != "wer" and normalization.apply not in (str, fold_case)


def read_set(
    one: DecodedSet, kind: str, normalization: Normalization
) -> tuple[Transcripts, Callable[[str], Sequence[str]]]:
    """Read and normalise a set.

    Files that asr.sh has split into characters are used unchanged; normalised or plain
    words are split here.

    Args:
        one: The set.
        kind: "wer", "cer" or "ter".
        normalization: Normalisation for which goes_with() is true.

    Returns:
        Transcripts, and a function that splits one into tokens.

    Raises:
        DataError: A file is missing or wrong, or the reference has no token.
    """
    plain = _rewrites(kind, normalization) or kind not in one.pairs
    source = "wer" if plain else kind
    texts = read_pair(*one.pairs[source])
    refs, hyps = (
        [normalization.apply(text) for text in side]
        for side in (texts.refs, texts.hyps)
    )
    if not any(text and not text.isspace() for text in refs):
        raise DataError(f"{one.pairs[source][0]}: has no token; check the set's text")
    cut = str.split if source == kind else characters
    return Transcripts(texts.ids, refs, hyps), cut


def count_set(
    one: DecodedSet, kind: str, normalization: Normalization
) -> tuple[list[str], np.ndarray]:
    """Count the errors of each utterance of a set.

    Args:
        one: The set.
        kind: "wer", "cer" or "ter".
        normalization: As in read_set().

    Returns:
        Utterance ids, and numbers of correct, substituted, deleted and inserted tokens,
        shape (N, 4).

    Raises:
        DataError: As in read_set().
    """
    texts, cut = read_set(one, kind, normalization)
    return texts.ids, count_errors(texts.refs, texts.hyps, cut, normalization.optional)


def rates(counts: np.ndarray, clusters: np.ndarray) -> dict:
    """Compute the error rate of a set and its confidence interval.

    Args:
        counts: Counts from count_set(), shape (N, 4).
        clusters: Cluster index of each utterance, shape (N,).

    Returns:
        Mapping with utterances, wrong_utterances, tokens (of the reference), correct,
        sub, del, ins, errors; percent, and low and high, the ends of its interval. The
        last three are None if undefined.
    """
    tokens, errors = counts[:, :3].sum(axis=1), counts[:, 1:].sum(axis=1)
    low, high = bootstrap_interval(errors, tokens, clusters)
    total = int(tokens.sum())
    names = ("correct", "sub", "del", "ins")
    return {
        "utterances": len(counts),
        "wrong_utterances": int((errors > 0).sum()),
        "tokens": total,
        **dict(zip(names, counts.sum(axis=0).tolist(), strict=True)),
        "errors": int(errors.sum()),
        "percent": 100 * int(errors.sum()) / total if total else None,
        "low": None if np.isnan(low) else 100 * low,
        "high": None if np.isnan(high) else 100 * high,
    }


def score_sets(sets: Sequence[DecodedSet], options: Options = Options()) -> list[dict]:
    """Score sets.

    Args:
        sets: Decoded sets.
        options: Scoring options.

    Returns:
        A mapping for each set, and for each group of its utterances if options.by is
        given: experiment, decoding, set, group (None: all), utterances, normalization,
        resampled (unit of the bootstrap), wer and cer (both from rates()). cer is None
        if the normalisation does not define it.

    Raises:
        DataError: A file is missing or wrong.
        ConfigError: An option cannot be used with the set.
    """
    rows = []
    for one in sets:
        counted = {
            kind: count_set(one, kind, options.normalization)
            for kind in KINDS
            if goes_with(kind, options.normalization)
        }
        ids = counted["wer"][0]
        if "cer" in counted and counted["cer"][0] != ids:
            raise DataError(
                f"{one.pairs['cer'][0]}: has different utterances than "
                f"{one.pairs['wer'][0]}; run asr.sh --stage 13 again"
            )
        labels = label(ids, options.data)
        groups: dict[str | None, np.ndarray] = {None: np.arange(len(ids))}
        if options.by:
            groups.update(make_groups(ids, labels, options.by))
        for group, indices in groups.items():
            rows.append(
                {
                    "experiment": one.experiment,
                    "decoding": one.decoding,
                    "set": one.name,
                    "group": group,
                    **_score_group(counted, labels, indices, options),
                }
            )
    return rows


def _score_group(
    counted: dict[str, tuple[list[str], np.ndarray]],
    labels: Sequence[Labels],
    indices: np.ndarray,
    options: Options,
) -> dict:
    clusters = make_clusters([labels[i] for i in indices], options.cluster)
    return {
        "utterances": len(indices),
        "normalization": options.normalization.name,
        "resampled": clusters.name,
        **dict.fromkeys(KINDS),
        **{
            kind: rates(counts[indices], clusters.codes)
            for kind, (_, counts) in counted.items()
        },
    }


def score_experiments(
    experiments: Sequence[Path], options: Options = Options()
) -> list[dict]:
    """Score all sets of experiments, as in score_sets()."""
    return score_sets(
        [one for experiment in experiments for one in find_sets(experiment)], options
    )


def score_set(folder: Path, kind: str, case_sensitive: bool = False) -> dict:
    """Score one set.

    Args:
        folder: <experiment>/<decoding>/<set>.
        kind: "wer" or "cer".
        case_sensitive: Whether "a" and "A" differ.

    Returns:
        Result of rates(), with normalization and resampled.

    Raises:
        DataError: A trn file is missing or wrong.
    """
    normalization = get_normalization("none", case_sensitive)
    ids, counts = count_set(scored_set(folder), kind, normalization)
    clusters = make_clusters(label(ids))
    return {
        "normalization": normalization.name,
        "resampled": clusters.name,
        **rates(counts, clusters.codes),
    }


def check_alike(rows: Sequence[dict]) -> str:
    """Return the normalisation of rows; raise ConfigError if there are several."""
    names = sorted({row["normalization"] for row in rows})
    if len(names) != 1:
        raise ConfigError(
            f"rows of several normalisations ({', '.join(names)}) cannot be compared; "
            "score all with one --normalize"
        )
    return names[0]
