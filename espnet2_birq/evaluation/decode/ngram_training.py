"""Train a word n-gram on texts, optionally mix it with others, and write an ARPA file."""

import logging
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import kenlm

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.decode.ngram import (
    BEGIN,
    END,
    UNKNOWN,
    Model,
    arpa_lines,
    estimate,
    mix,
    perplexity,
    read_arpa,
    tune_weights,
)
from espnet2_birq.reading import read_lines

# lmplz refuses the same words.
SPECIAL = {BEGIN, END, UNKNOWN, UNKNOWN.upper()}


def train_ngram(
    texts: Sequence[Path],
    out: Path,
    order: int = 4,
    prune: Sequence[int] = (0, 0, 1),
    others: Sequence[Path] = (),
    dev: Path | None = None,
) -> None:
    """Estimate an n-gram, with KenLM's lmplz if it is installed, and write it.

    Args:
        texts: Training texts, as in read_sentences().
        out: ARPA file to write.
        order: Length of the longest n-grams.
        prune: Counts up to which n-grams are pruned, for each length from 1; the last
            applies to all longer ones.
        others: ARPA files or texts to mix with it.
        dev: Development text, to log perplexities and tune mixture weights.

    Raises:
        ConfigError: Incompatible options.
        DataError: A text or an ARPA file is missing or invalid, the development text is
            empty, or lmplz fails.
    """
    if others and dev is None:
        raise ConfigError("--interpolate needs --dev, to tune the mixture on")
    if list(prune) != sorted(prune) or prune[0]:
        raise ConfigError("--prune begins with 0 and never falls, as 0 0 1")
    if ".arpa" not in out.suffixes or out.suffix == ".gz":
        raise ConfigError(f"--out {out}: give a name that ends in .arpa")
    if dev is not None and not read_sentences(dev):
        raise DataError(f"--dev {dev}: has no sentence to compute a perplexity of")
    out.parent.mkdir(parents=True, exist_ok=True)
    model = None
    if program := shutil.which("lmplz"):
        logging.info(f"estimating with {program}")
        part = out.with_name("lmplz." + out.name)
        run_lmplz(program, texts, part, order, prune)
        if others:
            model = load(part, order, prune)
            part.unlink()
        else:
            part.replace(out)
    else:
        sentences = [words for path in texts for words in read_sentences(path)]
        total = sum(map(len, sentences))
        logging.info(f"{len(sentences)} sentences, {total} words")
        model = estimate(sentences, order, prune)
    if model is not None and dev is not None and others:
        model = mix_all(model, others, dev, order, prune)
    if model is not None:
        write_whole(out, "".join(line + "\n" for line in arpa_lines(model)))
    if dev:
        tell_perplexity(out, dev)


def read_sentences(path: Path) -> list[list[str]]:
    """Read sentences of a data directory, or of an optionally gzipped file.

    Raises:
        DataError: The file is missing or not UTF-8, or has a word that an n-gram has
            for the beginning or end of a sentence or for unknown words.
    """
    if path.is_dir():
        texts = read_scp(path / "text", allow_empty_values=True)
        return list(_sentences(path / "text", texts.items()))
    if not path.is_file():
        raise DataError(f"{path}: no such file or data directory")
    lines = enumerate(read_lines(path, "convert it with iconv"), 1)
    return list(_sentences(path, ((f"line {number}", line) for number, line in lines)))


def _sentences(path: Path, texts: Iterable[tuple[str, str]]) -> Iterator[list[str]]:
    for place, text in texts:
        words = text.split()
        if special := next((word for word in words if word in SPECIAL), None):
            raise DataError(
                f"{path}: {place} has the word {special}, which n-grams have for "
                "themselves; remove it there and elsewhere"
            )
        yield words


def run_lmplz(
    program: str, texts: Sequence[Path], arpa: Path, order: int, prune: Sequence[int]
) -> None:
    """Run KenLM's lmplz, which estimates the same n-gram as estimate().

    Raises:
        DataError: lmplz fails, or a text is invalid.
    """
    command = [program, "-o", str(order), "--discount_fallback"]
    command += ["--prune", *map(str, prune[:order]), "--arpa", str(arpa)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has failed, and its status tells
            for path in texts:
                for words in read_sentences(path):
                    print(*words, file=process.stdin)
        with suppress(BrokenPipeError):
            process.stdin.close()
        if process.wait():
            raise DataError(f"{program} ended with status {process.returncode}")


def load(path: Path, order: int, prune: Sequence[int]) -> Model:
    """Read an ARPA file, or estimate a model from a text as train_ngram() does.

    Raises:
        DataError: The file is missing or invalid.
    """
    if path.is_dir() or ".arpa" not in path.suffixes:
        return estimate(read_sentences(path), order, prune)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return read_arpa(read_lines(path), str(path))


def mix_all(
    first: Model, others: Sequence[Path], dev: Path, order: int, prune: Sequence[int]
) -> Model:
    """Mix an n-gram with others (see load()), with weights tuned on a text."""
    sentences = read_sentences(dev)
    models = [first, *(load(path, order, prune) for path in others)]
    weights = tune_weights(models, sentences)
    names = ["--text", *map(str, others)]
    for name, model, weight in zip(names, models, weights):
        value, unknown = perplexity(model, sentences)
        logging.info(
            f"{name}: weight {weight:.3f}, perplexity of {dev} {value:.1f} with "
            f"{unknown} unknown words"
        )
    return mix(models, weights)


def tell_perplexity(path: Path, dev: Path) -> None:
    """Log a text's perplexity, computed by KenLM, and its number of unknown words."""
    model = kenlm.Model(str(path))
    total, events, unknown = 0.0, 0, 0
    for words in read_sentences(dev):
        for score, _, is_unknown in model.full_scores(" ".join(words)):
            total, events, unknown = total + score, events + 1, unknown + is_unknown
    logging.info(
        f"{path}: perplexity of {dev} {10 ** (-total / events):.1f}, {unknown} of its "
        f"{events} words and sentence ends are unknown"
    )
