"""Subsets of data directories."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.prepare_librispeech import main as prepare_librispeech
from espnet2_birq.bin.subset_data import main
from espnet2_birq.datadir.check import check_data_dir
from espnet2_birq.datadir.kaldi import Segment, Utterance, read_scp, write_data_dir
from espnet2_birq.datadir.stamp import STAMP, write_stamp
from espnet2_birq.datadir.subset import DataDir, choose, read_data_dir
from espnet2_birq.errors import DataError

FS = 16000


@pytest.fixture
def formatted(tmp_path):
    """Make a formatted set: readers 1-6 (1 and 2 are women); reader r has 30 x 10 r s."""
    folder = tmp_path / "dump" / "raw" / "train"
    folder.mkdir(parents=True)
    (folder / "data").mkdir()  # left behind by ESPnet
    ids = [f"{r}-{c}-{n:04d}" for r in range(1, 7) for c in (10, 11) for n in range(15)]
    speakers = sorted({u.rsplit("-", 1)[0] for u in ids})
    tables = {
        "wav.scp": [f"{u} {tmp_path}/{u}.flac" for u in ids],
        "text": [f"{u} WORD {u}" for u in ids],
        "utt2spk": [f"{u} {u.rsplit('-', 1)[0]}" for u in ids],
        "spk2utt": [
            f"{s} {' '.join(u for u in ids if u.startswith(s))}" for s in speakers
        ],
        "spk2gender": [f"{s} {'f' if s[0] in '12' else 'm'}" for s in speakers],
        "utt2num_samples": [f"{u} {int(u[0]) * 10 * FS}" for u in ids],
        "feats_type": ["raw"],
        "audio_format": ["flac"],
    }
    for name, lines in tables.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    write_stamp(folder, [], {"fs": "16k"})  # left behind by the stages
    return folder


def seconds_of(folder, reader=""):
    """Sum the lengths in utt2num_samples, of one reader or of all."""
    samples = read_scp(folder / "utt2num_samples")
    return sum(int(n) for u, n in samples.items() if u.startswith(reader)) / FS


def test_hours_genders_and_readers(formatted, tmp_path, capsys):
    dest = tmp_path / "dump" / "raw" / "part"
    main([str(formatted), str(dest), "--hours", "0.5"])
    assert seconds_of(dest) == pytest.approx(1800, rel=0.02)
    # Women and men get 900 s each. Readers 1 and 2 have 300 and 600 s: reader 1 has less
    # than half of 900 s and is taken whole, the rest comes from reader 2.
    women = seconds_of(dest, "1-") + seconds_of(dest, "2-")
    assert women == pytest.approx(900, abs=40)
    assert seconds_of(dest, "1-") == 300
    men = [seconds_of(dest, f"{reader}-") for reader in "3456"]
    assert all(abs(part - 225) <= 60 for part in men)
    assert "6 speakers" in capsys.readouterr().out


def test_files_are_cut_and_complete(formatted, tmp_path):
    dest, rest = tmp_path / "part", tmp_path / "rest"
    main([str(formatted), str(dest), "--hours", "0.4", "--rest", str(rest)])
    names = sorted(path.name for path in formatted.iterdir() if path.is_file())
    names.remove(STAMP)  # belongs to the whole set
    for folder in (dest, rest):
        assert sorted(path.name for path in folder.iterdir()) == names
        assert (folder / "feats_type").read_text() == "raw\n"
        ids = list(read_scp(folder / "utt2spk"))
        for name in ("wav.scp", "text", "utt2num_samples"):
            assert list(read_scp(folder / name)) == ids
        spk2utt = read_scp(folder / "spk2utt")
        assert sorted(" ".join(spk2utt.values()).split()) == ids
        assert list(read_scp(folder / "spk2gender")) == list(spk2utt)
    for name in ("wav.scp", "text", "utt2spk", "utt2num_samples"):
        # Together they have each line of the source once, unchanged.
        lines = [*(dest / name).open(), *(rest / name).open()]
        assert sorted(lines) == sorted((formatted / name).open())


def test_one_seed_one_draw_shorter_in_longer(formatted):
    data = read_data_dir(formatted, FS)
    assert choose(data, 0.7, seed=3) == choose(data, 0.7, seed=3)
    assert choose(data, 0.7, seed=3) != choose(data, 0.7, seed=4)
    assert set(choose(data, 0.1, seed=3)) < set(choose(data, 0.7, seed=3))
    total = sum(data.seconds.values()) / 3600
    assert choose(data, total) == sorted(data.seconds)


def test_hours_are_met_within_half_an_utterance():
    seconds = {f"u{number}": 10.0 for number in range(9)}
    data = DataDir(Path("x"), {}, seconds, dict.fromkeys(seconds, "p"), {})
    for wanted, number in ((24, 2), (26, 3), (50, 5)):
        assert len(choose(data, wanted / 3600)) == number


def test_without_genders(formatted, capsys, tmp_path):
    (formatted / "spk2gender").unlink()
    main([str(formatted), str(tmp_path / "part"), "--hours", "0.5"])
    assert "genders unknown" in capsys.readouterr().out
    shares = [seconds_of(tmp_path / "part", f"{reader}-") for reader in range(1, 7)]
    assert all(abs(share - 300) <= 60 for share in shares)


def test_segments_to_the_end_of_their_recordings(tmp_path):
    soundfile.write(tmp_path / "r.wav", np.zeros(5 * FS), FS)
    (tmp_path / "all").mkdir()
    for name, lines in {
        "wav.scp": f"r {tmp_path}/r.wav\n",
        "segments": "s-a r 0 2\ns-b r 2 -1\n",
        "utt2spk": "s-a s\ns-b s\n",
    }.items():
        (tmp_path / "all" / name).write_text(lines)
    data = read_data_dir(tmp_path / "all", FS)
    assert data.seconds == {"s-a": 2.0, "s-b": 3.0}
    for bad in ("2 nan", "nan 3", "2 inf", "2 2", "6 -1"):
        (tmp_path / "all" / "segments").write_text(f"s-a r 0 2\ns-b r {bad}\n")
        with pytest.raises(DataError, match="s-b"):
            read_data_dir(tmp_path / "all", FS)


def test_kaldi_directory_with_segments(tmp_path):
    utterances = [
        Utterance(f"s{r}-{n}", f"s{r}", f"/{r}.wav", "x", Segment(f"r{r}", n, n + 1))
        for r in range(3)
        for n in range(10)
    ]
    write_data_dir(tmp_path / "all", utterances)
    (tmp_path / "all" / "reco2dur").write_text("r0 10\nr1 10\nr2 10\n")
    main([str(tmp_path / "all"), str(tmp_path / "one"), "--hours", str(1 / 3600)])
    (utt_id, segment), *others = read_scp(tmp_path / "one" / "segments").items()
    assert not others
    recording = segment.split()[0]
    assert list(read_scp(tmp_path / "one" / "wav.scp")) == [recording]
    assert read_scp(tmp_path / "one" / "reco2dur") == {recording: "10"}
    assert list(read_scp(tmp_path / "one" / "text")) == [utt_id]

    (tmp_path / "all" / "segments").write_text(
        "".join(f"s{r}-{n} r{r} {n}\n" for r in range(3) for n in range(10))
    )
    with pytest.raises(DataError, match="s0-0 is not `utterance recording start end`"):
        read_data_dir(tmp_path / "all", FS)


def test_recordings_may_have_the_names_of_utterances(tmp_path):
    spans = {"A": "A 0 5", "A-1": "A 5 9", "B": "B 0 5", "B-1": "B 5 9"}
    for name, lines in {
        "wav.scp": ["A /a.wav", "B /b.wav"],
        "segments": [f"{u} {span}" for u, span in spans.items()],
        "utt2spk": [f"{u} {u[0]}" for u in spans],
    }.items():
        (tmp_path / "all").mkdir(exist_ok=True)
        (tmp_path / "all" / name).write_text("".join(f"{x}\n" for x in lines))
    folders = [tmp_path / "part", tmp_path / "rest"]
    main([str(tmp_path / "all"), str(folders[0]), "--hours", str(9 / 3600)]
         + ["--rest", str(folders[1])])  # fmt: skip
    parts = [read_scp(folder / "segments") for folder in folders]
    assert parts[0] | parts[1] == spans and not parts[0].keys() & parts[1].keys()
    for folder, part in zip(folders, parts):
        assert read_scp(folder / "utt2spk").keys() == part.keys()
        assert read_scp(folder / "wav.scp").keys() == {
            x.split()[0] for x in part.values()
        }


def test_files_of_the_whole_set_and_of_languages(formatted, tmp_path, capsys):
    """What the preparations of YODAS and AMI write beside the usual tables."""
    write_stamp(formatted / "manifest.jsonl", [], {"seed": "1"})
    for name in ("manifest.jsonl", "statistics.tsv", "stm", "words.tsv"):
        (formatted / name).write_text("z of the whole\na set\nz of the whole\n")
    (formatted / "glm").write_text(";; a comment\n;; another\na => b\n")
    ids = list(read_scp(formatted / "utt2spk"))
    groups = {"de": ids[:5], "en": ids[5:]}
    (formatted / "category2utt").write_text(
        "".join(f"{name} {' '.join(members)}\n" for name, members in groups.items())
    )
    dest = tmp_path / "part"
    main([str(formatted), str(dest), "--hours", "0.4"])
    assert "left out" not in capsys.readouterr().out
    with (formatted / "category2utt").open("a") as stream:
        stream.write("fr nobody\n")
    with pytest.raises(DataError, match="category2utt: nobody is not in utt2spk"):
        read_data_dir(formatted, FS)
    kept = read_scp(dest / "utt2spk").keys()
    found = {k: v.split() for k, v in read_scp(dest / "category2utt").items()}
    wanted = {k: [u for u in v if u in kept] for k, v in groups.items()}
    assert found == {k: v for k, v in wanted.items() if v} and "en" in found
    assert (dest / "glm").read_text() == (formatted / "glm").read_text()
    names = {path.name for path in dest.iterdir()}
    assert not {"manifest.jsonl", "statistics.tsv", "stm"} & names
    assert not any(name.endswith(STAMP) for name in names)


def test_relative_paths_and_headers(tmp_path):
    source = tmp_path / "recipe" / "data" / "train"
    source.mkdir(parents=True)
    for n in range(4):
        soundfile.write(tmp_path / "recipe" / f"{n}.wav", np.zeros(FS), FS)
    (source / "wav.scp").write_text("".join(f"u{n} {n}.wav\n" for n in range(4)))
    (source / "utt2spk").write_text("".join(f"u{n} u{n}\n" for n in range(4)))
    main([str(source), str(tmp_path / "part"), "--hours", str(3 / 3600)])
    wavs = read_scp(tmp_path / "part" / "wav.scp")
    assert len(wavs) == 3
    assert all(path == f"{tmp_path}/recipe/{u[1]}.wav" for u, path in wavs.items())


def test_real_librispeech(shared_data, tmp_path, capsys):
    corpus = str(shared_data / "librispeech")
    data = tmp_path / "data"
    prepare_librispeech(
        ["--librispeech", corpus, "--dest", str(data), "--parts", "train-clean-100"]
    )
    capsys.readouterr()
    parts = [str(data / "train_1h"), "--rest", str(data / "rest")]
    main([str(data / "train_clean_100"), *parts, "--hours", "1"])
    one, rest = capsys.readouterr().out.splitlines()
    # Each of the 251 readers gets 14 s, so all of them are included.
    assert "251 speakers" in one and "1.00 hours" in one and "1.04 hours" in rest
    for folder in ("train_1h", "rest"):
        assert not check_data_dir(data / folder, FS, 0, 1).problems


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("utt2num_samples", None, "utt2num_samples: no such file"),
        ("utt2num_samples", "1-10-0000 5\n", "the duration of 1-10-0001 is not known"),
        ("utt2num_samples", "1-10-0000 x\n", "'x', which is not a number"),
        ("utt2spk", "1-10-0000 1-10\n", "1-10-0001 is in only one of utt2spk and wav"),
        ("utt2dur", "zz 1\n", "utt2dur: zz is not in utt2spk"),
        ("segments", "1-10-0000 r 1\n", "1-10-0001 is in only one of utt2spk and seg"),
        ("text", "1-10-0000 a\nzz b\n", "text: zz is not in utt2spk"),
        ("utt2spk", None, "utt2spk: no such file"),
    ],
)
def test_broken_sources(formatted, tmp_path, name, content, words):
    if content is None:
        (formatted / name).unlink()
    else:
        (formatted / name).write_text(content)
    with pytest.raises(SystemExit, match=f"^error: .*{words}"):
        main([str(formatted), str(tmp_path / "part"), "--hours", "0.1"])
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize(
    "name, content",
    [
        ("notes.md", b"# a\n\nb\n"),
        ("cmvn.ark", b"\x00B\xff"),
        ("wav_ori.scp", b"b x\na y\n"),
    ],
)
def test_stray_files_are_left_out(formatted, tmp_path, name, content, capsys):
    (formatted / name).write_bytes(content)
    main([str(formatted), str(tmp_path / "part"), "--hours", "0.1"])
    assert f"{formatted}/{name}: left out, it is no list" in capsys.readouterr().out
    assert not (tmp_path / "part" / name).exists()


def test_audio_beside_the_lists_is_not_named_one_by_one(formatted, tmp_path, capsys):
    for number in range(5):
        soundfile.write(formatted / f"{number}.flac", np.zeros(FS), FS)
    main([str(formatted), str(tmp_path / "part"), "--hours", "0.1"])
    said = [x for x in capsys.readouterr().out.splitlines() if "left out" in x]
    assert [x.split(":")[0] for x in said[:3]] == [
        f"{formatted}/{number}.flac" for number in range(3)
    ]
    assert said[3:] == [f"{formatted}: 2 more files left out as well"]


def test_requests_that_cannot_be_met(formatted, tmp_path):
    source, dest = str(formatted), str(tmp_path / "part")
    for more, words in [
        (["--hours", "2"], "2 hours were asked for, there are 1.75"),
        (["--hours", "0"], "0 hours were asked for"),
        (["--hours", "0.0001"], "less than half of its utterance"),
        (["--hours", "1.75", "--rest", dest + "2"], "nothing is left"),
        (["--hours", "1", "--rest", dest], "must be different"),
        (["--hours", "1", "--rest", source], "must be different"),
    ]:
        with pytest.raises(SystemExit, match=f"^error: .*{words}"):
            main([source, dest, *more])
        assert not (tmp_path / "part").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    with pytest.raises(SystemExit, match="thesis: exists and is not a Kaldi"):
        main([source, str(tmp_path / "thesis"), "--hours", "1"])


def test_a_command_needs_utt2dur(tmp_path):
    source = tmp_path / "train"
    source.mkdir()
    (source / "wav.scp").write_text("u1 cat x |\nu2 cat y |\n")
    (source / "utt2spk").write_text("u1 a\nu2 b\n")
    with pytest.raises(DataError, match="u1 is a command, and there is no utt2dur"):
        read_data_dir(source, FS)
    (source / "utt2dur").write_text("u1 3.5\nu2 1\n")
    assert read_data_dir(source, FS).seconds == {"u1": 3.5, "u2": 1.0}
