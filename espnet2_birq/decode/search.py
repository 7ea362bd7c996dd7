"""From CTC's log-probabilities to tokens: greedy, best path, or with a word n-gram.

All take a matrix (T, V) of natural log-probabilities, of T encoder frames and V tokens
of which number 0 is the blank, and need nothing but NumPy and, with an n-gram,
flashlight-text: they run in worker processes without PyTorch.
"""

import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flashlight.lib.text.decoder import (
    CriterionType,
    LexiconDecoder,
    LexiconDecoderOptions,
    SmearingMode,
    Trie,
)
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary

from espnet2_birq.errors import ConfigError, DataError

BLANK = 0
SPACE = "<space>"
UNKNOWN = "<unk>"
NOT_WORDS = ("<s>", "</s>", UNKNOWN, "<UNK>")
IMPOSSIBLE = -1e9  # a log-probability that keeps finite sums finite


class Hypothesis(NamedTuple):
    """What a search found.

    Attributes:
        tokens: Token numbers, without blanks.
        score: Natural logarithm of what the search maximises.
    """

    tokens: list[int]
    score: float


def best_path(log_probs: np.ndarray) -> Hypothesis:
    """Likeliest token of each frame; repeats, then blanks removed."""
    codes = log_probs.argmax(axis=1)
    first = np.diff(codes, prepend=-1) != 0
    tokens = codes[first & (codes != BLANK)].tolist()
    return Hypothesis(tokens, float(log_probs.max(axis=1).sum()))


def greedy(log_probs: np.ndarray, eos: int) -> Hypothesis:
    """Label by label, that of the likeliest prefix, until the end is likelier.

    This is the prefix search of CTC (Graves et al., ICML 2006, section 3.2) with one
    hypothesis, and what ESPnet's asr_inference does with beam_size 1 and ctc_weight 1.
    Unlike the best path it sums over all alignments.

    The recursion over frames r[t] = p[t] (r[t-1] + s[t-1]) is solved for all frames at
    once: with P[t] the product of p up to t, r[t] = P[t] * sum of s[u] / P[u], u < t.

    Args:
        log_probs: (T, V).
        eos: Number of the token <sos/eos>, which is never an output.
    """
    if not len(log_probs):
        return Hypothesis([], 0.0)
    log_probs = log_probs.astype(np.float64)
    probs = np.exp(log_probs)
    sums = np.cumsum(log_probs, axis=0)  # (T, V)
    start = np.full(1, -np.inf)
    label = np.full(len(sums), -np.inf)  # (T,) prefix ends at t with its last label
    blank = sums[:, BLANK]  # (T,) prefix ends at t with a blank
    tokens: list[int] = []
    while True:
        total = np.logaddexp(label[-1], blank[-1])
        before = np.logaddexp(label, blank)
        first = start if tokens else np.zeros(1)
        # (T,) where a new label may begin; the last label again only after a blank
        free = np.concatenate([first, before[:-1]])
        most = free.max()
        prefix = np.einsum("t,tv->v", np.exp(free - most), probs)
        if tokens:
            last = np.concatenate([start, blank[:-1]])
            prefix[tokens[-1]] = np.exp(last - most) @ probs[:, tokens[-1]]
        prefix[[BLANK, eos]] = 0
        best = int(prefix.argmax())
        if len(tokens) == len(sums) or not np.log(prefix[best]) + most > total:
            return Hypothesis(tokens, float(total))
        if tokens and best == tokens[-1]:
            free = last
        label = _scan(free, sums[:, best])
        blank = _scan(np.concatenate([start, label[:-1]]), sums[:, BLANK])
        tokens.append(best)


