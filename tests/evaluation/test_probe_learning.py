"""The text probe against a bidirectional LSTM, a slow schedule, and planted letters."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from planted import OBJECTIVES, RATE, write_experiment

from espnet2_birq.api import load
from espnet2_birq.bin import probe as command
from espnet2_birq.evaluation import probe as module
from espnet2_birq.evaluation.probe import (
    Fit,
    Probe,
    Settings,
    Spoken,
    Utterance,
    decode,
    extract,
    fit,
    make_batches,
    pad,
    train,
)
from espnet2_birq.tasks.ssl import SSLTask

SIZE = 8  # of features
HIDDEN = 6
TONES = {" ": 400.0, "a": 900.0, "b": 1600.0, "c": 2600.0, "d": 4200.0}  # Hz


def draw_utterances(lengths, layers=3, text="ab ba", seed=0):
    """Draw features; each layer has its own scale and offset."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number, frames in enumerate(lengths):
        feats = torch.randn(layers, frames, SIZE, generator=draw)
        feats = feats * torch.arange(1, layers + 1)[:, None, None] + 0.5
        found.append(Utterance(f"u{number}", Path("x"), feats.half(), text))
    return found


def bidirectional(probe):
    """Return torch's bidirectional LSTM with a probe's weights."""
    lstm = torch.nn.LSTM(SIZE, HIDDEN, batch_first=True, bidirectional=True)
    forth, back = (one.state_dict() for one in probe.lstms)
    lstm.load_state_dict(forth | {f"{name}_reverse": back[name] for name in back})
    return lstm


@torch.no_grad()
def slow_scores(probe, feats):
    """Compute log-probabilities (T', tokens) of one utterance, (K, T', E), in steps."""
    mean = feats.mean(dim=2, keepdim=True)
    variance = feats.var(dim=2, keepdim=True, correction=0)
    weights = probe.weights.exp() / probe.weights.exp().sum()
    layers = (feats - mean) / (variance + 1e-5).sqrt()
    hs = sum(weight * layer for weight, layer in zip(weights, layers))
    if probe.lstms is not None:
        hs = bidirectional(probe)(hs[None])[0][0]
    scores = hs @ probe.output.weight.T + probe.output.bias
    return scores - scores.exp().sum(dim=1, keepdim=True).log()


def new_probe(hidden=HIDDEN, seed=0):
    """Return a probe that weights its three layers differently."""
    torch.manual_seed(seed)
    probe = Probe(3, SIZE, hidden, 5)
    with torch.no_grad():
        probe.weights.copy_(torch.tensor([0.3, -0.5, 1.0]))
    return probe.eval()


@torch.no_grad()
@pytest.mark.parametrize("hidden", [HIDDEN, 0])
def test_it_is_a_bidirectional_lstm(hidden):
    """Of each utterance alone, without padding; frames are not mirrored."""
    probe = new_probe(hidden)
    several = draw_utterances((20, 27, 3, 1))
    for row, one in zip(probe(*pad(several)), several):
        expected = slow_scores(probe, one.feats.float())
        torch.testing.assert_close(row[: len(expected)], expected)


@torch.no_grad()
def test_a_layer_of_large_values_does_not_dominate():
    """Trained layer weights would be read as where text is, not as what is large."""
    feats, lengths = pad(draw_utterances((20, 27), layers=2))
    torch.manual_seed(0)
    probe = Probe(2, SIZE, HIDDEN, 5).eval()
    large = feats * torch.tensor([1.0, 1000.0])[:, None, None]
    torch.testing.assert_close(
        probe(large, lengths), probe(feats, lengths), atol=1e-3, rtol=1e-3
    )


def test_texts_are_best_letters_without_repeats_and_blanks():
    """Letters must not be those of another utterance of the batch, or of its padding."""
    probe = new_probe()
    several = draw_utterances((20, 40, 27))
    with torch.no_grad():
        probe.output.weight *= 20  # otherwise, a single letter is best everywhere
    expected = {}
    for one in several:
        best = slow_scores(probe, one.feats.float()).argmax(dim=1).tolist()
        letters = [" abc"[token - 1] for token, _ in itertools.groupby(best) if token]
        expected[one.name] = "".join(letters)
    assert all(len(set(text)) > 1 for text in expected.values())
    assert decode(Fit(probe, " abc", 0.0), several) == expected


@pytest.mark.parametrize("updates", [1, 9, 10, 11, 130])
def test_the_learning_rate_rises_and_falls(monkeypatch, updates):
    """One cycle of cosines over all updates; the loss is that of the last hundred."""
    rates, losses = [], []
    step, ctc_loss = torch.optim.AdamW.step, torch.nn.functional.ctc_loss

    def stepping(self, *args):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    def measuring(*args, **more):
        losses.append(ctc_loss(*args, **more))
        return losses[-1]

    monkeypatch.setattr(torch.optim.AdamW, "step", stepping)
    monkeypatch.setattr(torch.nn.functional, "ctc_loss", measuring)
    utterances = draw_utterances((12, 15, 30))
    peak = 0.02
    settings = Settings(updates=updates, batch_frames=30, hidden=HIDDEN, lr=peak)
    loss = train(utterances, {" ": 1, "a": 2, "b": 3}, new_probe(), settings)
    top = 0.1 * updates - 1 if updates > 10 else -1  # update of the peak, from 0

    def between(start, end, share):
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    expected = [
        between(peak / 25, peak, x / top)
        if x <= top
        else between(peak, peak / 25e4, (x - top) / (updates - 1 - top))
        for x in range(updates)
    ]
    assert rates == pytest.approx(expected)
    last = [x.item() for x in losses][-100:]
    assert loss == pytest.approx(sum(last) / len(last))


