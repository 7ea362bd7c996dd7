"""The score command: experiments and files, tables, comparisons."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from nist import needs_nist, random_set, run_sclite, write_trn

from espnet2_birq.bin import score as command
from espnet2_birq.errors import ConfigError
from espnet2_birq.evaluation.wer.comparison import pair_sets
from espnet2_birq.evaluation.wer.experiments import (
    DecodedSet,
    Options,
    characters,
    find_sets,
    plain_set,
    score_set,
    score_sets,
)
from espnet2_birq.evaluation.wer.normalization import get_normalization
from espnet2_birq.evaluation.wer.tables import make_table

ROOT = Path(__file__).resolve().parents[3]
ESPNET = Path(os.environ.get("ESPNET_ROOT", ROOT / "tools/espnet"))
SHOW = ESPNET / "egs2/TEMPLATE/asr1/scripts/utils/show_asr_result.sh"


def write_set(folder, kind, refs, hyps):
    out = folder / f"score_{kind}"
    out.mkdir(parents=True)
    write_trn(out / "ref.trn", refs)
    write_trn(out / "hyp.trn", hyps)
    return out


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, refs, hyps in (
        ("wer", ["HI ME", "YOU"], ["hi ma", "you"]),
        ("cer", ["H I <space> M E", "Y O U"], ["h i m a", "y o u"]),
    ):
        for name in ("test", "org/valid"):
            ids = "s-1", "s-2"
            texts = (dict(zip(ids, side, strict=True)) for side in (refs, hyps))
            write_set(tmp_path / "exp/asr/decode_a" / name, kind, *texts)
    return tmp_path / "exp/asr"


def show(capsys, *args):
    command.main(list(args))
    return capsys.readouterr().out


def fail(*args):
    with pytest.raises(SystemExit) as failure:
        command.main(list(args))
    assert "\n" not in str(failure.value)
    return str(failure.value)


def test_table(experiment, capsys):
    lines = show(capsys, "exp/asr").splitlines()
    assert lines[0].startswith("Normalisation: none. ") and len(lines) == 6
    assert len({line.count("|") for line in lines[2:]}) == 1
    start = "| exp/asr | decode_a | {} | 2 | 3 | 33.3 [0.0, 50.0] | 1 | 0 | 0 | 50.0 | "
    assert lines[4].startswith(start.format("org/valid"))
    assert lines[5].startswith(start.format("test"))
    assert lines[5].endswith("| 25.0 [0.0, 40.0] | 2 utterances |")


def test_json(experiment, capsys):
    rows = json.loads(show(capsys, "exp/asr", "--json", "--case_sensitive"))
    assert [row["set"] for row in rows] == ["org/valid", "test"]
    assert rows[1]["normalization"] == "none, case counts"
    assert rows[1]["wer"] == {
        "utterances": 2,
        "wrong_utterances": 2,
        "tokens": 3,
        "correct": 0,
        "sub": 3,
        "del": 0,
        "ins": 0,
        "errors": 3,
        "percent": 100.0,
        "low": 100.0,
        "high": 100.0,
    }


def test_one_set(experiment):
    rates = score_set(experiment / "decode_a/test", "cer", False)
    assert rates["percent"] == 25 and rates["tokens"] == 8
    assert rates["resampled"] == "2 utterances"


@pytest.mark.parametrize(
    "removed, named",
    [
        ("exp/asr", "error: exp/asr: no such folder"),
        (
            "exp/asr/decode_a",
            "error: exp/asr/decode_*/<set>/score_wer/ref.trn: no such file",
        ),
        (
            "exp/asr/decode_a/test/score_cer",
            "error: exp/asr/decode_a/test/score_cer/ref.trn: no such file",
        ),
        (
            "exp/asr/decode_a/test/score_wer/hyp.trn",
            "error: exp/asr/decode_a/test/score_wer/hyp.trn: no such file",
        ),
    ],
)
def test_missing_files_are_named(experiment, tmp_path, removed, named):
    (tmp_path / removed).rename(tmp_path / "gone")
    assert fail("exp/asr").startswith(named)


def test_characters_are_those_of_espnet():
    from espnet2.text.char_tokenizer import CharTokenizer

    text = "HI  mé 世界 "
    tokens = CharTokenizer().text2tokens(" ".join(text.split()))
    assert [" " if c == "<space>" else c for c in tokens] == characters(text)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Reference and two systems as Kaldi text, with nine speakers."""
    monkeypatch.chdir(tmp_path)
    refs, a = random_set(300, 0)
    b = {u: refs[u] if i % 3 else text for i, (u, text) in enumerate(a.items())}
    for name, texts in (("ref", refs), ("a", a), ("b", b)):
        lines = sorted(f"{u}-{u}-x {text}".strip() for u, text in texts.items())
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return refs, a, b


