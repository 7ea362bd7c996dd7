"""Import of other recipes' directories: results, and unchanged sources."""

import io
import subprocess
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.adopt_data import main
from espnet2_birq.datadir.adopt import adopt
from espnet2_birq.datadir.check import check_data_dir
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.datadir.paths import PathResolver
from espnet2_birq.errors import DataError

FS = 16000


@pytest.fixture
def recipe(tmp_path):
    """Make a recipe with a formatted set of utterances of 1, 2, 3 s, paths relative."""
    recipe = tmp_path / "other recipe"
    formatted = recipe / "dump" / "raw" / "train"
    formatted.mkdir(parents=True)
    with (
        (formatted / "wav.scp").open("w") as scp,
        (formatted / "utt2num_samples").open("w") as lengths,
    ):
        for seconds in (1, 2, 3):
            soundfile.write(recipe / f"{seconds}.flac", np.zeros(seconds * FS), FS)
            scp.write(f"u{seconds} {seconds}.flac\n")
            lengths.write(f"u{seconds} {seconds * FS}\n")
    (formatted / "feats_type").write_text("raw\n")
    (recipe / "data" / "train").mkdir(parents=True)
    (recipe / "data" / "train" / "wav.scp").write_text("u1 1.flac\nu2 cat 2.flac |\n")
    return recipe


def test_formatted_set(recipe, tmp_path, capsys):
    dest = tmp_path / "dump" / "raw" / "train"
    source = recipe / "dump" / "raw" / "train"
    limits = ["--min-seconds", "1", "--max-seconds", "3"]
    main([str(source), str(dest), *limits])
    said = capsys.readouterr().out  # both limits are exclusive
    assert said.endswith(
        f"1 utterances of {source}, 2 left out that are not between 1 and 3 s\n"
    )
    assert read_scp(dest / "wav.scp") == {"u2": f"{recipe}/2.flac"}
    assert read_scp(dest / "utt2num_samples") == {"u2": str(2 * FS)}
    assert read_scp(dest / "utt2spk") == read_scp(dest / "spk2utt") == {"u2": "u2"}
    assert (dest / "audio_format").read_text() == "flac\n"
    # Import again from the same source with other limits
    assert adopt(source, dest, FS).utterances == 3
    assert len(read_scp(dest / "wav.scp")) == 3


def test_kaldi_directory(recipe, tmp_path):
    source, dest = recipe / "data" / "train", tmp_path / "data" / "train"
    (source / "wav.scp").write_text("a 1.flac\nb sox ./2.flac -t wav - | cat |\n")
    (source / "segments").write_text("u1 b 0 1\nu2 a 0 1\n")
    assert adopt(source, dest, FS).utterances == 2
    wavs = read_scp(dest / "wav.scp")
    assert wavs["a"] == f"{recipe}/1.flac"
    assert wavs["b"] == f"cd '{recipe}' && sox ./2.flac -t wav - | cat |"
    assert read_scp(dest / "segments") == {"u1": "b 0 1", "u2": "a 0 1"}
    assert read_scp(dest / "utt2spk") == {"u1": "u1", "u2": "u2"}
    assert sorted(path.name for path in dest.iterdir()) == [
        "segments",
        "source",
        "spk2utt",
        "utt2spk",
        "wav.scp",
    ]


