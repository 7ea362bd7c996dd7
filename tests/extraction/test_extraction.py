"""Features and units of lists of recordings on disk: formats, resuming, bad audio."""

import json
import logging
import os
import shutil

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
from planted import OBJECTIVES, RATE, write_experiment

from espnet2_birq.api import load
from espnet2_birq.bin import features, units
from espnet2_birq.datadir.audio import read_wave
from espnet2_birq.datadir.locking import locked
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.extraction import run
from espnet2_birq.extraction.sources import find_recordings
from espnet2_birq.extraction.writers import deduplicate
from espnet2_birq.tasks.ssl import SSLTask

SECONDS = {"a/u1": 1.0, "a/u2": 2.5, "b/u3": 0.7, "b/u4": 61.0, "b/short": 0.01}


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """Folder with a model and recordings in audio/, the longest over a minute."""
    top = tmp_path_factory.mktemp("extraction")
    generator = np.random.default_rng(0)
    for name, seconds in SECONDS.items():
        path = top / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.standard_normal(int(seconds * RATE))
        soundfile.write(path, 0.1 * noise, RATE)
    soundfile.write(top / "audio/b/slow.flac", 0.1 * noise, 8000)
    write_experiment(top / "exp", SSLTask, objectives=OBJECTIVES)
    return top


@pytest.fixture(scope="module")
def model(top):
    return load(top / "exp")


def wave(top, name):
    return torch.from_numpy(read_wave(f"{top}/audio/{name}.wav"))


GOOD = ["a/u1", "a/u2", "b/u3", "b/u4"]


def read(path, names=GOOD):
    """Read the arrays of a list of NumPy files or Kaldi archives."""
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [name for name, _ in lines] == names
    return {
        name: np.load(x) if x.endswith(".npy") else kaldiio.load_mat(x)
        for name, x in lines
    }


