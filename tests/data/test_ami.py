"""AMI's utterances: small annotations, the complete one, other readings of it."""

import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.list_ami import main as list_main
from espnet2_birq.bin.prepare_ami import main
from espnet2_birq.data.ami.annotation import (
    Token,
    find_annotation,
    read_meetings,
    read_segments,
    read_words,
)
from espnet2_birq.data.ami.corpus import MICROPHONES, cut_sets
from espnet2_birq.data.ami.partitions import FULL_CORPUS_ASR, read_partition
from espnet2_birq.data.ami.scoring import HESITATIONS
from espnet2_birq.data.ami.splitting import split_segment
from espnet2_birq.data.ami.statistics import spoken_and_overlapped
from espnet2_birq.data.kaldi import read_scp

ROOT = Path(__file__).resolve().parents[2]
ESPNET = Path(os.environ.get("ESPNET_ROOT", ROOT / "tools" / "espnet"))
ESPNET = ESPNET / "egs2" / "ami" / "asr1"
SCTK = f"/usr/lib/sctk/bin:{os.environ['PATH']}"


@pytest.fixture(scope="session")
def annotation(shared_data, tmp_path_factory):
    """Unpack the complete annotation 1.6.2."""
    folder = tmp_path_factory.mktemp("ami")
    archive = shared_data / "ami" / "ami_public_manual_1.6.2.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no annotation: {archive} is not there")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return find_annotation(next(folder.glob("**/words")).parent)


@pytest.fixture(scope="session")
def sets(annotation):
    return cut_sets(
        annotation, read_partition(FULL_CORPUS_ASR), ("train", "dev", "eval")
    )


def tokens(text, start=10.0, step=0.5):
    """Make tokens of a text: words of half a second; marks, [sounds] have no length."""
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
    # Up to 30 words, labels of commas among them, stay together.
    short = " ".join(["a"] * 20 + [","] + ["b"] * 9)
    assert len(cut(short)[0]) == 1
    assert len(cut(short + " b")[0]) == 2
    # No comma, no cut.
    assert len(cut(" ".join(["a"] * 40))[0]) == 1


