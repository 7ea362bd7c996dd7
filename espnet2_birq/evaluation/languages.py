"""Compare the languages of a model by their use of codes and character error rates.

The codes of each objective are counted by language. Languages should share codes for
the sounds that they share; codes that distinguish languages (or channels, or speakers)
are spent on that distinction. One character probe per language, on the frozen encoder,
shows how much information is left for recognition.
"""

import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.fileio.read_text import read_2columns_text

from espnet2_birq.datadir.audio import probe_many, read_wave
from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.kaldi import format_scp, iter_scp, read_scp
from espnet2_birq.datadir.stream import draw
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.audio_list import read_audio_list
from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.evaluation.phones.units import entropy
from espnet2_birq.evaluation.probe import Settings, find_utterances, probe
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.objective import makers
from espnet2_birq.reading import refusing

CATEGORIES = "category2utt"  # read by ESPnet's category sampler


class CodeUse(NamedTuple):
    """How a language uses a codebook.

    Attributes:
        frames: Frames counted.
        used: Number of codes that occur.
        perplexity: exp of the entropy of the codes, i.e. their effective number.
    """

    frames: int
    used: int
    perplexity: float


def read_languages(folder: Path) -> dict[str, list[str]]:
    """Return the utterances of each language of a data directory.

    Args:
        folder: Data directory with wav.scp and category2utt.

    Raises:
        DataError: category2utt is missing or invalid, has fewer than two languages, or
            lists an utterance twice in one; or a language has no audio or no name that
            a folder can have.
    """
    path = folder / CATEGORIES
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; write a line `LANGUAGE UTTERANCE ...` for each "
            "language (prepare_yodas does for several)"
        )
    with refusing(path, "no lines `LANGUAGE UTTERANCE ...`", "correct it"):
        lines = read_2columns_text(path)  # accepts unsorted files, as ESPnet does
    languages = {name: line.split() for name, line in lines.items()}
    if len(languages) < 2:
        raise DataError(
            f"{path}: {len(languages)} language, give at least two to compare"
        )
    there = {name for name, _ in iter_scp(folder / "wav.scp")}
    for name, utterances in languages.items():
        if len(set(utterances)) < len(utterances):
            twice = min(x for x, times in Counter(utterances).items() if times > 1)
            raise DataError(
                f"{path}: language '{name}': {twice} is listed twice; take one out"
            )
        if "/" in name or name in (".", ".."):  # it names a folder of --out
            raise DataError(f"{path}: '{name}' is no name of a language; correct it")
        languages[name] = [one for one in utterances if one in there]
        if not languages[name]:
            raise DataError(
                f"{path}: language '{name}' has no utterance of {folder}/wav.scp; "
                "prepare its data, or take it out of the file"
            )
    return languages


@torch.no_grad()
def count_codes(
    model: BiRQModel, folder: Path, languages: Mapping[str, list[str]], most: int
) -> dict[str, np.ndarray]:
    """Count the codes of each objective by language.

    Args:
        model: Model in evaluation mode.
        folder: Data directory.
        languages: Utterances of each language.
        most: Maximum number of utterances per language, sampled from all.

    Returns:
        Counts by objective, (L, N, V) for L languages, N codebooks and V codes.

    Raises:
        DataError: No objective makes codes, or audio is bad (see also read_audio_list()),
            of another sample rate or too short.
    """
    objectives = makers(model.objectives)
    if not objectives:
        raise DataError("no objective of this model makes codes")
    files = read_audio_list(folder)
    chosen = {language: draw(some, most) for language, some in languages.items()}
    names = [name for some in chosen.values() for name in some]
    probe_many([files[name] for name in names], model.sample_rate)
    books = [one.labeller for one in objectives]
    shape = [(len(languages), x.num_codebooks, x.codebook_size) for x in books]
    counts = {
        one.name: np.zeros(size, np.int64) for one, size in zip(objectives, shape)
    }
    for number, (language, utterances) in enumerate(languages.items()):
        some = chosen[language]
        logging.info(f"{language}: {len(some)} of {len(utterances)} utterances")
        for utterance in some:
            wave = torch.from_numpy(read_wave(files[utterance]))
            samples = torch.tensor([len(wave)])
            for one in objectives:
                try:
                    codes, frames = model.label(wave[None], samples, one.name)
                except DataError as error:  # too short, without its name
                    raise DataError(f"{files[utterance]}: {error}") from error
                for book, row in enumerate(codes[:, 0, : int(frames)].numpy()):
                    counts[one.name][number, book] += np.bincount(
                        row, minlength=one.labeller.codebook_size
                    )
    return counts