@pytest.mark.parametrize("kind, nj", [("npy", 1), ("ark", 1), ("npy", 2)])
def test_features_of_a_folder(top, model, tmp_path, kind, nj, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    command = [f"{top}/exp", f"{top}/audio", "--out", str(out), "--format", kind]
    command += ["--batch-seconds", "4", "--nj", str(nj), "--layers", "-1", "0"]
    features.main(command)
    found = {layer: read(out / layer / "feats.scp") for layer in ("layer2", "layer0")}
    for name in GOOD:
        layers, _ = model.extract_features(wave(top, name)[None], layers=[2, 0])
        for layer, expected in zip(found, layers):
            assert found[layer][name].dtype == np.float32
            assert np.abs(found[layer][name] - expected[0].numpy()).max() < 1e-5
    skipped = (out / "skipped").read_text().splitlines()
    assert skipped[0] == "b/short too short for one frame"
    assert "b/slow" in skipped[1] and "8000 Hz, wanted 16000" in skipped[1]
    assert "2 recordings skipped" in caplog.text and "x real time" in caplog.text
    # Nothing is computed again once complete.
    monkeypatch.setattr(run, "_run", lambda job, worker, todo: calls.append(todo))
    calls = []
    features.main(command)
    assert calls == [{}]
    with pytest.raises(SystemExit, match="layers '-1 0', now it is '1'; give another"):
        features.main([*command[:-3], "--layers", "1"])


def test_a_killed_command_resumes(top, tmp_path, monkeypatch):
    """Complete blocks are kept; the interrupted one is repeated."""
    monkeypatch.setattr(run, "BLOCK_SECONDS", 2.0)
    command = [f"{top}/exp", f"{top}/audio", "--out", f"{tmp_path}/out"]
    process, seen = run._Worker.process, []

    def killed(self, name, block):
        seen.append(name)
        for seconds in process(self, name, block):
            if name == "block000001" and len(seen) == 2:
                raise KeyboardInterrupt
            yield seconds

    monkeypatch.setattr(run._Worker, "process", killed)
    with pytest.raises(KeyboardInterrupt):
        features.main(command)
    assert not (tmp_path / "out/output/feats.scp").exists()
    features.main(command)
    assert seen == [f"block{n:06}" for n in (0, 1, 1, 2)]
    whole = read(tmp_path / "out/output/feats.scp")
    features.main([*command[:3], f"{tmp_path}/other"])
    for name, array in read(tmp_path / "other/output/feats.scp").items():
        assert np.array_equal(array, whole[name])


def test_lists_of_an_earlier_run_do_not_outlive_its_files(top, tmp_path, monkeypatch):
    """An ark that is written again has other places; the list is of the old ones."""
    audio, out = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    noise = np.random.default_rng(0).normal(0.0, 0.1, RATE)
    for name in ("a", "b"):
        soundfile.write(audio / f"{name}.wav", noise, RATE)
    command = [f"{top}/exp", str(audio), "--out", str(out)]
    for own in (["--format", "ark"], ["--deduplicate"]):
        shutil.rmtree(out, ignore_errors=True)
        main = features.main if own == ["--format", "ark"] else units.main
        main([*command, *own])
        lists = [out / "skipped", *out.rglob("feats.scp")]
        lists += [x for name in ("units", "durations") for x in out.rglob(name)]
        assert len(lists) > 1
        soundfile.write(audio / "b.wav", noise[::-1], RATE)
        with monkeypatch.context() as patched:
            patched.setattr(run._Worker, "_compute", None)
            with pytest.raises(TypeError):
                main([*command, *own])
        assert not any(path.exists() for path in lists)
        main([*command, *own])
        assert all(path.is_file() for path in lists)


def test_one_command_writes_to_a_folder(top, tmp_path):
    out = tmp_path / "out"
    command = [f"{top}/exp", f"{top}/audio/a", "--out", str(out)]
    with locked(out / ".lock"):
        for main in (features.main, units.main):
            with pytest.raises(SystemExit, match="another command is writing to it; "):
                main(command)
    assert not list(out.rglob("feats.scp")) and not list(out.rglob("block*"))
    features.main(command)
    read(out / "output/feats.scp", ["u1", "u2"])


class Deadly(run.Job):
    """A job that kills the worker process to which it is given."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_process(top, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "BLOCK_SECONDS", 2.0)
    job = Deadly(f"{top}/exp", tmp_path / "out", nj=2)
    with pytest.raises(DataError, match="was killed, for lack of memory.* lower --nj"):
        run.extract(job, top / "audio/a")


def test_units(top, model, tmp_path):
    common = [f"{top}/exp", f"{top}/audio"]
    units.main([*common, "--out", f"{tmp_path}/all"])
    units.main([*common, "--out", f"{tmp_path}/ark", "--format", "ark"])
    merged = ["--objective", "enhanced", "--deduplicate"]
    units.main([*common, "--out", f"{tmp_path}/merged", *merged])
    assert sorted(x.name for x in (tmp_path / "all").iterdir() if x.is_dir()) == [
        "anchor.0",
        "anchor.1",
        "enhanced",
        "finished",
    ]
    assert sorted(x.name for x in (tmp_path / "merged").iterdir() if x.is_dir()) == [
        "enhanced",
        "finished",
    ]
    for name in GOOD:
        codes, _ = model.labels(wave(top, name)[None])
        for folder, expected in (
            ("anchor.0", codes["anchor"][0, 0]),
            ("anchor.1", codes["anchor"][0, 1]),
            ("enhanced", codes["enhanced"][0, 0]),
        ):
            assert line(tmp_path / "all" / folder / "units", name) == expected.tolist()
            ark = read(tmp_path / "ark" / folder / "units.scp")
            assert ark[name].tolist() == expected.tolist()
        own = line(tmp_path / "merged/enhanced/units", name)
        frames = line(tmp_path / "merged/enhanced/frames/durations", name)
        assert np.repeat(own, frames).tolist() == codes["enhanced"][0, 0].tolist()
        assert all(x != y for x, y in zip(own, own[1:]))
    words = "units: error: no objective 'nope' .* there are anchor, enhanced$"
    with pytest.raises(SystemExit, match=words):
        units.main([*common, "--out", f"{tmp_path}/no", "--objective", "nope"])


def line(path, name):
    (found,) = [x for x in path.read_text().splitlines() if x.startswith(f"{name} ")]
    return list(map(int, found.split()[1:]))


def test_merging():
    codes, frames = deduplicate(np.array([3, 3, 0, 0, 0, 3]))
    assert (codes.tolist(), frames.tolist()) == ([3, 0, 3], [2, 3, 1])
    assert [x.tolist() for x in deduplicate(np.array([7]))] == [[7], [1]]


def names(source):
    return [one.name for one in find_recordings(source, RATE)[0]]


def test_lists(top, tmp_path):
    audio = top / "audio"
    assert names(audio / "a/u1.wav") == ["u1"]
    data = tmp_path / "dump" / "raw" / "test"
    data.mkdir(parents=True)
    (tmp_path / "own").symlink_to(audio)
    (data / "wav.scp").write_text(f"x own/a/u2.wav\ny {audio}/b/u3.wav\n")
    assert names(data) == names(data / "wav.scp") == ["y", "x"]
    with kaldiio.WriteHelper(f"ark,scp:{data}/x.ark,{data}/wav.scp") as writer:
        writer("z", (RATE, np.ones(RATE, np.int16)))
    assert names(data) == ["z"]
    rows = [{"audio_filepath": f"{audio}/a/u1.wav"}, {"audio_filepath": "own/a/u2.wav"}]
    manifest = tmp_path / "test.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert names(manifest) == ["u1", "u2"]
    (tmp_path / "test.tsv").write_text(f"{audio}\na/u1.wav\t16000\nb/u3.wav\t11200\n")
    assert names(tmp_path / "test.tsv") == ["b/u3", "a/u1"]


def test_linked_folders(top, tmp_path):
    """They are part of a folder; one that contains itself is listed once."""
    (tmp_path / "rec").mkdir()
    (tmp_path / "rec/more").symlink_to(top / "audio/a")
    (tmp_path / "rec/loop").symlink_to(tmp_path / "rec")
    (tmp_path / "rec/u3.wav").symlink_to(top / "audio/b/u3.wav")
    assert names(tmp_path / "rec") == ["u3", "more/u1", "more/u2"]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x.jsonl", "{}\n", "x.jsonl: line 1: no JSON with audio_filepath"),
        ("x.tsv", "a.wav\t3\n", "x.tsv: the first line is to be the root folder"),
        ("wav.scp", "u sox a.wav -t wav - |\n", "wav.scp: u is a command"),
        ("wav.scp", "u /nope.wav\n", "no recording can be used; the first, u: /nope"),
        ("empty.scp", "", "empty.scp: empty file"),
        ("x.jsonl", '{"audio_filepath": "a.wav", "offset": 2.0}\n', "has an offset"),
        ("x.tsv", "/data\n/data/x.flac\t3\n", "/data/x.flac is not below the root"),
        ("x.tsv", "/data\n../x.flac\t3\n", "../x.flac is not below the root"),
    ],
)
def test_lists_that_are_none(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        find_recordings(tmp_path / name, RATE)


def test_a_data_directory_with_segments(tmp_path):
    """Whole recordings would pass for its utterances."""
    (tmp_path / "wav.scp").write_text(f"r {tmp_path}/r.wav\n")
    (tmp_path / "segments").write_text("r-1 r 0.0 1.0\n")
    for source in (tmp_path, tmp_path / "wav.scp"):
        with pytest.raises(DataError, match="segments: audio must be cut into"):
            find_recordings(source, RATE)


def test_durations_in_a_manifest(top, tmp_path):
    """A file longer than the duration has more than one utterance."""
    manifest = tmp_path / "x.jsonl"
    row = {"audio_filepath": f"{top}/audio/a/u2.wav", "duration": 2.45}  # of 2.5 s
    manifest.write_text(json.dumps(row))
    assert [one.name for one in find_recordings(manifest, RATE)[0]] == ["u2"]
    for duration, words in (
        (1.5, "u2 has a duration of 1.5 s and .*cut"),
        ("?", "no n"),
    ):
        manifest.write_text(json.dumps({**row, "duration": duration}))
        with pytest.raises(DataError, match=words):
            find_recordings(manifest, RATE)


def test_samples_in_fairseqs_manifest(top, tmp_path):
    manifest = tmp_path / "x.tsv"
    for samples, words in (
        (24000, "u2 has a duration of 1.5 s and .*cut"),
        ("?", "no n"),
    ):
        manifest.write_text(f"{top}/audio\na/u1.wav\t16000\na/u2.wav\t{samples}\n")
        with pytest.raises(DataError, match=words):
            find_recordings(manifest, RATE)
    manifest.write_text(f"{top}/audio\na/u1.wav\na/u2.wav\t40000\n")
    assert names(manifest) == ["a/u1", "a/u2"]


def test_folders_without_use(tmp_path):
    with pytest.raises(DataError, match="no audio in it; give a Kaldi data directory"):
        find_recordings(tmp_path, RATE)
    for name in ("a b.wav", "a_b.flac"):
        soundfile.write(tmp_path / name, np.zeros(RATE), RATE)
    with pytest.raises(DataError, match="would both be called 'a_b'"):
        find_recordings(tmp_path, RATE)
    with pytest.raises(DataError, match="nope: no such file or folder"):
        find_recordings(tmp_path / "nope", RATE)


@pytest.mark.parametrize("name", ["/a/b", "../b", "a/../../b"])
def test_names_that_lead_out_of_the_output(top, tmp_path, name):
    (tmp_path / "wav.scp").write_text(f"{name} {top}/audio/a/u1.wav\n")
    with pytest.raises(DataError, match=f"{name} would lead out of the output folder"):
        find_recordings(tmp_path, RATE)


@pytest.mark.parametrize(
    "seconds, kind, form",
    [
        (8, "npy", "flac"),
        (70, "npy", "flac"),
        (70, "ark", "flac"),
        (8, "npy", "ogg"),  # decodes to fewer samples than its header promises
    ],
)
def test_audio_damaged_in_its_middle_is_skipped(top, tmp_path, seconds, kind, form):
    """Its header and end are whole; others, and a repeated command, are not disturbed."""
    audio, out = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    noise = np.random.default_rng(0).normal(0.0, 0.1, seconds * RATE)
    bad = audio / f"bad.{form}"
    soundfile.write(bad, noise, RATE)
    content = bytearray(bad.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    bad.write_bytes(content)
    for name in ("a", "z"):
        soundfile.write(audio / f"{name}.flac", noise[: 2 * RATE], RATE)
    command = [f"{top}/exp", str(audio), "--out", str(out), "--format", kind]
    with pytest.raises(SystemExit, match="no recording can be used; the first, bad: "):
        features.main([f"{top}/exp", str(bad), "--out", f"{out}_bad"])
    for _ in range(2):
        features.main(command)
        found = read(out / "output/feats.scp", ["a", "z"])
        assert len(found["a"]) == len(found["z"]) > 40
        (line,) = (out / "skipped").read_text().splitlines()
        assert line.startswith(f"bad {bad}: not readable as audio")
    assert not (out / "output/npy/bad.npy").exists()
    # Its remedy needs no other output folder.
    soundfile.write(bad, noise, RATE)
    features.main(command)
    assert len(read(out / "output/feats.scp", ["a", "bad", "z"])["bad"]) > 150
    assert (out / "skipped").read_text() == ""


def test_audio_damaged_within_an_archive_is_skipped(top, tmp_path):
    noise = np.random.default_rng(0).normal(0.0, 0.1, 8 * RATE)
    whole = {"a": noise[:RATE], "bad": noise, "z": noise[: 2 * RATE]}
    kaldiio.save_ark(
        f"{tmp_path}/audio.ark",
        {name: (samples, RATE) for name, samples in whole.items()},
        scp=f"{tmp_path}/wav.scp",
        write_function="soundfile",
        write_kwargs={"format": "flac"},
    )
    entries = dict(x.split() for x in (tmp_path / "wav.scp").read_text().splitlines())
    for name, samples in whole.items():  # 16 bits
        np.testing.assert_allclose(read_wave(entries[name]), samples, atol=2 / 32768)
    content = bytearray((tmp_path / "audio.ark").read_bytes())
    middle = int(entries["bad"].split(":")[1]) + 100_000
    content[middle : middle + 3000] = bytes(3000)
    (tmp_path / "audio.ark").write_bytes(content)
    out = tmp_path / "out"
    features.main([f"{top}/exp", f"{tmp_path}/wav.scp", "--out", str(out)])
    read(out / "output/feats.scp", ["a", "z"])
    (line,) = (out / "skipped").read_text().splitlines()
    assert line.startswith(f"bad {entries['bad']}: not readable as audio")


def test_only_recordings_that_are_too_short(top, tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros(100), RATE)
    command = [f"{top}/exp", str(tmp_path), "--out", f"{tmp_path}/out"]
    with pytest.raises(SystemExit, match="no recording can be used; those that can be"):
        features.main(command)
    assert not list((tmp_path / "out").rglob("*.scp"))


@pytest.mark.parametrize("kind", ["npy", "ark"])
def test_replaced_audio_and_deleted_results_are_done_again(top, tmp_path, kind):
    """New audio may have the old one's length; other blocks are kept."""
    audio, out = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    noise = np.random.default_rng(0).normal(0.0, 0.1, 2 * RATE)
    for name in ("a", "b"):
        soundfile.write(audio / f"{name}.wav", noise, RATE)
    command = [f"{top}/exp", str(audio), "--out", str(out), "--format", kind]
    features.main(command)
    first = read(out / "output/feats.scp", ["a", "b"])
    soundfile.write(audio / "a.wav", noise[::-1], RATE)
    features.main(command)
    second = read(out / "output/feats.scp", ["a", "b"])
    assert not np.array_equal(first["a"], second["a"])
    assert np.array_equal(first["b"], second["b"])
    for file in out.rglob("a.npy" if kind == "npy" else "*.ark"):
        file.unlink()
    features.main(command)
    assert np.array_equal(read(out / "output/feats.scp", ["a", "b"])["a"], second["a"])


@pytest.mark.parametrize("kind", ["npy", "ark"])
def test_a_moved_folder_does_not_list_the_files_of_its_successor(top, tmp_path, kind):
    write_experiment(tmp_path / "exp", SSLTask, seed=2, objectives=OBJECTIVES)
    common = [f"{top}/audio/a", "--format", kind, "--out"]
    first, moved = tmp_path / "out", tmp_path / "moved"
    features.main([f"{top}/exp", *common, str(first)])
    first.rename(moved)
    features.main([f"{tmp_path}/exp", *common, str(first)])  # another model
    features.main([f"{top}/exp", *common, str(moved)])
    lists = [(one / "output/feats.scp").read_text() for one in (first, moved)]
    for text, other in zip(lists, (moved, first)):
        assert f" {other}/" not in text
    arrays = [read(x / "output/feats.scp", ["u1", "u2"]) for x in (first, moved)]
    assert not np.array_equal(*(one["u1"] for one in arrays))


@pytest.mark.parametrize("command", [features, units])
def test_file_names_that_are_not_utf8(top, tmp_path, command):
    audio = tmp_path / "audio"
    audio.mkdir()
    os.symlink(top / "audio/a/u1.wav", os.fsencode(audio) + b"/caf\xe9.wav")
    options = [f"{top}/exp", str(audio), "--out", f"{tmp_path}/out"]
    with pytest.raises(SystemExit, match=r"/caf\\udce9.wav' is no name in UTF-8; ren"):
        command.main(options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "names, out, kind, words",
    [
        (["a"], "o,3", "ark", "o,3: .* comma"),
        (["a", "a.npy/b"], "out", "npy", "a and a.npy/b cannot both be .* rename one"),
        (["n" * 250], "out", "npy", "nnn is too long a name for .*rename it"),
    ],
)
def test_names_that_files_cannot_have(top, tmp_path, names, out, kind, words):
    for name in names:
        path = tmp_path / "audio" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(top / "audio/a/u1.wav")
    command = [f"{top}/exp", f"{tmp_path}/audio", "--out", f"{tmp_path}/{out}"]
    with pytest.raises(SystemExit, match=f"features: error: .*{words}"):
        features.main([*command, "--format", kind])
    assert not list(tmp_path.rglob("made_from.json"))


@pytest.mark.parametrize("other", ["a//b", "./a/b", "a/./b"])
def test_names_of_the_same_file(top, tmp_path, other):
    names = sorted(["a/b", other])
    scp = "".join(f"{name} {top}/audio/a/u1.wav\n" for name in names)
    (tmp_path / "wav.scp").write_text(scp)
    command = [f"{top}/exp", f"{tmp_path}/wav.scp", "--out", f"{tmp_path}/out"]
    with pytest.raises(SystemExit, match=r"would both be written to a/b\.npy; rename"):
        features.main(command)
    features.main([*command, "--format", "ark"])


def test_a_layer_named_twice(top, model, tmp_path):
    common = [f"{top}/exp", f"{top}/audio", "--out", f"{tmp_path}/out"]
    features.main([*common, "--layers", "-1", str(model.depth), "1"])
    folders = sorted(x.name for x in (tmp_path / "out").iterdir() if x.is_dir())
    assert folders == ["finished", "layer1", f"layer{model.depth}"]


def test_a_model_that_makes_no_labels(top, tmp_path):
    given = [dict(name="given", labeller_conf=dict(codebook_size=7))]
    write_experiment(tmp_path / "exp", SSLTask, objectives=given)
    common = [f"{tmp_path}/exp", f"{top}/audio", "--out", f"{tmp_path}/out"]
    with pytest.raises(SystemExit, match="units: error: .*makes none itself"):
        units.main(common)
    assert not (tmp_path / "out" / "skipped").exists()
    other = load(tmp_path / "exp")
    with pytest.raises(ConfigError, match="makes none itself"):
        other.labels(torch.randn(1, RATE))
    with pytest.raises(ConfigError, match="layers: give at least one"):
        other.extract_features(torch.randn(1, RATE), layers=[])


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_devices_that_are_not_there(top, device):
    with pytest.raises(ConfigError, match=f"--device {device}: "):
        load(top / "exp", device)