def test_lost_words_have_reasons():
    # No duration, and of the two parts with the same times the later one counts.
    parts, lost = cut("yes . no .", step=0.0)
    assert not parts and lost == {
        "w0": "another part of the segment has the same times",
        "w2": "its part of the segment has no duration",
    }
    # Kaldi's accident: two words around a comma without spaces are erased.
    parts, lost = cut("well um,I think")
    assert parts == [(1000, 1150, "WELL THINK")]
    assert lost == {"w1": "nothing of it is left by the normalisation"}
    # A full stop inside a word has no time: what is after it is lost, here after the
    # last full stop that has one.
    split = split_segment(tokens("we go now.Then home"))
    assert [part.text for part in split.parts] == ["WE GO NOW"]
    assert split.halved == ["w2"] and set(split.lost) == {"w3"}
    # A mark without time: the whole segment is lost.
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
    """Write an annotation: one segment a word, but for the last of B, in none."""
    for folder in ("words", "segments", "corpusResources"):
        (root / folder).mkdir(parents=True)
    (root / "corpusResources" / "meetings.xml").write_text(MEETINGS)
    head = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<nite:root nite:id="r" '
    head += 'xmlns:nite="http://nite.sourceforge.net/">'
    for who, words in WORDS.items():
        lines = [
            f'<w nite:id="{who}.w{n}" starttime="{start}" endtime="{end}"'
            f'{" punc=" + chr(34) + "true" + chr(34) if text == "." else ""}>{text}</w>'
            for n, (text, start, end) in enumerate(words)
        ]
        lines.append(f'<vocalsound nite:id="{who}.s" starttime="7" endtime="7"/>')
        (root / "words" / f"{who}.words.xml").write_text(
            head + "".join(lines) + "</nite:root>", encoding="latin-1"
        )
        last = len(words) - (who == "ES2011a.B")
        lines = [
            # The channel here is wrong, as in the true annotation.
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
    # What ends half a second or less after its recording ends with it.
    assert read_scp(dest / "segments") == {
        "AMI_ES2011a_H00_MEE073_0000120_0000220": "AMI_ES2011a_H00 1.20 2.20",
        "AMI_ES2011a_H01_FEE041_0000100_0000150": "AMI_ES2011a_H01 1.00 1.50",
        "AMI_ES2011a_H01_FEE041_0000200_0000250": "AMI_ES2011a_H01 2.00 2.40",
    }
    # Upper case is ASCII's alone, as in Kaldi's script.
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
    # 1.0 to 2.4 s, of which 1.2 to 1.5 and 2.0 to 2.2 s are double.
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
    message = error_of(small, tmp_path / "e", "--annotations-only", "--mic", "sdm1")
    assert "no utterance to write" in message
    list_main(
        ["--annotations", str(small), "--partition", str(small / "lists")]
        + ["--mic", "mdm8"]
    )
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == 8 and listed[7].endswith(
        " amicorpus/ES2011a/audio/ES2011a.Array1-08.wav"
    )


def test_bad_input_is_named(small, tmp_path, capsys):
    dest, audio = tmp_path / "data", tmp_path / "amicorpus"
    options = ("--sets", "dev", "--nj", "2", "--audio", audio)
    assert f"{audio}: no such folder" in error_of(small, dest, *options)
    audio.mkdir()
    assert "no recording with an utterance of dev" in error_of(small, dest, *options)
    one = audio / "ES2011a" / "audio" / "ES2011a.Headset-0.wav"
    two = one.with_name("ES2011a.Headset-1.wav")
    write_wav(one, rate=8000)
    write_wav(two)
    assert f"{one}: sample rate is 8000 Hz" in error_of(small, dest, *options)
    write_wav(one, channels=2)
    assert f"{one}: has 2 channels" in error_of(small, dest, *options)
    one.write_bytes(one.read_bytes()[:1000])
    assert f"{one}: truncated" in error_of(small, dest, *options)
    assert not dest.exists()
    prepare(small, dest, *options, "--skip-bad", "--dry-run")
    assert not dest.exists()
    prepare(small, dest, *options, "--skip-bad")
    assert f"{one}: truncated" in (dest / "ihm_dev" / "skipped").read_text()
    # A recording that is missing is skipped, and listed.
    one.unlink()
    prepare(small, dest, *options)
    assert (dest / "ihm_dev" / "missing_recordings").read_text() == f"{one}\t2\n"
    assert "1 recordings are not there" in capsys.readouterr().out
    two.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "git-LFS pointer" in error_of(small, dest, *options, "--skip-bad")


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
    path.unlink()
    assert f"{path}: no such file" in error_of(small, dest, *only)
    path.write_bytes(good)
    (small / "lists" / "dev.txt").write_text("ES2011a ES9999z")
    assert "no meeting ES9999z" in error_of(small, dest, *only)
    (small / "lists" / "dev.txt").write_text("IS1003b")
    assert "meeting IS1003b is in two sets" in error_of(small, dest, *only)
    assert not dest.exists()


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


def test_partition_is_the_published_one(shared_data):
    lists = shared_data / "ami" / "partitions"
    ours = read_partition(FULL_CORPUS_ASR)
    for name, file in (("train", "train"), ("dev", "dev"), ("eval", "test")):
        published = (lists / f"{file}.meetings.txt").read_text().split()
        assert ours[name] == sorted(published)
    if ESPNET.is_dir():
        for name, more in (("train", {"IB4005"}), ("dev", set()), ("eval", set())):
            espnet = (ESPNET / "local" / f"split_{name}.orig").read_text().split()
            assert set(espnet) == set(ours[name]) | more


def test_published_counts(sets):
    # ESPnet's RESULTS: 13,057 utterances and 94,802 words in ihm_dev, 12,643 and 89,666
    # in ihm_eval. dev is its validation set, too: utterances of at most 0.1 s or at
    # least 20 s are left out of that (asr.sh, stage 4).
    def count(turns):
        return len(turns), sum(len(turn.text.split()) for turn in turns)

    assert count(sets["eval"].turns) == (12643, 89666)
    assert count(sets["dev"].turns) == (13098, 94953)
    scored = [t for t in sets["dev"].turns if 10 < _named_length(t) < 2000]
    assert count(scored) == (13057, 94802)
    # The characters of its CER. sclite does not count "@", which eval has once ("@'S").
    for turns, characters in ((scored, 451641), (sets["eval"].turns, 432094)):
        text = "".join(turn.text for turn in turns)
        assert len(text) - text.count("@") == characters
    assert count(sets["train"].turns) == (107636, 796535)


def _named_length(turn):
    start, end = turn.utt_id(MICROPHONES["ihm"]).split("_")[-2:]
    return int(end) - int(start)


def test_every_word_is_used_once_or_has_a_reason(annotation, sets):
    for one in sets.values():
        used = Counter(chain.from_iterable(turn.word_ids for turn in one.turns))
        assert set(used.values()) == {1}
        assert not used.keys() & one.unused.keys()
        # Counted by another way: the text of the XML files.
        elements = []
        for meeting in one.meetings:
            for path in (annotation / "words").glob(f"{meeting}.*.words.xml"):
                text = path.read_text(encoding="latin-1")
                elements += re.findall(r'<w nite:id="([^"]+)"', text)
        assert sorted(elements) == sorted([*used, *one.unused])
        assert one.words == len(elements)
        assert sum(one.word_counts().values()) == one.words
    lost = Counter(w for s in sets.values() for w in s.unused.values())
    del lost["it is a punctuation mark"]
    assert lost == {
        "its part of the segment has no duration": 122,
        "nothing of it is left by the normalisation": 8,
        "it is in no segment": 4,
        "a punctuation mark of its segment has no time": 3,
        "another part of the segment has the same times": 1,
        "its utterance is there twice": 1,
    }
    halved = set().union(*(one.halved for one in sets.values()))
    assert halved == {"EN2006b.C.words771", "ES2010c.A.words613"}  # line.I, now.I'm


def test_one_overlap_within_a_speaker(sets):
    # Kaldi's script says: only one such case in the development set.
    assert [len(turns) for turns in sets["dev"].moved.values()] == [1]
    assert not sets["eval"].moved and not sets["eval"].skipped


def write_nxt_export(annotation, path):
    """Write segments as NXT's FunctionQuery does for ami_xml2text.sh."""
    with path.open("w", encoding="utf-8") as out:
        for meeting, participants in read_meetings(annotation).items():
            for who in participants:
                words = read_words(annotation, meeting, who.letter)
                for seg in read_segments(annotation, meeting, who.letter, words):
                    if not any(token.is_word for token in seg):
                        continue
                    times = sorted(
                        t.start for t in seg if t.is_punctuation and t.start == t.start
                    )
                    times = " ".join(map(repr, times)) or "-"
                    if any(t.is_punctuation and t.start != t.start for t in seg):
                        times += " NaN"
                    text = " ".join(token.text for token in seg if token.text)
                    print(
                        *(meeting, who.letter, who.speaker, who.headset, 0, 0),
                        *(seg[0].start, seg[-1].end, text, times),
                        sep="\t",
                        file=out,
                    )


def test_against_kaldis_script(annotation, sets, tmp_path):
    script = ESPNET / "local" / "ami_split_segments.pl"
    if not script.is_file() or shutil.which("perl") is None:
        pytest.skip("no perl, or no ESPnet tree in tools/espnet")
    write_nxt_export(annotation, tmp_path / "transcripts1")
    subprocess.run(
        ["perl", str(script), "transcripts1", "transcripts2"],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    theirs = defaultdict(set)
    set_of = {m: name for name, one in sets.items() for m in one.meetings}
    for line in (tmp_path / "transcripts2").read_text(encoding="utf-8").splitlines():
        meeting, channel, speaker, start, end, *words = line.split()
        # As the awk script of ami_ihm_data_prep.sh, `sort | uniq` included.
        start, end = (int(100 * float(time) + 0.5) for time in (start, end))
        name = f"AMI_{meeting}_{channel}_{speaker}_{start:07d}_{end:07d}"
        theirs[set_of.get(meeting)].add((name, " ".join(words)))
    assert set(theirs) == {"train", "dev", "eval", None}  # None: IB4005
    for name, one in sets.items():
        ours = [(turn.utt_id(MICROPHONES["ihm"]), turn.text) for turn in one.turns]
        assert len(ours) == len(set(ours))
        assert set(ours) == theirs[name]


def test_against_lhotse(annotation, sets, tmp_path):
    chosen = {*sets["dev"].meetings, *sets["eval"].meetings}
    ami = pytest.importorskip("lhotse.recipes.ami")
    # Its reading takes time: the development and evaluation sets.
    for folder in ("words", "segments", "corpusResources"):
        (tmp_path / folder).mkdir()
        for path in (annotation / folder).iterdir():
            if path.name.split(".")[0] in chosen or folder == "corpusResources":
                (tmp_path / folder / path.name).symlink_to(path)
    theirs, read = defaultdict(list), 0
    for (meeting, speaker, _), segments in ami.parse_ami_annotations(
        tmp_path, normalize="upper", max_words_per_segment=None
    ).items():
        read += 1
        for segment in sorted(segments, key=lambda segment: segment.start_time):
            theirs[meeting, speaker] += [word.symbol for word in segment.words]

    def words(symbols):
        return re.sub(r"[^A-Z0-9' ]", " ", " ".join(symbols)).split()

    ours = defaultdict(list)
    for turn in chain(sets["dev"].turns, sets["eval"].turns):
        ours[turn.meeting, turn.speaker].append(turn)
    assert len(ours) == read
    same, differing = 0, {}
    for key, turns in ours.items():
        turns.sort(key=lambda turn: (turn.start, turn.end))
        mine = words(turn.text for turn in turns)
        if mine == words(theirs[key]):
            same += 1
        else:
            differing[key] = Counter(mine), Counter(words(theirs[key]))
    # The cause of the one difference: our (Kaldi's) parts without duration.
    assert same == len(ours) - 1
    mine, theirs_alone = differing["ES2004d", "FEE016"]
    assert not mine - theirs_alone
    lost = [w for w, why in sets["eval"].unused.items() if "no duration" in why]
    assert {word_id.split(".words")[0] for word_id in lost} == {"ES2004d.D"}
    assert (theirs_alone - mine).total() == len(lost) == 4


def test_scoring_files_are_accepted(annotation, tmp_path, capsys):
    if shutil.which("csrfilt.sh", path=SCTK) is None:
        pytest.skip("no sctk: csrfilt.sh is not installed")
    options = ("--annotations-only", "--mic", "ihm", "--sets", "eval")
    main(["--annotations", str(annotation), *options, str(tmp_path)])
    folder = tmp_path / "ihm_eval"

    def tool(command, stdin=None):
        return subprocess.run(
            command,
            cwd=folder,
            env={"PATH": SCTK},
            stdin=stdin,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    # Right but for hesitations: half of them are missing, the others are all UH.
    with (folder / "ctm").open("w") as ctm:
        for line in (folder / "stm").read_text().splitlines():
            name, channel, _, start, end, *words = line.split()
            step = (float(end) - float(start)) / len(words)
            for number, word in enumerate(words):
                word = "UH" if word in HESITATIONS else word.replace("OKAY", "OK")
                if word != "UH" or number % 2:
                    begin = float(start) + number * step
                    print(name, channel, f"{begin:.3f} {step:.3f} {word}", file=ctm)
    for kind in ("stm", "ctm"):
        with (folder / kind).open() as stream:
            mapped = tool(["csrfilt.sh", "-i", kind, "glm"], stream)
        (folder / f"{kind}.mapped").write_text(mapped)

    def percent_wrong(ending):
        report = tool(
            ["sclite", "-D", "-r", f"stm{ending}", "stm", "-h", f"ctm{ending}", "ctm"]
            + ["-o", "sum", "stdout"]
        )
        line = next(x for x in report.splitlines() if "Sum/Avg" in x)
        return float(line.split()[9])

    assert percent_wrong("") > 2
    assert percent_wrong(".mapped") == 0.0
