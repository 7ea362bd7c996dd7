"""Measurement from audio and alignments to the table, on synthetic phones."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from planted import MODEL, OBJECTIVES, write_experiment, write_speech
from scipy.stats import entropy
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import homogeneity_score

from espnet2_birq.bin import phone_probe
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.phones import measure
from espnet2_birq.evaluation.phones.frames import Frames, collect, find_corpus, spread
from espnet2_birq.evaluation.phones.measure import (
    Settings,
    compare,
    measure_layer,
    name_models,
)
from espnet2_birq.evaluation.phones.models import load_model
from espnet2_birq.tasks.ssl import SSLTask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with speech of four speakers, its alignment, and two models."""
    top = tmp_path_factory.mktemp("phones")
    write_speech(top)
    write_experiment(top / "one", SSLTask, seed=1, objectives=OBJECTIVES)
    write_experiment(top / "two", SSLTask, seed=2, objectives=OBJECTIVES[:1])
    return top


def options(folder, *models, **changed):
    found = [f"--model={folder / model}" for model in models]
    given = {"data": folder / "data", "alignment": folder / "phones.tsv"}
    given |= {"out": folder / "out.json", "units": 4, **changed}
    return found + [f"--{key}={value}" for key, value in given.items()]


def planted_frames(features_of, frames=4000, phones=5):
    generator = np.random.default_rng(0)
    labels = generator.integers(phones, size=frames)
    labels[: frames // 4] = 2  # the most frequent phone
    speakers = np.array([f"s{n}" for n in generator.integers(6, size=frames)])
    features = torch.from_numpy(features_of(labels, generator).astype(np.float32))
    return features, Frames({}, {}, labels, speakers, 0)


def sides(frames):
    return np.isin(frames.speakers, ["s1", "s3", "s5"])


def test_features_that_are_phones():
    features, frames = planted_frames(lambda labels, _: np.eye(5)[labels])
    found = measure_layer(features, frames, sides(frames), Settings(units=5))
    accuracy = found["accuracy"]
    assert accuracy["mean"] == accuracy["pooled"] == 1.0 and accuracy["error"] == 0.0
    assert accuracy["speakers"] == {"s1": 1.0, "s3": 1.0, "s5": 1.0}
    assert found["pnmi"] == pytest.approx(1.0)
    assert found["pnmi_chance"] < 0.01
    # One-hot vectors: singular values are the square roots of the counts.
    values = np.sqrt(np.bincount(frames.phones))
    shares = values / values.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    assert found["effective_rank"] == pytest.approx(rank)
    variance = np.var(np.eye(5)[frames.phones], axis=0).mean()
    assert found["variance"] == pytest.approx(variance, rel=1e-4)
    assert found["size"] == 5


def test_units_are_those_of_several_seeds():
    """The mean over runs of k-means, each of another seed; one may be lucky."""

    def features_of(labels, generator):
        return np.eye(5)[labels] + generator.standard_normal((len(labels), 5))

    features, frames = planted_frames(features_of)
    found = measure_layer(features, frames, sides(frames), Settings(units=12))
    pnmi, perplexity = [], []
    for seed in range(3):
        kmeans = MiniBatchKMeans(
            12, batch_size=4096, max_iter=10, n_init=1, random_state=seed
        )
        units = kmeans.fit_predict(features.numpy())
        pnmi.append(homogeneity_score(frames.phones, units))
        perplexity.append(np.exp(entropy(np.bincount(units))))
    assert len(set(pnmi)) == 3 and found["pnmi_of_seeds"] == pytest.approx(pnmi)
    assert found["pnmi"] == pytest.approx(np.mean(pnmi))
    assert found["unit_perplexity"] == pytest.approx(np.mean(perplexity))


def test_features_without_a_relation_give_the_majority():
    features, frames = planted_frames(
        lambda labels, generator: generator.standard_normal((len(labels), 5))
    )
    is_test = sides(frames)
    found = measure_layer(features, frames, is_test, Settings(units=5))
    majority = (frames.phones[is_test] == 2).mean()
    assert found["accuracy"]["pooled"] == pytest.approx(majority, abs=0.005)
    assert found["pnmi"] == pytest.approx(found["pnmi_chance"], abs=0.005)


def test_what_is_learned_on_tested_speakers_does_not_count():
    """Features that encode phones only for the tested speakers do not help."""

    def features_of(labels, generator):
        return np.eye(5)[labels]

    features, frames = planted_frames(features_of)
    is_test = sides(frames)
    features[torch.from_numpy(~is_test)] = 0.0
    found = measure_layer(features, frames, is_test, Settings(units=5))
    assert found["accuracy"]["pooled"] == pytest.approx(
        (frames.phones[is_test] == 2).mean()
    )


def test_spread():
    assert spread(5, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert spread(6, 0.5).tolist() == [1, 3, 5]
    assert spread(9, 1 / 3).tolist() == [2, 5, 8]
    assert len(spread(1000, 0.37)) == 370
    assert set(np.diff(spread(1000, 0.37))) == {2, 3}


def corpus_of(folder, utterances=400, silence=True):
    data, alignment = folder / "data", folder / "phones.tsv"
    return find_corpus(data, alignment, utterances, "phones", silence)


def test_utterances_too_short_for_a_frame_are_left_out(folder, tmp_path):
    lines = (folder / "phones.tsv").read_text().splitlines(keepends=True)
    name = lines[0].partition("\t")[0]
    for frames, there in ((19, False), (20, True)):
        (tmp_path / "phones.tsv").write_text(
            f"{name}\tAA:{frames}\n" + "".join(lines[1:])
        )
        corpus = find_corpus(
            folder / "data", tmp_path / "phones.tsv", 100, "phones", True
        )
        assert (name in corpus.alignments) == there


def test_frames_have_their_phones_and_speakers(folder):
    corpus = corpus_of(folder)
    model = load_model(folder / "one" / "model.pth")
    frames = collect(model, corpus, [0, 2], 100_000)
    classes = np.array(corpus.classes)[frames.phones]
    # The loudest of a frame's 20 mel bands (below 8 kHz) is that of the tone.
    loudest = frames.layers[0].unflatten(1, (4, 20)).mean(dim=1)
    for phone, band in (("AA", slice(0, 7)), ("IY", slice(10, 16))):
        rows = torch.from_numpy(classes == phone)
        inside = (
            loudest[rows, band].max(dim=1).values >= loudest[rows].max(dim=1).values
        )
        assert inside.float().mean() > 0.9
    assert frames.layers[2].shape == (len(classes), 16)
    assert frames.objectives["anchor"].shape == (2, len(classes))
    assert set(frames.speakers) == {"s0", "s1", "s2", "s3"}
    assert corpus.tested == ["s1", "s3"]


def test_fewer_frames_are_every_nth(folder):
    corpus = corpus_of(folder)
    model = load_model(folder / "one" / "model.pth")
    every = collect(model, corpus, [1], 100_000)
    some = collect(model, corpus, [1], len(every.phones) // 3)
    assert len(some.phones) / len(every.phones) == pytest.approx(1 / 3, abs=0.05)
    # The chosen frames are some of all frames, in the same order.
    places = torch.cdist(some.layers[1], every.layers[1]).argmin(dim=1)
    assert torch.allclose(some.layers[1], every.layers[1][places], atol=1e-4)
    assert (places.diff() > 0).all()
    assert (some.phones == every.phones[places]).all()
    assert (
        some.objectives["enhanced"] == every.objectives["enhanced"][:, places]
    ).all()


def test_silence_left_out(folder):
    corpus = corpus_of(folder, silence=False)
    model = load_model(folder / "one" / "model.pth")
    frames = collect(model, corpus, [0], 100_000)
    assert corpus.classes == ("AA", "IY")
    whole = collect(model, corpus_of(folder), [0], 100_000)
    # In both cases, frames beyond the end of the alignment have no phone.
    silent = (np.array(corpus_of(folder).classes)[whole.phones] == "SIL").sum()
    assert frames.unlabelled == whole.unlabelled + silent
    assert len(frames.phones) == len(whole.phones) - silent


def test_command(folder, capsys):
    models = ("one/model.pth", "two/model.pth", "one/config.yaml")
    phone_probe.main(options(folder, *models))
    printed = capsys.readouterr().out
    result = json.loads((folder / "out.json").read_text())
    assert [model["name"] for model in result["models"]] == ["one", "two", "untrained"]
    assert result["train_speakers"] == ["s0", "s2"]
    assert result["test_speakers"] == ["s1", "s3"]
    assert len(result["utterances"]) == 12
    one, two, untrained = result["models"]
    for model in result["models"]:
        assert [layer["layer"] for layer in model["layers"]] == [0, 1, 2]
        assert model["frame_shift"] == 0.04
        # The input reveals each phone's tone, except in frames with a border.
        assert model["layers"][0]["accuracy"]["mean"] > 0.9
        assert model["majority"]["mean"] < 0.6
        for layer in model["layers"]:
            speakers = layer["accuracy"]["speakers"]
            assert set(speakers) == {"s1", "s3"}
            mean = np.mean(list(speakers.values()))
            assert layer["accuracy"]["mean"] == pytest.approx(mean)
    assert [objective["name"] for objective in one["objectives"]] == [
        "anchor",
        "enhanced",
    ]
    assert len(one["objectives"][0]["books"]) == 2
    assert untrained["objectives"] == []
    # All models have the same input, and thus the same results for it.
    assert one["layers"][0]["pnmi"] == two["layers"][0]["pnmi"]
    for model, difference in zip((two, untrained), result["differences"]):
        assert (difference["model"], difference["minus"]) == (model["name"], "one")
        assert difference["layers"][0] == {"layer": 0, "mean": 0.0, "error": 0.0}
        for layer in difference["layers"]:
            theirs, ours = (
                x["layers"][layer["layer"]]["accuracy"] for x in (model, one)
            )
            assert layer["mean"] == pytest.approx(theirs["mean"] - ours["mean"])
    heads = [line for line in printed.splitlines() if line.startswith("| layer | one")]
    assert heads == ["| layer | one | two | difference | untrained | difference |"]
    cell = one["layers"][2]["accuracy"]
    assert f"| 2 | {cell['mean']:.4f} ({cell['error']:.4f}) |" in printed
    assert re.search(r"^\| one \| anchor \| 2 \| ", printed, re.MULTILINE)


def test_the_majority_is_that_of_training(folder, tmp_path):
    """Guessing from the tested frames would make the baseline too good."""
    rows = {
        "s0": "AA:60 IY:40",
        "s1": "AA:20 IY:80",
        "s2": "AA:60",
        "s3": "SIL:60 AA:40",
    }
    alignment = tmp_path / "phones.tsv"
    alignment.write_text("".join(f"{x}-u0\t{row}\n" for x, row in rows.items()))
    out = tmp_path / "out.json"
    changed = {"alignment": alignment, "out": out, "layers": 0}
    phone_probe.main(options(folder, "one/model.pth", **changed))
    (model,) = json.loads(out.read_text())["models"]
    # 25 frames of 40 ms of each speaker; of the tested ones, 30 of 50 are IY or SIL
    assert model["majority"]["speakers"] == pytest.approx({"s1": 0.2, "s3": 0.4})
    assert model["majority"]["mean"] == pytest.approx(0.3)
    assert model["majority"]["pooled"] == pytest.approx(0.3)


def test_command_again_gives_the_same(folder):
    found = []
    for name in ("a", "b"):
        out = folder / f"{name}.json"
        phone_probe.main([*options(folder, "one/model.pth", out=out), "--layers", "1"])
        result = json.loads(out.read_text())
        result["models"][0].pop("seconds")
        found.append(result)
    assert found[0] == found[1]
    assert [layer["layer"] for layer in found[0]["models"][0]["layers"]] == [1]


def test_a_model_may_be_given_by_its_folder(folder):
    assert name_models([folder / "one", folder / "one" / "config.yaml"]) == [
        ("one", folder / "one" / "model.pth"),
        ("untrained", folder / "one" / "config.yaml"),
    ]


def test_models_of_one_folder_are_told_apart(folder):
    paths = [folder / "one" / "model.pth", folder / "one" / "other.pth"]
    assert [x.name for x in name_models(paths)] == [*map(str, paths)]


def test_differences_are_of_layers_that_both_have():
    def model(name, layers):
        return {
            "name": name,
            "layers": [
                {"layer": layer, "accuracy": {"speakers": {"a": x, "b": x + 0.1}}}
                for layer, x in layers.items()
            ],
        }

    found = compare(model("two", {1: 0.5, 2: 0.6}), model("one", {0: 0.1, 1: 0.4}))
    assert found["layers"] == [
        {"layer": 1, "mean": pytest.approx(0.1), "error": pytest.approx(0.0)}
    ]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"alignment": "{0}/missing.ctm"}, "missing.ctm: no such alignment"),
        ({"data": "{0}/one"}, "one: neither a data directory"),
        ({"layers": 3}, "--layers: one has layers 0 to 2"),
        ({"units": 9999}, "--units 9999: there are [0-9]+ frames only"),
        ({"alignment": "{0}/same.ctm"}, "all frames are of one phone"),
        ({"units": 1}, "--units and --max_frames are 2 or more"),
        (
            {"alignment": "{0}/late.ctm"},
            r"late.ctm: line 1: s0-u0 ends at 99.00 s, its",
        ),
        ({"alignment": "{0}/one.ctm"}, "of 1 speaker: half of the speakers"),
        ({"alignment": "{0}/after.ctm"}, "no frame has a phone"),
    ],
)
def test_errors_are_one_line(folder, changed, message):
    (folder / "late.ctm").write_text("s0-u0 1 0 99 AA\ns1-u0 1 0 1 AA\n")
    (folder / "same.ctm").write_text("s0-u0 1 0 1 AA\ns1-u0 1 0 1 AA\n")
    (folder / "one.ctm").write_text("s0-u0 1 0 1 AA\n")
    # Between the centres of two frames, 220 and 260 ms
    (folder / "after.ctm").write_text("s0-u0 1 0.23 0.001 A\ns1-u0 1 0.23 0.001 A\n")
    changed = {key: str(value).format(folder) for key, value in changed.items()}
    out = folder / "failed.json"
    with pytest.raises(SystemExit) as error:
        phone_probe.main(options(folder, "one/model.pth", out=out, **changed))
    assert re.match(f"phone_probe: error: .*{message}", str(error.value))
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_refused_first(folder, monkeypatch, capsys):
    monkeypatch.setattr(measure, "measure_model", None)
    (folder / "file").touch()
    for out, words in ((folder, "is a folder"), (folder / "file/x", "is no folder")):
        with pytest.raises(SystemExit):
            phone_probe.main(options(folder, "one/model.pth", out=out))
        assert f"argument --out: {folder}" in (said := capsys.readouterr().err)
        assert words in said


