"""Languages in one model: use of codes, and character probes."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from planted import OBJECTIVES, RATE, write_experiment
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import mutual_info_score

from espnet2_birq.api import load
from espnet2_birq.bin import languages as command
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation import probe
from espnet2_birq.evaluation.languages import (
    by_chance,
    code_use,
    count_codes,
    divergence,
    language_information,
    read_languages,
)
from espnet2_birq.tasks.ssl import SSLTask

TONES = {"a": 400.0, "b": 900.0, "x": 2500.0, "y": 4000.0}  # Hz, of each letter
LETTERS = {"low": "ab", "high": "xy"}


def write_set(folder, number, seed):
    """Write utterances of tones for random letters of each language."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = {"wav.scp": [], "text": [], "category2utt": []}
    for language, letters in LETTERS.items():
        names = []
        for count in range(number):
            name = f"{language}{count}"
            text = "".join(draw.choice(list(letters), 6))
            time = np.arange(RATE // 4) / RATE
            tones = [np.sin(2 * np.pi * TONES[x] * time) for x in text]
            wave = 0.1 * np.concatenate(tones)
            wave = wave + 0.001 * draw.standard_normal(len(wave))
            soundfile.write(folder / f"{name}.wav", wave, RATE)
            lines["wav.scp"].append(f"{name} {folder}/{name}.wav")
            lines["text"].append(f"{name} {text}")
            names.append(name)
        lines["category2utt"].append(f"{language} {' '.join(names)}")
    for file, content in lines.items():
        if file != "category2utt":  # which ESPnet accepts in any order
            content = sorted(content)
        (folder / file).write_text("\n".join(content) + "\n")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    top = tmp_path_factory.mktemp("languages")
    write_set(top / "dump" / "train", 12, 0)
    write_set(top / "dump" / "test", 4, 1)
    write_experiment(top / "exp", SSLTask, objectives=OBJECTIVES)
    return top


@pytest.fixture
def sets(places, tmp_path):
    for name in ("train", "test"):
        shutil.copytree(places / "dump" / name, tmp_path / name)
    # Of the test set, one file can be changed.
    scp, file = tmp_path / "test" / "wav.scp", places / "dump" / "test" / "high2.wav"
    scp.write_text(scp.read_text().replace(str(file), str(tmp_path / "high2.wav")))
    shutil.copy(file, tmp_path)
    return tmp_path


def start(places, sets, *options):
    command.main(
        ["--model", str(places / "exp" / "model.pth"), "--out", str(sets / "out")]
        + ["--train", str(sets / "train"), "--test", str(sets / "test"), *options]
    )


def test_codes_are_counted_by_language(places):
    model = load(places / "exp" / "model.pth").model
    folder = places / "dump" / "test"
    found = count_codes(model, folder, read_languages(folder), most=3)
    assert list(found) == ["anchor", "enhanced"]
    assert found["anchor"].shape == (2, 2, 16) and found["enhanced"].shape == (2, 1, 16)
    # Three of four utterances are read, with 37 frames each (1.5 s with conv2d).
    assert (found["anchor"].sum(axis=2) == 3 * 37).all()
    every = count_codes(model, folder, read_languages(folder), most=99)
    by_hand = np.zeros(16, int)
    for number in range(4):
        wave, _ = soundfile.read(folder / f"high{number}.wav", dtype="float32")
        speech = torch.from_numpy(wave)[None]
        codes, _ = model.label(speech, torch.tensor([len(wave)]), "anchor")
        for code in codes[1, 0].tolist():
            by_hand[code] += 1
    assert every["anchor"][1, 1].tolist() == by_hand.tolist()


def test_measures_are_those_of_libraries():
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 50, 20), draw.integers(0, 50, 20)
    one[3], other[3], one[5] = 0, 0, 0
    expected = jensenshannon(one, other, base=2) ** 2
    assert divergence(one, other) == pytest.approx(expected)
    assert divergence(one, one) == 0
    assert divergence(np.array([4, 0]), np.array([0, 2])) == pytest.approx(1)
    # Languages of equal size, so that equal weights are those of the frames.
    counts = np.stack([draw.permutation(one), draw.permutation(one)])
    codes = np.concatenate([np.repeat(np.arange(20), x) for x in counts])
    languages = np.repeat([0, 1], one.sum())
    expected = mutual_info_score(languages, codes) / np.log(2)
    assert language_information(counts) == pytest.approx(expected)
    assert language_information(counts * [[1], [7]]) == pytest.approx(expected)
    assert language_information(np.array([[4, 0], [0, 9]])) == pytest.approx(1)
    assert code_use(np.array([3, 3, 0, 3])) == (9, 3, pytest.approx(3.0))
    # By chance: as many frames per language, same codes, hardly any information.
    counts = np.array([[4000, 0, 1000], [0, 500, 0]])
    drawn = by_chance(counts)
    assert drawn.sum(axis=1).tolist() == [5000, 500]
    assert drawn[0] / 5000 == pytest.approx([0.4, 0.5, 0.1], abs=0.03)
    assert language_information(drawn) < 0.01 < language_information(counts)


