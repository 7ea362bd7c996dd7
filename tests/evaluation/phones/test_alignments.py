"""Phones of frames are equal for all formats; errors name file and line."""

import gzip
import re
from decimal import Decimal

import numpy as np
import pytest

from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.phones.alignments import phone_classes, read_alignments

ROWS = {
    "a": [("SIL", 3), ("AH", 4), ("S", 1), ("IY", 7), ("SIL", 2)],
    "b": [("T", 5), ("AH", 5), ("SIL", 5)],
}
# Other names for the same phones
KALDI = {"SIL": "SIL_S", "AH": "AH0_B", "IY": "IY2_E"}
MFA = {"SIL": "", "AH": "AH1", "S": "S"}


def intervals(rows, names):
    """Yield (start, end, name) with exact decimal times."""
    now = Decimal(0)
    for phone, frames in rows:
        end = now + frames * Decimal("0.01")
        yield now, end, names.get(phone, phone)
        now = end


def write_tsv(folder):
    lines = (
        name + "\t" + " ".join(f"{p}:{n}" for p, n in rows) + "\n"
        for name, rows in ROWS.items()
    )
    (folder / "phones.tsv").write_text("".join(lines))
    return folder / "phones.tsv"


def write_gzip(folder):
    path = folder / "phones.tsv.gz"
    path.write_bytes(gzip.compress(write_tsv(folder).read_bytes()))
    return path


def write_ctm(folder):
    lines = [
        f"{name} 1 {start} {end - start} {phone}\n"
        for name, rows in ROWS.items()
        for start, end, phone in intervals(rows, KALDI)
    ]
    (folder / "a.ctm").write_text(";; a comment\n" + "".join(lines))
    return folder / "a.ctm"


LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = {end}
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = {end}
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = {end}
            text = "he said ""no"" 7 times"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = {end}
        points: size = 1
        points [1]:
            number = 0.01
            mark = "x"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = {end}
        intervals: size = {size}
"""


def write_textgrids(folder, encoding="utf-8", shape=lambda text: text):
    top = folder / "grids"
    for name, rows in ROWS.items():
        some = list(intervals(rows, MFA))
        text = LONG.format(end=some[-1][1], size=len(some))
        for number, (start, end, phone) in enumerate(some, 1):
            text += f"        intervals [{number}]:\n            xmin = {start}\n"
            text += f'            xmax = {end}\n            text = "{phone}"\n'
        (top / name).mkdir(parents=True)
        path = top / name / f"{name}.TextGrid"
        path.write_text(shape(text), encoding=encoding)
    return top


def write_utf16(folder):
    return write_textgrids(folder, "utf-16")


def write_big_endian(folder):
    """Write UTF-16 as Praat does by default."""
    return write_textgrids(folder, "utf-16-be", lambda text: f"\ufeff{text}")


def write_short(folder):
    """Write Praat's short format: only values, one per line."""

    def shorten(text):
        lines = [line for line in text.splitlines() if not line.endswith(":")]
        kept = [re.sub(r"^.*?= ", "", line).strip() for line in lines[3:]]
        kept = [re.sub("^tiers.*", "<exists>", line) for line in kept]
        return "\n".join([*lines[:3], *kept]) + "\n"

    return write_textgrids(folder, shape=shorten)


WRITERS = [write_tsv, write_gzip, write_ctm, write_textgrids, write_utf16, write_short]
WRITERS.append(write_big_endian)