def test_plain_files(files, capsys):
    args = "--ref", "ref", "--hyp", "a", "b", "--json"
    rows = json.loads(show(capsys, *args))
    assert [row["experiment"] for row in rows] == ["a", "b"]
    assert rows[0]["wer"]["percent"] > 2 * rows[1]["wer"]["percent"] > 0
    assert rows[0]["cer"]["tokens"] == sum(len(text) for text in files[0].values())


def test_groups_add_up(files, capsys, tmp_path):
    ids = [line.split()[0] for line in (tmp_path / "ref").read_text().splitlines()]
    groups = "".join(f"{u} g{i % 3}\n" for i, u in enumerate(ids))
    (tmp_path / "groups").write_text(groups)
    args = "--ref", "ref", "--hyp", "a", "--by", "groups"
    whole, *parts = json.loads(show(capsys, *args, "--json"))
    assert whole["group"] is None
    assert [part["group"] for part in parts] == ["g0", "g1", "g2"]
    for name in ("utterances", "tokens", "sub", "del", "ins", "wrong_utterances"):
        assert sum(part["wer"][name] for part in parts) == whole["wer"][name]
    table = show(capsys, *args).splitlines()
    assert table[4].startswith("| a | - | ref | all |") and " | g2 | " in table[-1]


def test_comparison(files, capsys):
    args = "--ref", "ref", "--compare", "a", "b"
    (result,) = json.loads(show(capsys, *args, "--json"))
    wer = result["wer"]
    assert wer["difference"] == pytest.approx(wer["b"]["percent"] - wer["a"]["percent"])
    assert wer["low"] < wer["difference"] < wer["high"] < 0 and wer["p"] < 0.01
    assert wer["mapsswe"]["z"] > 5 and wer["mapsswe"]["p"] < 1e-6
    lines = show(capsys, *args).splitlines()
    assert lines[:2] == ["A: a", "B: b"] and lines[2].startswith("Normalisation: none")
    assert lines[-2].startswith("| ref | WER |") and lines[-1].startswith("| ref | CER")
    back = json.loads(show(capsys, *args[:3], "b", "a", "--json"))[0]["wer"]
    assert back["low"] == pytest.approx(-wer["high"])
    assert back["mapsswe"]["z"] == pytest.approx(-wer["mapsswe"]["z"])


def test_several_decodings_of_a_set_are_compared_by_name():
    ours, theirs = (
        [DecodedSet(system, decoding, "test", {}) for decoding in decodings]
        for system, decodings in (("a", "xyz"), ("b", "zwx"))
    )
    pairs = pair_sets(ours, theirs)
    assert pairs == [(ours[0], theirs[2]), (ours[2], theirs[0])]


def test_comparison_wants_the_same_reference(files, experiment, tmp_path):
    other = tmp_path / "exp/other/decode_b/test"
    for kind in ("wer", "cer"):
        write_set(other, kind, {"s-1": "x", "s-2": "y"}, {"s-1": "x", "s-2": "y"})
    message = fail("--compare", "exp/asr", "exp/other")
    assert "the references of s-1 differ" in message
    for kind in ("wer", "cer"):
        write_trn(other / f"score_{kind}/ref.trn", {"s-1": "x", "s-3": "y"})
        write_trn(other / f"score_{kind}/hyp.trn", {"s-1": "x", "s-3": "y"})
    assert "not of the same utterances (s-2)" in fail(
        "--compare", "exp/asr", "exp/other"
    )
    other.rename(other.with_name("dev"))
    assert "no set in common" in fail("--compare", "exp/asr", "exp/other")


