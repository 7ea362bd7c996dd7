"""CTC beam search with a word n-gram.

Requires the packages of the extra `decode`: flashlight-text and KenLM.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

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
from espnet2_birq.evaluation.decode.search import BLANK, Hypothesis, Weights

SPACE = "<space>"
UNKNOWN = "<unk>"
NOT_WORDS = ("<s>", "</s>", UNKNOWN, "<UNK>")
IMPOSSIBLE = -1e9  # finite log-probability of 0, which keeps sums finite


class NgramSearch:
    """Beam search over the words of an n-gram, spelled in characters.

    W maximises log P_CTC(W) + lm_weight log10 P_LM(W) + word_score |W|, where P_CTC
    sums over all alignments of W. Only words of `words` can be found. The search is
    flashlight-text's LexiconDecoder.

    Args:
        lm: ARPA file, optionally gzipped, or KenLM binary.
        tokens: Tokens of the model; index 0 is the blank.
        words: Vocabulary; repetitions, and words with letters outside the tokens, are
            dropped.
        weights: See Weights; assign `search.weights` to change them.

    Raises:
        ConfigError: The tokens lack <space>, no word can be spelled, or no hypothesis
            would be kept.
        DataError: The n-gram is unreadable.
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
        for word in dict.fromkeys(words):
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
        """Weights and pruning of the search."""
        return self._weights

    @weights.setter
    def weights(self, weights: Weights) -> None:
        if weights.beam_size < 1 or not weights.beam_threshold > 0:
            raise ConfigError(
                f"beam_size {weights.beam_size}, beam_threshold "
                f"{weights.beam_threshold}: keep no hypothesis; give positive ones"
            )
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
            options,
            self._trie,
            self._lm,
            self._space,
            BLANK,
            len(self.words),  # index of unknown words
            [],  # transitions, for other criteria
            False,  # the n-gram is over words
        )

    def __call__(self, log_probs: np.ndarray) -> Hypothesis:
        """Find the best hypothesis for (T, V) log-probabilities."""
        # Every word of the lexicon ends with a space, but an utterance's last word does
        # not: append a frame that certainly is a space.
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
