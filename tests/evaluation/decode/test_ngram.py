"""n-grams against lmplz's published output, KenLM's reader and NLTK's definition."""

import math
import random

import kenlm
import pytest

from espnet2_birq.bin.train_ngram import main
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.decode.ngram import (
    BEGIN,
    END,
    UNKNOWN,
    arpa_lines,
    estimate,
    mix,
    perplexity,
    read_arpa,
    tune_weights,
)
from espnet2_birq.evaluation.decode.ngram_training import read_sentences

# From KenLM's lm/common/test_data: output of its lmplz, made by generate.sh there.
TOY_TEXT = ["a a b a", "b a a b"]
TOY_ARPA = """\\data\\
ngram 1=5
ngram 2=7
ngram 3=7

\\1-grams:
-0.90309\t<unk>\t0
0\t<s>\t-0.30103
-0.46943438\ta\t-0.30103
-0.5720968\t</s>\t0
-0.5720968\tb\t-0.30103

\\2-grams:
-0.37712017\t<s> a\t-0.30103
-0.37712017\ta a\t-0.30103
-0.2984526\tb a\t-0.30103
-0.58682007\ta </s>\t0
-0.5220179\tb </s>\t0
-0.41574955\t<s> b\t-0.30103
-0.58682007\ta b\t-0.30103

\\3-grams:
-0.14885087\t<s> a a
-0.33741078\tb a a
-0.124077894\t<s> b a
-0.2997394\ta b a
-0.42082912\tb a </s>
-0.397617\ta b </s>
-0.20102891\ta a b

\\end\\"""


def sentences_of(seed, number, words="abcdefgh"):
    """Draw sentences in which words depend on their predecessors, with frequent words."""
    generator = random.Random(seed)
    found = []
    for _ in range(number):
        sentence = [generator.choice(words)]
        while generator.random() > 0.15:
            at = words.index(sentence[-1])
            sentence.append(words[(at + int(generator.expovariate(0.8))) % len(words)])
        found.append(sentence)
    return found


def write(model, path):
    path.write_text("".join(line + "\n" for line in arpa_lines(model)))
    return path


def test_equals_what_lmplz_has_published():
    model = estimate([line.split() for line in TOY_TEXT], 3)
    golden = read_arpa(TOY_ARPA.splitlines(), "toy")
    assert model.prob.keys() == golden.prob.keys()
    for ngram in golden.prob.keys() - {(BEGIN,)}:
        assert model.prob[ngram] == pytest.approx(golden.prob[ngram], abs=1e-6)
    for ngram, weight in golden.backoff.items():
        assert model.backoff.get(ngram, 0.0) == pytest.approx(weight, abs=1e-6)


def contexts(model):
    return {ngram[:-1] for ngram in model.prob} | {("c", "h", "a", "b"), ("d",)}


def assert_sums_to_one(model):
    words = model.words - {BEGIN}
    for context in contexts(model):
        total = sum(10 ** model.score(context, word) for word in words)
        assert total == pytest.approx(1, abs=1e-6), context


@pytest.mark.parametrize("order, prune", [(1, [0]), (2, [0]), (4, [0]), (4, [0, 0, 1])])
def test_probabilities_sum_to_one(order, prune):
    model = estimate(sentences_of(0, 200), order, prune, words=["unseen"])
    assert {UNKNOWN, END, "unseen"} < model.words
    assert_sums_to_one(model)


def test_counts_from_which_a_discount_would_be_zero():
    # Four bigrams occur once, one twice and one three times.
    model = estimate([text.split() for text in ("a b d", "a d", "a")], 2)
    words = [*model.words - {BEGIN}]
    assert sum(10 ** model.score((BEGIN,), word) for word in words) == pytest.approx(1)


def test_pruning_leaves_out_what_is_seldom():
    sentences = sentences_of(0, 200)
    whole, pruned = estimate(sentences, 3), estimate(sentences, 3, [0, 0, 2])
    text = [" ".join([BEGIN, *words, END]) for words in sentences]
    gone = [" ".join(ngram) for ngram in whole.prob.keys() - pruned.prob.keys()]
    assert gone
    for ngram in gone:
        padded = [f" {line} " for line in text]
        assert ngram.count(" ") == 2
        assert sum(line.count(f" {ngram} ") for line in padded) <= 2


