"""Checks of data directories: each fault is found, and a good one has none."""

import codecs
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from omniio import kaldi as kaldi_io

from espnet2_birq.bin.check_data import main
from espnet2_birq.datadir.audio import probe_entry
from espnet2_birq.datadir.check import MAX_KINDS, Report, check_data_dir, describe
from espnet2_birq.datadir.kaldi import Utterance, read_scp, write_data_dir

FS = 16000
ROOT = Path(__file__).resolve().parents[2]


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
    """Check; return the only kind of problem and the first item affected."""
    report = check_data_dir(folder, FS, **options)
    assert len(report.problems) == 1, dict(report.problems)
    ((kind, finding),) = report.problems.items()
    assert finding.count == 1
    return kind, finding.first


def test_good_directory(folder, capsys):
    main(["--fs", str(FS), str(folder)])
    assert capsys.readouterr().out == (
        f"{folder}: ok: 4 utterances, 2 speakers; opened 4 audio files, 0.00 hours; "
        "utterances of 0.50 to 0.50 s\n"
    )
    assert check_data_dir(folder, FS).seconds == 2.0


def test_text_and_spk2utt_are_optional(folder):
    (folder / "text").unlink()
    (folder / "spk2utt").unlink()
    assert not check_data_dir(folder, FS).problems


@pytest.mark.parametrize("text", ["A\u00a0B\xe4", "A\u00a0", "\u00a0A B", "A\u3000B"])
def test_spaces_that_kaldi_refuses_in_text(folder, text):
    """Pretraining does not use texts."""
    edit(folder / "text", "s0-1 A\n", f"s0-1 {text}\n")
    report = check_data_dir(folder, FS)
    ((kind, finding),) = report.warnings.items()
    assert finding.first == "s0-1" and not report.problems
    code = 0x3000 if text[1] == "\u3000" else 0xA0
    assert f"text has U+{code:04X}, whitespace" in kind
    subprocess.run(kind.partition("by a space: ")[2], shell=True, check=True)
    fixed = text.replace(chr(code), " ")
    assert f"s0-1 {fixed}\n" in (folder / "text").read_text(encoding="utf-8")
    assert not check_data_dir(folder, FS).warnings


def test_a_set_for_pretraining_has_no_speakers(folder, capsys):
    for name in ("text", "spk2utt", "utt2spk"):
        (folder / name).unlink()
    main(["--fs", str(FS), str(folder)])
    first, last = capsys.readouterr().out.splitlines()
    assert "warning: " in first and "no utt2spk" in first
    assert last.startswith(f"{folder}: ok: 4 utterances, 4 speakers; opened 4 audio")
    (folder / "wav.scp").unlink()
    report = check_data_dir(folder, FS)
    assert [x for x in report.problems if x.startswith("no such file")]


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
    assert kind.startswith("no such file") and affected == str(folder / name)


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
    assert affected == "s0-0"
    (folder / name).write_text("".join([*lines, lines[0].replace("s0-0", "t")]))
    kind, affected = only_problem(folder)
    assert kind.startswith(f"utterance of {name} is not in {other}")
    assert affected == "t"


def test_spk2utt_differs(folder):
    edit(folder / "spk2utt", "s1 s1-2 s1-3", "s1 s1-2")
    kind, affected = only_problem(folder)
    assert kind.startswith("spk2utt and utt2spk differ from") and affected == "s1-3"


def test_empty_transcripts_are_a_warning(folder):
    edit(folder / "text", "s0-1 A", "s0-1")
    report = check_data_dir(folder, FS)
    assert not report.problems
    assert [w.first for w in report.warnings.values()] == ["s0-1"]


def test_other_rate(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "1.flac", np.zeros(4000), 8000)
    kind, affected = only_problem(folder)
    assert "8000 Hz" in kind and affected == str(tmp_path / "1.flac")
    with pytest.raises(SystemExit):
        main(["--fs", str(FS), str(folder)])
    assert ", or give --resample true" in capsys.readouterr().out
    main(["--fs", str(FS), "--resample", "true", str(folder)])
    assert "ok: 4 utterances" in capsys.readouterr().out
    # No later stage resamples a formatted set.
    (folder / "feats_type").write_text("raw\n")
    with pytest.raises(SystemExit):
        main(["--fs", str(FS), str(folder)])
    out = capsys.readouterr().out
    assert "format the Kaldi data directory behind it again" in out
    assert "--resample" not in out


