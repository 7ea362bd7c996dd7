"""Reading of trn files and Kaldi text."""

import pytest

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.wer.transcripts import (
    fold_case,
    read_pair,
    read_transcripts,
)


def test_fold_case_is_of_ascii():
    assert fold_case("AbÉ") == "abÉ"
    assert fold_case("AbC") == "abc"


def test_trn(tmp_path):
    path = tmp_path / "a.trn"
    path.write_text("A (B) c\t(s_1-u-1)\n\t(s-2)\n\nx(s-3)\n")
    assert read_transcripts(path) == {"s_1-u-1": "A (B) c", "s-2": "", "s-3": "x"}


def test_kaldi_text(tmp_path):
    path = tmp_path / "text"
    path.write_text("u1 a b\nu2\nu3 c (d)\n")
    assert read_transcripts(path) == {"u1": "a b", "u2": "", "u3": "c (d)"}


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "empty file"),
        ("a (s-1)\nb\n", "line 2 does not end with"),
        ("a ()\n", "line 1 does not end with"),
        ("a (b c)\n", "line 1 does not end with"),
        ("a (s-1)\nb (s-1)\n", r"line 2: \(s-1\) occurs twice"),
    ],
)
def test_bad_trn(tmp_path, content, message):
    path = tmp_path / "a.trn"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"a\.trn: {message}"):
        read_transcripts(path)


def test_ids_of_one_file_are_named(tmp_path):
    (tmp_path / "ref").write_text("s-1 a\ns-2 b\n")
    (tmp_path / "hyp").write_text("s-1 a\n")
    for files in (("ref", "hyp"), ("hyp", "ref")):
        with pytest.raises(DataError, match=r"hyp: lacks 1 utt.* of .*ref: s-2;"):
            read_pair(*(tmp_path / name for name in files))