def test_a_page_with_probes(places, sets, capsys):
    # The codes of a language without text are counted, but it gets no probe.
    text = (sets / "train" / "text").read_text().splitlines()
    for name in ("train", "test"):
        lines = (sets / name / "text").read_text().splitlines()
        kept = [x for x in lines if x.startswith("low")]
        (sets / name / "text").write_text("\n".join(kept) + "\n")
    assert len(text) == 24
    start(places, sets, "--updates", "150")
    page = capsys.readouterr().out
    assert page == (sets / "out" / "languages.md").read_text()
    assert "| high | no text |" in page and "Codes tell " in page
    found = json.loads((sets / "out" / "languages.json").read_text())
    assert found["cer"]["high"] is None
    assert found["cer"]["low"] < 60  # two letters, learned from 12 utterances
    assert f"| low | {found['cer']['low']:.1f} |" in page
    # Languages with such different tones share fewer codes than two halves of one.
    told = found["codes"]["anchor"]["language_information"]
    halves = {"one": ["low0", "low1"], "two": ["low2", "low3"]}
    model = load(places / "exp" / "model.pth").model
    same = count_codes(model, sets / "test", halves, 2)["anchor"]
    for book, value in enumerate(told):
        assert value > 2 * language_information(same[:, book])
    use = found["codes"]["enhanced"]["languages"]["low"][0]
    assert use["frames"] == 4 * 37 and 1 <= use["perplexity"] <= use["used"] <= 16


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda x: (x / "test" / "category2utt").unlink(),
            "test/category2utt: no such file; write a line `LANGUAGE UTTERANCE ...`",
        ),
        (
            lambda x: (x / "test" / "category2utt").write_text("low low0 low1\n"),
            "test/category2utt: 1 language, give at least two to compare",
        ),
        (
            lambda x: (x / "test" / "category2utt").write_text("low low0\nfi f1 f2\n"),
            "language 'fi' has no utterance of .*test/wav.scp; prepare its data, or",
        ),
        (
            lambda x: [(x / y / "text").unlink() for y in ("train", "test")],
            "train/text: no transcript of any language; add them, or leave the probes",
        ),
        (
            lambda x: (x / "train" / "text").write_text("low0 a\n"),
            "train/text: nothing of language 'high', which the other set has",
        ),
        (
            lambda x: (x / "train" / "text").write_text("high0\nlow0 a\n"),
            "train/text: nothing of language 'high', which the other set has",
        ),
        (
            lambda x: (x / "test" / "category2utt").write_text("low low0\nlow low1\n"),
            "test/category2utt: no lines .*low is duplicated.*; correct it",
        ),
        (
            lambda x: (x / "test" / "category2utt").write_text(
                "low low0 low1 low0\nhigh high0\n"
            ),
            "test/category2utt: language 'low': low0 is listed twice; take one out",
        ),
        (
            lambda x: (x / "test" / "category2utt").write_text(
                "low low0\n\nhigh high0\n"
            ),
            "test/category2utt: no lines `LANGUAGE UTTERANCE ...`.*; correct it",
        ),
        (
            lambda x: (x / "test" / "category2utt").write_text(
                "../low low0 low1\nhigh high0\n"
            ),
            "test/category2utt: '../low' is no name of a language; correct it",
        ),
        (
            lambda x: soundfile.write(x / "high2.wav", np.zeros(8000), 8000),
            "high2.wav: sample rate is 8000 Hz, wanted 16000 Hz",
        ),
        (
            lambda x: soundfile.write(x / "high2.wav", np.zeros((RATE, 2)), RATE),
            "high2.wav: has 2 channels",
        ),
        (
            lambda x: (x / "test" / "segments").write_text("a b 0 1\n"),
            "test/segments: audio must be cut into utterances; .* dump/raw/test",
        ),
    ],
)
def test_bad_input(places, sets, change, words, capsys):
    change(sets)
    with pytest.raises(SystemExit, match=words) as error:
        start(places, sets, "--updates", "1")
    assert "\n" not in str(error.value)
    assert not (sets / "out" / "languages.md").exists()


@pytest.mark.parametrize(
    "name, words",
    [
        ("test", "short.wav: utterances too short for one encoder frame"),
        (
            "train",
            "short.wav: too short for an encoder frame; leave high0 out of its set",
        ),
    ],
)
def test_too_short_audio_is_named_before_training(
    places, sets, name, words, monkeypatch
):
    soundfile.write(sets / "short.wav", np.zeros(RATE // 40), RATE)
    scp = sets / name / "wav.scp"
    lines = [x for x in scp.read_text().splitlines() if not x.startswith("high0 ")]
    scp.write_text("\n".join(sorted([f"high0 {sets}/short.wav", *lines])) + "\n")
    monkeypatch.setattr(probe, "train", None)
    with pytest.raises(SystemExit, match=f"languages: error: .*{words}"):
        start(places, sets, "--updates", "1")


def test_a_model_without_codes(places, sets):
    rows = [{"name": "latent", "view": "layers top 2", "labeller": "latent"}]
    model = load(write_experiment(sets / "exp", SSLTask, objectives=rows)).model
    folder = sets / "test"
    with pytest.raises(DataError, match="no objective of this model makes codes"):
        count_codes(model, folder, read_languages(folder), 1)
