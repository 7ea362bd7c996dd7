"""Word and character error rates, with confidence intervals, from trn files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import jiwer
import numpy as np

from espnet2_birq.errors import DataError

# NIST sclite ignores the case of ASCII letters, and of no others.
_FOLD = str.maketrans(ascii_uppercase, ascii_lowercase)

# A reference token and what was recognised instead; None is no token.
AlignedPair = tuple[str | None, str | None]


@dataclass(frozen=True)
class Counts:
    """How many tokens were right and wrong.

    Attributes:
        correct: Reference tokens that were recognised.
        sub: Reference tokens that were recognised as another.
        del_: Reference tokens that were left out.
        ins: Recognised tokens that the reference does not have.
    """

    correct: int = 0
    sub: int = 0
    del_: int = 0
    ins: int = 0

    @property
    def ref_tokens(self) -> int:
        """Length of the reference."""
        return self.correct + self.sub + self.del_

    @property
    def errors(self) -> int:
        """Errors of all three kinds."""
        return self.sub + self.del_ + self.ins

    def __add__(self, other: "Counts") -> "Counts":
        """Add kind by kind."""
        return Counts(
            self.correct + other.correct,
            self.sub + other.sub,
            self.del_ + other.del_,
            self.ins + other.ins,
        )


def fold_case(tokens: Sequence[str]) -> list[str]:
    """Return the tokens with ASCII letters in lower case, which is sclite's default."""
    return [token.translate(_FOLD) for token in tokens]


def read_trn(path: str | Path) -> dict[str, list[str]]:
    """Read a file of lines `token token ... (speaker-utterance)`.

    Args:
        path: The file; UTF-8.

    Returns:
        Utterance id to its tokens, of which there may be none, in the file's order.

    Raises:
        DataError: The file is missing or empty, a line has no id, or an id comes twice.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; run asr.sh with --stage 12")
    transcripts: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            line = line.strip()
            if not line:
                continue
            start = line.rfind("(")
            utt_id = line[start + 1 : -1]
            if start < 0 or not line.endswith(")") or not utt_id or " " in utt_id:
                raise DataError(
                    f"{path}: line {number} does not end with (speaker-utterance); "
                    "run asr.sh --stage 13 again"
                )
            if utt_id in transcripts:
                raise DataError(
                    f"{path}: line {number}: ({utt_id}) is there twice; remove one"
                )
            transcripts[utt_id] = line[:start].split()
    if not transcripts:
        raise DataError(f"{path}: empty file; run asr.sh with --stage 12")
    return transcripts


def read_trn_pair(
    ref: str | Path, hyp: str | Path
) -> dict[str, tuple[list[str], list[str]]]:
    """Read a reference and a hypothesis that are of the same utterances.

    Args:
        ref: trn file of the reference.
        hyp: trn file of the hypothesis.

    Returns:
        Utterance id to reference tokens and hypothesis tokens, in the order of `ref`.

    Raises:
        DataError: As in read_trn, or an utterance is in one file only.
    """
    ref_of, hyp_of = read_trn(ref), read_trn(hyp)
    for path, other, missing in (
        (hyp, ref, [utt_id for utt_id in ref_of if utt_id not in hyp_of]),
        (ref, hyp, [utt_id for utt_id in hyp_of if utt_id not in ref_of]),
    ):
        if missing:
            some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DataError(
                f"{path}: lacks {len(missing)} utterance(s) of {other}: {some}; "
                "run asr.sh with --stage 12 again"
            )
    return {utt_id: (tokens, hyp_of[utt_id]) for utt_id, tokens in ref_of.items()}


def align(ref_tokens: Sequence[str], hyp_tokens: Sequence[str]) -> list[AlignedPair]:
    """Align two token sequences with the least possible number of errors.

    Args:
        ref_tokens: What was said.
        hyp_tokens: What was recognised.

    Returns:
        Pairs (reference token, hypothesis token) in order. A deletion is (token, None),
        an insertion (None, token).
    """
    # jiwer splits at spaces; numbers keep tokens with unusual whitespace whole.
    number: dict[str, str] = {}
    ref_line, hyp_line = (
        " ".join(number.setdefault(token, str(len(number))) for token in tokens)
        for tokens in (ref_tokens, hyp_tokens)
    )
    (chunks,) = jiwer.process_words(ref_line, hyp_line).alignments
    pairs: list[AlignedPair] = []
    for chunk in chunks:
        ref = ref_tokens[chunk.ref_start_idx : chunk.ref_end_idx]
        hyp = hyp_tokens[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            pairs += [(token, None) for token in ref]
        elif chunk.type == "insert":
            pairs += [(None, token) for token in hyp]
        else:
            pairs += zip(ref, hyp, strict=True)
    return pairs


def count_pairs(pairs: Sequence[AlignedPair]) -> Counts:
    """Count the kinds of errors in an alignment."""
    correct = sub = del_ = ins = 0
    for ref, hyp in pairs:
        correct += ref == hyp
        del_ += hyp is None
        ins += ref is None
        sub += ref is not None and hyp is not None and ref != hyp
    return Counts(correct, sub, del_, ins)


def count_errors(ref_tokens: Sequence[str], hyp_tokens: Sequence[str]) -> Counts:
    """Count the errors in one utterance.

    Args:
        ref_tokens: What was said.
        hyp_tokens: What was recognised.

    Returns:
        The counts of an alignment with the least possible number of errors.
    """
    return count_pairs(align(ref_tokens, hyp_tokens))


def error_rate(counts: Sequence[Counts]) -> float:
    """Compute the error rate of a corpus.

    Args:
        counts: Of each utterance.

    Returns:
        Errors per reference token; more than 1 is possible.

    Raises:
        DataError: The reference has no token at all.
    """
    total = sum(counts, Counts())
    if not total.ref_tokens:
        raise DataError("no error rate: the reference has no token; check its text")
    return total.errors / total.ref_tokens


def bootstrap_interval(
    counts: Sequence[Counts], resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Estimate a confidence interval of the error rate by resampling utterances.

    It takes utterances as independent, so it is too narrow where there are few
    speakers, and it says nothing about another training run of the model.

    Args:
        counts: Of each utterance.
        resamples: How many corpora of the same number of utterances are drawn.
        seed: Seed of the draws.
        level: Share of the resampled error rates that lie in the interval.

    Returns:
        Lower and upper end, as percentiles; errors per reference token.

    Raises:
        DataError: The reference has no token at all.
    """
    error_rate(counts)
    errors = np.array([count.errors for count in counts])
    tokens = np.array([count.ref_tokens for count in counts])
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(resamples):
        drawn = rng.integers(len(counts), size=len(counts))
        # A draw of utterances without any token has no error rate.
        if length := tokens[drawn].sum():
            rates.append(errors[drawn].sum() / length)
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