def test_commands_are_run(folder, tmp_path):
    edit(folder / "wav.scp", f"{tmp_path}/0.flac", f"cat {tmp_path}/0.flac |")
    report = check_data_dir(folder, FS)
    assert not report.problems and report.opened == 4
    edit(folder / "wav.scp", "cat", "nosuchprogram")
    kind, affected = only_problem(folder)
    assert "the command's output fails with status 127" in kind
    assert "nosuchprogram: not found" in kind and affected == "s0-0"


@pytest.mark.parametrize("command", ["", "cat "])
def test_several_channels_and_samples_that_are_no_numbers(folder, tmp_path, command):
    if command:
        edit(folder / "wav.scp", f"{tmp_path}/0.flac", f"cat {tmp_path}/0.flac |")
    first = "s0-0" if command else str(tmp_path / "0.flac")
    soundfile.write(tmp_path / "0.flac", np.zeros((FS, 2)), FS)
    kind, affected = only_problem(folder)
    assert kind.startswith("has 2 channels") and affected == first
    noise = np.zeros(FS)
    noise[77] = np.nan
    soundfile.write(tmp_path / "0.flac", noise, FS, "FLOAT", format="WAV")
    kind, affected = only_problem(folder, full=True)
    assert kind.startswith("samples that are NaN, infinite") and affected == first


@pytest.mark.parametrize("name", ["wav.scp", "utt2spk", "text", "spk2utt", "segments"])
def test_byte_order_mark(segmented, name):
    content = (segmented / name).read_bytes()
    (segmented / name).write_bytes(codecs.BOM_UTF8 + content)
    kind, affected = only_problem(segmented)
    assert kind.startswith("begins with a byte order mark; remove it with ")
    assert affected == str(segmented / name)
    subprocess.run(kind.partition("remove it with ")[2], shell=True, check=True)
    assert (segmented / name).read_bytes() == content
    assert not check_data_dir(segmented, FS).problems


@pytest.fixture(params=["flac", "wav", "kaldi"])
def arks(folder, tmp_path, request):
    """Put the audio into an ark, as ESPnet's stage 3 does, or as Kaldi does."""
    audio = {}
    for utt_id, path in read_scp(folder / "wav.scp").items():
        audio[utt_id] = soundfile.read(path, dtype="int16")
    if request.param == "kaldi":
        audio = {utt_id: (rate, wave) for utt_id, (wave, rate) in audio.items()}
        options = {}
    else:
        kwargs = {"format": request.param, "subtype": None}
        options = {"write_function": "soundfile", "write_kwargs": kwargs}
    with (folder / "wav.scp").open("w") as scp, (tmp_path / "a.ark").open("wb") as ark:
        for utt_id in audio:
            one = {utt_id: audio[utt_id]}
            kaldi_io.save_ark(ark, one, scp=scp, append=True, **options)
    return folder


def test_arks_are_opened(arks, tmp_path):
    report = check_data_dir(arks, FS)
    assert not report.problems and not report.warnings
    assert report.opened == 4 and report.seconds == 2.0
    assert "8000 Hz" in only_kind(check_data_dir(arks, 8000), 4)
    content = (tmp_path / "a.ark").read_bytes()
    (tmp_path / "a.ark").write_bytes(content[:-100])
    kind, affected = only_problem(arks)
    assert kind.startswith("truncated") and affected.startswith(f"{tmp_path}/a.ark:")
    first = read_scp(arks / "wav.scp")["s0-0"].rpartition(":")[2]
    (tmp_path / "a.ark").write_bytes(content)
    edit(arks / "wav.scp", f"a.ark:{first}\n", f"a.ark:{int(first) + 1}\n")
    assert only_problem(arks)[0].startswith("no audio at this place of the ark")
    (tmp_path / "a.ark").unlink()
    assert only_kind(check_data_dir(arks, FS), 4).startswith("no such ark file")


def only_kind(report, count):
    """Return the only kind of problem; check how often it occurred."""
    ((kind, finding),) = report.problems.items()
    assert finding.count == count
    return kind


def test_only_a_sample_is_opened_unless_full(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("espnet2_birq.datadir.check.SAMPLE_SIZE", 1)
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
        ("r nan -1", "starts before 0"),
        ("r 0 inf", "ends before it starts"),
        ("r 0.5 1.5", "reaches beyond its recording"),
        ("r 1 -1", "reaches beyond its recording"),
        ("r 1.5 -1", "reaches beyond its recording"),
    ],
)
def test_bad_segments(segmented, segment, words):
    edit(segmented / "segments", "s0-0 r 0 0.5", f"s0-0 {segment}")
    report = check_data_dir(segmented, FS)
    found = [kind for kind, case in report.problems.items() if case.first == "s0-0"]
    assert any(words in kind for kind in found), dict(report.problems)


