"""Normalisations, against NIST's filter where it is installed."""

import os
import random
import subprocess
import sys

import pytest
from nist import PATH, needs_nist, random_set, run_sclite, scores

from espnet2_birq.corpora.ami.scoring import HESITATIONS, SAME_WORDS, make_glm
from espnet2_birq.errors import ConfigError
from espnet2_birq.evaluation.wer.alignment import count_errors
from espnet2_birq.evaluation.wer.normalization import apply_glm, get_normalization


def test_none_folds_ascii_alone():
    assert get_normalization("none").apply("AbÉ uh") == "abÉ uh"
    both = get_normalization("none", case_sensitive=True)
    assert both.apply("AbÉ") == "AbÉ" and both.name != "none"


@pytest.mark.parametrize(
    "text, mapped",
    [
        ("ok o. k. okay", "OKAY OKAY OKAY"),
        ("uh UH-HUH uhhuh um", "%HESITATION UH-HUH UH-HUH %HESITATION"),
        ("o. x thumb mhm", "O. X THUMB MM-HMM"),
        ("", ""),
    ],
)
def test_glm(text, mapped):
    assert apply_glm(text) == mapped


def test_hesitations_may_be_missing():
    kaldi = get_normalization("kaldi")
    refs, hyps = ["um ok then uh", "uh"], ["O. K. then", "ERM"]
    counts = count_errors(
        [kaldi.apply(ref) for ref in refs],
        [kaldi.apply(hyp) for hyp in hyps],
        optional=kaldi.optional,
    )
    assert counts.tolist() == [[4, 0, 0, 0], [1, 0, 0, 0]]


def test_whisper():
    pytest.importorskip("whisper_normalizer", reason="no whisper-normalizer")
    whisper = get_normalization("whisper").apply
    # The paper's appendix C: spelling, numbers, titles, fillers, contractions.
    assert whisper("Mr. Smith's colour, um, twenty-five") == "mister smith is color 25"
    assert whisper("won't [noise] two hundred dollars") == "will not $200"


def test_whisper_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(ConfigError, match="pip install whisper-normalizer"):
        get_normalization("whisper")


def test_bad_settings():
    with pytest.raises(ConfigError, match="unknown; use one of none, kaldi, whisper"):
        get_normalization("chime")
    with pytest.raises(ConfigError, match="--case_sensitive: not with"):
        get_normalization("kaldi", case_sensitive=True)


@needs_nist
def test_kaldi_is_the_glm_with_nist(tmp_path):
    """Counts are those of csrfilt.sh with our glm, followed by sclite -D."""
    words = [*HESITATIONS, *SAME_WORDS, "OKAY", "MM-HMM", "YES", "NO", "thumb", "O."]
    refs, hyps = random_set(400, 8, [w for w in words if w != "O. K."])
    rng = random.Random(0)
    # Only in the reference, since csrfilt.sh maps ctm files word by word.
    for utt_id in rng.sample(list(refs), 50):
        refs[utt_id] = f"{refs[utt_id]} O. K.".strip()
    (tmp_path / "glm").write_text(make_glm())
    head = "{0} A s 0 1 {1}\n"
    stm = "".join(head.format(u, text) for u, text in refs.items() if text)
    ctm = "".join(f"{u} A 0 1 {w}\n" for u, text in hyps.items() for w in text.split())
    mapped_refs, mapped_hyps = dict.fromkeys(refs, ""), dict.fromkeys(hyps, "")
    for line in csrfilt(tmp_path, "stm", stm):
        fields = line.split(maxsplit=5)
        mapped_refs[fields[0]] = fields[5]
    for line in csrfilt(tmp_path, "ctm", ctm):
        fields = line.split()
        mapped_hyps[fields[0]] += f" {fields[4]}"
    assert any("(%HESITATION)" in text for text in mapped_refs.values())
    theirs = scores(run_sclite(tmp_path, mapped_refs, mapped_hyps, "-D"))
    kaldi = get_normalization("kaldi")
    ours = count_errors(
        [kaldi.apply(ref) for ref in refs.values()],
        [kaldi.apply(hyp) for hyp in hyps.values()],
        optional=kaldi.optional,
    )
    assert dict(zip(refs, ours.tolist(), strict=True)) == theirs


def csrfilt(folder, form, text):
    done = subprocess.run(
        ["csrfilt.sh", "-i", form, folder / "glm"],
        input=text,
        env={**os.environ, "PATH": PATH},
        check=True,
        capture_output=True,
        text=True,
    )
    return [line for line in done.stdout.splitlines() if not line.startswith(";;")]
