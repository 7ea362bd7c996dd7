"""AMI's utterances from the complete annotation, compared with other readers."""

import os
import re
import shutil
import subprocess
import tarfile
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path

import pytest

from espnet2_birq.bin.prepare_ami import main
from espnet2_birq.corpora.ami.annotation import (
    find_annotation,
    read_meetings,
    read_segments,
    read_words,
)
from espnet2_birq.corpora.ami.corpus import MICROPHONES, cut_sets
from espnet2_birq.corpora.ami.partitions import FULL_CORPUS_ASR, read_partition
from espnet2_birq.corpora.ami.scoring import HESITATIONS

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
    # in ihm_eval. dev is also its validation set, from which asr.sh (stage 4) removes
    # utterances of at most 0.1 s or at least 20 s.
    def count(turns):
        return len(turns), sum(len(turn.text.split()) for turn in turns)

    assert count(sets["eval"].turns) == (12643, 89666)
    assert count(sets["dev"].turns) == (13098, 94953)
    scored = [t for t in sets["dev"].turns if 10 < _named_length(t) < 2000]
    assert count(scored) == (13057, 94802)
    # Characters of its CER; sclite does not count "@", which occurs once in eval ("@'S").
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
        # Count in another way, in the text of the XML files.
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
        "its utterance occurs twice": 1,
    }
    halved = set().union(*(one.halved for one in sets.values()))
    assert halved == {"EN2006b.C.words771", "ES2010c.A.words613"}  # line.I, now.I'm


def test_one_overlap_within_a_speaker(sets):
    # According to Kaldi's script, the development set has only one such case.
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
        # As in the awk script of ami_ihm_data_prep.sh, including `sort | uniq`.
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
    # Its parser is slow, so read only the development and evaluation sets.
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
    # The one difference is due to the parts without duration that Kaldi and we drop.
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

    # Correct except for hesitations: half of them are missing, the others are all UH.
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
