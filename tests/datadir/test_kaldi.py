"""Kaldi data directories."""

import codecs
from pathlib import Path

import pytest

from espnet2_birq.corpora.ami.partitions import read_partition
from espnet2_birq.datadir.kaldi import Segment, Utterance, read_scp, write_data_dir
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.decode.ngram_training import read_sentences

# In byte order, capitals precede small letters, and "é" follows both.
UTTERANCES = [
    Utterance("b-1", "b", "/audio/b1.flac", "ZWEI"),
    Utterance("é-1", "é", "/audio/e1.flac", "DREI ÉÉ"),
    Utterance("B-1", "B", "/audio/B1.flac", "EINS"),
    Utterance("b-0", "b", "/audio/b0.flac", "NULL"),
]


def names(folder):
    """List a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_files_are_written_sorted_by_bytes(tmp_path):
    write_data_dir(tmp_path / "data" / "train", UTTERANCES, {"skipped": "x\ty\n"})
    dest = tmp_path / "data" / "train"
    assert names(dest) == ["skipped", "spk2utt", "text", "utt2spk", "wav.scp"]
    assert names(tmp_path / "data") == ["train"]
    assert (dest / "wav.scp").read_bytes() == (
        "B-1 /audio/B1.flac\nb-0 /audio/b0.flac\nb-1 /audio/b1.flac\n"
        "é-1 /audio/e1.flac\n"
    ).encode()
    assert (dest / "utt2spk").read_text("utf-8") == "B-1 B\nb-0 b\nb-1 b\né-1 é\n"
    assert (dest / "spk2utt").read_text("utf-8") == "B B-1\nb b-0 b-1\né é-1\n"
    assert (dest / "text").read_text("utf-8").splitlines()[3] == "é-1 DREI ÉÉ"
    assert (dest / "skipped").read_text() == "x\ty\n"


def test_segments(tmp_path):
    whole = Utterance("s-2", "s", "/a.wav", "x")
    one = Utterance("s-1", "s", "/a.wav", "y", Segment("a", 0.104, 2))
    two = Utterance("s-0", "s", "/b.wav", "z", Segment("b", 10, 11.5))
    write_data_dir(tmp_path / "d", [one, two])
    assert (tmp_path / "d" / "wav.scp").read_text() == "a /a.wav\nb /b.wav\n"
    assert (tmp_path / "d" / "segments").read_text() == (
        "s-0 b 10.00 11.50\ns-1 a 0.10 2.00\n"
    )
    with pytest.raises(DataError, match="only some utterances are segments"):
        write_data_dir(tmp_path / "d", [whole, one])
    other = Utterance("s-3", "s", "/b.wav", "z", Segment("a", 10, 11.5))
    with pytest.raises(DataError, match="a is both /a.wav and /b.wav"):
        write_data_dir(tmp_path / "d", [one, other])


def test_no_text_unless_all_have_one(tmp_path):
    write_data_dir(tmp_path / "d", [*UTTERANCES, Utterance("x", "x", "/x.flac")])
    assert names(tmp_path / "d") == ["spk2utt", "utt2spk", "wav.scp"]


def test_existing_directory_is_replaced_whole(tmp_path):
    dest = tmp_path / "train"
    write_data_dir(dest, UTTERANCES, {"stale": "1\n"})
    write_data_dir(dest, UTTERANCES[:1])
    assert names(dest) == ["spk2utt", "text", "utt2spk", "wav.scp"]
    assert (dest / "utt2spk").read_text() == "b-1 b\n"
    assert names(tmp_path) == ["train"]


def test_a_failure_leaves_the_old_directory(tmp_path):
    dest = tmp_path / "train"
    write_data_dir(dest, UTTERANCES[:1])
    with pytest.raises(FileNotFoundError):
        write_data_dir(dest, UTTERANCES, {"no/such/folder": ""})
    assert (dest / "utt2spk").read_text() == "b-1 b\n"
    assert names(tmp_path) == ["train"]


def test_a_failure_at_the_last_step_puts_the_old_directory_back(tmp_path, monkeypatch):
    dest = tmp_path / "train"
    write_data_dir(dest, UTTERANCES[:1])
    rename = Path.rename

    def rename_unless_new(path, target):
        if ".part" in path.name:
            raise OSError("disk trouble")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_unless_new)
    with pytest.raises(OSError, match="disk trouble"):
        write_data_dir(dest, UTTERANCES)
    assert (dest / "utt2spk").read_text() == "b-1 b\n"
    assert names(tmp_path) == ["train"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for there in (False, True):
        if there:
            write_data_dir(tmp_path / "train", UTTERANCES)
        write_data_dir(tmp_path / ".train.old", UTTERANCES[:1])
        write_data_dir(tmp_path / "train", UTTERANCES[:2])
        assert len(read_scp(tmp_path / "train" / "utt2spk")) == 2
        assert names(tmp_path) == ["train"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "train").symlink_to(tmp_path / "disk")
    write_data_dir(tmp_path / "train", UTTERANCES)
    assert (tmp_path / "train").is_symlink()
    assert (tmp_path / "disk" / "wav.scp").is_file()


def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with pytest.raises(DataError, match="thesis: exists and is not"):
        write_data_dir(tmp_path / "thesis", UTTERANCES)
    assert names(tmp_path / "thesis") == ["chapter1.tex"]


@pytest.mark.parametrize(
    "utterances, words",
    [
        ([], ["no utterance"]),
        (
            [Utterance("a", "s", "/one.flac"), Utterance("a", "s", "/two.flac")],
            ["a occurs twice", "/one.flac", "/two.flac"],
        ),
        ([Utterance("a b", "s", "/a.flac")], ["/a.flac", "utterance id 'a b'"]),
        ([Utterance("", "s", "/a.flac")], ["/a.flac", "utterance id ''"]),
        ([Utterance("a", "s\tt", "/a.flac")], ["/a.flac", "speaker"]),
        ([Utterance("a", "s", "/my disk/a.flac")], ["/my disk/a.flac", "link"]),
        ([Utterance("a", "s", "/a.flac", "A\nB")], ["/a.flac", "several lines"]),
    ],
)
def test_what_cannot_be_written(tmp_path, utterances, words):
    with pytest.raises(DataError) as caught:
        write_data_dir(tmp_path / "d", utterances)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert names(tmp_path) == []


def test_read_scp(tmp_path):
    path = tmp_path / "wav.scp"
    path.write_text("B x y |\nb\tz\né é \n", encoding="utf-8")
    assert list(read_scp(path).items()) == [("B", "x y |"), ("b", "z"), ("é", "é")]


def test_read_scp_empty_values(tmp_path):
    path = tmp_path / "text"
    path.write_text("a\nb B\n")
    assert read_scp(path, allow_empty_values=True) == {"a": "", "b": "B"}
    with pytest.raises(DataError, match="line 1: a has no value"):
        read_scp(path)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "empty file"),
        (b"a 1\nb 2\nb 3\n", "line 3 repeats b of line 2"),
        (b"b 1\na 2\n", "line 2: a comes after b; sort it with LC_ALL=C"),
        (b"a 1\nb \xe9\n", "line 2 is not UTF-8"),
        (b"a 1\r\n", "line 1 has a Windows line end"),
        (b"a 1\n\nb 2\n", "line 2 is blank"),
    ],
)
def test_bad_scp(tmp_path, content, words):
    path = tmp_path / "wav.scp"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_scp(path)
    assert str(caught.value).startswith(str(path))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = tmp_path / "utt2spk"
    path.write_bytes(codecs.BOM_UTF8 + b"a x\nb x\n")
    with pytest.raises(DataError, match="utt2spk: begins with a byte order mark; rem"):
        read_scp(path)


def test_missing_scp(tmp_path):
    with pytest.raises(DataError, match="wav.scp: no such file"):
        read_scp(tmp_path / "wav.scp")


def test_text_that_no_script_reads_may_begin_with_a_byte_order_mark(tmp_path):
    for name in ("train", "dev", "eval"):
        content = f"{name}1\n{name}2\n".encode()
        (tmp_path / f"{name}.txt").write_bytes(codecs.BOM_UTF8 + content)
    assert read_partition(str(tmp_path))["dev"] == ["dev1", "dev2"]
    (tmp_path / "text").write_bytes(codecs.BOM_UTF8 + b"ONE TWO\n")
    assert read_sentences(tmp_path / "text") == [["ONE", "TWO"]]
