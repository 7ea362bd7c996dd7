"""The stand-in for sclite, with asr.sh's calls, and against the real one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nist import SCLITE, needs_nist, random_set, run_sclite, scores, write_trn

from espnet2_birq.evaluation.wer.sclite import speaker_of, split_characters

ROOT = Path(__file__).resolve().parents[3]
STAND_IN = ROOT / "local/sclite/sclite"
ESPNET = Path(os.environ.get("ESPNET_ROOT", ROOT / "tools/espnet"))
SHOW = "scripts/utils/show_asr_result.sh"
RECIPE = ESPNET / "egs2/TEMPLATE/asr1"

REF = "the cat sat on the mat (spk1-u1)\nhello world\t(spk1-u2)\nA b (s_2-u3)\n"
HYP = "the cat sat on mat (spk1-u1)\n\t(spk1-u2)\na x b (s_2-u3)\n"


def call(program, folder, ref=REF, hyp=HYP, options=()):
    (folder / "ref.trn").write_text(ref)
    (folder / "hyp.trn").write_text(hyp)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    arguments = "-r ref.trn trn -h hyp.trn trn -i rm -o all stdout".split()
    return subprocess.run(
        [*program, *options, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def call_stand_in(folder, *args, **kwargs):
    return call([sys.executable, STAND_IN], folder, *args, **kwargs)


def rows(report):
    """Return rows of a report's tables: the first column, and all numbers after it."""
    return [
        (match[1], re.findall(r"[\d.]+", match[2]))
        for match in re.finditer(r"^\s*\| *(\S+) *\|(.*\d.*)$", report, re.MULTILINE)
        if match[1] not in ("Mean", "S.D.", "Median")
    ]


def test_is_executable_and_says_what_it_is(tmp_path):
    assert os.access(STAND_IN, os.X_OK)
    result = call_stand_in(tmp_path)
    assert result.returncode == 0 and not result.stderr
    assert "not by NIST sclite" in result.stdout.splitlines()[0]


def test_report(tmp_path):
    report = call_stand_in(tmp_path).stdout
    assert rows(report) == [
        ("spk1", "2 8 62.5 0.0 37.5 0.0 37.5 100.0".split()),
        ("s_2", "1 2 100.0 0.0 0.0 50.0 50.0 100.0".split()),
        ("Sum/Avg", "3 10 70.0 0.0 30.0 10.0 40.0 100.0".split()),
        ("spk1", "2 8 5 0 3 0 3 2".split()),
        ("s_2", "1 2 2 0 0 1 1 1".split()),
        ("Sum", "3 10 7 0 3 1 4 3".split()),
    ]
    assert scores(report) == {
        "spk1-u1": [5, 0, 1, 0],
        "spk1-u2": [0, 0, 2, 0],
        "s_2-u3": [2, 0, 0, 1],
    }


def test_only_utterances_with_an_error_count_as_wrong(tmp_path):
    pair = "a (s-1)\nb (s-2)\n", "a (s-1)\nc (s-2)\n"
    report = call_stand_in(tmp_path, *pair).stdout
    assert rows(report)[-1] == ("Sum", "2 2 1 1 0 0 1 1".split())


def test_what_asr_sh_shows(tmp_path):
    """Stage 13 runs `grep -e Avg -e SPKR -m 2`: the titles and the total."""
    report = call_stand_in(tmp_path).stdout.splitlines()
    shown = [line for line in report if "Avg" in line or "SPKR" in line][:2]
    titles, total = (line.replace("|", " ").split() for line in shown)
    assert titles == "SPKR # Snt # Wrd Corr Sub Del Ins Err S.Err".split()
    assert total == "Sum/Avg 3 10 70.0 0.0 30.0 10.0 40.0 100.0".split()
    assert sum("Avg" in line for line in report) == 1


