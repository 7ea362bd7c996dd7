"""The page of an experiment: contents, a single file, and missing inputs."""

import base64
import json
import re

import numpy as np
import pytest
import soundfile
import torch
import yaml
from planted import OBJECTIVES, RATE, write_experiment, write_speech

from espnet2_birq.api import load
from espnet2_birq.bin import report
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation import glance as glances
from espnet2_birq.evaluation.glance import glance
from espnet2_birq.tasks.ssl import SSLTask

VALUES = "loss_anchor={0}, acc_anchor=0.2, label_ppl_anchor=9.1, pred_ppl_anchor=2.5, "
VALUES += "loss_enhanced={0}, acc_enhanced=0.1, label_ppl_enhanced=99.1, "
VALUES += "pred_ppl_enhanced=50.0, loss={0}, train_time=0.5, total_count={1}"
STEP = (
    "[h] 2026-11-21 05:{:02}:00,000 (trainer:810) INFO: 1epoch:train:{}-{}batch: {}\n"
)
EPOCH = "[h] 2026-11-21 05:30:00,000 (trainer:392) INFO: 1epoch results: "
EPOCH += "[train] {0}, [valid] {1}\n"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Experiment after its first epoch, in a recipe's folder with data."""
    top = tmp_path_factory.mktemp("recipe")
    write_speech(top)
    folder = top / "exp" / "ssl_birq"
    lists = [["data/wav.scp", "speech", "sound"]]
    model = write_experiment(folder, SSLTask, objectives=OBJECTIVES, max_epoch=2)
    model.rename(folder / "1epoch.pth")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["valid_data_path_and_name_and_type"] = lists
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    steps = [
        STEP.format(n, 10 * n + 1, 10 * n + 10, VALUES.format(9.0 - n, 10 * n + 10))
        for n in range(3)
    ]
    ends = EPOCH.format(VALUES.format(8.0, 30), VALUES.format(6.5, 3))
    (folder / "train.log").write_text("".join([*steps, ends]))
    return folder


def read(path):
    text = path.read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", text)
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(pictures) == text.count("<img") and "http" not in text
    assert all(base64.b64decode(x).startswith(b"\x89PNG") for x in pictures)
    return text, titles, len(pictures)


CURVES = ["State", "Learning", "Codebooks"]


def test_page(experiment, capsys):
    layer = {"accuracy": {"speakers": {"a": 0.4, "b": 0.5}, "error": 0.05}}
    model = {
        "name": "ssl_birq",
        "file": str(experiment / "1epoch.pth"),
        "layers": [{"layer": n, **layer} for n in range(3)],
        "objectives": [
            {"name": "anchor", "books": [dict(pnmi=0.25, chance=0.01, perplexity=35.0)]}
        ],
    }
    other = {**model, "name": "other", "file": "elsewhere/model.pth"}
    phones = experiment / "phones.json"
    alone = {"accuracy": {"speakers": {"a": 0.4}, "error": None}}  # as phone_probe does
    lone = {**other, "name": "lone", "layers": [{"layer": n, **alone} for n in (0, 2)]}
    phones.write_text(json.dumps({"models": [other, model, lone]}))
    (experiment / "probe").mkdir()
    result = {"layer_weights": [0.25, 0.75]}
    result |= {
        kind: {"test": {"percent": x}} for kind, x in (("cer", 41.5), ("wer", 83))
    }
    (experiment / "probe" / "probe.json").write_text(json.dumps(result))
    report.main([str(experiment)])
    assert capsys.readouterr().out == f"{experiment}/report.html\n"
    text, titles, pictures = read(experiment / "report.html")
    probes = ["Phones in the layers", "Text in the layers"]
    assert titles == [*CURVES, *probes, "Layers", "An utterance", "Configuration"]
    assert pictures == 6
    assert "updates     30" in text and "ssl_birq: running" in text
    assert "<td>0.250</td><td>0.010</td><td>35</td>" in text
    assert "<td>test</td><td>41.500</td><td>83</td>" in text
    assert "other, anchor" not in text
    assert re.search(r"s\d-u\d\.wav", text) and "codebook_dim" in text
    # If given explicitly, other models are shown, too.
    report.main([str(experiment), "--phones", str(phones)])
    assert "other, anchor.0" in (experiment / "report.html").read_text()
    with pytest.raises(SystemExit, match="report: error: nope.json: no such file"):
        report.main([str(experiment), "--phones", "nope.json"])


def test_results_given_or_found_twice(experiment, tmp_path, monkeypatch):
    """Each file is shown once; another file of the same model is shown, too."""
    speakers = {"speakers": {"a": 0.4, "b": 0.5}, "error": 0.05}
    layers = [{"layer": n, "accuracy": speakers} for n in range(3)]
    book = dict(pnmi=0.25, chance=0.01, perplexity=35.0)
    model = {"name": "m", "file": str(tmp_path / "1epoch.pth"), "layers": layers}
    model["objectives"] = [{"name": "anchor", "books": [book]}]
    files = [tmp_path / name for name in ("phones.json", "phones_test.json")]
    for file in files:
        file.write_text(json.dumps({"models": [model]}))
    (tmp_path / "probe").mkdir()
    probe = tmp_path / "probe" / "probe.json"
    scores = {kind: {"test": {"percent": 41.5}} for kind in ("cer", "wer")}
    probe.write_text(json.dumps({"layer_weights": [0.25, 0.75], **scores}))
    for name in ("train.log", "config.yaml"):
        (tmp_path / name).write_bytes((experiment / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    for given in ([], ["--probe", "probe/probe.json", "--phones", "phones.json"]):
        report.main([str(tmp_path), *given])
        text, titles, _ = read(tmp_path / "report.html")
        assert titles.count("Text in the layers") == 1
        assert text.count("<td>0.250</td><td>0.010</td>") == 2
        assert "m, anchor.0" in text and f"m, {files[1]}, anchor.0" in text
    with pytest.raises(SystemExit, match=f"{probe}: not the results that it should"):
        report.main([str(tmp_path), "--phones", str(probe)])


def test_validation_utterances_that_are_too_short(experiment, tmp_path):
    """Training leaves them out; the page is written without them."""
    folder = tmp_path / "exp" / "ssl"
    folder.mkdir(parents=True)
    for name in ("train.log", "config.yaml", "1epoch.pth"):
        (folder / name).write_bytes((experiment / name).read_bytes())
    for name, seconds in (("short", 0.02), ("long", 2.0)):
        noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE))
        soundfile.write(tmp_path / f"{name}.wav", noise, RATE)
    scp = tmp_path / "data" / "wav.scp"
    scp.parent.mkdir()
    scp.write_text(f"a {tmp_path}/short.wav\nb {tmp_path}/long.wav\n")
    report.main([str(folder)])
    assert f"{tmp_path}/long.wav" in read(folder / "report.html")[0]
    scp.write_text(f"a {tmp_path}/short.wav\n")
    report.main([str(folder)])
    assert "too short for a frame; give --audio" in read(folder / "report.html")[0]