def test_segment_without_speaker(segmented):
    with (segmented / "segments").open("a") as stream:
        stream.write("t-4 r 0 0.5\n")
    kind, affected = only_problem(segmented)
    assert kind.startswith("utterance of segments is not in utt2spk")
    assert affected == "t-4"


def test_recording_without_segment(segmented):
    with (segmented / "wav.scp").open("a") as stream:
        stream.write(f"t {segmented.parent}/r.flac\n")
    assert only_problem(segmented) == (
        "recording of wav.scp has no segment; run utils/fix_data_dir.sh",
        "t",
    )


def test_recordings_in_another_order_than_utterances(segmented, tmp_path):
    soundfile.write(tmp_path / "q.flac", np.zeros(FS // 4), FS)
    (segmented / "wav.scp").write_text(f"q {tmp_path}/q.flac\nr {tmp_path}/r.flac\n")
    edit(segmented / "segments", "s1-2 r 0.5 1.005", "s1-2 q 0 0.25")
    assert not check_data_dir(segmented, FS).problems
    edit(segmented / "segments", "s1-2 q 0 0.25", "s1-2 q 0 0.5")
    kind, affected = only_problem(segmented)
    assert "reaches beyond" in kind and affected == "s1-2"


def test_an_unsorted_file_is_not_compared(folder):
    lines = (folder / "text").read_text().splitlines(keepends=True)
    (folder / "text").write_text("".join(lines[1:] + lines[:1]))
    report = check_data_dir(folder, FS)
    assert "comes after" in only_kind(report, 1)
    assert "not compared" in "".join(report.warnings)


def test_number_of_samples(folder):
    (folder / "utt2num_samples").write_text(
        "s0-0 8000\ns0-1 8000\ns1-2 7999\ns1-3 8000\n"
    )
    kind, affected = only_problem(folder)
    assert kind.startswith("utt2num_samples differs") and affected == "s1-2"
    edit(folder / "utt2num_samples", "7999", "8000")
    assert not check_data_dir(folder, FS).problems
    edit(folder / "utt2num_samples", "s0-0 8000\n", "")
    assert "is not in utt2num_samples" in only_problem(folder)[0]


def test_speakers_have_to_sort_as_utterances_do(folder):
    (folder / "utt2spk").write_text("s0-0 b\ns0-1 a\ns1-2 a\ns1-3 a\n")
    kind, affected = only_problem(folder)
    assert kind.startswith("utt2spk is not sorted by speaker") and affected == "s0-1"
    edit(folder / "utt2spk", "s0-0 b", "s0-0 a a")
    (folder / "spk2utt").write_text("a s0-0 s0-1 s1-2 s1-3\n")
    report = check_data_dir(folder, FS)
    assert any("more than `utterance speaker`" in kind for kind in report.problems)


def test_durations_that_look_wrong(folder, tmp_path):
    soundfile.write(tmp_path / "0.flac", np.zeros(FS // 20), FS)
    soundfile.write(tmp_path / "1.flac", np.zeros(FS * 3601, dtype="int16"), FS)
    report = check_data_dir(folder, FS)
    assert not report.problems
    assert {kind[:22]: case.first for kind, case in report.warnings.items()} == {
        "utterance is shorter t": "s0-0",
        "utterance is longer th": "s0-1",
    }
    assert (report.shortest, report.longest) == (0.05, 3601.0)


def test_features_are_no_audio(folder):
    (folder / "feats_type").write_text("fbank_pitch\n")
    assert only_problem(folder)[0].startswith("feats_type is fbank_pitch")
    (folder / "feats_type").write_text("raw\n")
    assert not check_data_dir(folder, FS).problems


def test_paths_relative_to_the_recipe(folder, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe"
    data = recipe / "dump" / "raw" / "train"
    shutil.copytree(folder, data)
    content = (data / "wav.scp").read_text()
    (data / "wav.scp").write_text(content.replace(f"{tmp_path}/", "dump/"))
    for index in range(4):
        shutil.copy(tmp_path / f"{index}.flac", recipe / "dump")
    report = check_data_dir(data, FS)
    assert not report.problems and report.opened == 4
    assert list(report.warnings) == [
        f"path in wav.scp is not relative to this folder but to {recipe}"
    ]
    monkeypatch.chdir(recipe)
    assert not check_data_dir("dump/raw/train", FS).warnings


def test_at_most_a_screen():
    report = Report()
    for number in range(100):
        report.error(f"kind {number}", "here")
    lines = describe("data", report)
    assert len(lines) == MAX_KINDS + 2
    assert lines[-2] == "data: and 80 more kinds; fix these first"


@pytest.mark.parametrize("segments", [False, True])
def test_memory_does_not_grow_with_the_directory(tmp_path, segments):
    soundfile.write(tmp_path / "r.flac", np.zeros(FS), FS)
    peaks = []
    for number in (1000, 10000):
        folder = tmp_path / str(number)
        folder.mkdir()
        ids = [f"s{index:06d}" for index in range(number)]
        wav = "".join(f"{key} {tmp_path}/r.flac\n" for key in ids)
        (folder / "wav.scp").write_text(wav)
        (folder / "utt2spk").write_text("".join(f"{key} s\n" for key in ids))
        (folder / "text").write_text("".join(f"{key} A\n" for key in ids))
        (folder / "spk2utt").write_text(f"s {' '.join(ids)}\n")
        if segments:
            lines = "".join(f"{key} {key} 0 1\n" for key in ids)
            (folder / "segments").write_text(lines)
        tracemalloc.start()
        assert not check_data_dir(folder, FS).problems
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The ids alone take half a megabyte more.
    assert peaks[1] - peaks[0] < 200_000, peaks


def kaldi_says(folder):
    """Whether ESPnet's copy of Kaldi's own check accepts a directory."""
    egs = ROOT / "tools" / "espnet" / "egs2" / "TEMPLATE" / "asr1"
    if not (egs / "utils" / "validate_data_dir.sh").is_file():
        pytest.skip(f"no ESPnet tree: {egs} is not there")
    done = subprocess.run(
        ["utils/validate_data_dir.sh", "--no-feats", "--non-print", str(folder)],
        cwd=egs,
        env={**os.environ, "PATH": f"{egs}/utils:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    return done.returncode == 0 and "Successfully" in done.stdout + done.stderr


FAULTS = {
    "none": None,
    "unsorted": ("text", "s0-0 A\ns0-1 A\n", "s0-1 A\ns0-0 A\n"),
    "twice": ("utt2spk", "s0-0 s0\n", "s0-0 s0\ns0-0 s0\n"),
    "no audio": ("wav.scp", "s1-3", "s1-4"),
    "no text": ("text", "s1-3 A\n", ""),
    "speaker of another": ("spk2utt", "s1-2 s1-3", "s1-3"),
    "speaker out of order": ("utt2spk", "s0-1 s0", "s0-1 s2"),
    "utterances of a speaker": ("spk2utt", "s1-2 s1-3", "s1-3 s1-2"),
    "three columns": ("utt2spk", "s0-0 s0", "s0-0 s0 s0"),
}
SEGMENT_FAULTS = {
    "none": None,
    "ends early": ("segments", "0.25 0.75", "0.75 0.25"),
    "three columns": ("segments", "0.25 0.75", "0.25"),
    "no recording": ("segments", "s0-1 r", "s0-1 q"),
    "no segment": ("wav.scp", "r ", "p x.wav\nr "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_kaldi_agrees(folder, fault):
    if FAULTS[fault]:
        edit(folder / FAULTS[fault][0], *FAULTS[fault][1:])
    assert kaldi_says(folder) == (fault == "none")
    assert (not check_data_dir(folder, FS).problems) == (fault == "none")


@pytest.mark.parametrize("fault", SEGMENT_FAULTS)
def test_kaldi_agrees_on_segments(segmented, fault):
    edit(segmented / "segments", "0.5 -1", "0.5 1")  # Kaldi's check rejects -1
    if SEGMENT_FAULTS[fault]:
        edit(segmented / SEGMENT_FAULTS[fault][0], *SEGMENT_FAULTS[fault][1:])
    assert kaldi_says(segmented) == (fault == "none")
    assert (not check_data_dir(segmented, FS).problems) == (fault == "none")


def test_audio_that_cannot_be_opened_is_a_problem(folder, monkeypatch, capsys):
    """Without permission, say, or on a failing disk; the other files are still checked."""

    def refuse(path, fs, whole):
        if path.endswith("1.flac"):
            raise PermissionError(13, "Permission denied", path)
        return probe_entry(path, fs, whole)

    monkeypatch.setattr("espnet2_birq.datadir.check.probe_entry", refuse)
    with pytest.raises(SystemExit) as stop:
        main([str(folder), "--full"])
    assert stop.value.code == 1
    assert (
        "error: 1 x not readable (Permission denied); first" in capsys.readouterr().out
    )
