"""LibriSpeech's seven parts against ESPnet's preparation, lhotse and the files."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.prepare_librispeech import main
from espnet2_birq.corpora.librispeech import (
    find_corpus,
    make_sets,
    probe_sets,
    reader_of,
)
from espnet2_birq.corpora.librispeech_parts import UTTERANCES_OF_PART, official_size
from espnet2_birq.datadir.kaldi import read_scp

ROOT = Path(__file__).resolve().parents[2]
FILES = ("wav.scp", "text", "utt2spk", "spk2utt", "spk2gender")
REAL_PARTS = ["test-other", "train-clean-100"]


@pytest.fixture
def corpus(tmp_path):
    """All seven parts, tiny: 2 readers with 2 chapters of 2 utterances each."""
    root = tmp_path / "LibriSpeech"
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME"]
    noise = np.random.default_rng(0).normal(0.0, 0.1, 1600)
    for number, part in enumerate(UTTERANCES_OF_PART):
        # As a string, "1000" precedes "13".
        for reader in (13 + number, 1000 + number):
            lines.append(f"{reader:<5}| {'FM'[reader % 2]} | {part:16} | 25.1  | A | B")
            for chapter in (7, 121):
                folder = root / part / str(reader) / str(chapter)
                folder.mkdir(parents=True)
                speaker = f"{reader}-{chapter}"
                ids = [f"{speaker}-{number:04d}" for number in range(2)]
                for utt_id in ids:
                    soundfile.write(folder / f"{utt_id}.flac", noise, 16000)
                text = "".join(f"{utt_id} IT'S {utt_id[-1]}\n" for utt_id in ids)
                (folder / f"{speaker}.trans.txt").write_text(text)
    (root / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def espnet(tmp_path):
    """Folder like ESPnet's egs2/librispeech/asr1, and a function to run commands there."""
    tree = Path(os.environ.get("ESPNET_ROOT", ROOT / "tools" / "espnet"))
    if not (tree / "egs2" / "librispeech" / "asr1" / "local").is_dir():
        pytest.skip(f"no ESPnet tree: {tree} is not there, set ESPNET_ROOT")
    if not shutil.which("perl"):
        pytest.skip("ESPnet's preparation needs perl")
    recipe = tmp_path / "espnet"
    (recipe / "bin").mkdir(parents=True)
    (recipe / "utils").symlink_to(tree / "egs2/TEMPLATE/asr1/utils")
    (recipe / "local").symlink_to(tree / "egs2/librispeech/asr1/local")
    (recipe / "db.sh").write_text(f"LIBRISPEECH={tmp_path}\n")
    (recipe / "path.sh").write_text("export LC_ALL=C PATH=$PWD/utils:$PWD/bin:$PATH\n")
    (recipe / "cmd.sh").touch()
    # data_prep.sh requires the program flac, but does not call it.
    (recipe / "bin" / "flac").write_text("#!/bin/sh\nexit 1\n")
    (recipe / "bin" / "flac").chmod(0o755)

    def run(script, *arguments):
        command = ["bash", "-c", '. ./path.sh; exec "$@"', "-", script, *arguments]
        done = subprocess.run(command, cwd=recipe, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return recipe / "data"

    return run


def test_all_sets_are_those_of_espnet(corpus, espnet, tmp_path):
    theirs = espnet("local/data.sh", "--stage", "2", "--stop_stage", "3")
    main(["--librispeech", str(tmp_path), "--dest", str(tmp_path / "data")])
    ours = tmp_path / "data"
    names = sorted(folder.name for folder in ours.iterdir())
    assert names == sorted(folder.name for folder in theirs.iterdir())
    assert names == sorted(
        [part.replace("-", "_") for part in UTTERANCES_OF_PART] + ["dev", "train_960"]
    )
    for name in names:
        for file in FILES:
            assert (ours / name / file).read_bytes() == (
                theirs / name / file
            ).read_bytes(), (name, file)
    assert len(read_scp(ours / "train_960" / "wav.scp")) == 3 * 8


def test_real_part_is_that_of_espnet(shared_data, espnet, tmp_path):
    folder = shared_data / "librispeech" / "LibriSpeech"
    theirs = espnet("local/data_prep.sh", f"{folder}/test-other", "data/test_other")
    arguments = ["--librispeech", str(folder), "--parts", "test-other"]
    main([*arguments, "--dest", str(tmp_path / "data")])
    for file in FILES:
        content = (tmp_path / "data" / "test_other" / file).read_bytes()
        assert content == (theirs / "test_other" / file).read_bytes(), file


@pytest.mark.parametrize("part", REAL_PARTS)
def test_real_part_is_that_of_lhotse(shared_data, part):
    lhotse = pytest.importorskip("lhotse.recipes.librispeech")
    corpus = find_corpus(shared_data / "librispeech")
    manifests = lhotse.prepare_librispeech(corpus, dataset_parts=[part])[part]
    sets, infos = probe_sets(make_sets(corpus, [part], {}, {}), 16000, 2, False)
    (one,) = sets.values()
    ours = {
        u.utt_id: (u.path, u.text, reader_of(u.speaker), infos[u.path].seconds)
        for u in one.utterances
    }
    recordings = manifests["recordings"]
    theirs = {
        s.id: (recordings[s.id].sources[0].source, s.text, s.speaker, s.duration)
        for s in manifests["supervisions"]
    }
    assert ours == theirs and len(ours) >= 100 and not one.skipped


@pytest.mark.parametrize("part", REAL_PARTS)
def test_summary_tells_what_the_files_hold(shared_data, part, tmp_path, capsys):
    folder = shared_data / "librispeech" / "LibriSpeech"
    main(
        ["--librispeech", str(folder), "--dest", str(tmp_path), "--dry-run"]
        + ["--parts", part]
    )
    audio = list((folder / part).rglob("*.flac"))
    readers = {path.parts[-3] for path in audio}
    chapters = {path.parent for path in audio}
    hours = sum(soundfile.info(path).duration for path in audio) / 3600
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(
        f": {len(audio)} utterances, {len(chapters)} speakers "
        f"({len(readers)} readers), {hours:.2f} hours, 0 skipped"
    )
    assert lines[1].endswith(
        f"partial: {len(audio)} of the {UTTERANCES_OF_PART[part]} utterances of the "
        "corpus"
    )


def test_real_genders_are_those_of_speakers_txt(shared_data, tmp_path):
    folder = shared_data / "librispeech" / "LibriSpeech"
    main(
        ["--librispeech", str(folder), "--dest", str(tmp_path)]
        + ["--parts", "train-clean-100"]
    )
    found = {
        (reader_of(speaker), gender)
        for speaker, gender in read_scp(
            tmp_path / "train_clean_100" / "spk2gender"
        ).items()
    }
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in (folder / "SPEAKERS.TXT").read_text().splitlines()
        if line[0] != ";"
    ]
    # All 251 readers of the part are in the excerpt.
    assert found == {(r[0], r[1].lower()) for r in rows if r[2] == "train-clean-100"}
    assert len(found) == 251