def _scan(entries: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """(T,) forward variables of a label that may be entered at each frame."""
    products = np.concatenate([np.zeros(1), sums[:-1]])
    return sums + np.logaddexp.accumulate(entries - products)


class Weights(NamedTuple):
    """How the beam search weighs and prunes.

    Attributes:
        lm_weight: Of the n-gram's log10 probability, against CTC's natural logarithm
            (flashlight's and fairseq's convention).
        word_score: Added for each word, in natural logarithm: a negative one makes
            words fewer.
        beam_size: Hypotheses kept after each frame.
        beam_threshold: Those so much below the best are dropped, natural logarithm.
    """

    lm_weight: float = 1.5
    word_score: float = 0.0
    beam_size: int = 100
    beam_threshold: float = 25.0


class NgramSearch:
    """Beam search over the words of an n-gram, spelled by characters.

    W maximises log P_CTC(W) + lm_weight log10 P_LM(W) + word_score |W|, where P_CTC is
    the sum over all alignments of W. Only words of `words` can be found. The search is
    flashlight-text's LexiconDecoder.

    Args:
        lm: ARPA file, may be gzipped, or KenLM binary.
        tokens: The model's tokens; number 0 is the blank.
        words: What can be recognised; those with a letter that is no token are left
            out.
        weights: See Weights; `search.weights = ...` changes them.

    Raises:
        ConfigError: The tokens have no <space>, or no word can be spelled.
        DataError: The n-gram cannot be read.
    """

    def __init__(
        self,
        lm: str | Path,
        tokens: Sequence[str],
        words: Iterable[str],
        weights: Weights = Weights(),
    ):
        if SPACE not in tokens:
            raise ConfigError(
                f"no token {SPACE}: with an n-gram, only models of characters "
                "(--token_type char) can be decoded; leave out --lm"
            )
        numbers = {token: number for number, token in enumerate(tokens)}
        self._space = numbers[SPACE]
        self.words, self._spelling, self.unspelled = [], [], 0
        for word in words:
            spelling = [numbers.get(letter) for letter in word]
            if None in spelling or word in NOT_WORDS:
                self.unspelled += word not in NOT_WORDS
                continue
            self.words.append(word)
            self._spelling.append(spelling)
        if not self.words:
            raise ConfigError(
                f"{lm}: no word of it can be spelled with the model's tokens; is it "
                "of another language, or lower case?"
            )
        try:
            self._lm = KenLM(str(lm), Dictionary([*self.words, UNKNOWN]))
        except RuntimeError as error:
            raise DataError(f"{lm}: KenLM cannot read it: {error}") from error
        self._trie = self._make_trie(len(tokens))
        self.weights = weights

    def _make_trie(self, size: int) -> Trie:
        trie = Trie(size, self._space)
        start = self._lm.start(False)
        for number, spelling in enumerate(self._spelling):
            _, score = self._lm.score(start, number)
            trie.insert([*spelling, self._space], number, score)
        trie.smear(SmearingMode.MAX)
        return trie

    @property
    def weights(self) -> Weights:
        """How it weighs and prunes."""
        return self._weights

    @weights.setter
    def weights(self, weights: Weights) -> None:
        self._weights = weights
        options = LexiconDecoderOptions(
            weights.beam_size,
            1 << 20,  # tokens tried for each frame: all
            weights.beam_threshold,
            weights.lm_weight,
            weights.word_score,
            float("-inf"),  # unknown words
            0.0,  # silence
            True,  # sum over alignments
            CriterionType.CTC,
        )
        self._decoder = LexiconDecoder(
            *(options, self._trie, self._lm, self._space, BLANK),
            *(len(self.words), [], False),
        )

    def __call__(self, log_probs: np.ndarray) -> Hypothesis:
        """Search in (T, V) log-probabilities."""
        # In the lexicon a word ends with a space, but no space ends an utterance:
        # a last frame that is a space for certain ends the last word.
        end = np.full((1, log_probs.shape[1]), IMPOSSIBLE)
        end[0, self._space] = 0
        frames = np.ascontiguousarray(np.vstack([log_probs, end]), dtype=np.float32)
        found = self._decoder.decode(frames.ctypes.data, *frames.shape)
        if not found:
            return Hypothesis([], IMPOSSIBLE)
        tokens: list[int] = []
        for number in found[0].words:
            if number >= 0:
                tokens += [self._space] * bool(tokens) + self._spelling[number]
        return Hypothesis(tokens, found[0].score)


def arpa_words(path: Path) -> Iterator[str]:
    """Yield the words of an ARPA file, which may be gzipped, from its unigrams.

    Raises:
        DataError: The file is missing or has no unigrams.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    inside = False
    try:
        with opener(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                if inside and line.startswith("\\"):
                    return
                if inside and line.strip():
                    yield line.split()[1]
                inside = inside or line.strip() == "\\1-grams:"
    except UnicodeDecodeError:
        inside = False
    if not inside:
        raise DataError(
            f"{path}: no ARPA file; with a KenLM binary, give its words in a file, one "
            "in a line, by --words"
        )
