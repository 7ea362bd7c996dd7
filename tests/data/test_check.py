"""Checking data directories: each fault is found, and a good one has none."""

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.check_data import main
from espnet2_birq.data.check import check_data_dir
from espnet2_birq.data.kaldi import Utterance, write_data_dir

FS = 16000


@pytest.fixture
def folder(tmp_path):
    """Make a data directory of four utterances of half a second."""
    utterances = []
    for index in range(4):
        path = tmp_path / f"{index}.flac"
        noise = np.random.default_rng(index).normal(0.0, 0.1, FS // 2)
        soundfile.write(path, noise, FS)
        speaker = f"s{index // 2}"
        utterances.append(Utterance(f"{speaker}-{index}", speaker, str(path), "A"))
    write_data_dir(tmp_path / "data", utterances)
    return tmp_path / "data"


def edit(path, old, new):
    """Replace text in a file, where it must occur."""
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


def only_problem(folder, **options):
    """Check; return the only kind of problem and what is affected."""
    report = check_data_dir(folder, FS, **options)
    assert len(report.problems) == 1, dict(report.problems)
    return next(iter(report.problems.items()))


def test_good_directory(folder, capsys):
    main(["--fs", str(FS), str(folder)])
    assert capsys.readouterr().out == (
        f"{folder}: ok: 4 utterances, 2 speakers; opened 4 audio files, 0.00 hours\n"
    )
    assert check_data_dir(folder, FS).seconds == 2.0


def test_text_and_spk2utt_are_optional(folder):
    (folder / "text").unlink()
    (folder / "spk2utt").unlink()
    assert not check_data_dir(folder, FS).problems


def test_command_reports_and_fails(folder, tmp_path, capsys):
    (tmp_path / "0.flac").write_bytes(b"")
    (tmp_path / "2.flac").write_bytes(b"")
    with pytest.raises(SystemExit) as caught:
        main(["--fs", str(FS), str(folder)])
    assert caught.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"{folder}: error: 2 x zero-length audio file; download or copy it again; "
        f"first: {tmp_path}/0.flac"
    )
    assert lines[1].startswith(f"{folder}: NOT ok: 4 utterances")
    assert len(lines) == 2


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk"])
def test_missing_list(folder, name):
    (folder / name).unlink()
    kind, affected = only_problem(folder)
    assert kind.startswith("no such file") and affected == [str(folder / name)]


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk", "text", "spk2utt"])
def test_unsorted_and_repeated_ids(folder, name):
    lines = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join(reversed(lines)))
    assert "comes after" in only_problem(folder)[0]
    (folder / name).write_text("".join([lines[0], *lines]))
    assert "line 2 repeats" in only_problem(folder)[0]


@pytest.mark.parametrize(
    "name, other",
    [("wav.scp", "utt2spk"), ("text", "utt2spk")],
)
def test_ids_differ(folder, name, other):
    lines = (folder / name).read_text().splitlines(keepends=True)
    (folder / name).write_text("".join(lines[1:]))
    kind, affected = only_problem(folder)
    assert kind.startswith(f"utterance of {other} is not in {name}")
    assert affected == ["s0-0"]
    (folder / name).write_text("".join([*lines, "t x |\n"]))
    kind, affected = only_problem(folder)
    assert kind.startswith(f"utterance of {name} is not in {other}")
    assert affected == ["t"]


def test_spk2utt_differs(folder):
    edit(folder / "spk2utt", "s1 s1-2 s1-3", "s1 s1-2")
    kind, affected = only_problem(folder)
    assert kind.startswith("speaker differs") and affected == ["s1-3"]


def test_empty_transcripts_are_a_warning(folder):
    edit(folder / "text", "s0-1 A", "s0-1")
    report = check_data_dir(folder, FS)
    assert not report.problems
    assert list(report.warnings.values()) == [["s0-1"]]


def test_other_rate(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "1.flac", np.zeros(4000), 8000)
    kind, affected = only_problem(folder)
    assert "8000 Hz" in kind and affected == [str(tmp_path / "1.flac")]
    main(["--fs", str(FS), "--resample", "true", str(folder)])
    assert "ok: 4 utterances" in capsys.readouterr().out


def test_pipes_and_arks_are_not_opened(folder, tmp_path):
    edit(folder / "wav.scp", f"{tmp_path}/0.flac", "flac -c -d -s 0.flac |")
    edit(folder / "wav.scp", f"{tmp_path}/1.flac", f"{tmp_path}/a.ark:123")
    assert only_problem(folder)[1] == [f"{tmp_path}/a.ark"]
    (tmp_path / "a.ark").touch()
    report = check_data_dir(folder, FS)
    assert not report.problems
    assert sorted(report.warnings.values()) == [["s0-0"], ["s0-1"]]
    assert report.opened == 2


def test_only_a_sample_is_opened_unless_full(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("espnet2_birq.data.check.SAMPLE_SIZE", 1)
    assert check_data_dir(folder, FS).opened == 1
    assert check_data_dir(folder, FS, full=True).opened == 4


@pytest.fixture
def segmented(folder, tmp_path):
    """Make the same utterances segments of one recording of a second."""
    soundfile.write(tmp_path / "r.flac", np.zeros(FS), FS)
    (folder / "wav.scp").write_text(f"r {tmp_path}/r.flac\n")
    (folder / "segments").write_text(
        "s0-0 r 0 0.5\ns0-1 r 0.25 0.75\ns1-2 r 0.5 1.005\ns1-3 r 0.5 -1\n"
    )
    return folder


def test_good_segments(segmented):
    report = check_data_dir(segmented, FS)
    assert not report.problems and report.utterances == 4


@pytest.mark.parametrize(
    "segment, words",
    [
        ("q 0 0.5", "recording is not in wav.scp"),
        ("r 0.5", "is not `recording start end`"),
        ("r 0 later", "is not `recording start end`"),
        ("r 0.5 0.5", "ends before it starts"),
        ("r -0.5 0.5", "starts before 0"),
        ("r 0 nan", "ends before it starts"),
        ("r 0.5 1.5", "reaches beyond its recording"),
        ("r 1.5 -1", "reaches beyond its recording"),
    ],
)
def test_bad_segments(segmented, segment, words):
    edit(segmented / "segments", "s0-0 r 0 0.5", f"s0-0 {segment}")
    report = check_data_dir(segmented, FS)
    found = [
        kind for kind, affected in report.problems.items() if affected[0] == "s0-0"
    ]
    assert any(words in kind for kind in found), dict(report.problems)


def test_segment_without_speaker(segmented):
    with (segmented / "segments").open("a") as stream:
        stream.write("t-4 r 0 0.5\n")
    kind, affected = only_problem(segmented)
    assert kind.startswith("utterance of segments is not in utt2spk")
    assert affected == ["t-4"]