def test_normalisations_do_not_mix(files):
    sets = [plain_set(Path("ref"), Path("a"))]
    rows = score_sets(sets)
    kaldi = score_sets(sets, Options(get_normalization("kaldi")))
    assert kaldi[0]["cer"] is None and " - | " in make_table(kaldi)
    with pytest.raises(ConfigError, match=r"several normalisations \(kaldi, none\)"):
        make_table(rows + kaldi)


def test_normalised_on_both_sides(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("ref").write_text("u1 O. K. I um see\n")
    Path("hyp").write_text("u1 okay i see uh-huh\n")
    args = "--ref", "ref", "--hyp", "hyp", "--json"
    counts = {}
    for name in ("none", "kaldi"):
        (row,) = json.loads(show(capsys, *args, "--normalize", name))
        counts[name] = [row["wer"][x] for x in ("correct", "sub", "del", "ins")]
    # "O. K." is one word, and "um" is optional.
    assert counts == {"none": [2, 1, 2, 1], "kaldi": [4, 0, 0, 1]}


@pytest.mark.parametrize(
    "args, message",
    [
        ((), "nothing to score"),
        (("--hyp", "x"), "--hyp: needs its reference"),
        (("--ref", "x"), "--ref: needs --hyp or --compare"),
        (("--compare", "x", "y", "--meeting"), "--compare: only"),
        (("x", "--results_md", "--json"), "--results_md: not with"),
        (("x", "--results_md", "--cluster", "speaker"), "--results_md: not with"),
        (("x", "--results_md", "--data", "x"), "--results_md: not with --data"),
        (("x", "--meeting", "--cluster", "speaker"), "--meeting: resamples meetings"),
    ],
)
def test_options_that_do_not_go_together(args, message):
    assert fail(*args).startswith(f"error: {message}")


@needs_nist
@pytest.mark.skipif(
    not SHOW.is_file(), reason="no ESPnet tree (ESPNET_ROOT, tools/espnet)"
)
def test_results_md_is_that_of_espnet(tmp_path, monkeypatch, capsys):
    """Two sets of about 500 utterances, three kinds, scored by NIST's sclite."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    for seed, name in enumerate(("decode_a/dev", "decode_a/org/valid")):
        for kind in ("wer", "cer", "ter"):
            sides = random_set(rng.randint(500, 600), seed)
            out = write_set(tmp_path / "exp/asr" / name, kind, *sides)
            report = run_sclite(out, *sides)
            (out / "result.txt").write_text(report, encoding="utf-8")
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/parse_options.sh").write_text("")
    (tmp_path / "bin").mkdir()
    for name in ("python3", "git"):  # the script calls them to describe the environment
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    theirs = subprocess.run(
        ["bash", SHOW, "exp/asr"],
        env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    tables = theirs[theirs.index("## exp") :]
    assert tables.count("|org/valid|") == tables.count("|decode_a/dev|") == 3
    assert show(capsys, "exp/asr", "--results_md").strip() == tables.strip()


def test_a_single_decoding(experiment, capsys, monkeypatch):
    """All of its sets, wherever the command is run."""
    whole = json.loads(show(capsys, str(experiment), "--json"))
    write_set(experiment / "decode_b/test", "wer", {"s-1": "HI ME"}, {"s-1": "hi me"})
    one = json.loads(show(capsys, str(experiment / "decode_a"), "--json"))
    assert one == whole
    monkeypatch.chdir(experiment / "decode_b")
    found = find_sets(Path("."))
    assert [(x.decoding, x.name) for x in found] == [("decode_b", "test")]