def code_use(counts: np.ndarray) -> CodeUse:
    """Describe the counts (V,) of a codebook in a language."""
    codes = np.repeat(np.arange(len(counts)), counts)
    return CodeUse(
        int(counts.sum()), int((counts > 0).sum()), float(np.exp(entropy(codes)))
    )


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the Jensen-Shannon divergence of two counts (V,) in bits.

    Returns:
        0 for the same use of codes, 1 for no code in common.
    """
    p, q = one / one.sum(), other / other.sum()
    mean = (p + q) / 2

    def relative(x):
        there = x > 0
        return float((x[there] * np.log2(x[there] / mean[there])).sum())

    return (relative(p) + relative(q)) / 2


def language_information(counts: np.ndarray) -> float:
    """Compute I(language; code) / H(language) from counts (L, V).

    All languages have the same weight, regardless of their amounts of data. Like PNMI,
    the ratio is biased upwards if frames are few; see by_chance().
    """
    shares = counts / counts.sum(axis=1, keepdims=True) / len(counts)  # joint
    mean = shares.sum(axis=0)
    there = shares > 0
    expected = np.broadcast_to(mean / len(counts), shares.shape)
    information = (shares[there] * np.log(shares[there] / expected[there])).sum()
    return float(information / np.log(len(counts)))


def by_chance(counts: np.ndarray) -> np.ndarray:
    """Redraw each language's codes, (L, V), from the languages' mean distribution."""
    shares = (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0)
    draws = np.random.default_rng(0)
    return np.stack([draws.multinomial(row.sum(), shares) for row in counts])


def spell(
    model: BiRQModel,
    train: Path,
    test: Path,
    languages: Collection[str],
    out: Path,
    conf: Settings,
) -> dict[str, float | None]:
    """Train a character probe on each language; return CERs in %, None without text.

    Raises:
        DataError: Only one of the sets has text of a language, or none of any; or see
            probe().
    """
    # Check all sets now, not after the training of the first probes.
    spelt = [x for x in languages if _write_subsets(model, train, test, x, out, conf)]
    if not spelt:
        raise DataError(
            f"{train}/text: no transcript of any language; add them, or leave the "
            "probes out (--updates 0)"
        )
    errors: dict[str, float | None] = dict.fromkeys(languages)
    for language in spelt:
        own = out / language
        found = probe(model, own / "train", [own / "test"], own / "probe", conf)
        errors[language] = found["cer"]["test"]["percent"]
    return errors


def _write_subsets(
    model: BiRQModel, train: Path, test: Path, language: str, out: Path, conf: Settings
) -> bool:
    """Write and check a language's part of both sets; return whether it has text."""
    own = out / language
    subsets = [
        _subset(folder, language, own / name) for name, folder in _named(train, test)
    ]
    if not any(subsets):
        return False
    for folder, there in zip((train, test), subsets):
        if not there:
            raise DataError(
                f"{folder}/text: nothing of language '{language}', which the other set "
                "has; add its transcripts, or leave them out there, too"
            )
    find_utterances(model, own / "train", conf.max_seconds)
    find_utterances(model, own / "test")
    return True


def _named(train: Path, test: Path):
    return (("train", train), ("test", test))


def _subset(folder: Path, language: str, dest: Path) -> bool:
    """Write a language's wav.scp and text; return whether it has any text."""
    text = folder / "text"
    texts = read_scp(text, allow_empty_values=True) if text.is_file() else {}
    utterances = read_languages(folder).get(language, [])
    chosen = sorted(x for x in utterances if texts.get(x, "").strip())
    if not chosen:
        return False
    files = read_audio_list(folder)
    dest.mkdir(parents=True, exist_ok=True)
    write_whole(dest / "wav.scp", format_scp((x, files[x]) for x in chosen))
    write_whole(dest / "text", format_scp((x, texts[x]) for x in chosen))
    return True


def compare_languages(
    model: BiRQModel,
    train: Path,
    test: Path,
    out: Path,
    utterances: int,
    settings: Settings | None,
) -> str:
    """Count codes and train character probes by language; write languages.{json,md}.

    Args:
        model: Model in evaluation mode.
        train: Data directory on which probes are trained.
        test: Data directory on which codes are counted and probes tested.
        out: Output folder.
        utterances: Maximum number of utterances per language whose codes are counted.
        settings: Settings of the probes; None: no probes.

    Returns:
        The page, as Markdown.

    Raises:
        DataError: See read_languages(), count_codes() and spell().
    """
    languages = read_languages(test)
    out.mkdir(parents=True, exist_ok=True)
    counts = count_codes(model, test, languages, utterances)
    errors: dict[str, float | None] = {}
    if settings is not None:
        errors = spell(model, train, test, languages, out, settings)
    found = {
        name: {
            "languages": {
                language: [code_use(book)._asdict() for book in rows]
                for language, rows in zip(languages, table)
            },
            "language_information": [
                language_information(table[:, book]) for book in range(table.shape[1])
            ],
            "by_chance": [
                language_information(by_chance(table[:, book]))
                for book in range(table.shape[1])
            ],
        }
        for name, table in counts.items()
    }
    page = _page(list(languages), counts, errors)
    text = json.dumps({"codes": found, "cer": errors}, indent=1)
    write_whole(out / "languages.json", text + "\n")
    write_whole(out / "languages.md", page + "\n")
    return page


def _page(
    languages: list[str],
    counts: Mapping[str, np.ndarray],
    errors: Mapping[str, float | None],
) -> str:
    parts = []
    for name, table in counts.items():
        for book in range(table.shape[1]):
            own = table[:, book]
            title = name + (f", codebook {book + 1}" if table.shape[1] > 1 else "")
            head = [title, "frames", f"codes of {own.shape[1]}", "perplexity"]
            head += [f"from {x}" for x in languages]
            rows = [
                [language, one.frames, one.used, f"{one.perplexity:.1f}"]
                + [f"{divergence(own[number], other):.3f}" for other in own]
                for number, language in enumerate(languages)
                for one in [code_use(own[number])]
            ]
            told, chance = map(language_information, (own, by_chance(own)))
            parts.append(
                markdown_table(head, rows)
                + f"\n\nCodes tell {100 * told:.1f} % of the language, by chance "
                f"{100 * chance:.1f} %."
            )
    if errors:
        rows = [
            [language, "no text" if error is None else f"{error:.1f}"]
            for language, error in errors.items()
        ]
        parts.append(markdown_table(["characters", "CER %"], rows))
    return "\n\n".join(parts)
