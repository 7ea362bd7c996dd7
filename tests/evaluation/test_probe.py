"""The text probe: its intervals, its batches, and test sets refused before training."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from planted import OBJECTIVES, RATE, write_experiment

from espnet2_birq.api import load, untrained
from espnet2_birq.bin import probe as command
from espnet2_birq.evaluation import probe as module
from espnet2_birq.evaluation.probe import Fit, Probe, Utterance, decode, halves, pad
from espnet2_birq.tasks.ssl import SSLTask


def write_set(folder, utterances):
    """Write a set of noise; `utterances` maps names to seconds and text."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    lines = {"wav.scp": [], "text": [], "utt2spk": []}
    for name, (seconds, text) in sorted(utterances.items()):
        wave = 0.1 * draw.standard_normal(int(seconds * RATE))
        soundfile.write(folder / f"{name}.wav", wave, RATE)
        lines["wav.scp"].append(f"{name} {folder}/{name}.wav")
        lines["text"].append(f"{name} {text}".rstrip())
        lines["utt2spk"].append(f"{name} {name.partition('-')[0]}")
    for file, content in lines.items():
        (folder / file).write_text("\n".join(content) + "\n")
    return folder


@pytest.fixture
def places(tmp_path):
    """A model, and sets of six speakers with two utterances each."""
    write_experiment(tmp_path / "exp", SSLTask, objectives=OBJECTIVES)
    some = {f"s{i}-u{j}": (0.5, "ab ba") for i in range(6) for j in range(2)}
    for name in ("train", "test"):
        write_set(tmp_path / "raw" / name, some)
    return tmp_path


def start(places, *options, test="test"):
    out = places / "out"
    train = [] if "--halves" in options else ["--train", f"{places}/raw/train"]
    command.main(
        ["--model", f"{places}/exp/model.pth", *train]
        + ["--test", f"{places}/raw/{test}", "--out", str(out), "--updates", "1"]
        + list(options)
    )
    return json.loads((out / "probe.json").read_text())


def test_intervals_are_over_speakers(places):
    found = start(places)
    assert found["cer"]["test"]["resampled"] == "6 speakers"
    ref = places / "out" / "test" / "score_wer" / "ref.trn"
    assert ref.read_text().startswith("ab ba (s0-s0-u0)\n")
    (places / "raw" / "test" / "utt2spk").unlink()
    assert start(places)["wer"]["test"]["resampled"] == "12 utterances"


def test_halves_are_decoded_by_probes_of_the_other_speakers(places, monkeypatch):
    """Also if the utterances of a speaker are all too long to be trained on."""
    some = {
        f"s{i}-u{j}": (1.0 if i == 2 else 0.5, "ab") for i in range(6) for j in range(2)
    }
    write_set(places / "raw" / "own", some)
    trained, decoded = [], []
    fit, decode = module.fit, module.decode

    def note(function, names):
        def noted(*args):
            utterances = next(x for x in args if isinstance(x, list))
            names.append({x.name.partition("-")[0] for x in utterances})
            return function(*args)

        return noted

    monkeypatch.setattr(module, "fit", note(fit, trained))
    monkeypatch.setattr(module, "decode", note(decode, decoded))
    found = start(places, "--halves", "--max_seconds", "0.7", test="own")
    assert found["cer"]["own"]["utterances"] == 12
    assert decoded == [{"s0", "s2", "s4"}, {"s1", "s3", "s5"}]
    assert trained == [{"s1", "s3", "s5"}, {"s0", "s4"}]
    assert sum(found["layer_weights"]) == pytest.approx(1, abs=0.01)
    one = {f"s1-u{j}": (0.5, "ab") for j in range(3)}
    write_set(places / "raw" / "one", one)
    words = "raw/one: has no two speakers with transcripts, as --halves needs"
    with pytest.raises(SystemExit, match=f"probe: error: .*{words}"):
        start(places, "--halves", test="one")