@pytest.mark.parametrize("shift", [0.01, 0.02, 0.03, 0.04])
@pytest.mark.parametrize("write", WRITERS)
def test_all_formats_give_the_same_labels(tmp_path, write, shift):
    alignments = read_alignments(write(tmp_path))
    assert set(alignments) == set(ROWS)
    classes = phone_classes(alignments.values())
    assert classes == ("AH", "IY", "S", "SIL", "T")
    for name, rows in ROWS.items():
        each = np.repeat([p for p, _ in rows], [n for _, n in rows])  # of 10 ms
        factor = round(shift / 0.01)
        # The phone at the centre of the hop; on a border, the one that begins there.
        centres = np.arange(factor // 2, len(each), factor)
        labels = alignments[name].frame_labels(len(centres) + 2, shift, classes)
        assert [classes[x] for x in labels[:-2]] == list(each[centres])
        assert (labels[-2:] == -1).all()  # after the end there is no phone
        assert alignments[name].seconds == len(each) / 100


def test_only_what_is_wanted(tmp_path):
    for write in (write_tsv, write_ctm, write_textgrids):
        assert set(read_alignments(write(tmp_path), {"b", "x"})) == {"b"}
        with pytest.raises(DataError, match="contains none of the utterances"):
            read_alignments(write(tmp_path / write.__name__), {"x"})


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for write in (write_tsv, write_ctm, write_textgrids):
        (tmp_path / write.__name__).mkdir()


def test_silence_can_be_left_out(tmp_path):
    alignments = read_alignments(write_tsv(tmp_path))
    classes = phone_classes(alignments.values(), silence=False)
    assert "SIL" not in classes
    labels = alignments["a"].frame_labels(17, 0.01, classes)
    assert (labels[:3] == -1).all() and (labels[-2:] == -1).all()
    assert (labels[3:-2] >= 0).all()


def test_gaps_have_no_label(tmp_path):
    path = tmp_path / "gap.ctm"
    path.write_text("a 1 0.02 0.02 AA\na 1 0.05 0.02 B\n")
    labels = read_alignments(path)["a"].frame_labels(8, 0.01, ("AA", "B"))
    assert labels.tolist() == [-1, -1, 0, 0, -1, 1, 1, -1]


def test_a_ctm_with_tabs_and_colons(tmp_path):
    """It is not taken for lines of `PHONE:frames`."""
    path = tmp_path / "long.ctm"
    path.write_text("u1\t1\t0.00\t0.10\ta:\nu1\t1\t0.10\t0.10\tb:3\n")
    assert read_alignments(path)["u1"].phones == ("a:", "b:3")


def test_only_vowels_of_arpabet_lose_a_digit(tmp_path):
    """IAO1 to IAO3 may be phones of their own."""
    path = tmp_path / "tones.ctm"
    names = ("IAO1", "IAO2", "AO1", "ao1", "34")
    lines = [f"u1 1 {n} 1 {name}\n" for n, name in enumerate(names)]
    path.write_text("".join(lines))
    assert read_alignments(path)["u1"].phones == ("IAO1", "IAO2", "AO", "ao1", "34")


def test_rounded_times_may_overlap_by_a_frame(tmp_path):
    path = tmp_path / "round.ctm"
    path.write_text("a 1 0.00 0.03 AA\na 1 0.02 0.02 B\n")
    labels = read_alignments(path)["a"].frame_labels(4, 0.01, ("AA", "B"))
    assert labels.tolist() == [0, 0, 1, 1]
    path.write_text("a 1 0.00 0.03 AA\na 1 0.015 0.02 B\n")
    with pytest.raises(DataError, match="line 2: from 0.015 to 0.035 s, but the phone"):
        read_alignments(path)


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "empty"),
        ("a 1 0 0.1 AA\na 1 0.1 x B\n", "line 2: 'a 1 0.1 x B' is no line of"),
        ("a 1 0 0.1 AA\nb 1 0.1\n", "line 2"),
        ("a 1 0 0.1 AA\na 1 0.05 0.1 B\n", "line 2: from 0.05 to 0.15 s, but"),
        ("a 1 0 -0.1 AA\n", "line 1: starts before 0 or has a negative"),
        ("a 1 0 inf AA\n", "line 1"),
        ("a 1 0 0 AA\n", "line 1: all phones have length 0"),
        ("a 1 0 1 A\nb 1 0 1 A\na 1 1 1 B\n", "line 3: utterance a occurs twice"),
        ("a\tAA:3 B\n", "line 1: 'B' is not `PHONE:frames`"),
        ("a\tAA:3\nb AA:3\n", "line 2 is not `utterance, tab"),
        ("a\tAA:3\na\tAA:3\n", r"line 2: utterance a .*line 1"),
        (b"a\tAA:3\nb\t\xff:3\n", "not readable as UTF-8"),
        ("a 1 0 0.1 1\na 1 0.1 0.1 34\n", "phones are numbers, .*utils/int2sym.pl"),
    ],
)
def test_errors_name_file_and_line(tmp_path, content, message):
    path = tmp_path / "wrong.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"{re.escape(str(path))}.*{message}"):
        read_alignments(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text[: text.rindex("xmax")], "ends in the middle, at line"),
        (lambda text: text.replace('"phones"', '"phone"'), "no tier of intervals"),
        (lambda text: text.replace('text = ""', "text = 7", 1), "line 37: 7.0 where"),
        (lambda text: text.replace("ooTextFile", "ooText"), "not Praat's TextGrid"),
        (lambda text: text.rstrip()[:-1], "a string without end"),
        (
            lambda text: text.replace("xmin = 0.08", "xmin = 0.01"),
            r"line \d+: from 0.01 to 0.15 s, but",
        ),
    ],
)
def test_errors_of_textgrids_name_file_and_line(tmp_path, change, message):
    path = write_textgrids(tmp_path) / "a" / "a.TextGrid"
    text = change(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}: .*{message}"):
        read_alignments(path)


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="no such alignment; give a CTM"):
        read_alignments(tmp_path / "nothing.ctm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no TextGrid below"):
        read_alignments(tmp_path / "empty")


def test_real_alignment(shared_data):
    path = shared_data / "librispeech" / "dev-clean.phones.tsv.gz"
    alignments = read_alignments(path)
    classes = phone_classes(alignments.values())
    assert len(alignments) == 1313 and len(classes) == 40
    with gzip.open(path, "rt") as lines:
        for line in lines:
            name, row = line.rstrip("\n").split("\t")
            fields = [field.split(":") for field in row.split()]
            each = np.repeat([p for p, _ in fields], [int(n) for _, n in fields])
            frames = (len(each) + 1) // 4
            labels = alignments[name].frame_labels(frames, 0.04, classes)
            assert (np.array(classes)[labels] == each[2::4][:frames]).all()