def test_a_page_cannot_be_a_folder(experiment, tmp_path, capsys):
    """This is said at once, not after the work."""
    with pytest.raises(SystemExit):
        report.main([str(experiment), "--out", str(tmp_path)])
    assert "is a folder; name a file" in capsys.readouterr().err


def test_text_probes_of_a_matrix(experiment, tmp_path):
    """A matrix has OUT/ssl/ssl_NAME and OUT/probe/NAME; other systems' are not shown."""
    folder = tmp_path / "ssl" / "ssl_birq_seed0"
    folder.mkdir(parents=True)
    for name in ("train.log", "config.yaml"):
        (folder / name).write_bytes((experiment / name).read_bytes())
    for name in ("birq_seed0", "birq_seed1"):
        (tmp_path / "probe" / name).mkdir(parents=True)
        scores = {kind: {"test": {"percent": 41.5}} for kind in ("cer", "wer")}
        text = json.dumps({"layer_weights": [0.25, 0.75], **scores})
        (tmp_path / "probe" / name / "probe.json").write_text(text)
    report.main([str(folder)])
    text, titles, _ = read(folder / "report.html")
    assert titles.count("Text in the layers") == 1
    assert "probe/birq_seed0/probe.json" in text


def test_page_without_model_or_data(experiment, tmp_path, caplog):
    """As after a few minutes of training, or on another machine."""
    for name in ("train.log", "config.yaml", "1epoch.pth"):
        (tmp_path / name).write_bytes((experiment / name).read_bytes())
    out = tmp_path / "page.html"
    report.main([str(tmp_path), "--out", str(out)])
    text, titles, pictures = read(out)
    assert pictures == 2 and "data/wav.scp is not seen from here; give --audio" in text
    audio = tmp_path / "u.wav"
    soundfile.write(audio, np.random.default_rng(0).normal(0, 0.1, 2 * RATE), RATE)
    report.main([str(tmp_path), "--out", str(out), "--audio", str(audio)])
    assert read(out)[2] == 4
    (tmp_path / "1epoch.pth").unlink()
    report.main([str(tmp_path), "--out", str(out)])
    assert "There is no model yet" in read(out)[0]
    (tmp_path / "train.log").unlink()
    with pytest.raises(SystemExit, match="train.log: no such file; run the training"):
        report.main([str(tmp_path), "--out", str(out)])


def test_page_before_the_first_objective_starts(tmp_path):
    """A tokenizer may learn alone at first."""
    folder = tmp_path / "ssl"
    write_experiment(folder, SSLTask, objectives=OBJECTIVES).unlink()
    values = "distillation=0.9, loss=1.0, train_time=0.5"
    (folder / "train.log").write_text(STEP.format(0, 1, 10, values))
    report.main([str(folder)])
    titles = read(folder / "report.html")[1]
    assert titles == ["State", "An utterance", "Configuration"]


def test_glance_is_what_training_sees(experiment):
    """Labels are those of the clean input, predictions those of the masked one."""
    model = load(experiment)
    speech = torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0))
    look = glance(model.model, speech)
    assert look.mask.any() and not look.mask.all()
    assert len(look.features) == 301 and abs(look.shift - 0.04) < 1e-9
    codes, (frames,) = model.labels([speech])
    assert list(look.codes) == list(codes) and len(look.mask) == frames
    for name, found in look.codes.items():
        assert torch.equal(found.labels, codes[name][0, 0])
        assert found.size == 16 and found.predictions.max() < 16
    # forward() draws the same mask and noise from the same seed.
    with torch.no_grad():
        _, stats, _ = model.model(speech[None], torch.tensor([len(speech)]))
    assert abs(float(stats["mask_share"]) - look.mask.float().mean()) < 1e-6
    other = glance(model.model, speech, seed=1)
    assert not torch.equal(other.mask, look.mask)
    with pytest.raises(DataError, match="too short for an encoder frame"):
        glance(model.model, speech[:400])


def test_glance_at_the_beginning_of_a_long_recording(experiment, monkeypatch, caplog):
    """In one pass, its memory would grow with the square of the length."""
    monkeypatch.setattr(glances, "WINDOW", 2.0)
    model = load(experiment).model
    speech = torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0))
    look, begin = glance(model, speech), glance(model, speech[: 2 * RATE])
    assert torch.equal(look.features, begin.features) and len(look.features) == 201
    assert caplog.messages == ["only the first 2 s of the recording are looked at"]
