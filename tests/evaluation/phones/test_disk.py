"""PNMI of labels on disk: computed by hand, and errors for mismatches."""

import re

import numpy as np
import pytest

from espnet2_birq.bin import score_labels


@pytest.fixture
def files(tmp_path):
    """Two utterances of 1 s, 25 labels per second; b has no alignment after 0.8 s."""
    # a: 0.4 s A, 0.6 s B; b: 0.8 s A
    (tmp_path / "phones.tsv").write_text("a\tA:40 B:60\nb\tA:80\nc\tB:7\n")
    text = tmp_path / "labels"
    # Units correspond to phones, but A has two
    text.write_text(
        "a " + " ".join(["3"] * 10 + ["7"] * 15) + "\n"
        "b " + " ".join(["5"] * 10 + ["3"] * 10 + ["9"] * 4 + ["-1"]) + "\n"
    )
    return tmp_path, text


def test_by_hand(files, capsys):
    folder, text = files
    command = ["--alignment", str(folder / "phones.tsv")]
    score_labels.main([*command, "--labels", f"{text},labels,text_int"])
    said = capsys.readouterr().out
    # 45 frames have a phone; units 3 and 5 (A) and 7 (B) determine it completely.
    assert said.startswith("PNMI 1.000, by chance 0.")
    assert "3 labels" in said and "45 frames of 2 utterances" in said
    shares = np.array([20, 10, 15]) / 45
    perplexity = np.exp(-(shares * np.log(shares)).sum())
    assert float(re.search(r"as many as ([\d.]+)", said)[1]) == pytest.approx(
        perplexity, abs=0.05
    )


def test_frames_without_a_label_do_not_count(files, capsys, caplog):
    folder, text = files
    command = ["--alignment", str(folder / "phones.tsv")]
    command += ["--labels", f"{text},labels,text_int"]
    # Of c, whose audio was unreadable, dump_labels does not know the length.
    units = ["-1"] * 5 + ["3"] * 5 + ["7"] * 15
    text.write_text(f"a {' '.join(units)}\nc -1 -1 -1\n")
    (folder / "phones.tsv").write_text("a\tA:40 B:60\nc\tB:700\n")
    score_labels.main(command)
    said = capsys.readouterr().out
    assert "2 labels" in said and "20 frames of 1 utterances" in said
    assert "labels: 1 utterances have only the label -1: left out" in caplog.text
    text.write_text("c -1 -1 -1\n")
    with pytest.raises(SystemExit, match="no frame has both a label and a phone"):
        score_labels.main(command)


def test_what_does_not_fit(files):
    folder, text = files
    common = ["--alignment", str(folder / "phones.tsv"), "--labels"]
    with pytest.raises(
        SystemExit, match="labels: a: 25 labels are 0.50 s at --rate 50"
    ):
        score_labels.main([*common, f"{text},labels,text_int", "--rate", "50"])
    with pytest.raises(SystemExit, match="none: no such file, the labels"):
        score_labels.main([*common, f"{folder}/none,labels,text_int"])
    with pytest.raises(SystemExit, match="give FILE,labels,TYPE"):
        score_labels.main([*common, str(text)])
    with pytest.raises(SystemExit, match="labels: not labels of type nope .Not supp"):
        score_labels.main([*common, f"{text},labels,nope"])
    (folder / "empty").touch()
    with pytest.raises(SystemExit, match="empty: not labels of type text_int"):
        score_labels.main([*common, f"{folder}/empty,labels,text_int"])
    text.write_text("a x y\n")
    with pytest.raises(SystemExit, match="labels: not labels of type text_int"):
        score_labels.main([*common, f"{text},labels,text_int"])


def test_a_single_phone_tells_nothing(files):
    folder, text = files
    (folder / "phones.tsv").write_text("a\tA:40 SIL:60\n")
    command = ["--alignment", str(folder / "phones.tsv"), "--drop_silence"]
    words = (
        "phones.tsv: all frames that have a label are of one phone; give more speech"
    )
    with pytest.raises(SystemExit, match=words):
        score_labels.main([*command, "--labels", f"{text},labels,text_int"])


@pytest.mark.parametrize("rate", ["nan", "inf", "0"])
def test_rates_that_cannot_be(rate, capsys):
    command = ["--alignment", "x", "--labels", "x,labels,text_int", "--rate", rate]
    with pytest.raises(SystemExit):
        score_labels.main(command)
    assert "argument --rate: " in capsys.readouterr().err
