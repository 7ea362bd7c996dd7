"""AMI's utterances, from small annotations."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.list_ami import main as list_main
from espnet2_birq.bin.prepare_ami import main
from espnet2_birq.corpora.ami.annotation import (
    Token,
)
from espnet2_birq.corpora.ami.corpus import (
    INSIDE,
    TOO_LATE,
    MeetingSet,
    Turn,
    _fit,
    _separate,
)
from espnet2_birq.corpora.ami.splitting import split_segment
from espnet2_birq.corpora.ami.statistics import spoken_and_overlapped
from espnet2_birq.datadir.audio import AudioInfo
from espnet2_birq.datadir.kaldi import read_scp

ROOT = Path(__file__).resolve().parents[2]
ESPNET = Path(os.environ.get("ESPNET_ROOT", ROOT / "tools" / "espnet"))
ESPNET = ESPNET / "egs2" / "ami" / "asr1"
SCTK = f"/usr/lib/sctk/bin:{os.environ['PATH']}"


def tokens(text, start=10.0, step=0.5):
    """Make tokens of a text: words last half a second, marks and [sounds] no time."""
    made, time = [], start
    for number, part in enumerate(text.split()):
        mark, sound = part in ".,?!:", part.startswith("[")
        end = time if mark or sound else time + step
        shown = "" if sound else part
        made.append(Token(f"w{number}", not sound, mark, shown, time, end))
        time = end
    return made


def cut(text, **times):
    split = split_segment(tokens(text, **times))
    return [(p.start, p.end, p.text) for p in split.parts], split.lost


def test_full_stops_and_normalisation():
    parts, lost = cut("Um , I'd like T_V_ . [laugh] Mm-hmm ? Uh-huh ! anti-trust")
    assert parts == [
        (1000, 1200, "UM I'D LIKE T. V."),
        (1200, 1250, "MM-HMM"),
        (1250, 1350, "UH-HUH ANTI TRUST"),
    ]
    assert not lost


def test_long_parts_are_cut_at_the_comma_nearest_to_the_middle():
    text = " ".join(["a"] * 5 + [","] + ["b"] * 14 + [","] + ["c"] * 14)
    parts, _ = cut(text)
    # The middle is at 18.25 s, the commas at 12.5 s and 19.5 s.
    assert [part[:2] for part in parts] == [(1000, 1950), (1950, 2650)]
    # Parts of up to 30 words, counting commas, stay whole.
    short = " ".join(["a"] * 20 + [","] + ["b"] * 9)
    assert len(cut(short)[0]) == 1
    assert len(cut(short + " b")[0]) == 2
    # Parts without commas are not cut.
    assert len(cut(" ".join(["a"] * 40))[0]) == 1


def test_lost_words_have_reasons():
    # Both parts have no duration and the same times; only the later one is considered.
    parts, lost = cut("yes . no .", step=0.0)
    assert not parts and lost == {
        "w0": "another part of the segment has the same times",
        "w2": "its part of the segment has no duration",
    }
    # A flaw of Kaldi's script: two words joined by a comma without a space are erased.
    parts, lost = cut("well um,I think")
    assert parts == [(1000, 1150, "WELL THINK")]
    assert lost == {"w1": "nothing of it is left by the normalisation"}
    # A full stop inside a word has no time; the words after it are lost, unless another
    # full stop that has one follows.
    split = split_segment(tokens("we go now.Then home"))
    assert [part.text for part in split.parts] == ["WE GO NOW"]
    assert split.halved == ["w2"] and set(split.lost) == {"w3"}
    # A mark without a time loses the whole segment.
    words = tokens("yes . no")
    words[1] = words[1]._replace(start=float("nan"))
    split = split_segment(words)
    assert not split.parts and set(split.lost) == {"w0", "w2"}
    assert split_segment(tokens("[laugh] [cough]")) == split_segment([])


MEETINGS = """<root>
<meeting observation="ES2011a">
  <speaker nxt_agent="A" global_name="FEE041" channel="1"/>
  <speaker nxt_agent="B" global_name="MEE073" channel="0"/>
