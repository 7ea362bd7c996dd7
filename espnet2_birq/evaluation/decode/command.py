"""What the commands ctc_decode and tune_lm share."""

import argparse
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.decode.network import Recogniser, compute_log_probs
from espnet2_birq.evaluation.decode.search import Weights, arpa_words
from espnet2_birq.evaluation.decode.store import LogProbs, file_hash
from espnet2_birq.options import positive


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model and of how it is run."""
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FILE",
        help="ESPnet ASR model with a CTC head, beside its config.yaml",
    )
    parser.add_argument(
        "--ngpu",
        type=int,
        choices=(0, 1),
        default=int(torch.cuda.is_available()),
        help="1: the network runs on a GPU (default: %(default)s, what is here)",
    )
    parser.add_argument(
        "--batch_seconds",
        type=positive,
        default=200.0,
        metavar="S",
        help="audio in a batch of the network, padding included; results do not "
        "depend on it (default: %(default)s)",
    )


def add_lm_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the options of the n-gram."""
    parser.add_argument(
        "--lm",
        type=Path,
        required=required,
        metavar="FILE",
        help="word n-gram: ARPA file, may be gzipped, or KenLM binary",
    )
    parser.add_argument(
        "--words",
        type=Path,
        metavar="FILE",
        help="the n-gram's words, one in a line: needed with a KenLM binary, which "
        "does not tell them",
    )
    for name, kind, text in (
        ("beam_size", int, "hypotheses kept after each frame"),
        ("beam_threshold", positive, "hypotheses so much below the best are dropped"),
    ):
        default = Weights._field_defaults[name]
        parser.add_argument(
            f"--{name}", type=kind, metavar="N", help=f"{text} (default: {default})"
        )


def load_recogniser(args: argparse.Namespace) -> Recogniser:
    """Load the model of the command line."""
    if args.ngpu and not torch.cuda.is_available():
        raise ConfigError("--ngpu 1: PyTorch finds no GPU here; give --ngpu 0")
    return Recogniser(args.model, "cuda" if args.ngpu else "cpu")


def log_probs_of(
    args: argparse.Namespace, recogniser: Recogniser, data: Path
) -> tuple[LogProbs, dict[str, str]]:
    """Log-probabilities of a set, kept in <asr_exp>/ctc_log_probs_<model>/<set>."""
    folder = args.model.parent / f"ctc_log_probs_{args.model.stem}" / set_name(data)
    return compute_log_probs(recogniser, data, folder, args.batch_seconds)


def set_name(data: Path) -> Path:
    """Name a set as asr.sh does: that before the length filter is org/<name>."""
    return Path("org", data.name) if data.parent.name == "org" else Path(data.name)


def lm_name(lm: Path) -> str:
    """Short name of an n-gram's file: that before .arpa, .arpa.gz, .bin."""
    return lm.name.removesuffix(".gz").rsplit(".", 1)[0]


def load_search(
    lm: Path, words: Path | None, tokens: Sequence[str], weights: Weights
) -> tuple[Any, dict[str, Any]]:
    """Load an n-gram.

    Returns:
        The NgramSearch, and what its results depend on besides the log-probabilities.

    Raises:
        ConfigError: The packages for it are not installed, or as NgramSearch.
        DataError: A file is missing, or no n-gram.
    """
    try:
        from espnet2_birq.evaluation.decode.ngram_search import NgramSearch
    except ImportError as error:
        raise ConfigError(
            "--lm wants packages that are not here: pip install ufal-flashlight-text "
            f"ufal-kenlm ({error})"
        ) from error
    if not lm.is_file():
        raise DataError(f"{lm}: no such n-gram; see --help for how to get one")
    if words is None:
        vocabulary = list(arpa_words(lm))
    elif words.is_file():
        vocabulary = words.read_text(encoding="utf-8-sig").split()
    else:
        raise DataError(f"{words}: no such file")
    search = NgramSearch(lm, tokens, vocabulary, weights)
    logging.info(
        f"{lm}: {len(search.words)} words; {search.unspelled} left out, which have "
        "letters that are no tokens"
    )
    joined = hashlib.sha256("\n".join(search.words).encode("utf-8")).hexdigest()
    return search, {"lm": file_hash(lm), "words": joined}


def read_weights(path: Path) -> dict[str, Any]:
    """Read the file that tune_lm writes.

    Raises:
        DataError: There is no such file.
        ConfigError: It lacks `lm` or has something unknown.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; run tune_lm first")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    known = {*Weights._fields, "lm", "words", "dev", "dev_wer"}
    if not isinstance(values, dict) or "lm" not in values or values.keys() - known:
        raise ConfigError(f"{path}: wants lm and only {', '.join(sorted(known))}")
    return values
