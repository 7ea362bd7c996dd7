"""cpWER of AMI meetings, with words dropped and changed by a rule."""

import itertools
import json
import random
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import editdistance
import pytest

from espnet2_birq.bin import score as command
from espnet2_birq.corpora.ami.annotation import find_annotation
from espnet2_birq.corpora.ami.corpus import MICROPHONES, cut_sets
from espnet2_birq.corpora.ami.scoring import make_stm
from espnet2_birq.evaluation.wer.meeting import make_meeting_table

pytest.importorskip("meeteval", reason="meeteval is not installed")
MEETINGS = ("EN2002c", "ES2004a")  # three speakers; four


@pytest.fixture(scope="module")
def turns(shared_data, tmp_path_factory):
    """Utterances of the first minutes of two meetings of the evaluation set."""
    archive = shared_data / "ami" / "ami_public_manual_1.6.2.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no annotation: {archive} is not there")
    folder = tmp_path_factory.mktemp("ami")
    wanted = (*MEETINGS, "corpusResources")
    with tarfile.open(archive) as tar:
        for member in tar:
            if any(name in member.name for name in wanted):
                tar.extract(member, folder, filter="data")
    root = find_annotation(next(folder.glob("**/words")).parent)
    turns = cut_sets(root, {"eval": MEETINGS}, ["eval"])["eval"].turns
    return [turn for turn in turns if turn.end < 8 * 60 * 100]


def altered(text, rng):
    words = text.split()
    return " ".join(
        "XYZ" if rng.random() < 0.1 else word for word in words if rng.random() > 0.15
    )


@pytest.fixture(scope="module")
def folder(turns, tmp_path_factory):
    """Folder with references and hypotheses for the headsets, as text and stm."""
    folder = tmp_path_factory.mktemp("files")
    ihm, rng = MICROPHONES["ihm"], random.Random(0)
    texts = {turn.utt_id(ihm): turn.text for turn in turns}
    hyps = {utt_id: altered(text, rng) for utt_id, text in texts.items()}
    for name, side in (("text", texts), ("hyp", hyps)):
        lines = sorted(f"{utt_id} {text}".strip() for utt_id, text in side.items())
        (folder / name).write_text("\n".join(lines) + "\n")
    stm = make_stm(turns, ihm)
    (folder / "stm").write_text(stm)
    of_stm = dict(zip(sorted(texts), stm.splitlines(), strict=True))
    # A recogniser has its own names for speakers.
    names = {"FEE016": "2"}
    lines = []
    for utt_id, line in of_stm.items():
        recording, channel, speaker, start, end = line.split()[:5]
        speaker = names.get(speaker[-6:], speaker[::-1])
        lines.append(f"{recording} {channel} {speaker} {start} {end} {hyps[utt_id]}\n")
    (folder / "hyp.stm").write_text("".join(lines))
    return folder


def plain_cpwer(ref, hyp):
    """Try all assignments of streams; those without a counterpart are all wrong."""
    names = list(hyp) + [None] * max(0, len(ref) - len(hyp))
    streams = list(ref) + [None] * max(0, len(hyp) - len(ref))
    cost = {
        (one, other): editdistance.eval(ref.get(one, []), hyp.get(other, []))
        for one in streams
        for other in names
    }
    return min(
        sum(cost[pair] for pair in zip(streams, order, strict=True))
        for order in itertools.permutations(names)
    )


def streams(turns, texts, meeting):
    """Words of each speaker, in the order of time."""
    found = defaultdict(list)
    for turn in sorted(turns, key=lambda turn: turn.start):
        if turn.meeting == meeting:
            found[turn.speaker] += (
                texts[turn.utt_id(MICROPHONES["ihm"])].lower().split()
            )
    return dict(found)


def score(capsys, *args):
    command.main(["--meeting", "--json", *map(str, args)])
    return json.loads(capsys.readouterr().out)


def test_cpwer_is_that_of_a_plain_search(turns, folder, capsys):
    rows = score(capsys, "--ref", folder / "text", "--hyp", folder / "hyp")
    assert [row["meeting"] for row in rows] == [*MEETINGS, "all"]
    assert [row["speakers"] for row in rows] == [3, 4, 7]
    lines = (folder / "hyp").read_text().splitlines()
    hyps = {line.split()[0]: line.partition(" ")[2] for line in lines}
    refs = {turn.utt_id(MICROPHONES["ihm"]): turn.text for turn in turns}
    for row in rows[:2]:
        sides = [streams(turns, texts, row["meeting"]) for texts in (refs, hyps)]
        assert row["cpwer"]["errors"] == plain_cpwer(*sides)
        assert row["cpwer"]["tokens"] == sum(map(len, sides[0].values()))
    total = rows[2]["cpwer"]
    assert total["errors"] == sum(row["cpwer"]["errors"] for row in rows[:2])
    assert total["low"] <= total["percent"] <= total["high"]
    assert 23 < total["percent"] < 27  # 0.15 + 0.85 * 0.1 of the words are wrong