def test_a_configuration_is_an_untrained_model_of_its_seed(places, monkeypatch):
    config = places / "exp" / "config.yaml"
    conf = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**conf, "seed": 5}))
    models = []
    monkeypatch.setattr(module, "probe", lambda model, *_: models.append(model))
    sets = ["--train", "a", "--test", "b", "--out", str(places / "out")]
    command.main(["--model", str(config), *sets, "--seed", "1"])
    before = torch.get_rng_state()
    ours, theirs = models[0].state_dict(), untrained(config, 5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    name = "encoder.encoders.0.feed_forward.w_1.weight"
    assert not torch.equal(ours[name], untrained(config, 1).state_dict()[name])


def test_a_set_given_by_its_place(places, monkeypatch):
    (places / "raw" / "test" / "sub").mkdir()
    monkeypatch.chdir(places / "raw" / "test" / "sub")
    command.main(
        ["--model", f"{places}/exp", "--train", "../../train", "--test", ".."]
        + ["--out", "../../../out", "--updates", "1"]
    )
    found = json.loads((places / "out" / "probe.json").read_text())
    assert list(found["wer"]) == ["test"]
    assert (places / "out" / "test" / "score_wer" / "ref.trn").is_file()


@pytest.mark.parametrize("place", ["dump/raw/org/set", "data/set", "set"])
def test_relative_paths_are_found(places, place):
    """They start at a folder above the set, which need not be three above."""
    folder = write_set(places / "recipe" / place, {"s1-u1": (0.5, "a")})
    scp = folder / "wav.scp"
    scp.write_text(scp.read_text().replace(f"{places}/recipe/", ""))
    (found,) = module.find_utterances(load(places / "exp").model, folder)
    assert found.file == folder / "s1-u1.wav"


@pytest.mark.parametrize("updates", [1, 9, 10, 11])
def test_any_number_of_updates(places, updates):
    found = start(places, "--updates", str(updates))
    assert np.isfinite(found["train_loss"])


def test_a_transcript_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    probe = Probe(2, 8, 16, 4).eval()
    several = [
        Utterance(str(frames), Path("x"), torch.randn(2, frames, 8).half(), "")
        for frames in (20, 27, 40)
    ]
    with torch.no_grad():
        together = probe(*pad(several))
        for row, one in zip(together, several):
            alone = probe(*pad([one]))[0]
            torch.testing.assert_close(row[: len(alone)], alone)
    fit = Fit(probe, "abc", 0.0)
    texts = decode(fit, several)
    for one in several:
        assert decode(fit, [one]) == {one.name: texts[one.name]}


@pytest.mark.parametrize(
    "utterances, change, words",
    [
        (
            {"s1-u1": (0.03, "a"), "s1-u2": (0.5, "a")},
            None,
            "s1-u1.wav: too short for an encoder frame; leave s1-u1 out of its set",
        ),
        (
            {"s1-u1": (0.5, ""), "s1-u2": (0.5, "")},
            None,
            "bad/text: no transcript with a word; give another set",
        ),
        (
            {"s1-u1": (0.5, "a"), "s1-u2": (0.5, "a"), "s2-u1": (0.5, "a")},
            lambda x: (x / "wav.scp").write_text(f"s1-u1 {x}/s1-u1.wav\n"),
            "bad/wav.scp: lacks 2 of 3 utterances of text, s1-u2 the first",
        ),
        (
            {"s1-u1": (0.5, "a")},
            lambda x: (x / "segments").write_text("s1-u1 r 0 1\n"),
            "bad/segments: audio must be cut into utterances; .* dump/raw/bad",
        ),
    ],
)
def test_bad_test_sets_are_refused_before_training(
    places, monkeypatch, utterances, change, words
):
    folder = write_set(places / "raw" / "bad", utterances)
    if change is not None:
        change(folder)
    monkeypatch.setattr(module, "train", None)
    with pytest.raises(SystemExit, match=f"probe: error: .*{words}") as error:
        start(places, test="bad")
    assert "\n" not in str(error.value)


def test_long_utterances_are_counted(places, caplog):
    caplog.set_level("INFO")
    start(places)
    assert "--max_seconds" not in caplog.text
    long = {f"s0-u{j}": (1.0 if j else 0.5, "ab") for j in range(3)}
    write_set(places / "raw" / "long", long)
    train = ["--train", f"{places}/raw/long"]
    start(places, *train, "--max_seconds", "0.5")  # the length of the shortest
    assert "long: 2 of 3 utterances are longer than --max_seconds 0.5" in caplog.text
    with pytest.raises(
        SystemExit, match="long/text: no transcript with a word of up to 0.1 s"
    ):
        start(places, *train, "--max_seconds", "0.1")


def test_training_utterances_that_cannot_be_used_are_counted(places, caplog):
    some = {f"s{i}-u0": (0.5, "ab ba") for i in range(3)}
    # 0.5 s are 11 frames; equal letters need blanks between them.
    some |= {
        "s0-u1": (0.5, "abababababa"),
        "s1-u1": (0.5, "aaaaaaa"),
        "s2-u2": (0.5, ""),
    }
    folder = write_set(places / "raw" / "some", some)
    with (folder / "text").open("a") as file:
        file.write("s9-u9 ab\n")
    start(places, "--train", str(folder))
    lost = "some/wav.scp: lacks 1 of 7 utterances of text, s9-u9 the first: left out of"
    assert lost in caplog.text
    assert (
        "1 of 6 utterances, s1-u1 the first: more letters than CTC can" in caplog.text
    )


def test_halves_of_librispeech_are_of_other_readers(tmp_path):
    """Its data directories have a speaker for each chapter."""
    names = [
        f"{reader}-{chapter}-0000" for reader in (174, 251, 84) for chapter in (1, 2)
    ]
    lines = [f"{name} {name.removesuffix('-0000')}\n" for name in names]
    (tmp_path / "utt2spk").write_text("".join(lines))
    first, second = halves(tmp_path, names)
    assert first | second == set(names) and not first & second
    readers = [{name.split("-")[0] for name in half} for half in (first, second)]
    assert sorted(map(len, readers)) == [1, 2] and not readers[0] & readers[1]