def test_a_command_runs_in_its_own_recipe(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    resolve = PathResolver(recipe / "data" / "train")
    command = resolve("cat ./2.flac | cat |").removesuffix("|")
    done = subprocess.run(command, shell=True, capture_output=True, check=True)
    assert done.stdout == (recipe / "2.flac").read_bytes()
    # Within quotes, too.
    for quoted in ("cat './2.flac' |", "sh -c 'cat ./2.flac | cat' |"):
        resolved = PathResolver(recipe / "data" / "train")(quoted)
        assert resolved == f"cd '{recipe}' && {quoted}"
    # Commands without relative paths stay unchanged.
    assert PathResolver(tmp_path)("cat - < /x/y.flac |") == "cat - < /x/y.flac |"


def test_its_own_recipe_comes_before_this_folder(recipe, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "1.flac").touch()
    (tmp_path / "here" / "only.flac").touch()
    source = recipe / "data" / "train"
    assert PathResolver(source)("1.flac") == f"{recipe}/1.flac"
    assert PathResolver(source)("only.flac") == f"{tmp_path}/here/only.flac"
    assert PathResolver(source)("/x/y.flac") == "/x/y.flac"
    (recipe / "a.ark").touch()
    assert PathResolver(source)("a.ark:77") == f"{recipe}/a.ark:77"


def test_the_set_itself_is_left_as_it_is(recipe, monkeypatch):
    monkeypatch.chdir(recipe)
    before = (recipe / "dump/raw/train/wav.scp").read_text()
    assert adopt(recipe / "dump/raw/train", "dump/raw/train", FS).utterances == 3
    assert (recipe / "dump/raw/train/wav.scp").read_text() == before
    assert not (recipe / "dump/raw/train/source").exists()


def test_the_set_itself_may_have_segments(recipe):
    source = recipe / "data" / "train"
    (source / "segments").write_text("a u1 0 1\nb u2 0 1\nc u2 1 2\n")
    assert adopt(source, source, FS).utterances == 3


def test_the_set_itself_is_not_filtered(recipe, capsys):
    folder = str(recipe / "dump/raw/train")
    main([folder, folder, "--max-seconds", "4"])
    assert "3 utterances" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([folder, folder, "--min-seconds", "1", "--max-seconds", "3"])
    message = str(stop.value.code)
    assert "2 utterances are not between 1 and 3 s, for instance u1" in message
    assert "link of another name" in message


def test_a_set_is_always_there(recipe, tmp_path, monkeypatch):
    """Only renamed, since removing it could be interrupted."""
    dest = tmp_path / "dest"
    adopt(recipe / "data/train", dest, FS)
    rename = Path.rename

    def stop(path, target):
        if path.name == ".dest.part":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        adopt(recipe / "data/train", dest, FS)
    assert list(read_scp(dest / "wav.scp")) == ["u1", "u2"]


def test_nothing_else_is_replaced(recipe, tmp_path):
    other = tmp_path / "data" / "train"
    other.mkdir(parents=True)
    (other / "wav.scp").write_text("mine /x\n")
    with pytest.raises(DataError, match="made from something else, not"):
        adopt(recipe / "dump/raw/train", other, FS)
    assert (other / "wav.scp").read_text() == "mine /x\n"
    adopt(recipe / "dump/raw/train", tmp_path / "dump", FS)
    with pytest.raises(DataError, match="made from .*dump/raw/train, not .*data/train"):
        adopt(recipe / "data/train", tmp_path / "dump", FS)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("wav.scp", "u1 1.flac\n", "wav.scp: no u2; run the recipe's stages"),
        ("utt2num_samples", "u1 16000\n", "utt2num_samples: no u2"),
        ("utt2num_samples", None, "utt2num_samples: no such file"),
        ("utt2num_samples", "u1 1.0\nu2 2\nu3 3\n", "u1 has no number"),
        ("wav.scp", "u1 cat x |\nu2 2\nu3 3\n", "u1 is a command"),
        ("wav.scp", "u1 nowhere.flac\nu2 2\nu3 3\n", "nowhere.flac: no such file"),
        ("wav.scp", "u2 2\nu1 1\n", "u1 comes after u2"),
        ("wav.scp", None, "no wav.scp in it"),
        ("feats_type", "fbank\n", "feats_type is fbank"),
        ("audio_format", "multi_flac\n", "several files an utterance"),
    ],
)
def test_unusable_sets(recipe, tmp_path, name, content, words):
    source = recipe / "dump" / "raw" / "train"
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_text(content)
    with pytest.raises(DataError, match=words):
        adopt(source, tmp_path / "here" / "dest", FS)
    assert not list(tmp_path.glob("here/*"))