def test_sizes_of_the_whole_corpus():
    # 28539 is the number of transcripts of train-clean-100; the others as published.
    assert official_size("train_960") == 28539 + 104014 + 148688 == 281241
    assert official_size("dev") == 2703 + 2864
    assert official_size("train_clean_5") is None


def test_size_of_train_clean_100_is_that_of_its_transcripts(shared_data):
    with gzip.open(shared_data / "librispeech" / "train-clean-100.text.gz") as stream:
        assert sum(1 for _ in stream) == UTTERANCES_OF_PART["train-clean-100"]


def test_partial_corpus_says_what_is_missing(corpus, tmp_path, capsys):
    shutil.rmtree(corpus / "train-other-500")
    shutil.rmtree(corpus / "dev-other" / "17")
    dest = tmp_path / "data"
    main(["--librispeech", str(corpus), "--dest", str(dest)])
    assert not (dest / "train_960").exists()
    assert len(read_scp(dest / "dev" / "wav.scp")) == 8 + 4
    lines = capsys.readouterr().out.splitlines()
    assert f"{corpus}: missing parts: train-other-500" in lines
    assert f"{dest}/train_960: not made, lacks train_other_500" in lines
    assert f"{dest}/dev_other: partial: 4 of the 2864 utterances of the corpus" in lines
    assert f"{dest}/dev: partial: 12 of the 5567 utterances of the corpus" in lines


