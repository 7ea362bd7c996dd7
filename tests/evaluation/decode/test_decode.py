"""ctc_decode and tune_lm as commands, with a tiny random model on synthetic audio."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from espnet2.bin.asr_inference import Speech2Text
from tiny_asr import SAMPLES, make_data, make_model

from espnet2_birq.bin import ctc_decode, train_ngram, tune_lm
from espnet2_birq.errors import ConfigError
from espnet2_birq.evaluation.decode import tuning
from espnet2_birq.evaluation.decode.network import (
    Recogniser,
)
from espnet2_birq.evaluation.decode.search import Weights
from espnet2_birq.evaluation.decode.store import (
    Block,
    LogProbs,
    Results,
    read_block,
    reserved,
)
from espnet2_birq.evaluation.decode.tuning import table, tune

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "asr")


def copy_model(model, folder):
    folder.mkdir()
    for path in (model, model.parent / "config.yaml"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / model.name


def decode(model, *data, options=()):
    ctc_decode.main(
        ["--model", str(model), "--ngpu", "0", "--nj", "1", *options]
        + ["--data", *map(str, data)]
    )


def read_texts(path):
    return dict(line.partition(" ")[::2] for line in path.read_text().splitlines())


def test_greedy_text_is_that_of_asr_inference(model, tmp_path):
    data = make_data(tmp_path / "test")
    model = copy_model(model, tmp_path / "asr")
    decode(model, data)  # a batch has lengths of 2,500 to 40,000 samples
    found = read_texts(tmp_path / "asr/ctc_greedy_model/test/text")
    inference = Speech2Text(
        *(model.parent / "config.yaml", model), ctc_weight=1.0, beam_size=1
    )
    long_enough = [n for n, samples in enumerate(SAMPLES) if samples > 1200]
    for number in long_enough:
        wave, _ = soundfile.read(data / f"{number}.wav", dtype="float32")
        text, tokens, _, _ = inference(wave)[0]
        assert found[f"utt{number}"] == text
    texts = [found[f"utt{number}"] for number in long_enough]
    # The texts are long and different enough for a meaningful comparison.
    assert len(set(texts)) > 4 and min(map(len, texts)) > 0
    # ESPnet's input layer makes no frame from 800 samples.
    assert found["utt6"] == ""
    assert "too short" in (tmp_path / "asr/ctc_greedy_model/test/skipped").read_text()


def test_bad_audio_is_listed_and_has_an_empty_line(model, tmp_path, caplog):
    caplog.set_level("INFO")
    data = make_data(tmp_path / "test", [9000] * 8)
    (data / "1.wav").unlink()
    (data / "2.wav").write_bytes(b"no audio")
    soundfile.write(data / "3.wav", np.zeros(9000), 8000)
    soundfile.write(data / "4.wav", np.zeros((9000, 2)), 16000)
    for number, value in ((5, np.nan), (6, np.inf)):
        wave = np.zeros(9000)
        wave[4000] = value
        soundfile.write(data / f"{number}.wav", wave, 16000, "FLOAT")
    scp = (data / "wav.scp").read_text()
    (data / "wav.scp").write_text(scp.replace("7.wav", "7.wav cat |"))
    model = copy_model(model, tmp_path / "asr")
    decode(model, data)
    out = tmp_path / "asr/ctc_greedy_model/test"
    texts = read_texts(out / "text")
    assert list(texts) == [f"utt{n}" for n in range(8)]
    assert texts["utt0"] and not any(texts[f"utt{n}"] for n in range(1, 8))
    reasons = read_texts(out / "skipped")
    assert "no such audio file" in reasons["utt1"]
    assert "not readable" in reasons["utt2"]
    assert "8000 Hz" in reasons["utt3"] and "--resample" not in reasons["utt3"]
    assert "has 2 channels, wanted one" in reasons["utt4"]
    assert all("NaN, infinite" in reasons[f"utt{n}"] for n in (5, 6))
    assert "a command, not audio" in reasons["utt7"]
    scores = read_texts(out / "score").values()
    assert all(np.isfinite(float(score)) for score in scores)
    figures = json.loads((out / "decode.json").read_text())
    assert (figures["utterances"], figures["skipped"]) == (8, 7)
    assert figures["network_rtf"] > 0 and figures["search_rtf_per_core"] > 0
    assert "7 utterances have empty lines" in caplog.text
    # Restored utterances are decoded, and no others.
    for number in range(1, 7):
        (data / f"{number}.wav").write_bytes((data / "0.wav").read_bytes())
    decode(model, data)
    assert "1 utterances are done, 6 are left" in caplog.text
    again = read_texts(out / "text")
    assert again.pop("utt7") == "" and set(again.values()) == {texts["utt0"]}
    assert list(read_texts(out / "skipped")) == ["utt7"]


def test_audio_damaged_in_its_middle_is_skipped(model, tmp_path):
    """Its header and end, which are probed, are whole."""
    data = make_data(tmp_path / "test", [9000, 128_000, 16000])
    for number in range(3):
        wave, rate = soundfile.read(data / f"{number}.wav")
        soundfile.write(data / f"{number}.flac", wave, rate)
    content = bytearray((data / "1.flac").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    (data / "1.flac").write_bytes(content)
    scp = (data / "wav.scp").read_text()
    (data / "wav.scp").write_text(scp.replace(".wav", ".flac"))
    model = copy_model(model, tmp_path / "asr")
    for seconds in ("200", "1"):  # all in a batch; then those that are left
        decode(model, data, options=["--batch_seconds", seconds])
        out = tmp_path / "asr/ctc_greedy_model/test"
        texts = read_texts(out / "text")
        assert texts["utt0"] and texts["utt2"] and not texts["utt1"]
        (line,) = (out / "skipped").read_text().splitlines()
        assert line.startswith(f"utt1 {data}/1.flac: not readable as audio")


@pytest.mark.parametrize("place", ["ctc_log_probs_model", "ctc_greedy_model"])
def test_two_commands_take_turns(model, tmp_path, caplog, place):
    caplog.set_level("INFO")
    data = make_data(tmp_path / "test", [9000, 16000])
    model = copy_model(model, tmp_path / "asr")
    other = threading.Thread(target=decode, args=(model, data))
    folder = tmp_path / "asr" / place / "test"
    with reserved(folder):
        other.start()
        while "another command is at work on it, waiting" not in caplog.text:
            assert other.is_alive(), "it has not waited"
            time.sleep(0.01)
        assert [path.name for path in folder.iterdir()] == [".lock"]
    other.join()
    assert len(read_texts(tmp_path / "asr/ctc_greedy_model/test/text")) == 2


def test_a_set_given_by_its_place(model, tmp_path, monkeypatch):
    """Neither the experiment nor the log-probabilities of other sets are touched."""
    first = make_data(tmp_path / "first", [9000])
    second = make_data(tmp_path / "second", [9000, 16000])
    model = copy_model(model, tmp_path / "asr")
    decode(model, first)
    kept = [path for path in (tmp_path / "asr").rglob("*") if path.is_file()]
    (second / "sub").mkdir()
    for folder, given in ((second, "."), (second / "sub", "..")):
        monkeypatch.chdir(folder)
        decode(model, given)
        assert all(path.is_file() for path in kept)
        assert (tmp_path / "asr/ctc_greedy_model/second/text").is_file()


def test_transcripts_of_other_utterances_are_told(model, tmp_path, caplog):
    data = make_data(tmp_path / "test", [9000, 16000])
    model = copy_model(model, tmp_path / "asr")
    decode(model, data)
    figures = tmp_path / "asr/ctc_greedy_model/test/decode.json"
    before = json.loads(figures.read_text())["wer"]
    with (data / "text").open("a") as stream:
        stream.write("utt8 SEAT\nutt9 A TEA\n")
    decode(model, data)
    words = "test/text: 2 utterances are not in wav.scp, .*; the first: utt8"
    assert re.search(words, caplog.text)
    assert json.loads(figures.read_text())["wer"] == before


def test_a_model_that_gives_nan_writes_none(model, tmp_path, caplog, monkeypatch):
    data = make_data(tmp_path / "test", [9000, 9100, 9200])
    model = copy_model(model, tmp_path / "asr")
    compute = Recogniser.log_probs

    def broken(self, waves):
        found = compute(self, waves)
        for wave, one in zip(waves, found):
            if len(wave) == 9100:
                one[3] = np.nan
        return found

    monkeypatch.setattr(Recogniser, "log_probs", broken)
    decode(model, data)
    out = tmp_path / "asr/ctc_greedy_model/test"
    assert list(read_texts(out / "skipped")) == ["utt1"]
    assert "utt1 the model's output has NaN" in caplog.text
    texts, scores = read_texts(out / "text"), read_texts(out / "score")
    assert texts["utt0"] and texts["utt2"] and not texts["utt1"]
    assert all(np.isfinite(float(score)) for score in scores.values())
    assert "NaN" not in (out / "results.jsonl").read_text()
    # Results stored by an earlier version are not reused.
    key = json.loads((out / "results.jsonl").read_text().splitlines()[0])
    results = Results(out / "results.jsonl", key)
    results.add({"utt1": dict(tokens=[3], score=float("nan"), seconds=0.0)})
    decode(model, data)
    assert scores == read_texts(out / "score")


@pytest.mark.parametrize("kept, words", [(0, "is empty"), (5000, "is cut short")])
def test_a_model_file_that_is_not_whole(model, tmp_path, kept, words):
    data = make_data(tmp_path / "test", [9000])
    model = copy_model(model, tmp_path / "asr")
    model.write_bytes(model.read_bytes()[:kept])
    with pytest.raises(SystemExit, match=f"^error: {model}: {words}; copy it again"):
        decode(model, data)


def test_another_model_starts_afresh_and_the_same_one_does_not(model, tmp_path, caplog):
    caplog.set_level("INFO")
    data = make_data(tmp_path / "test", [9000, 16000])
    mine = copy_model(model, tmp_path / "asr")
    decode(mine, data)
    out = tmp_path / "asr/ctc_greedy_model/test/text"
    first = out.read_text()
    blocks = sorted((tmp_path / "asr/ctc_log_probs_model/test").glob("*.npz"))
    times = [path.stat().st_mtime_ns for path in blocks]
    decode(mine, data)
    assert [path.stat().st_mtime_ns for path in blocks] == times
    assert "afresh" not in caplog.text
    mine.write_bytes(make_model(tmp_path / "other", seed=1).read_bytes())
    decode(mine, data)
    assert "starting afresh" in caplog.text and out.read_text() != first
    # Other audio of the same length under the same name, as after another stage 3.
    caplog.clear()
    before = (tmp_path / "asr/ctc_greedy_model/test/score").read_text()
    soundfile.write(data / "0.wav", soundfile.read(data / "1.wav")[0][:9000], 16000)
    decode(mine, data)
    assert "starting afresh" in caplog.text
    assert (tmp_path / "asr/ctc_greedy_model/test/score").read_text() != before


def test_a_killed_command_goes_on(model, tmp_path):
    data = make_data(tmp_path / "test", [16000 + n for n in range(40)])
    model = copy_model(model, tmp_path / "asr")
    command = [sys.executable, "-m", "espnet2_birq.bin.ctc_decode", "--ngpu", "0"]
    command += ["--model", str(model), "--data", str(data), "--nj", "2"]
    command += ["--batch_seconds", "1"]  # a block for each utterance
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    folder = tmp_path / "asr/ctc_log_probs_model/test"
    while len(list(folder.glob("*.npz"))) < 2:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    text = tmp_path / "asr/ctc_greedy_model/test/text"
    done = sorted(folder.glob("*.npz"))
    assert len(done) < 40 and not text.exists()
    (folder / "block000099.part").write_bytes(b"torn")
    times = {path: path.stat().st_mtime_ns for path in done}
    decode(model, data, options=["--batch_seconds", "1"])
    assert {path: path.stat().st_mtime_ns for path in done} == times
    whole = copy_model(model, tmp_path / "whole")
    decode(whole, data)
    assert (
        text.read_text() == (tmp_path / "whole/ctc_greedy_model/test/text").read_text()
    )
    assert not list(folder.glob("*.part"))


def test_results_drop_a_torn_line(tmp_path):
    path = tmp_path / "x" / "results.jsonl"
    Results(path, {"model": "a"}).add({"u1": {"tokens": [1]}, "u2": {"tokens": []}})
    with path.open("a") as stream:
        stream.write('{"name": "u3", "tok')
    again = Results(path, {"model": "a"})
    assert again.found == {"u1": {"tokens": [1]}, "u2": {"tokens": []}}
    again.add({"u3": {"tokens": [2]}})
    assert len(Results(path, {"model": "a"}).found) == 3
    assert Results(path, {"model": "b"}).found == {}


def test_blocks_come_back_as_they_were(tmp_path):
    audio = {"u/1": "1 1", "file": "1 2", "ü": "1 3", "later": "2 4"}
    store = LogProbs(tmp_path / "x", {"model": "a"}, audio)
    arrays = [np.random.rand(n, 3).astype(np.float32) for n in (4, 0, 2)]
    store.add(Block(["u/1", "file", "ü"], arrays, 3.0, 0.5, ["1 1", "1 2", "1 3"]))
    block = read_block(store.blocks()[0])
    assert block.names == ["u/1", "file", "ü"] and block.seconds == 3.0
    for one, other in zip(block.log_probs, arrays):
        np.testing.assert_array_equal(one, other)
    assert store.done() == {"u/1", "file", "ü"}
    key = (tmp_path / "x/key.json").read_text()
    changed = {**audio, "later": "2 5"}  # not a stored utterance
    assert LogProbs(tmp_path / "x", {"model": "a"}, changed).done() == store.done()
    assert (tmp_path / "x/key.json").read_text() == key
    changed = {**audio, "file": "1 5"}
    assert not LogProbs(tmp_path / "x", {"model": "a"}, changed).done()
    assert (tmp_path / "x/key.json").read_text() != key  # results start afresh, too


def test_tuning_decodes_and_its_weights_are_taken(
    model, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    dev, test = make_data(tmp_path / "dev"), make_data(tmp_path / "test")
    model = copy_model(model, tmp_path / "asr")
    text = tmp_path / "text"
    text.write_text("SEAT TEA\nA SEAT\nTEA AT SEA\n" * 3)
    arpa, out = tmp_path / "lm.arpa", tmp_path / "asr" / "lm.yaml"
    train_ngram.main(["--text", str(text), "--out", str(arpa), "--order", "2"])
    common = ["--model", str(model), "--ngpu", "0", "--lm", str(arpa), "--nj", "1"]
    tune_lm.main([*common, "--dev", str(dev), "--out", str(out), "--beam_size", "8"])
    weights = yaml.safe_load(out.read_text())
    printed = capsys.readouterr().out
    assert f"**{weights['dev_wer']:.2f}**" in printed
    assert (
        f"{dev}: 1 utterances are left out; the first, utt6: too short" in caplog.text
    )
    assert weights["beam_size"] == 8 and weights["lm"] == str(arpa)
    tried = [
        float(cell) for cell in printed.replace("*", "").split() if "." in cell[1:]
    ]
    assert weights["dev_wer"] <= min(x for x in tried if x > 20)
    decode(model, dev, test, options=["--weights", str(out), "--nj", "2"])
    folder = tmp_path / "asr" / "ctc_lm_model"
    figures = json.loads((folder / "dev" / "decode.json").read_text())
    assert figures["wer"] == weights["dev_wer"]
    words = set(" ".join(read_texts(folder / "test" / "text").values()).split())
    assert words and words <= {"SEAT", "TEA", "A", "AT", "SEA"}
    with pytest.raises(SystemExit, match="looks like a test set"):
        tune_lm.main([*common, "--dev", str(test), "--out", str(out)])


@pytest.mark.parametrize("name", ["eval1", "test_other", "dev-TEST2", "x.eval"])
def test_names_of_test_sets(name):
    with pytest.raises(ConfigError, match="looks like a test set"):
        tuning._refuse_test_set(Path("dump") / name)
    tuning._refuse_test_set(Path("dump/valid_evaluated_latest"))


def test_pattern_search_finds_the_lowest_point_and_asks_once():
    asked = []

    def error_rate(weights):
        asked.append(weights)
        return (weights.lm_weight - 2.75) ** 2 + (weights.word_score + 1.5) ** 2

    best, tried = tune(error_rate, Weights(beam_size=7))
    assert best == Weights(2.75, -1.5, 7)
    assert len(asked) == len(set(asked)) == len(tried)
    assert "**0.00**" in table(tried, best)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--lm", "none.arpa"], "none.arpa: no such n-gram"),
        (["--lm_weight", "1"], "--lm_weight has no effect without --lm"),
        (["--weights", "none.yaml"], "none.yaml: no such file"),
        (["--batch_seconds", "nan"], "2"),
        (["--lm_weight", "nan"], "2"),
        (["--beam_size", "0"], "2"),
        (["--beam_size", "-3"], "2"),
    ],
)
def test_users_errors_are_one_line(model, tmp_path, options, words):
    data = make_data(tmp_path / "test", [9000])
    with pytest.raises(SystemExit, match=words):
        decode(copy_model(model, tmp_path / "asr"), data, options=options)
    with pytest.raises(SystemExit, match="no such file; give a model"):
        decode(tmp_path / "none.pth", data)
    config = tmp_path / "ssl" / "config.yaml"
    config.parent.mkdir()
    config.write_text("encoder: conformer\n")
    config.with_name("1epoch.pth").touch()
    with pytest.raises(SystemExit, match="config.yaml: is not of an ASR model"):
        decode(config.with_name("1epoch.pth"), data)
    (data / "segments").write_text("a b 0 1\n")
    with pytest.raises(SystemExit, match="must be cut into utterances"):
        decode(model, data)


def test_transcripts_without_a_word_have_no_rate(model, tmp_path):
    data = make_data(tmp_path / "test", [9000, 16000])
    (data / "text").write_text("utt0\nutt1\n")
    decode(copy_model(model, tmp_path / "asr"), data)
    figures = (tmp_path / "asr/ctc_greedy_model/test/decode.json").read_text()
    assert '"utterances": 2' in figures and "wer" not in figures
