"""All ways to compute a word error rate give the same result."""

import re

import pytest

from espnet2_birq.evaluation.decode.pipeline import word_error_rate
from espnet2_birq.evaluation.wer.experiments import plain_set, score_sets
from espnet2_birq.evaluation.wer.sclite import main

REFS = {"s-1": "The cat sat", "s-2": "On the MAT @", "s-3": "so it is"}
HYPS = {"s-1": "the CAT sat down", "s-2": "On a mat", "s-3": "it is"}


def test_decoding_scoring_and_sclite_agree(tmp_path, capsys):
    """Case is ignored, and the token @ stands for no word."""
    paths = []
    for name, texts in (("ref.trn", REFS), ("hyp.trn", HYPS)):
        lines = [f"{text} ({utt_id})\n" for utt_id, text in texts.items()]
        (tmp_path / name).write_text("".join(lines))
        paths.append(tmp_path / name)
    (row,) = score_sets([plain_set(*paths)])
    assert row["wer"]["percent"] == pytest.approx(100 * 3 / 9)
    assert word_error_rate(REFS, HYPS) == row["wer"]["percent"]
    ref, hyp = map(str, paths)
    main(["-r", ref, "trn", "-h", hyp, "trn", "-i", "rm", "-o", "all", "stdout"])
    total = re.search(r"Sum +\|(.*)\|", capsys.readouterr().out)[1]
    assert total.replace("|", "").split() == "3 9 7 1 1 1 3 3".split()


def test_an_utterance_without_a_text_is_deleted():
    """Leaving out what could not be decoded would make the error rate too low."""
    hyps = {"s-1": HYPS["s-1"], "of another set": "a b c"}
    assert word_error_rate(REFS, hyps) == pytest.approx(100 * (1 + 3 + 3) / 9)