def test_bigram_by_the_papers_formula():
    # Chen and Goodman (TR-10-98), section 3, written out for single n-grams.
    sentences = sentences_of(2, 300, "abcdefghijklmnopqrstuvwxyz")
    model = estimate(sentences, 2)
    pairs = [pair for s in sentences for pair in zip([BEGIN, *s], [*s, END])]
    count = {pair: pairs.count(pair) for pair in set(pairs)}

    def discounts(counts):
        n = [list(counts).count(k) for k in range(5)]
        y = n[1] / (n[1] + 2 * n[2])
        return [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]

    d = discounts(count.values())
    after = {word: len({x for x, y in count if y == word}) for _, word in count}
    one = 0.5, 1.0, 1.5  # defaults for unigrams: too few words to estimate discounts

    def shared(counts, d):
        return sum(d[min(c, 3) - 1] for c in counts) / sum(counts)

    below = shared(after.values(), one) / (len(after) + 1)
    for word, next_word in list(count)[:20]:
        unigram = (after[next_word] - one[min(after[next_word], 3) - 1]) / len(count)
        row = [c for (first, _), c in count.items() if first == word]
        seen = count[word, next_word]
        p = (seen - d[min(seen, 3) - 1]) / sum(row)
        p += shared(row, d) * (unigram + below)
        assert 10 ** model.score((word,), next_word) == pytest.approx(p, rel=1e-9)


def test_kenlm_reads_the_same_perplexity(tmp_path):
    model = estimate(sentences_of(0, 300), 4, [0, 0, 1])
    reader = kenlm.Model(str(write(model, tmp_path / "x.arpa")))
    held_out = [*sentences_of(5, 50), ["a", "never", "b"]]
    own, unknown = perplexity(model, held_out)
    total = sum(reader.score(" ".join(words)) for words in held_out)
    events = sum(len(words) + 1 for words in held_out)
    assert own == pytest.approx(10 ** (-total / events), rel=1e-4)
    assert unknown == 1
    assert read_arpa(arpa_lines(model), "x").prob.keys() == model.prob.keys()


def test_a_mixture_is_normalised_and_better_than_its_parts(tmp_path):
    first = estimate(sentences_of(0, 100, "abcdefgh"), 3)
    second = estimate(sentences_of(1, 100, "hgfexyz"), 3)
    dev = sentences_of(7, 30, "abcdefgh") + sentences_of(8, 10, "hgfexyz")
    weights = tune_weights([first, second], dev)
    assert sum(weights) == pytest.approx(1) and weights[0] > weights[1] > 0.1
    mixed = mix([first, second], weights)
    assert_sums_to_one(mixed)
    for ngram in [("a", "b"), (BEGIN, "h"), ("x", "y", "z")]:
        expected = sum(
            weight * 10 ** model.score(ngram[:-1], ngram[-1])
            for weight, model in zip(weights, (first, second))
            if ngram[-1] in model.words
        )
        if all(ngram[-1] in model.words for model in (first, second)):
            assert 10 ** mixed.score(ngram[:-1], ngram[-1]) == pytest.approx(expected)
        else:  # the other model gives it a share of P(<unk>)
            assert 10 ** mixed.score(ngram[:-1], ngram[-1]) > expected
    best = min(perplexity(mix([first, second], [w, 1 - w]), dev)[0] for w in (0.1, 0.9))
    assert perplexity(mixed, dev)[0] < best
    kenlm.Model(str(write(mixed, tmp_path / "mixed.arpa")))


def test_tuned_weights_are_where_the_likelihood_is_greatest():
    models = [estimate(sentences_of(seed, 60), 2) for seed in (0, 1)]
    dev = sentences_of(9, 40)
    best = tune_weights(models, dev, rounds=200)[0]

    def log_likelihood(weight):
        scores = zip(*([x for s in dev for x in m.score_sentence(s)] for m in models))
        return sum(math.log(weight * 10**a + (1 - weight) * 10**b) for a, b in scores)

    for weight in (best - 0.05, best + 0.05):
        assert log_likelihood(best) > log_likelihood(weight)