def test_batches_are_as_large_as_the_limit():
    """Including padding; a single utterance may be longer."""
    lengths = np.random.default_rng(0).integers(1, 60, 50).tolist() + [150, 130]
    utterances = draw_utterances(lengths, layers=1)
    batches = make_batches(utterances, 120)
    in_order = [x.feats.size(1) for batch in batches for x in batch]
    assert in_order == sorted(lengths)
    assert {x.name for batch in batches for x in batch} == {x.name for x in utterances}
    for batch, following in zip(batches, [*batches[1:], None]):
        assert len(batch) == 1 or len(batch) * batch[-1].feats.size(1) <= 120
        if following is not None:
            assert (len(batch) + 1) * following[0].feats.size(1) > 120


def test_every_batch_is_taken_before_one_is_repeated(monkeypatch):
    """Drawn independently, some utterances would hardly be trained on."""
    taken = []

    def noted(batch):
        taken.append(batch[0].name)
        return pad(batch)

    monkeypatch.setattr(module, "pad", noted)
    utterances = draw_utterances((10, 11, 12, 13, 14))
    fit(utterances, Settings(updates=20, batch_frames=1, hidden=0))
    rounds = [tuple(taken[start : start + 5]) for start in range(0, 20, 5)]
    assert all(len(set(one)) == 5 for one in rounds)
    assert len(set(rounds)) > 1  # in another order


def test_the_seed_decides():
    """Otherwise, runs of several seeds would be one run, and vary by nothing."""
    utterances = draw_utterances((12, 15, 30))
    settings = {"updates": 3, "batch_frames": 30, "hidden": HIDDEN}
    zero, same, one = (
        fit(utterances, Settings(seed=seed, **settings)) for seed in (0, 0, 1)
    )
    state = zero.top.state_dict()
    assert zero.loss == same.loss != one.loss
    for name, values in same.top.state_dict().items():
        assert torch.equal(values, state[name])
    other = one.top.state_dict()
    assert not torch.allclose(other["output.weight"], state["output.weight"])


@pytest.fixture
def model(tmp_path):
    """Model with two layers."""
    write_experiment(tmp_path / "exp", SSLTask, objectives=OBJECTIVES)
    return load(tmp_path / "exp").model


def write_spoken(folder, utterances, seed):
    """Write a set in which a letter is a tone of 80 ms, after 80 ms of faint noise."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = {"wav.scp": [], "text": [], "utt2spk": []}
    time = np.arange(RATE * 80 // 1000) / RATE
    for number in range(utterances):
        words = ("".join(draw.choice(list("abcd"), draw.integers(1, 4))) for _ in "123")
        text, name = " ".join(words), f"s{number % 4}-u{number:02}"
        parts = []
        for letter in text:
            parts += [0 * time, 0.1 * np.sin(2 * np.pi * TONES[letter] * time)]
        wave = np.concatenate([*parts, 0 * time])
        wave += 0.001 * draw.standard_normal(len(wave))
        soundfile.write(folder / f"{name}.wav", wave, RATE)
        lines["wav.scp"].append(f"{name} {folder}/{name}.wav\n")
        lines["text"].append(f"{name} {text}\n")
        lines["utt2spk"].append(f"{name} {name[:2]}\n")
    for file, content in lines.items():
        (folder / file).write_text("".join(sorted(content)))


@torch.no_grad()
def test_all_layers_are_probed(model, tmp_path):
    """From the first to the top, as the encoder itself returns them."""
    write_spoken(tmp_path / "raw", 10, seed=0)
    files = sorted((tmp_path / "raw").glob("*.wav"), key=lambda x: x.stat().st_size)
    spoken = [Spoken(file.stem, file, "a") for file in files]
    assert len(spoken) == 10  # several batches of several lengths
    depth = len(model.encoder.encoders)
    for file, one in zip(files, extract(model, spoken), strict=True):
        wave, _ = soundfile.read(file, dtype="float32")
        speech, samples = torch.from_numpy(wave)[None], torch.tensor([len(wave)])
        xs, lengths = model._extract_feats(speech, samples)
        (_, every), _, _ = model.encoder(xs, lengths, return_all_hs=True)
        assert one.name == file.stem and len(every) == depth == 2
        expected = torch.cat(every)
        assert one.feats.shape == expected.shape and one.feats.dtype == torch.half
        torch.testing.assert_close(one.feats.float(), expected, atol=2e-3, rtol=2e-3)


def test_letters_of_the_top_layer_are_found(model, tmp_path, monkeypatch):
    """The rest is noise; a probe that cannot learn would have an error rate of 100 %."""
    draw = torch.Generator().manual_seed(0)

    def planted(encoder, xs, lengths, layers):
        frames = (xs.size(1) - 3) // 4
        tones = xs[:, : 4 * frames].unflatten(1, (frames, 4)).mean(dim=2)
        top = len(encoder.encoders)
        return [
            tones if layer == top else torch.randn(tones.shape, generator=draw)
            for layer in layers
        ]

    monkeypatch.setattr(module, "encode_up_to", planted)
    write_spoken(tmp_path / "train", 60, seed=1)
    write_spoken(tmp_path / "test", 20, seed=2)
    command.main(
        ["--model", f"{tmp_path}/exp", "--train", f"{tmp_path}/train"]
        + ["--test", f"{tmp_path}/test", "--out", f"{tmp_path}/out"]
        + ["--updates", "300", "--hidden", "16", "--lr", "0.02"]
    )
    found = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert found["cer"]["test"]["percent"] < 3
    assert found["wer"]["test"]["percent"] < 10
    lower, top = found["layer_weights"]
    assert top > 0.7 and lower + top == pytest.approx(1, abs=0.01)