def test_all_models_are_looked_for_first(folder):
    command = options(folder, "one/model.pth", "one/missing.pth", alignment="nothing")
    with pytest.raises(SystemExit, match="missing.pth: no such file"):
        phone_probe.main(command)


def test_layers_of_all_models_are_checked_first(folder, tmp_path, monkeypatch):
    conf = {"encoder_conf": {**MODEL["encoder_conf"], "num_blocks": 1}}
    write_experiment(tmp_path / "flat", SSLTask, objectives=OBJECTIVES[:1], **conf)
    monkeypatch.setattr(measure, "measure_model", None)
    command = options(folder, "one/model.pth", tmp_path / "flat/model.pth", layers=2)
    with pytest.raises(SystemExit, match="--layers: flat has layers 0 to 1"):
        phone_probe.main(command)


def test_models_of_different_sample_rates_are_refused_first(
    folder, tmp_path, monkeypatch
):
    conf = {"frontend_conf": {**MODEL["frontend_conf"], "fs": "8k"}}
    write_experiment(tmp_path / "phone", SSLTask, objectives=OBJECTIVES[:1], **conf)
    monkeypatch.setattr(measure, "measure_model", None)
    command = options(folder, "one/model.pth", tmp_path / "phone/model.pth")
    words = "different sample rates: phone 8000 Hz, one 16000 Hz; measure them one"
    with pytest.raises(SystemExit, match=words):
        phone_probe.main(command)