def test_the_command(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    caplog.set_level("INFO")
    data = tmp_path / "train"
    data.mkdir()
    lines = [f"utt{n:03} {' '.join(x)}\n" for n, x in enumerate(sentences_of(0, 90))]
    (data / "text").write_text("".join(lines))
    dev = tmp_path / "dev.txt"
    dev.write_text("a b c\nb never c\n")
    out = tmp_path / "exp" / "x.arpa"
    main(["--text", str(data), "--dev", str(dev), "--out", str(out), "--order", "3"])
    assert "1 of its 8 words and sentence ends are unknown" in caplog.text
    assert kenlm.Model(str(out)).order == 3
    mixed = tmp_path / "mixed.arpa"
    more = ["--interpolate", str(out), "--dev", str(dev), "--out", str(mixed)]
    main(["--text", str(dev), *more])
    assert "--text: weight" in caplog.text and f"{out}: weight" in caplog.text
    empty = tmp_path / "empty.txt"
    empty.touch()
    for options, words in (
        (["--interpolate", str(out)], "--interpolate needs --dev"),
        (["--prune", "0", "2", "1"], "never falls"),
        (["--dev", str(tmp_path / "none")], "no such file or data directory"),
        (["--dev", str(empty)], "empty.txt: has no sentence"),
    ):
        with pytest.raises(SystemExit, match=words):
            main(["--text", str(data), "--out", str(tmp_path / "y.arpa"), *options])


def test_lmplz_is_used_where_it_is(tmp_path, monkeypatch):
    # Check the input of lmplz, and that its output is used.
    program = tmp_path / "lmplz"
    program.write_text(
        '#!/bin/sh\necho "$@" > "$0.args"; cat > "$0.text"\n'
        f'while [ "$1" != --arpa ]; do shift; done; cp {tmp_path}/toy "$2"\n'
    )
    program.chmod(0o755)
    (tmp_path / "toy").write_text(TOY_ARPA)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "text").write_text("a b\nb\n")
    out = tmp_path / "x.arpa"
    main(["--text", str(tmp_path / "text"), "--out", str(out), "--order", "3"])
    assert out.read_text() == TOY_ARPA
    assert (tmp_path / "lmplz.text").read_text() == "a b\nb\n"
    given = (tmp_path / "lmplz.args").read_text()
    assert given.startswith("-o 3 --discount_fallback --prune 0 0 1 --arpa ")
    program.write_text("#!/bin/sh\ncat > /dev/null; exit 3\n")
    with pytest.raises(SystemExit, match="ended with status 3"):
        main(["--text", str(tmp_path / "text"), "--out", str(out)])
    # Ends before it has read more than a pipe holds.
    program.write_text("#!/bin/sh\nexit 4\n")
    (tmp_path / "text").write_text("a b\n" * 300_000)
    with pytest.raises(SystemExit, match="ended with status 4"):
        main(["--text", str(tmp_path / "text"), "--out", str(out)])


@pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>", "<UNK>"])
def test_words_that_ngrams_have_for_themselves(tmp_path, word):
    """KenLM refuses them, too: probabilities would not sum to one."""
    text = tmp_path / "text"
    text.write_text(f"a b\nb {word} a\n")
    words = f"{text}: line 2 has the word {word}, .*; remove it"
    with pytest.raises(SystemExit, match=words):
        main(["--text", str(text), "--out", str(tmp_path / "x.arpa")])
    text.write_text(f"utt1 a b\nutt2 b {word}\n")
    with pytest.raises(DataError, match=f"{text}: utt2 has the word {word}, "):
        read_sentences(tmp_path)
    text.write_text("utt1 a<unk> b\n")
    assert read_sentences(tmp_path) == [["a<unk>", "b"]]


def test_broken_input_is_an_error():
    with pytest.raises(DataError, match="no word"):
        estimate([[], []], 3)
    with pytest.raises(DataError, match="cut short"):
        read_arpa(TOY_ARPA.splitlines()[:-1], "toy")