@pytest.mark.skipif(
    not (RECIPE / SHOW).is_file(), reason="no ESPnet tree (ESPNET_ROOT, tools/espnet)"
)
def test_results_table_of_espnet(tmp_path):
    folder = tmp_path / "exp/asr/decode/test/score_wer"
    folder.mkdir(parents=True)
    (folder / "result.txt").write_text(call_stand_in(tmp_path).stdout)
    # The script sources this from Kaldi's utils/, and first shows the environment.
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/parse_options.sh").write_text("")
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for name in ("python3", "git"):
        (fakes / name).write_text("#!/bin/sh\n")
        (fakes / name).chmod(0o755)
    result = subprocess.run(
        ["bash", RECIPE / SHOW, "exp/asr"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{fakes}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "|decode/test|3|10|70.0|0.0|30.0|10.0|40.0|100.0|" in result.stdout


def test_case_sensitive(tmp_path):
    report = call_stand_in(tmp_path, "A b É (s-1)\n", "a b é (s-1)\n", ["-s"]).stdout
    assert scores(report) == {"s-1": [1, 2, 0, 0]}
    report = call_stand_in(tmp_path, "A b É (s-1)\n", "a b é (s-1)\n").stdout
    assert scores(report) == {"s-1": [2, 1, 0, 0]}


def test_characters(tmp_path):
    trn = "你好 abc世x ok (s-1)\n"
    for options, number in (("-e utf-8 -c NOASCII", 6), ("-e utf-8 -c", 9)):
        report = call_stand_in(tmp_path, trn, trn, options.split()).stdout
        assert scores(report) == {"s-1": [number, 0, 0, 0]}
    assert split_characters(["a世bc"], keep_ascii=True) == ["a", "世", "bc"]


def test_speaker_without_words(tmp_path):
    report = call_stand_in(tmp_path, "(a-1)\nx (b-1)\n", "y (a-1)\nx (b-1)\n").stdout
    assert (
        "| a       |    1      0 |   0*     0*     0*     1*     1*  100.0 |" in report
    )
    assert "* no reference words" in report
    assert (
        "| Sum/Avg |    2      1 |100.0    0.0    0.0  100.0  100.0   50.0 |" in report
    )


@pytest.mark.parametrize(
    "utt_id, speaker",
    [("a-b_c", "a"), ("a_b-c-1", "a_b"), ("a_b_c", "a"), ("a", "a")],
)
def test_speaker(utt_id, speaker):
    assert speaker_of(utt_id) == speaker


@pytest.mark.parametrize(
    "options, message",
    [
        (["-F"], "unrecognized arguments: -F"),
        (["-e", "gb"], "argument -e: invalid choice: 'gb'"),
        (["-c", "NOASCII"], "add -e utf-8"),
        (["-c", "DH"], "argument -c: invalid choice: 'DH'"),
    ],
)
def test_unsupported_is_one_line(tmp_path, options, message):
    result = call_stand_in(tmp_path, options=options)
    assert result.returncode == 1 and not result.stdout
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_missing_utterance_is_named(tmp_path):
    result = call_stand_in(tmp_path, hyp="the (spk1-u1)\na (s_2-u3)\n")
    assert result.returncode == 1 and not result.stdout
    assert "hyp.trn: lacks 1 utterance(s) of ref.trn: spk1-u2;" in result.stderr
    assert result.stderr.count("\n") == 1


@needs_nist
def test_same_tables_as_nist(tmp_path):
    ours = call_stand_in(tmp_path).stdout
    theirs = call([SCLITE], tmp_path).stdout
    assert rows(ours) == rows(theirs)
    assert scores(ours) == scores(theirs)


@needs_nist
def test_same_report_as_nist(tmp_path):
    """Counts per utterance and percentages per speaker, for 1000 utterances."""
    refs, hyps = random_set(1000, 0)
    theirs = run_sclite(tmp_path, refs, hyps)
    files = [
        write_trn(tmp_path / name, side).read_text(encoding="utf-8")
        for name, side in (("ref.trn", refs), ("hyp.trn", hyps))
    ]
    ours = call_stand_in(tmp_path, *files).stdout
    assert scores(ours) == scores(theirs) and len(scores(ours)) == 1000
    assert rows(ours) == rows(theirs)


@needs_nist
def test_rounding_and_null_as_nist(tmp_path):
    words = " ".join("a" * 16)  # one error of 16 is 6.25 %, shown as 6.3 by sclite
    ref, hyp = f"{words} (s-1)\na @ b (t-1)\n", f"{words[2:]} (s-1)\na b (t-1)\n"
    ours = call_stand_in(tmp_path, ref, hyp).stdout
    assert "6.3" in ours and rows(ours) == rows(
        call([SCLITE], tmp_path, ref, hyp).stdout
    )