def test_a_speaker_of_one_model_only():
    def result(name, *speakers):
        accuracy = {"speakers": dict.fromkeys(speakers, 0.5)}
        return {"name": name, "layers": [{"layer": 0, "accuracy": accuracy}]}

    words = "b, a: speaker t has frames for only one of them; raise --max_frames"
    with pytest.raises(DataError, match=words):
        compare(result("b", "s"), result("a", "s", "t"))


def test_a_model_that_diverged(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder / "one", broken)
    state = torch.load(broken / "model.pth")
    name = [name for name in state if name.startswith("encoder.encoders.1.")][0]
    state[name][:] = float("nan")
    torch.save(state, broken / "model.pth")
    with pytest.raises(SystemExit, match="broken/model.pth: layer 2 is not finite"):
        phone_probe.main(options(folder, broken / "model.pth"))


def test_real_speech(shared_data, tmp_path):
    """On ten real speakers, the probe is better than the majority class."""
    librispeech = shared_data / "librispeech"
    script = librispeech / "unpack_dev_clean.py"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    out = tmp_path / "out.json"
    command = {
        "model": write_experiment(tmp_path / "model", SSLTask),
        "data": tmp_path / "LibriSpeech" / "dev-clean",
        "alignment": librispeech / "dev-clean.phones.tsv.gz",
        "utterances": 60,
        "out": out,
        "layers": 0,
    }
    phone_probe.main([f"--{key}={value}" for key, value in command.items()])
    shutil.rmtree(tmp_path / "LibriSpeech")
    (model,) = json.loads(out.read_text())["models"]
    assert model["unlabelled_frames"] < 20
    assert 0.15 < model["majority"]["mean"] < 0.25
    assert model["layers"][0]["accuracy"]["mean"] > model["majority"]["mean"] + 0.1