</meeting>
<meeting observation="IS1003b">
  <speaker nxt_agent="A" global_name="FIO017" channel="0"/>
</meeting>
</root>"""
WORDS = {
    "ES2011a.A": [("Caf&#233;", 1.0, 1.5), (".", 1.5, 1.5), ("Two", 2.0, 2.5)],
    "ES2011a.B": [("Both", 1.2, 2.2), ("late", 3.5, 4.5), ("never", 9.0, 9.5)],
    "IS1003b.A": [("Lost", 1.0, 2.0)],
}


def write_small(root):
    """Write an annotation: a segment for each word except the last of B."""
    for folder in ("words", "segments", "corpusResources"):
        (root / folder).mkdir(parents=True)
    (root / "corpusResources" / "meetings.xml").write_text(MEETINGS)
    head = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<nite:root nite:id="r" '
    head += 'xmlns:nite="http://nite.sourceforge.net/">'
    for who, words in WORDS.items():
        lines = [
            f'<w nite:id="{who}.w{n}" starttime="{start}" endtime="{end}"'
            f"{' punc=' + chr(34) + 'true' + chr(34) if text == '.' else ''}>{text}</w>"
            for n, (text, start, end) in enumerate(words)
        ]
        lines.append(f'<vocalsound nite:id="{who}.s" starttime="7" endtime="7"/>')
        (root / "words" / f"{who}.words.xml").write_text(
            head + "".join(lines) + "</nite:root>", encoding="latin-1"
        )
        last = len(words) - (who == "ES2011a.B")
        lines = [
            # The channel here is wrong, as in the real annotation.
            f'<segment nite:id="{who}.g{n}" channel="7"><nite:child '
            f'href="{who}.words.xml#id({who}.w{n})"/></segment>'
            for n in range(last)
        ]
        (root / "segments" / f"{who}.segments.xml").write_text(
            head + "".join(lines) + "</nite:root>"
        )
    lists = root / "lists"
    lists.mkdir()
    for name, meetings in (("train", "IS1003b"), ("dev", "ES2011a"), ("eval", "")):
        (lists / f"{name}.txt").write_text(meetings)
    return root


@pytest.fixture
def small(tmp_path):
    return write_small(tmp_path / "annotations")


def prepare(small, dest, *options):
    options = ("--annotations", small, "--partition", small / "lists", *options)
    main([str(option) for option in (*options, dest)])


def error_of(small, dest, *options):
    with pytest.raises(SystemExit) as caught:
        prepare(small, dest, *options)
    message = str(caught.value.code)
    assert message.startswith("error: ") and "\n" not in message
    return message


def write_wav(path, seconds=5.0, rate=16000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((int(seconds * rate), channels)), rate)


def test_headsets_are_those_of_meetings_xml(small, tmp_path, capsys):
    audio = tmp_path / "amicorpus" / "ES2011a" / "audio"
    write_wav(audio / "ES2011a.Headset-1.wav", 2.4)
    write_wav(audio / "ES2011a.Headset-0.wav", 3.6)
    prepare(small, tmp_path / "data", "--audio", tmp_path, "--sets", "dev", "--nj", "2")
    dest = tmp_path / "data" / "ihm_dev"
    assert read_scp(dest / "wav.scp") == {
        "AMI_ES2011a_H00": str(audio / "ES2011a.Headset-0.wav"),
        "AMI_ES2011a_H01": str(audio / "ES2011a.Headset-1.wav"),
    }
    # Utterances that end at most half a second after the recording are clipped to its end.
    assert read_scp(dest / "segments") == {
        "AMI_ES2011a_H00_MEE073_0000120_0000220": "AMI_ES2011a_H00 1.20 2.20",
        "AMI_ES2011a_H01_FEE041_0000100_0000150": "AMI_ES2011a_H01 1.00 1.50",
        "AMI_ES2011a_H01_FEE041_0000200_0000250": "AMI_ES2011a_H01 2.00 2.40",
    }
    # Only ASCII letters are converted to upper case, as in Kaldi's script.
    assert read_scp(dest / "text")["AMI_ES2011a_H01_FEE041_0000100_0000150"] == "CAFé"
    late = "AMI_ES2011a_H00_MEE073_0000350_0000450"
    assert (dest / "skipped").read_text() == f"{late}\tit ends after its recording\n"
    assert (dest / "stm").read_text().splitlines()[0] == (
        "ES2011a.Headset-0 A AMI_ES2011a_H00_MEE073 1.20 2.20 BOTH"
    )
    assert dict(
        line.split("\t") for line in (dest / "words.tsv").read_text().splitlines()
    ) == {
        "used": "3",
        "it is a punctuation mark": "1",
        "it is in no segment": "1",
        "its utterance is skipped: it ends after its recording": "1",
    }
    assert "ES2011a.B.w2\tit is in no segment" in (dest / "unused_words").read_text()
    table = (dest / "statistics.tsv").read_text().splitlines()
    # 1.0 to 2.4 s, of which 1.2 to 1.5 s and 2.0 to 2.2 s overlap.
    assert table[-1].split("\t") == (
        ["total", "2", "3", "3", "0.0005", "0.0004", "0.0001", "35.7"]
    )
    out = capsys.readouterr().out
    assert "3 utterances, 2 speakers, 0.00 hours, 1 skipped" in out
    assert "1 x ends with its recording" in out


def test_distant_microphones(small, tmp_path, capsys):
    prepare(
        small, tmp_path / "d", "--annotations-only", "--mic", "sdm1", "--sets", "dev"
    )
    assert set(read_scp(tmp_path / "d" / "sdm1_dev" / "utt2spk").values()) == (
        {"AMI_ES2011a_SDM_"}
    )
    stm = (tmp_path / "d" / "sdm1_dev" / "stm").read_text()
    assert stm.startswith("ES2011a.Array1-01 A AMI_ES2011a_SDM_FEE041 1.00 1.50 ")
    for meeting in ("ES2011a", "IS1003b"):
        write_wav(tmp_path / "amicorpus" / meeting / f"audio/{meeting}.Mix-Headset.wav")
    options = ("--audio", tmp_path, "--mic", "mix", "--sets", "train,dev", "--nj", "2")
    prepare(small, tmp_path / "d", *options)
    assert read_scp(tmp_path / "d" / "mix_train" / "utt2spk") == {
        "AMI_IS1003b_MIX_FIO017_0000100_0000200": "AMI_IS1003b"
    }
    capsys.readouterr()
    # The array's recording of IS1003b is lost.
    options = ("--annotations-only", "--sets", "train,dev", "--mic", "sdm1")
    message = error_of(small, tmp_path / "e", *options)
    assert "no utterance to write" in message
    list_main(
        ["--annotations", str(small), "--partition", str(small / "lists")]
        + ["--mic", "mdm8"]
    )
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 8 and listed[7].endswith(
        " amicorpus/ES2011a/audio/ES2011a.Array1-08.wav"
    )


def test_partitions_that_do_not_fit(small, tmp_path):
    message = error_of(small, tmp_path / "d", "--annotations-only", "--sets", "eval")
    assert "eval: the partition lists no meeting" in message
    (small / "lists" / "dev.txt").write_text("ES2011x\n")
    message = error_of(small, tmp_path / "d", "--annotations-only", "--sets", "dev")
    assert "no meeting ES2011x; correct the partition" in message
    command = ["--annotations", str(small), "--partition", str(small / "lists")]
    with pytest.raises(SystemExit, match="no meeting ES2011x; correct the partition"):
        list_main(command)


def test_a_meeting_may_be_listed_twice_in_a_set(small, tmp_path):
    (small / "lists" / "dev.txt").write_text("ES2011a\nES2011a\n")
    prepare(small, tmp_path, "--annotations-only", "--sets", "dev")
    assert len(read_scp(tmp_path / "ihm_dev" / "segments")) == 4


def test_bad_input_is_named(small, tmp_path, capsys):
    dest, audio = tmp_path / "data", tmp_path / "amicorpus"
    options = ("--sets", "dev", "--nj", "2", "--audio", audio)
    assert f"{audio}: no such folder" in error_of(small, dest, *options)
    audio.mkdir()
    message = error_of(small, dest, *options, "--skip-bad")
    assert "no recording with an utterance of dev" in message
    one = audio / "ES2011a" / "audio" / "ES2011a.Headset-0.wav"
    two = one.with_name("ES2011a.Headset-1.wav")
    write_wav(one, rate=8000)
    write_wav(two)
    assert f"{one}: sample rate is 8000 Hz" in error_of(small, dest, *options)
    write_wav(one, channels=2)
    assert f"{one}: has 2 channels, wanted one" in error_of(small, dest, *options)
    one.write_bytes(one.read_bytes()[:1000])
    assert f"{one}: truncated" in error_of(small, dest, *options)
    assert not dest.exists()
    prepare(small, dest, *options, "--skip-bad", "--dry-run")
    assert not dest.exists()
    prepare(small, dest, *options, "--skip-bad")
    assert f"{one}: truncated" in (dest / "ihm_dev" / "skipped").read_text()
    # A missing recording, too, is skipped and listed, or an error.
    one.unlink()
    message = error_of(small, tmp_path / "new", *options)
    assert message.startswith(f"error: {one}: no such recording, 1 of 2 are ")
    assert "--skip_bad (in a recipe, --skip_bad true)" in message
    assert not (tmp_path / "new").exists()
    prepare(small, dest, *options, "--skip-bad")
    assert (dest / "ihm_dev" / "missing_recordings").read_text() == f"{one}\t2\n"
    assert "1 recordings are missing" in capsys.readouterr().out
    two.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "git-LFS pointer" in error_of(small, dest, *options, "--skip-bad")


def test_a_recording_of_the_beginning_only(small, tmp_path):
    """It ends long before its annotation, as excerpts and interrupted copies do."""
    words = small / "words" / "ES2011a.B.words.xml"
    late = words.read_bytes().replace(b'"3.5"', b'"18.5"').replace(b'"4.5"', b'"19.5"')
    words.write_bytes(late)
    audio = tmp_path / "amicorpus" / "ES2011a" / "audio"
    write_wav(audio / "ES2011a.Headset-1.wav")
    write_wav(short := audio / "ES2011a.Headset-0.wav", 4.4)
    options = ("--sets", "dev", "--audio", tmp_path)
    message = error_of(small, tmp_path / "data", *options)
    assert f"{short}: ends at 4.4 s, its annotation at 19.5 s; 1 of 2 " in message
    assert "download them again" in message and "--skip_bad true" in message
    assert not (tmp_path / "data").exists()
    # What it has of the annotation can be used.
    prepare(small, tmp_path / "data", *options, "--skip-bad")
    dest = tmp_path / "data" / "ihm_dev"
    assert "AMI_ES2011a_H00_MEE073_0000120_0000220" in read_scp(dest / "segments")
    assert "\tit ends after its recording\n" in (dest / "skipped").read_text()
    # The published TS3007c.Mix-Headset.wav ends 10.19 s before its annotation.
    write_wav(short, 4.6)
    prepare(small, tmp_path / "data", *options)
    # Of all who share a microphone, not of the last one alone.
    write_wav(shared := audio / "ES2011a.Array1-01.wav", 4.4)
    message = error_of(small, tmp_path / "data", *options, "--mic", "sdm1")
    assert f"{shared}: ends at 4.4 s, its annotation at 19.5 s; 1 of 1 " in message


def test_bad_annotation_is_named(small, tmp_path):
    dest, only = tmp_path / "data", ("--annotations-only", "--sets", "dev")
    assert "no words/ and segments/" in error_of(tmp_path / "x", dest, *only)
    path = small / "words" / "ES2011a.B.words.xml"
    good = path.read_bytes()
    path.write_bytes(good[:200])
    assert f"{path}: not readable as XML" in error_of(small, dest, *only)
    path.write_bytes(good.replace(b'"1.2"', b'"soon"'))
    assert f"{path}: starttime 'soon' is not a number" in error_of(small, dest, *only)
    path.write_bytes(good.replace(b"ES2011a.B.w1", b"ES2011a.B.x1"))
    assert "is not in words/" in error_of(small, dest, *only)
    path.write_bytes(good)
    segments = small / "segments" / "ES2011a.B.segments.xml"
    fine = segments.read_text()
    turned = fine.replace("id(ES2011a.B.w0)", "id(ES2011a.B.w1)..id(ES2011a.B.w0)")
    segments.write_text(turned)
    assert f"{segments}: ES2011a.B.words.xml#id(ES2011a.B.w1).." in (
        said := error_of(small, dest, *only)
    )
    assert "ends before it starts" in said
    segments.write_text(fine)
    meetings = small / "corpusResources" / "meetings.xml"
    meetings.write_text(MEETINGS.replace("IS1003b", "ES2011a"))
    assert f"{meetings}: meeting ES2011a occurs twice" in error_of(small, dest, *only)
    meetings.write_text(MEETINGS)
    path.unlink()
    assert f"{path}: no such file" in error_of(small, dest, *only)
    path.write_bytes(good)
    (small / "lists" / "dev.txt").write_text("ES2011a ES9999z")
    assert "no meeting ES9999z" in error_of(small, dest, *only)
    (small / "lists" / "dev.txt").write_text("IS1003b")
    assert "meeting IS1003b is in two sets" in error_of(small, dest, *only)
    assert not dest.exists()


def test_the_end_of_a_recording_is_exact():
    """4640 samples are 0.29 s, of which a float makes 0.28999."""
    one = MeetingSet("dev", ["M"])
    turn = Turn("M", "FEE1", 0, 0, 29, "HI")
    assert _fit(turn, AudioInfo(16000, 4640), one) == turn and not one.moved
    late = Turn("M", "FEE1", 0, 29, 40, "HI")
    assert _fit(late, AudioInfo(16000, 4640), one) is None
    assert one.skipped == {TOO_LATE: [late]}


def test_an_utterance_begins_after_all_before_it():
    times = (0, 100), (20, 50), (60, 120), (120, 130)
    turns = [Turn("M", "FEE1", 0, start, end, "HI") for start, end in times]
    one = MeetingSet("dev", ["M"], turns)
    _separate(one)
    assert [(turn.start, turn.end) for turn in one.turns] == [
        (0, 100),
        (100, 120),
        (120, 130),
    ]
    assert one.turns[1].named_start == 60 and one.skipped == {INSIDE: [turns[1]]}


def test_overlap_against_a_plain_count():
    rng = np.random.default_rng(0)
    intervals = []
    for _ in range(300):
        start = int(rng.integers(0, 2000))
        length = int(rng.integers(0, 40))
        intervals.append((f"s{rng.integers(4)}", start, start + length))
    speaking = defaultdict(set)
    for speaker, start, end in intervals:
        for time in range(start, end):
            speaking[time].add(speaker)
    assert spoken_and_overlapped(intervals) == (
        len(speaking),
        sum(len(speakers) > 1 for speakers in speaking.values()),
    )


# ----------------------------------------------------------- the complete annotation
