"""Searches against brute force over all alignments, and against ESPnet's."""

import itertools

import kenlm
import numpy as np
import pytest
import torch
from espnet2.asr.ctc import CTC
from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.decode.ngram_search import NgramSearch
from espnet2_birq.evaluation.decode.search import Weights, arpa_words, best_path, greedy
from espnet2_birq.evaluation.decode.sets import read_weights

TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "<sos/eos>"]
ARPA = r"""
\data\
ngram 1=7
ngram 2=3

\1-grams:
-1.2	<unk>	0
-99	<s>	-0.3
-0.5	A	-0.2
-0.6	AB	-0.1
-0.9	B	-0.4
-1.5	CB	0
-0.4	</s>	0

\2-grams:
-0.3	<s> AB
-0.2	A AB
-0.5	B </s>

\end\
"""


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "toy.arpa"
    path.write_text(ARPA)
    return path


def draw(seed, frames, tokens, impossible=()):
    generator = np.random.default_rng(seed)
    scores = 1.5 * generator.normal(size=(frames, tokens))
    scores[:, impossible] = -50
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def collapse(path):
    return tuple(code for code, _ in itertools.groupby(path) if code)


def brute_force(log_probs, weights, lm, lexicon):
    """Sum over all alignments of each word sequence, and the best sequence of words."""
    sums = {}
    for path in itertools.product((0, 2, 3, 4), repeat=len(log_probs)):
        text = "".join(" AB"[code - 2] for code in collapse(path))
        score = sum(log_probs[t, code] for t, code in enumerate(path))
        key = tuple(text.split())
        sums[key] = np.logaddexp(sums.get(key, -np.inf), score)
    return max(
        (
            score
            + weights.lm_weight * lm.score(" ".join(words))
            + weights.word_score * len(words),
            words,
        )
        for words, score in sums.items()
        if set(words) <= lexicon
    )


def test_ngram_search_finds_what_brute_force_finds(arpa):
    lm = kenlm.Model(str(arpa))
    search = NgramSearch(arpa, TOKENS, arpa_words(arpa))
    assert search.words == ["A", "AB", "B"] and search.unspelled == 1
    generator = np.random.default_rng(1)
    lengths = set()
    for seed in range(12):
        weights = Weights(generator.uniform(0, 2), generator.uniform(-1, 1), 10000, 1e6)
        search.weights = weights
        log_probs = draw(seed, 6, len(TOKENS), impossible=[1, 5])
        found = search(log_probs)
        score, words = brute_force(log_probs, weights, lm, set(search.words))
        text = "".join({2: " ", 3: "A", 4: "B"}[token] for token in found.tokens)
        assert tuple(text.split()) == words
        assert found.score == pytest.approx(score, abs=1e-3)
        lengths.add(len(words))
    assert len(lengths) > 1


def test_the_weights_change_the_result(arpa):
    search = NgramSearch(arpa, TOKENS, arpa_words(arpa))
    log_probs = draw(3, 12, len(TOKENS), impossible=[1, 5])
    few, many = (
        search(log_probs)
        for search.weights in (Weights(word_score=-9.0), Weights(word_score=9.0))
    )
    assert few.tokens.count(2) < many.tokens.count(2)


def test_silence_is_an_empty_hypothesis(arpa):
    log_probs = np.full((5, len(TOKENS)), -20.0)
    log_probs[:, 0] = 0
    assert best_path(log_probs).tokens == greedy(log_probs, 5).tokens == []
    assert NgramSearch(arpa, TOKENS, arpa_words(arpa))(log_probs).tokens == []
    nothing = np.zeros((0, len(TOKENS)))
    assert greedy(nothing, 5).tokens == best_path(nothing).tokens == []


def espnet_greedy(log_probs, tokens):
    """Run asr_inference's search with beam_size 1 and ctc_weight 1."""
    ctc = CTC(odim=tokens, encoder_output_size=tokens)
    ctc.ctc_lo = torch.nn.Identity()  # log-softmax does not change log-probabilities
    search = BatchBeamSearch(
        scorers={"ctc": CTCPrefixScorer(ctc=ctc, eos=tokens - 1)},
        weights={"ctc": 1.0},
        beam_size=1,
        vocab_size=tokens,
        sos=tokens - 1,
        eos=tokens - 1,
    )
    best = search(torch.tensor(log_probs, dtype=torch.float32))[0]
    return best.yseq[1:-1].tolist(), float(best.score)


def test_greedy_is_espnets_and_differs_from_the_best_path():
    different = 0
    for seed in range(20):
        log_probs = draw(seed, 15, 6)
        found = greedy(log_probs, eos=5)
        tokens, score = espnet_greedy(log_probs, 6)
        assert found.tokens == tokens
        assert found.score == pytest.approx(score, abs=1e-3)
        different += found.tokens != best_path(log_probs).tokens
    assert different > 5


def test_best_path_is_the_likeliest_alignment():
    for seed in range(5):
        log_probs = draw(seed, 6, 4)
        score, path = max(
            (sum(log_probs[t, code] for t, code in enumerate(path)), path)
            for path in itertools.product(range(4), repeat=6)
        )
        found = best_path(log_probs)
        assert tuple(found.tokens) == collapse(path)
        assert found.score == pytest.approx(score)


def test_what_cannot_be_searched_is_said(arpa, tmp_path):
    with pytest.raises(ConfigError, match="no token <space>"):
        NgramSearch(arpa, ["<blank>", "▁A", "<sos/eos>"], ["A"])
    with pytest.raises(ConfigError, match="no word of it can be spelled"):
        NgramSearch(arpa, TOKENS, ["a", "b"])
    binary = tmp_path / "x.bin"
    binary.write_bytes(b"mmap lm http://kheafield.com/code format\xff\x00")
    with pytest.raises(DataError, match="no ARPA file|with a KenLM binary"):
        list(arpa_words(binary))
    with pytest.raises(DataError, match="KenLM cannot read it"):
        NgramSearch(tmp_path / "none.arpa", TOKENS, ["A"])


@pytest.mark.parametrize("beam", [{"beam_size": 0}, {"beam_threshold": -1.0}])
def test_a_beam_without_hypothesis_is_refused(arpa, beam):
    with pytest.raises(ConfigError, match="keep no hypothesis; give positive ones"):
        NgramSearch(arpa, TOKENS, ["A"], Weights(**beam))


def test_a_word_listed_twice_is_one_word(arpa):
    log_probs = draw(0, 8, len(TOKENS))
    once = NgramSearch(arpa, TOKENS, ["A", "B"])
    twice = NgramSearch(arpa, TOKENS, ["A", "B", "A"])
    assert twice(log_probs) == once(log_probs)
    assert twice.words == once.words == ["A", "B"]


@pytest.mark.parametrize(
    "line", ["beam_size: 7.5", "beam_size: many", "lm_weight: [1]", "word_score: .nan"]
)
def test_weights_that_are_no_numbers(tmp_path, line):
    path = tmp_path / "weights.yaml"
    path.write_text(f"lm: x.arpa\n{line}\n")
    with pytest.raises(
        ConfigError, match=f"yaml: {line.split(':')[0]} .*tune_lm again"
    ):
        read_weights(path)
    path.write_text("lm: x.arpa\nbeam_size: 7\nlm_weight: 2\nword_score: -0.5\n")
    assert read_weights(path)["beam_size"] == 7