def test_times_forbid_matches(turns, folder, capsys):
    """Correct words a minute late are errors only in tcpWER."""
    late = []
    for line in (folder / "stm").read_text().splitlines():
        head, (start, end), words = line.split()[:3], *split_times(line)
        late.append(" ".join([*head, f"{start + 60:.2f}", f"{end + 60:.2f}", words]))
    (folder / "late.stm").write_text("\n".join(late) + "\n")
    *_, total = score(
        capsys, "--ref", folder / "stm", "--hyp", folder / "late.stm", folder / "stm"
    )
    rows = score(capsys, "--ref", folder / "stm", "--hyp", folder / "late.stm")
    assert rows[-1]["cpwer"]["errors"] == 0 and rows[-1]["tcpwer"]["percent"] > 50
    assert total["cpwer"]["errors"] == total["tcpwer"]["errors"] == 0


def split_times(line):
    fields = line.split(maxsplit=5)
    return (float(fields[3]), float(fields[4])), fields[5]


def test_stretches_that_are_not_scored(folder, capsys):
    lines = (folder / "stm").read_text().splitlines()
    name = lines[0].split()[0]
    gap = f"{name} 1 inter_segment_gap 0.00 0.01 <,,> IGNORE_TIME_SEGMENT_IN_SCORING"
    (folder / "gaps.stm").write_text("\n".join([gap, *lines, gap]) + "\n")
    hyp = ("--hyp", folder / "hyp.stm")
    plain = score(capsys, "--ref", folder / "stm", *hyp)
    gaps = score(capsys, "--ref", folder / "gaps.stm", *hyp)
    measured = ("meeting", "speakers", "cpwer", "tcpwer")
    assert [[row[x] for x in measured] for row in gaps] == [
        [row[x] for x in measured] for row in plain
    ]


def test_stm_is_scored_as_utterances(folder, capsys):
    by_text = score(capsys, "--ref", folder / "text", "--hyp", folder / "hyp")
    by_stm = score(capsys, "--ref", folder / "stm", "--hyp", folder / "hyp.stm")
    for one, other in zip(by_text, by_stm, strict=True):
        assert one["cpwer"] == other["cpwer"] and one["tcpwer"] == other["tcpwer"]


def test_speakers_that_are_missing(turns, folder, capsys):
    """The recogniser put all words into one stream."""
    one = [
        " ".join([*line.split()[:2], "X", *line.split()[3:]])
        for line in (folder / "hyp.stm").read_text().splitlines()
    ]
    (folder / "one.stm").write_text("\n".join(one) + "\n")
    rows = score(capsys, "--ref", folder / "stm", "--hyp", folder / "one.stm")
    assert rows[-1]["cpwer"]["percent"] > 75


def test_table(folder, capsys):
    command.main(["--meeting", "--ref", f"{folder}/stm", "--hyp", f"{folder}/hyp.stm"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Normalisation: none. cpWER") and len(lines) == 7
    assert "| all | 7 |" in lines[-1] and "[" in lines[-1] and "[" not in lines[-2]


def test_a_meeting_without_a_reference_has_no_rate():
    """Its errors are not shown as a percentage."""
    empty = {"percent": None, "errors": 3, "tokens": 0}
    row = {"normalization": "none", "experiment": "e", "decoding": "-", "set": "s"}
    row |= {"meeting": "M1", "speakers": 1, "cpwer": empty, "tcpwer": empty}
    assert make_meeting_table([row]).endswith("| M1 | 1 | 0 | 3 errors | 3 errors |")


@pytest.mark.parametrize(
    "ref, hyp, more, message",
    [
        ("stm", "hyp", (), "one is stm, the other is not"),
        ("text", "hyp", ("--normalize", "kaldi"), "--meeting: not with --normalize"),
        ("stm", "less.stm", (), "less.stm: lacks meeting ES2004a"),
        ("less.stm", "stm", (), "less.stm: lacks meeting ES2004a"),
        ("bad.stm", "stm", (), "bad.stm: line 1 is not `recording channel"),
        ("plain", "plain", (), "--meeting: id u1 does not tell the meeting"),
    ],
)
def test_errors(folder, ref, hyp, more, message):
    lines = (folder / "stm").read_text().splitlines(keepends=True)
    (folder / "less.stm").write_text("".join(x for x in lines if x.startswith("EN")))
    (folder / "bad.stm").write_text("ES2004a A spk x y word\n")
    (folder / "plain").write_text("u1 a b\n")
    with pytest.raises(SystemExit, match="error: .*" + message.replace("`", ".")):
        command.main(
            ["--meeting", "--ref", f"{folder}/{ref}", "--hyp", f"{folder}/{hyp}", *more]
        )


@pytest.mark.parametrize("number, side", [(20, None), (21, "hyp"), (21, "ref")])
def test_many_speakers(tmp_path, capsys, number, side):
    """As by a diarisation that gives each segment a speaker of its own."""
    files = [f"{tmp_path}/ref.stm", f"{tmp_path}/hyp.stm"]
    for path in files:
        few = side is not None and side not in path.rpartition("/")[2]
        lines = [f"M1 A s{n} {n} {n + 1} word\n" for n in range(2 if few else number)]
        Path(path).write_text("".join(lines))
    given = ["--meeting", "--ref", files[0], "--hyp", files[1]]
    if side is None:
        command.main(given)
        assert "| all | 20 |" in capsys.readouterr().out
        return
    words = f"error: {tmp_path}/{side}.stm: meeting M1 has 21 speakers, .*; merge them"
    with pytest.raises(SystemExit, match=words):
        command.main(given)


def test_meeteval_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "meeteval.io", None)
    with pytest.raises(SystemExit, match="pip install meeteval"):
        command.main(["--meeting", "--ref", f"{folder}/stm", "--hyp", f"{folder}/stm"])
