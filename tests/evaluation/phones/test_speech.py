"""Choice of utterances, and their speakers."""

import re
from collections import Counter

import pytest
import soundfile
from planted import write_speech

from espnet2_birq.datadir.kaldi import voice_of
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.phones.speech import (
    Spoken,
    check_audio,
    choose,
    find_speech,
    held_out_speakers,
)


def some(**numbers):
    return [
        Spoken(f"{speaker}-{n:03}", speaker, f"/{speaker}/{n}.wav")
        for speaker, number in numbers.items()
        for n in range(number)
    ]


def test_the_same_number_of_each_speaker_from_the_first():
    chosen = choose(some(c=9, a=9, b=2)[::-1], 9)
    assert [one.name for one in chosen] == (
        ["a-000", "a-001", "a-002", "a-003", "b-000", "b-001"]
        + ["c-000", "c-001", "c-002"]
    )
    # Only one speaker gets a fourth utterance: the first in order.
    assert Counter(one.speaker for one in choose(some(a=9, b=9), 8)) == {"a": 4, "b": 4}
    assert len(choose(some(a=2, b=1), 400)) == 3
    with pytest.raises(DataError, match="of 1 speaker: half"):
        choose(some(a=9), 4)


def test_sides_have_no_speaker_in_common():
    assert held_out_speakers(["e", "b", "a", "b", "d", "c"]) == ["b", "d"]
    # Sorted as text, 84 comes after 777.
    assert held_out_speakers(["84", "777", "1272"]) == ["777"]


def test_chapters_of_a_reader_are_one_voice():
    assert voice_of("1272-128104") == voice_of("1272-128104-0003") == "1272"
    assert voice_of("1272") == "1272"
    assert voice_of("spk-1") == "spk-1"


def test_a_data_directory_of_librispeech_has_readers(tmp_path):
    data = write_speech(tmp_path, speakers=4, utterances=1)
    names = ["10-1", "10-2", "11-3", "9-4"]
    utt2spk = "".join(f"s{n}-u0 {name}\n" for n, name in enumerate(names))
    (data / "utt2spk").write_text(utt2spk)
    assert [one.speaker for one in find_speech(data)] == ["10", "10", "11", "9"]


def test_paths_relative_to_a_folder_above(tmp_path):
    data = write_speech(tmp_path / "dump" / "raw", speakers=2, utterances=1)
    scp = data / "wav.scp"
    scp.write_text(scp.read_text().replace(f"{tmp_path}/", ""))
    for one in find_speech(data):
        assert soundfile.info(one.entry).samplerate == 16000


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("segments", "s0-u0 rec 0 1\n", "segments: audio must be cut"),
        ("wav.scp", "s0-u0 sox x.wav - |\n", "s0-u0 is a command"),
        ("utt2spk", "s0-u0 s0\n", "utt2spk: lacks s0-u1"),
    ],
)
def test_data_that_cannot_be_used(tmp_path, name, content, message):
    data = write_speech(tmp_path, speakers=2, utterances=2)
    (data / name).write_text(content)
    with pytest.raises(DataError, match=message):
        find_speech(data)


def test_a_folder_that_is_neither(tmp_path):
    with pytest.raises(DataError, match="neither a data directory"):
        find_speech(tmp_path)
    with pytest.raises(DataError, match="neither a data directory"):
        find_speech(tmp_path / "missing" / "folder")


def test_audio_that_does_not_fit(tmp_path):
    data = write_speech(tmp_path, speakers=2, utterances=1, rate=8000)
    speech = find_speech(data)
    assert [one.name for one in check_audio(speech, 8000)] == ["s0-u0", "s1-u0"]
    with pytest.raises(DataError, match="s0-u0.wav: sample rate is 8000 Hz, wanted"):
        check_audio(speech, 16000)
    (tmp_path / "s1-u0.wav").unlink()
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/s1-u0.wav: no such")):
        check_audio(speech, 8000)


def test_librispeech_as_it_is_unpacked(shared_data):
    corpus = shared_data / "librispeech" / "LibriSpeech"
    whole = find_speech(shared_data / "librispeech")
    part = find_speech(corpus / "test-other")
    assert len(part) == 100 and len({one.speaker for one in part}) == 10
    assert len(whole) == 715
    assert all(one.name.startswith(f"{one.speaker}-") for one in whole)
    assert {one.name for one in part} < {one.name for one in whole}
