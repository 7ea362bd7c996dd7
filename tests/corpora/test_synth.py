"""The synthetic corpus: reproducible, disjoint, and audible."""

import hashlib

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin import synthesize as command
from espnet2_birq.corpora import synth
from espnet2_birq.corpora.sentences import (
    MAX_WORDS,
    MIN_WORDS,
    random_sentence,
    vocabulary,
)
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import DataError

SETS = ("pretrain", "train", "valid", "test")
LENGTHS = (
    "--unlabelled-minutes 0.25 --labelled-minutes 0.15 --valid-minutes 0.1 "
    "--test-minutes 0.15"
)


def make(folder, monkeypatch, *options):
    monkeypatch.chdir(folder)
    command.main(
        ["--dest", "data", "--audio", "downloads/audio", *LENGTHS.split(), *options]
    )


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip(
        "espeakng_loader", reason="the wheel espeakng-loader is not installed"
    )
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as monkeypatch:
        make(folder, monkeypatch, "--nj", "1")
    return folder


def test_sentences_are_short_and_of_the_vocabulary():
    rng = np.random.default_rng(0)
    sentences = [random_sentence(rng) for _ in range(2000)]
    assert len(set(sentences)) > 1950
    words = {word for sentence in sentences for word in sentence.split()}
    assert words == vocabulary()
    assert 120 <= len(words) <= 160
    lengths = {len(sentence.split()) for sentence in sentences}
    assert lengths == set(range(MIN_WORDS, MAX_WORDS + 1))


def test_voices_are_disjoint():
    voices = synth.TRAIN_VOICES + synth.VALID_VOICES + synth.TEST_VOICES
    assert len({voice.variant.lower() for voice in voices}) == len(voices) >= 40


def test_same_bytes_whatever_the_number_of_processes(corpus, tmp_path, monkeypatch):
    make(tmp_path, monkeypatch, "--nj", "2")
    assert digests(tmp_path) == digests(corpus)


def test_another_seed_is_another_corpus(corpus, tmp_path, monkeypatch):
    make(tmp_path, monkeypatch, "--nj", "1", "--seed", "1")
    ours, theirs = (
        read_scp(corpus / "data/test/text"),
        read_scp(tmp_path / "data/test/text"),
    )
    assert not set(ours.values()) & set(theirs.values())


def test_an_utterance_does_not_depend_on_the_one_before(corpus):
    jobs = [
        synth.Job("THE CAT SAT", voice, (5, index))
        for index, voice in enumerate(synth.TRAIN_VOICES + synth.TEST_VOICES)
    ]
    forth = [synth.synthesize(job) for job in jobs]
    back = [synth.synthesize(job) for job in reversed(jobs)][::-1]
    for job, one, other in zip(jobs, forth, back, strict=True):
        assert np.array_equal(one, other), job.voice


def test_sets(corpus):
    speakers = {
        name: set(read_scp(corpus / "data" / name / "utt2spk").values())
        for name in SETS
    }
    texts = {
        name: list(read_scp(corpus / "data" / name / "text").values())
        for name in SETS[1:]
    }
    assert not (corpus / "data/pretrain/text").exists()
    seen = speakers["pretrain"] | speakers["train"]
    assert not seen & (speakers["valid"] | speakers["test"])
    assert not speakers["valid"] & speakers["test"]
    together = sum(texts.values(), [])
    assert len(set(together)) == len(together)


def test_audio(corpus):
    for name, minutes in zip(SETS, (0.25, 0.15, 0.1, 0.15), strict=True):
        total = 0
        for path in read_scp(corpus / "data" / name / "wav.scp").values():
            assert not path.startswith("/")
            signal, rate = soundfile.read(corpus / path)
            assert rate == synth.SAMPLE_RATE and signal.ndim == 1
            assert soundfile.info(corpus / path).subtype == "PCM_16"
            assert 0.8 <= len(signal) / rate <= 6
            assert 0.01 < np.sqrt(np.mean(signal**2)) < 0.2
            assert np.abs(signal).max() <= 0.91
            total += len(signal)
        # It stops at the first utterance that reaches the duration.
        assert minutes * 60 <= total / synth.SAMPLE_RATE < minutes * 60 + 6


def test_repetition_does_nothing(corpus, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    make(corpus, monkeypatch, "--nj", "1")
    assert "already there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_lost_audio_is_made_again(corpus, monkeypatch, capsys):
    before = digests(corpus)
    lost = next((corpus / "downloads/audio/train").glob("*.flac"))
    lost.unlink()
    make(corpus, monkeypatch, "--nj", "1")
    assert "already there" not in capsys.readouterr().out
    assert digests(corpus) == before


def test_audio_of_another_dest_is_left_alone(corpus, monkeypatch):
    before = digests(corpus)
    with pytest.raises(SystemExit, match="audio: has the audio of --dest data; choose"):
        make(corpus, monkeypatch, "--dest", "other", "--seed", "1")
    marker = corpus / "downloads/audio/synthetic.json"
    content = marker.read_text()
    marker.write_text(content[:9])
    with pytest.raises(SystemExit, match="synthetic.json: no JSON .* remove "):
        make(corpus, monkeypatch)
    marker.write_text(content)
    assert digests(corpus) == before


def test_a_folder_of_others_is_left_alone(corpus, tmp_path, monkeypatch):
    (tmp_path / "downloads/audio").mkdir(parents=True)
    mine = tmp_path / "downloads/audio/mine.wav"
    mine.write_text("precious")
    with pytest.raises(SystemExit) as failure:
        make(tmp_path, monkeypatch)
    assert "downloads/audio: exists and was not written by" in str(failure.value)
    assert mine.read_text() == "precious"


def test_missing_wheel_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(synth.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as failure:
        make(tmp_path, monkeypatch)
    assert str(failure.value) == (
        "error: synthetic speech needs eSpeak NG: pip install espeakng-loader"
    )


def test_a_voice_that_is_silent_is_an_error(monkeypatch):
    job = synth.Job("SAY IT", synth.TRAIN_VOICES[0], (0,))
    monkeypatch.setattr(synth, "speak", lambda *_, **__: (np.zeros(800), 22050))
    with pytest.raises(DataError, match="only silence for 'SAY IT'"):
        synth.synthesize(job)
