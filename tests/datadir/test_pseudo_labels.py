"""Training sets of labelled and recognised speech."""

import pytest

from espnet2_birq.bin.pseudo_label import main
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.datadir.pseudo_labels import read_hypotheses
from espnet2_birq.datadir.stamp import write_stamp

FS = 16000


def write_set(folder, texts, **more):
    """Write a formatted set; every utterance lasts 2 s."""
    folder.mkdir(parents=True)
    speakers = {u: u.split("-")[0] for u in texts}
    tables = {
        "wav.scp": {u: f"/audio/{u}.flac" for u in texts},
        "text": texts,
        "utt2spk": speakers,
        "spk2utt": {
            s: " ".join(u for u in texts if speakers[u] == s) for s in speakers.values()
        },
        "utt2num_samples": dict.fromkeys(texts, 2 * FS),
        **more,
    }
    for name, table in tables.items():
        lines = "".join(f"{key} {value}\n" for key, value in sorted(table.items()))
        (folder / name).write_text(lines)
    (folder / "feats_type").write_text("raw\n")
    (folder / "audio_format").write_text("flac\n")
    write_stamp(folder, [])
    return folder


def write_decoded(folder, texts, scores):
    folder.mkdir(parents=True)
    for name, table in (
        ("text", texts),
        ("token", {u: " ".join(text.replace(" ", "")) for u, text in texts.items()}),
        ("score", scores),
    ):
        lines = "".join(f"{key} {value}\n" for key, value in table.items())
        (folder / name).write_text(lines)
    return folder


@pytest.fixture
def sets(tmp_path):
    labelled = write_set(tmp_path / "labelled", {"1-a": "ABC DEF", "1-b": "ABCD EFGHI"})
    unlabelled = write_set(
        tmp_path / "unlabelled",
        dict.fromkeys(("1-a", "1-c", "2-d", "2-e", "2-f", "2-g", "3-h"), "THE TRUTH"),
    )
    texts = {
        "1-a": "ABC DEF",  # in the labelled set
        "1-c": "ABCDEFGH",  # 8 tokens, -0.5 per token
        "2-d": "ABCDEFGH",  # the least confident
        "2-e": "ABCD FGH",  # -0.1 per token
        "2-f": "",
        "2-g": "A",  # half a character per second
        "3-h": "ABCD FGI",  # -0.2 per token
    }
    scores = dict(zip(texts, [-1.0, -4.0, -8.0, -0.7, 0.0, -0.1, "tensor(-1.4)"]))
    decoded = write_decoded(tmp_path / "decoded", texts, scores)
    return labelled, unlabelled, decoded


def run(sets, dest, *options):
    labelled, unlabelled, decoded = map(str, sets)
    main([str(dest), "--labelled", labelled, "--unlabelled", unlabelled]
         + ["--decoded", decoded, *options])  # fmt: skip


def test_union_with_the_most_confident(sets, tmp_path, capsys):
    run(sets, tmp_path / "dest", "--keep", "0.75")
    dest = tmp_path / "dest"
    assert read_scp(dest / "text") == {
        "1-a": "ABC DEF",
        "1-b": "ABCD EFGHI",
        "1-c": "ABCDEFGH",
        "2-e": "ABCD FGH",
        "3-h": "ABCD FGI",
    }
    ids = list(read_scp(dest / "text"))
    for name in ("wav.scp", "utt2spk", "utt2num_samples"):
        assert list(read_scp(dest / name)) == ids
    # A speaker in both sets is listed once.
    assert read_scp(dest / "spk2utt")["1"] == "1-a 1-b 1-c"
    assert (dest / "feats_type").read_text() == "raw\n"
    assert not (dest / "made_from.json").exists()
    out = capsys.readouterr().out
    assert "5 utterances, 3 speakers, 3 recognised" in out
    assert "skipped 1 x in the labelled set; first: 1-a" in out
    assert "skipped 1 x empty text; first: 2-f" in out
    assert "characters a second; first: 2-g" in out
    assert "skipped 1 x not in the most confident 75%; first: 2-d" in out


def test_texts_with_other_line_separators(sets, tmp_path):
    """Only a line feed ends a line of a table."""
    text = "1-a ABC\x85DEF\n1-b ABCD\u2028EFGHI\n"
    (sets[0] / "text").write_text(text, encoding="utf-8")
    run(sets, tmp_path / "dest", "--keep", "1")
    texts = (tmp_path / "dest" / "text").read_text("utf-8").split("\n")
    assert texts[:2] == text.split("\n")[:2]
    ids = [line.split(" ")[0] for line in texts if line]
    assert ids == list(read_scp(tmp_path / "dest" / "utt2spk"))


def test_all_usable(sets, tmp_path):
    run(sets, tmp_path / "dest", "--keep", "1")
    assert "2-d" in read_scp(tmp_path / "dest" / "text")


def test_a_training_set_as_asr_sh_leaves_it(sets, tmp_path):
    """Its stage 4 does not copy audio_format, and its rates read like 16k."""
    (sets[0] / "audio_format").unlink()
    run(sets, tmp_path / "dest", "--fs", "16k")
    assert "1-c" in read_scp(tmp_path / "dest" / "wav.scp")


