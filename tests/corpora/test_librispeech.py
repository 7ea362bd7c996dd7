"""The LibriSpeech command, on a small corpus of its layout and on a real excerpt."""

import codecs

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.prepare_librispeech import main
from espnet2_birq.corpora import librispeech_parts
from espnet2_birq.corpora.librispeech import scan_part, split_readers
from espnet2_birq.datadir.kaldi import read_scp

# Part, reader, chapter: two utterances each. Reader 9 is numerically the first.
CHAPTERS = [
    ("dev-clean-2", 9, 70),
    ("dev-clean-2", 84, 121),
    ("dev-clean-2", 84, 122),
    ("dev-clean-2", 777, 5),
    ("train-clean-5", 1088, 134),
]
SPEAKERS = """\
;ID  |SEX| SUBSET           |MINUTES| NAME
9    | F | dev-clean        | 8.02  | Nine
84   | F | dev-clean        | 8.02  | Eighty | Four
777  | M | dev-clean        | 8.06  | Seven
1088 | F | train-clean-5    | 25.11 | Christabel
"""


@pytest.fixture
def corpus(tmp_path):
    """Make a corpus with the layout and the names of mini LibriSpeech."""
    root = tmp_path / "corpora" / "LibriSpeech"
    for part, reader, chapter in CHAPTERS:
        folder = root / part / str(reader) / str(chapter)
        folder.mkdir(parents=True)
        lines = []
        for number in range(2):
            utt_id = f"{reader}-{chapter}-{number:04d}"
            noise = np.random.default_rng(number).normal(0.0, 0.1, 7200)
            soundfile.write(folder / f"{utt_id}.flac", noise, 16000)
            lines.append(f"{utt_id} WORDS OF {number}\n")
        (folder / f"{reader}-{chapter}.trans.txt").write_text("".join(lines))
    (root / "SPEAKERS.TXT").write_text(SPEAKERS)
    return root


def prepare(corpus, dest, *options):
    """Run the command."""
    main(["--librispeech", str(corpus), "--dest", str(dest), "--nj", "2", *options])


def error_of(corpus, dest, *options):
    """Run the command, which must fail with one line and write nothing."""
    with pytest.raises(SystemExit) as caught:
        prepare(corpus, dest, *options)
    message = str(caught.value.code)  # sys.exit(str): to stderr, status 1
    assert message.startswith("error: ") and "\n" not in message
    assert not dest.exists()
    return message


def test_all_parts_are_prepared(corpus, tmp_path, capsys):
    prepare(corpus.parent, tmp_path / "data")
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "dev_clean_2",
        "train_clean_5",
    ]
    dest = tmp_path / "data" / "dev_clean_2"
    assert sorted(p.name for p in dest.iterdir()) == [
        "spk2gender",
        "spk2utt",
        "text",
        "utt2spk",
        "wav.scp",
    ]
    assert read_scp(dest / "wav.scp")["84-122-0001"] == str(
        corpus / "dev-clean-2" / "84" / "122" / "84-122-0001.flac"
    )
    assert read_scp(dest / "utt2spk")["84-122-0001"] == "84-122"
    assert read_scp(dest / "text")["84-122-0001"] == "WORDS OF 1"
    assert read_scp(dest / "spk2gender") == {
        "777-5": "m",
        "84-121": "f",
        "84-122": "f",
        "9-70": "f",
    }
    summary = "8 utterances, 4 speakers (3 readers), 0.00 hours, 0 skipped"
    assert f"{dest}: {summary}" in capsys.readouterr().out