@pytest.mark.parametrize("name", ["flac", "wav", "kaldi"])
@pytest.mark.parametrize("formatted", [True, False])
def test_arks_become_commands(recipe, tmp_path, name, formatted):
    """ESPnet's scripts read the audio of a Kaldi directory from files and commands."""
    source = recipe / ("dump/raw" if formatted else "data") / "train"
    audio, generator = {}, np.random.default_rng(0)
    for number, utt_id in enumerate(["u1", "u2"], 1):
        samples = generator.integers(-9999, 9999, number * 8000).astype(np.int16)
        audio[utt_id] = (FS, samples)
    more = {}
    if name != "kaldi":
        more = {"write_function": "soundfile", "write_kwargs": {"format": name}}
    kaldiio.save_ark(f"{recipe}/a.ark", audio, f"{tmp_path}/wav.scp", **more)
    lists = (tmp_path / "wav.scp").read_text()
    (source / "wav.scp").write_text(lists.replace(f"{recipe}/", ""))
    (source / "text").write_text("u1 a\nu2 b\n")
    adopt(source, tmp_path / "data", FS, transcripts=True)
    for utt_id, entry in read_scp(tmp_path / "data" / "wav.scp").items():
        done = subprocess.run(
            entry.removesuffix("|"), shell=True, capture_output=True, check=True
        )
        found, rate = soundfile.read(io.BytesIO(done.stdout), dtype="int16")
        assert rate == FS and (found == audio[utt_id][1]).all() and not done.stderr
    report = check_data_dir(tmp_path / "data", FS, full=True)
    assert not report.problems and report.opened == 2


@pytest.mark.parametrize(
    "place, words",
    [
        ("none.ark:3", "none.ark:3: no such ark file"),
        ("a.ark:3", "a.ark:3: no audio at this place of the ark"),
    ],
)
def test_arks_without_the_audio(recipe, tmp_path, place, words):
    (recipe / "a.ark").write_text("text, not audio")
    (recipe / "data" / "train" / "wav.scp").write_text(f"u1 {recipe}/{place}\n")
    with pytest.raises(DataError, match=words):
        adopt(recipe / "data" / "train", tmp_path / "dest", FS)


def test_no_utterance_of_that_length(recipe, tmp_path):
    with pytest.raises(SystemExit, match="^error: .*is left that is longer than 4 s"):
        main(
            [str(recipe / "dump/raw/train"), str(tmp_path / "d"), "--min-seconds", "4"]
        )


def transcribed(recipe):
    """Give the Kaldi directory transcripts and speakers."""
    source = recipe / "data" / "train"
    (source / "text").write_text("u0 no audio\nu1 one two\nu2\n")
    (source / "utt2spk").write_text("u0 s\nu1 s\nu2 t\n")
    return source


def test_transcripts_and_speakers(recipe, tmp_path, capsys):
    source, dest = transcribed(recipe), tmp_path / "data" / "train"
    main([str(source), str(dest), "--transcripts"])
    # Nothing is said of limits, to which nothing is compared.
    assert capsys.readouterr().out == f"{dest}: 2 utterances of {source}\n"
    assert (dest / "text").read_text() == "u1 one two\nu2\n"
    assert (dest / "utt2spk").read_text() == "u1 s\nu2 t\n"
    assert (dest / "spk2utt").read_text() == "s u1\nt u2\n"
    (source / "utt2spk").unlink()
    main([str(source), str(dest), "--transcripts"])
    assert (dest / "utt2spk").read_text() == "u1 u1\nu2 u2\n"