def test_audio_that_is_read_differently(sets, tmp_path):
    entries = (sets[1] / "wav.scp").read_text()
    (sets[1] / "wav.scp").write_text(entries.replace(".flac", ".ark:9"))
    with pytest.raises(SystemExit, match="its audio is in archives, that of .* files"):
        run(sets, tmp_path / "dest")


def test_genders_if_of_both(sets, tmp_path):
    (sets[0] / "spk2gender").write_text("1 f\n")
    run(sets, tmp_path / "one")
    assert not (tmp_path / "one" / "spk2gender").exists()
    (sets[1] / "spk2gender").write_text("1 f\n2 m\n3 m\n")
    run(sets, tmp_path / "both")
    assert read_scp(tmp_path / "both" / "spk2gender") == {"1": "f", "2": "m", "3": "m"}


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("decoded/score", "1-a x\n", "1-c is not in all of"),
        ("decoded/text", None, "text"),
        ("labelled/text", None, "labelled/text: no such file; format the set again"),
        ("unlabelled/feats_type", "fbank\n", "feats_type is fbank"),
        ("unlabelled/utt2num_samples", "1-a 5\n", "utt2num_samples or utt2dur"),
    ],
)
def test_broken_input(sets, tmp_path, name, content, words):
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match=f"^error: .*{words}"):
        run(sets, tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_utterances_of_a_speaker_in_both_sets_are_sorted(tmp_path):
    texts = dict.fromkeys(("1-a", "1-c"), "THE TRUTH")
    labelled = write_set(
        tmp_path / "labelled", {"1-b": "ABCD EFGH", "1-d": "A BCDEFGH"}
    )
    unlabelled = write_set(tmp_path / "unlabelled", texts)
    decoded = write_decoded(tmp_path / "decoded", texts, dict.fromkeys(texts, -1.0))
    run((labelled, unlabelled, decoded), tmp_path / "dest", "--keep", "1")
    assert (tmp_path / "dest/spk2utt").read_text() == "1 1-a 1-b 1-c 1-d\n"


@pytest.mark.parametrize("more", [", device='cuda:0'", ", dtype=torch.float64"])
def test_scores_may_be_of_a_gpu(sets, more):
    path = sets[2] / "score"
    before = read_hypotheses(sets[2]).confidences
    path.write_text(path.read_text().replace("(-1.4)", f"(-1.4{more})"))
    assert read_hypotheses(sets[2]).confidences == before
    assert before["3-h"] == pytest.approx(-0.2)


@pytest.mark.parametrize("value", ["high", "nan", "inf"])
def test_score_without_a_number(sets, tmp_path, value):
    text = (sets[2] / "score").read_text()
    (sets[2] / "score").write_text(text.replace("-8.0", value))
    with pytest.raises(
        SystemExit, match=f"score: 2-d has '{value}', which is not a number"
    ):
        run(sets, tmp_path / "dest")


def test_nothing_left(sets, tmp_path):
    for name in ("text", "token"):
        ids = read_scp(sets[2] / name, allow_empty_values=True)
        (sets[2] / name).write_text("".join(f"{u} \n" for u in ids))
    with pytest.raises(SystemExit, match="no recognised utterance is left.*6 x empty"):
        run(sets, tmp_path / "dest")


def test_one_set_twice(sets):
    with pytest.raises(SystemExit, match="must be different"):
        run(sets, sets[0])


@pytest.mark.parametrize("value", ["0", "1.5", "nan"])
def test_share(sets, tmp_path, value, capsys):
    with pytest.raises(SystemExit):
        run(sets, tmp_path / "dest", "--keep", value)
    assert "--keep" in capsys.readouterr().err


def test_confidence_is_that_of_a_token(sets, tmp_path):
    """By the sums of log-probabilities, short texts would always be kept."""
    texts = read_scp(sets[2] / "text", allow_empty_values=True)
    texts |= {"1-c": "ABCDE FGH", "2-d": "ABCD FGH"}  # 8 and 7 tokens
    scores = dict.fromkeys(texts, -90.0) | {"1-c": -0.9, "2-d": -0.8}
    for name in ("text", "token", "score"):
        (sets[2] / name).unlink()
    sets[2].rmdir()
    write_decoded(sets[2], texts, scores)
    run(sets, tmp_path / "dest", "--keep", "0.2")  # of four: one
    chosen = read_scp(tmp_path / "dest" / "text").keys() - {"1-a", "1-b"}
    assert chosen == {"1-c"}


def test_the_most_extreme_rates_of_the_labelled_set_do_not_count(tmp_path):
    """One wrong transcript would otherwise let through any text of that rate."""
    texts = {f"1-{n:03}": "ABCDEFGH" for n in range(300)}
    texts |= {"1-000": "A", "1-001": "A" * 90}
    labelled = write_set(tmp_path / "labelled", texts)
    found = {"2-a": "ABCDEFGH", "2-b": "AB", "2-c": "A" * 80}
    unlabelled = write_set(tmp_path / "unlabelled", found)
    decoded = write_decoded(tmp_path / "decoded", found, dict.fromkeys(found, -1.0))
    run((labelled, unlabelled, decoded), tmp_path / "dest", "--keep", "1")
    assert read_scp(tmp_path / "dest" / "text").keys() - texts.keys() == {"2-a"}