def test_corpus_folder_itself_and_relative(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(corpus.parent)
    prepare("LibriSpeech", tmp_path / "data", "--parts", "train-clean-5")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["train_clean_5"]
    paths = read_scp(tmp_path / "data" / "train_clean_5" / "wav.scp").values()
    assert all(path.startswith(f"{corpus}/train-clean-5/1088/") for path in paths)


def test_split_and_combine(corpus, tmp_path):
    prepare(
        corpus,
        tmp_path / "data",
        "--split=dev-clean-2:2",
        "--combine=train=train_clean_5+dev_clean_2_train",
    )
    readers = {
        folder.name: {key.split("-")[0] for key in read_scp(folder / "utt2spk")}
        for folder in (tmp_path / "data").iterdir()
    }
    # The last readers in numerical, not in alphabetical order (which ends with "9").
    assert readers == {
        "dev_clean_2_train": {"9"},
        "dev_clean_2_valid": {"84"},
        "dev_clean_2_test": {"777"},
        "train_clean_5": {"1088"},
        "train": {"1088", "9"},
    }
    assert len(read_scp(tmp_path / "data" / "train" / "wav.scp")) == 4


def test_dry_run_writes_nothing(corpus, tmp_path, capsys):
    prepare(corpus, tmp_path / "data", "--dry-run")
    assert not (tmp_path / "data").exists()
    assert "8 utterances" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--split=dev-clean-2:2"]])
def test_parts_that_lack_utterances_are_reported(corpus, tmp_path, capsys, options):
    prepare(corpus, tmp_path / "data", *options)
    out = capsys.readouterr().out
    assert f"{corpus}/dev-clean-2: has 8 of the 1089 utterances of the corpus" in out
    assert f"{corpus}/train-clean-5: has 2 of the 1519 utterances" in out


def test_whole_parts_are_not_reported(corpus, tmp_path, capsys, monkeypatch):
    sizes = {"dev-clean-2": 8, "train-clean-5": 2}
    monkeypatch.setattr(librispeech_parts, "UTTERANCES_OF_MINI", sizes)
    prepare(corpus, tmp_path / "data", "--split=dev-clean-2:2")
    assert "utterances of the corpus" not in capsys.readouterr().out


def test_split_takes_along_what_is_skipped(corpus, tmp_path):
    (corpus / "dev-clean-2" / "84" / "121" / "84-121.trans.txt").unlink()
    (corpus / "dev-clean-2" / "84" / "122" / "84-122-0000.flac").unlink()
    prepare(corpus, tmp_path / "data", "--split=dev-clean-2:2")
    skipped = (tmp_path / "data" / "dev_clean_2_valid" / "skipped").read_text()
    assert [line.split("\t")[0] for line in skipped.splitlines()] == [
        "84-121-0000",
        "84-121-0001",
        "84-122-0000",
    ]
    for name in ("dev_clean_2_train", "dev_clean_2_test"):
        assert not (tmp_path / "data" / name / "skipped").exists()


def test_split_does_not_move_when_all_of_a_reader_is_skipped(corpus, tmp_path):
    (corpus / "dev-clean-2" / "84" / "121" / "84-121.trans.txt").unlink()
    (corpus / "dev-clean-2" / "84" / "122" / "84-122.trans.txt").unlink()
    whole = scan_part(corpus, "dev-clean-2")
    train, valid, test = split_readers(whole, 2)
    assert {u.speaker for u in train.utterances} == {"9-70"}
    assert not valid.utterances and len(valid.skipped) == 4
    assert {u.speaker for u in test.utterances} == {"777-5"}


def test_skipped_of_a_set(corpus, tmp_path, capsys):
    chapter = corpus / "dev-clean-2" / "84" / "121"
    (chapter / "84-121-0000.flac").unlink()
    (chapter / "84-121.trans.txt").write_text("84-121-0000 A\n84-121-0001 \n")
    prepare(corpus, tmp_path / "data")
    dest = tmp_path / "data" / "dev_clean_2"
    assert (dest / "skipped").read_text() == (
        "84-121-0000\tin the chapter's trans.txt, but no .flac file\n"
        "84-121-0001\tno transcript in the chapter's trans.txt\n"
    )
    assert len(read_scp(dest / "wav.scp")) == len(read_scp(dest / "text")) == 6
    summary = capsys.readouterr().out
    assert "0.00 hours, 2 skipped\n" in summary
    assert "skipped 1 x no transcript in the chapter's trans.txt; first: 84" in summary


def test_bad_audio_stops_or_is_skipped(corpus, tmp_path, capsys):
    bad = corpus / "dev-clean-2" / "84" / "121" / "84-121-0001.flac"
    bad.write_bytes(bad.read_bytes()[:3000])
    dest = tmp_path / "data"
    message = error_of(corpus, dest)
    assert str(bad) in message and "truncated" in message
    prepare(corpus, dest, "--skip-bad")
    skipped = (dest / "dev_clean_2" / "skipped").read_text()
    assert skipped.startswith("84-121-0001\ttruncated, its header promises more")
    assert "84-121-0001" not in read_scp(dest / "dev_clean_2" / "text")
    assert "skipped 1 x truncated" in capsys.readouterr().out


def test_other_rate(corpus, tmp_path):
    message = error_of(corpus, tmp_path / "data", "--fs", "8000")
    assert "16000 Hz, wanted 8000 Hz" in message
    assert message.endswith(
        ", or give --resample true, if a later stage is to convert it"
    )
    prepare(corpus, tmp_path / "data", "--fs", "8000", "--resample", "true")
    assert (tmp_path / "data" / "dev_clean_2" / "wav.scp").is_file()


@pytest.mark.parametrize(
    "samples, subtype, words",
    [
        (np.zeros((7200, 2)), "PCM_16", "has 2 channels, wanted one"),
        (np.full(7200, np.nan), "FLOAT", "samples that are NaN, infinite"),
    ],
)
def test_audio_that_nothing_can_be_trained_on(
    corpus, tmp_path, samples, subtype, words
):
    path = corpus / "dev-clean-2/84/121/84-121-0001.flac"
    soundfile.write(path, samples, 16000, subtype, format="WAV")
    assert f"{path}: {words}" in error_of(corpus, tmp_path / "data")
    prepare(corpus, tmp_path / "data", "--skip-bad")
    skipped = (tmp_path / "data" / "dev_clean_2" / "skipped").read_text()
    assert skipped.startswith(f"84-121-0001\t{words}")


def test_a_byte_order_mark_before_transcripts(corpus, tmp_path):
    for path in corpus.rglob("*.trans.txt"):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    prepare(corpus, tmp_path / "data")
    assert len(read_scp(tmp_path / "data" / "dev_clean_2" / "text")) == 8


def test_lfs_pointer_is_never_skipped(corpus, tmp_path):
    bad = corpus / "train-clean-5" / "1088" / "134" / "1088-134-0000.flac"
    bad.write_text("version https://git-lfs.github.com/spec/v1\n")
    message = error_of(corpus, tmp_path / "data", "--skip-bad")
    assert str(bad) in message and "git lfs pull" in message


@pytest.mark.parametrize(
    "options, words",
    [
        (["--parts", "dev-clean"], "no part dev-clean there, only dev-clean-2, train"),
        (["--split", "dev-clean:2"], "--split dev-clean: not among the parts"),
        (["--split", "dev-clean-2:1"], "cannot hold out 1 of 3 readers"),
        (["--split", "dev-clean-2:0"], "cannot hold out 0 of 3 readers"),
        (["--split", "dev-clean-2:4"], "cannot hold out 4 of 3 readers"),
        (["--combine", "train=dev_clean"], "no set dev_clean, only dev_clean_2, train"),
        (["--combine", "dev_clean_2=train_clean_5"], "there is a set of this name"),
        (
            ["--combine", "a=dev_clean_2+dev_clean_2"],
            "a: utterance 777-5-0000 occurs twice",
        ),
        (
            ["--dry-run", "--combine", "a=dev_clean_2+dev_clean_2"],
            "a: utterance 777-5-0000 occurs twice",
        ),
        (
            ["--combine", "a=train_clean_5", "--combine", "a=dev_clean_2"],
            "--combine a: given twice",
        ),
    ],
)
def test_wrong_requests(corpus, tmp_path, options, words):
    assert words in error_of(corpus, tmp_path / "data", *options)


def test_space_in_the_corpus_path(corpus, tmp_path):
    spaced = tmp_path / "my corpora"
    corpus.parent.rename(spaced)
    message = error_of(spaced, tmp_path / "data")
    assert "my corpora" in message and "symbolic link" in message
    (tmp_path / "linked").symlink_to(spaced)
    prepare(tmp_path / "linked", tmp_path / "data")
    paths = read_scp(tmp_path / "data" / "dev_clean_2" / "wav.scp").values()
    assert all(path.startswith(str(tmp_path / "linked")) for path in paths)


def test_not_a_corpus(tmp_path):
    message = error_of(tmp_path, tmp_path / "data")
    assert "no part of LibriSpeech" in message


def test_two_texts_of_an_utterance(corpus, tmp_path):
    path = corpus / "dev-clean-2" / "84" / "121" / "84-121.trans.txt"
    content = path.read_text()
    path.write_text(content + content)  # equal ones do no harm
    prepare(corpus, tmp_path / "data")
    path.write_text(f"{content}84-121-0001 OTHER WORDS\n")
    message = error_of(corpus, tmp_path / "new")
    assert f"{path}: has two texts of 84-121-0001; restore it" in message


def test_a_set_without_utterances(corpus, tmp_path):
    """Nothing else is written before it is noticed."""
    for path in (corpus / "train-clean-5").rglob("*.flac"):
        path.unlink()
    assert "train_clean_5: no utterance to write" in error_of(corpus, tmp_path / "new")


def test_file_in_a_wrong_chapter(corpus, tmp_path):
    chapter = corpus / "dev-clean-2" / "84" / "121"
    (chapter / "84-121-0000.flac").rename(chapter / "84-999-0000.flac")
    message = error_of(corpus, tmp_path / "data")
    assert "84-999-0000 is not of chapter 84-121" in message


def test_no_speakers_file(corpus, tmp_path, capsys):
    (corpus / "SPEAKERS.TXT").unlink()
    prepare(corpus, tmp_path / "data")
    assert "no spk2gender is written" in capsys.readouterr().out
    assert not (tmp_path / "data" / "dev_clean_2" / "spk2gender").exists()


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "--combine train=train_clean_100+dev_clean_train" in capsys.readouterr().out


def test_real_excerpt(shared_data, tmp_path, capsys):
    prepare(shared_data / "librispeech", tmp_path / "data", "--parts", "test-other")
    dest = tmp_path / "data" / "test_other"
    assert len(read_scp(dest / "wav.scp")) == 100
    readers = {speaker.split("-")[0] for speaker in read_scp(dest / "spk2gender")}
    assert len(readers) == 10
    assert "(10 readers), 0.21 hours, 0 skipped" in capsys.readouterr().out