def test_spaces_that_kaldi_refuses_in_transcripts(recipe, tmp_path, an4_tarball):
    source, dest = transcribed(recipe), tmp_path / "data" / "train"
    (source / "text").write_text(
        "u1\u00a0eins\u3000zwei\tdrei\nu2 vier\u2028f\xfcnf\x85\n"
    )
    utils = an4_tarball.parents[2] / "TEMPLATE/asr1/utils"
    refused = subprocess.run(
        ["perl", utils / "validate_text.pl", source / "text"], capture_output=True
    )
    assert b"contains disallowed" in refused.stderr and refused.returncode == 1
    adopt(source, dest, FS, transcripts=True)
    assert (dest / "text").read_text() == "u1 eins zwei\tdrei\nu2 vier f\xfcnf\n"
    subprocess.run(["perl", utils / "validate_text.pl", dest / "text"], check=True)


def test_formatted_set_with_transcripts(recipe, tmp_path):
    source, dest = recipe / "dump" / "raw" / "train", tmp_path / "data" / "train"
    (source / "text").write_text("u1 a\nu2 b\nu3 c\n")
    assert adopt(source, dest, FS, transcripts=True).utterances == 3
    assert read_scp(dest / "wav.scp")["u3"] == f"{recipe}/3.flac"
    assert read_scp(dest / "text") == {"u1": "a", "u2": "b", "u3": "c"}
    assert not (dest / "feats_type").exists()


def test_audio_that_could_not_be_converted_has_no_transcript(recipe, tmp_path, capsys):
    source, dest = recipe / "dump" / "raw" / "train", tmp_path / "data" / "train"
    (source / "text").write_text("u1 a\nu2 b\nu3 c\n")
    # So ESPnet's stage 3 writes them (format_wav_scp.py).
    (source / "wav.scp").write_text("u1 1.flac\nu2 None\nu3 3.flac\n")
    (source / "utt2num_samples").write_text(f"u1 {FS}\nu2 0\nu3 {3 * FS}\n")
    main([str(source), str(dest), "--transcripts"])
    said = capsys.readouterr().out
    assert said.endswith(", 1 left out whose audio could not be converted\n"), said
    assert set(read_scp(dest / "wav.scp")) == {"u1", "u3"}
    assert read_scp(dest / "text") == {"u1": "a", "u3": "c"}
    assert set(read_scp(dest / "spk2utt")) == {"u1", "u3"}


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("text", "u1 one two\n", "text: no u2; add its line, or remove"),
        ("utt2spk", "u1 s\n", "utt2spk: no u2; add its line, or remove"),
        ("utt2spk", "u1 t\nu2 s\n", "u2: speakers are not in order"),
        ("text", None, "text: no such file"),
    ],
)
def test_unusable_transcripts(recipe, tmp_path, name, content, words):
    source, dest = transcribed(recipe), tmp_path / "data" / "train"
    (source / name).unlink()
    if content is not None:
        (source / name).write_text(content)
    with pytest.raises(DataError, match=words):
        adopt(source, dest, FS, transcripts=True)
    assert not dest.exists()


def test_segments_without_an_end_have_no_transcripts(recipe, tmp_path):
    """Kaldi's scripts, which format sets for fine-tuning, refuse them."""
    source, dest = transcribed(recipe), tmp_path / "data" / "train"
    (source / "segments").write_text("u1 u1 0 1.5\nu2 u2 0.5 -1\n")
    with pytest.raises(DataError, match="segments: u2 ends at -1, .* end in seconds"):
        adopt(source, dest, FS, transcripts=True)
    assert adopt(source, dest, FS).utterances == 2


def test_a_folder_of_sets_is_not_replaced(recipe, tmp_path):
    adopt(recipe / "data/train", tmp_path / "data", FS)
    (tmp_path / "data/valid").mkdir()
    with pytest.raises(DataError, match="has a folder valid, which an import did not"):
        adopt(recipe / "data/train", tmp_path / "data", FS)
    assert (tmp_path / "data/valid").is_dir()