def test_joint_set_of_an_earlier_fuller_corpus(corpus, tmp_path):
    options = ["--librispeech", str(corpus), "--dest", str(tmp_path / "data")]
    main(options)
    (corpus / "train-other-500").rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match="train_960: exists from an earlier"):
        main(options)
    main([*options, "--parts", "dev-clean"])  # does not complain about the others


def test_whole_corpus_has_nothing_to_say(corpus, tmp_path, capsys, monkeypatch):
    for part in UTTERANCES_OF_PART:
        monkeypatch.setitem(UTTERANCES_OF_PART, part, 8)
    command = ["--librispeech", str(corpus), "--dest", str(tmp_path / "data")]
    main([*command, "--need", "train_960", "dev", "test_clean"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 + 2  # parts, combined sets
    # A skipped utterance makes its set partial.
    (corpus / "dev-clean" / "16" / "7" / "16-7-0000.flac").unlink()
    main(command)
    lines = capsys.readouterr().out.splitlines()
    assert sum("skipped 1 x in the chapter's trans.txt" in line for line in lines) == 2
    assert sum("partial: 7 of the 8 utterances" in line for line in lines) == 1
    assert sum("partial: 15 of the 16 utterances" in line for line in lines) == 1


@pytest.mark.parametrize("lost", ["16", "16/7/16-7-0000.flac", "16/7/16-7.trans.txt"])
def test_sets_that_are_needed_are_whole(corpus, tmp_path, monkeypatch, lost):
    """A part may be half unpacked, or have lost some files."""
    for part in UTTERANCES_OF_PART:
        monkeypatch.setitem(UTTERANCES_OF_PART, part, 8)
    path = corpus / "dev-clean" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    dest = tmp_path / "data"
    command = ["--librispeech", str(corpus), "--dest", str(dest), "--need"]
    words = r"dev-clean: has [4-7] of the 8 utterances .*in a recipe, --skip_bad true"
    for name in ("dev_clean", "dev"):
        with pytest.raises(SystemExit, match=f"^error: {corpus}/{words}"):
            main([*command, "dev_other", name])
        assert not dest.exists()
    main([*command, "dev_other", "train_960"])
    main([*command, "dev_clean", "--skip-bad"])


def test_joint_set_of_ones_own(corpus, tmp_path):
    main(
        ["--librispeech", str(corpus), "--dest", str(tmp_path / "data")]
        + ["--combine", "dev=dev_clean+test_clean", "--combine", "all=train_960+dev"]
        + ["--parts", "dev-clean", "test-clean", "dev-other", "train-clean-100"]
        + ["train-clean-360", "train-other-500"]
    )
    utterances = read_scp(tmp_path / "data" / "dev" / "wav.scp")
    assert {Path(path).parts[-4] for path in utterances.values()} == {
        "dev-clean",
        "test-clean",
    }
    assert len(read_scp(tmp_path / "data" / "all" / "wav.scp")) == 5 * 8


def test_same_utterance_in_two_parts(corpus, tmp_path):
    # Mini LibriSpeech next to the whole corpus: same ids, other files; all are checked.
    shutil.copytree(corpus / "dev-clean", corpus / "dev-clean-2")
    bad = corpus / "dev-clean" / "16" / "7" / "16-7-0000.flac"
    bad.write_bytes(b"")
    arguments = ["--librispeech", str(corpus), "--dest", str(tmp_path / "data")]
    with pytest.raises(SystemExit, match="dev-clean/16/7/16-7-0000.flac: zero-length"):
        main(arguments)
    main([*arguments, "--skip-bad"])
    assert "16-7-0000" not in read_scp(tmp_path / "data" / "dev_clean" / "wav.scp")
    assert "16-7-0000" in read_scp(tmp_path / "data" / "dev_clean_2" / "wav.scp")


def test_reader_without_gender(corpus, tmp_path, capsys):
    speakers = (corpus / "SPEAKERS.TXT").read_text()
    (corpus / "SPEAKERS.TXT").write_text(speakers.replace("16   | F", "16   | ?"))
    dest = tmp_path / "data"
    main(["--librispeech", str(corpus), "--dest", str(dest), "--parts", "dev-clean"])
    assert not (dest / "dev_clean" / "spk2gender").exists()
    line = "no spk2gender: SPEAKERS.TXT has no gender of 1 readers; first: 16"
    assert f"{dest}/dev_clean: {line}" in capsys.readouterr().out
