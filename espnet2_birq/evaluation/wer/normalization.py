"""Text normalisations of references and hypotheses before scoring."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from espnet2_birq.corpora.ami.scoring import HESITATION, HESITATIONS, SAME_WORDS
from espnet2_birq.errors import ConfigError
from espnet2_birq.evaluation.wer.transcripts import fold_case

NORMALIZATIONS = ("none", "kaldi", "whisper")


class Normalization(NamedTuple):
    """Text normalisation.

    Attributes:
        name: Name in tables.
        apply: Function that normalises an utterance (words separated by spaces).
        optional: Reference word that the hypothesis may omit.
    """

    name: str
    apply: Callable[[str], str]
    optional: str | None = None


def get_normalization(name: str, case_sensitive: bool = False) -> Normalization:
    """Get a normalisation.

    Args:
        name: One of these.
            none: ignores the case of ASCII letters only, as in sclite.
            kaldi: rules of the glm file of AMI's preparation: hesitations are one
            optional word, and spellings of OKAY, MM-HMM and UH-HUH are unified.
            whisper: OpenAI's normaliser of English (arXiv 2212.04356, appendix C).
        case_sensitive: Whether to distinguish "a" and "A"; only for none.

    Returns:
        The normalisation.

    Raises:
        ConfigError: The name is unknown, the normalisation cannot be case-sensitive, or
            its package is not installed.
    """
    if name not in NORMALIZATIONS:
        raise ConfigError(
            f"--normalize {name}: unknown; use one of {', '.join(NORMALIZATIONS)}"
        )
    if name == "none":
        if case_sensitive:
            return Normalization("none, case counts", str)
        return Normalization("none", fold_case)
    if case_sensitive:
        raise ConfigError(
            f"--case_sensitive: not with --normalize {name}, which ignores the case"
        )
    if name == "kaldi":
        return Normalization(name, apply_glm, HESITATION)
    return Normalization(name, _whisper())


def apply_glm(text: str) -> str:
    """Apply the rules of AMI's glm file to words separated by spaces."""
    return _PATTERN.sub(lambda match: _RULES[match[0]], text.upper())


_RULES = SAME_WORDS | dict.fromkeys(HESITATIONS, HESITATION)
_PATTERN = re.compile(
    rf"(?<!\S)({'|'.join(map(re.escape, sorted(_RULES, key=len, reverse=True)))})(?!\S)"
)


def _whisper() -> Callable[[str], str]:
    try:
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise ConfigError(
            "--normalize whisper: its package is missing; pip install "
            "whisper-normalizer"
        ) from error
    # Cached, since two systems and their reference have many equal utterances.
    return lru_cache(maxsize=300_000)(EnglishTextNormalizer())
