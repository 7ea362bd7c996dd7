"""The command on both layouts: files, selection, skipped items, manifests."""

import functools
import json

import kaldiio
import numpy as np
import pytest
import soundfile
import soxr
from espnet2.train.dataset import ESPnetDataset

from espnet2_birq.bin.prepare_yodas import main
from espnet2_birq.corpora.yodas.layout import wanted_subsets
from espnet2_birq.corpora.yodas.selection import HeldOut
from espnet2_birq.datadir.check import check_data_dir
from espnet2_birq.datadir.kaldi import read_scp

from .conftest import encode, noise, write_tar

TRICKY = ["-abcdefghij", "_abcdefghij", "abcdefghij-", "abcd-efghij", "0bcdefghij_"]
ONE = [(0.5, 1.5, "one two"), (1.6, 3.0, "three")]


def skipped(folder, name="yodas"):
    """Read what a set left out: name to reason."""
    lines = (folder / name / "skipped").read_text().splitlines()
    return dict(line.split("\t") for line in lines)


def error_of(call, *args):
    """Return the message of a command that must fail with one line."""
    with pytest.raises(SystemExit) as caught:
        call(*args)
    message = str(caught.value.code)
    assert message.startswith("error: ") and "\n" not in message
    return message


def test_espnet_reads_what_is_written(release, prepare):
    release.add("en000/00000000", dict.fromkeys(TRICKY, ONE))
    release.add("en100/00000003", {"zyxwvutsrqp": ONE})
    out = prepare(release, "--parts", "en", "--valid_hours", 0) / "yodas"
    lengths = read_scp(out / "utt2num_samples")
    assert len(lengths) == 12 and (out / "feats_type").read_text() == "raw\n"
    audio = ESPnetDataset([(str(out / "wav.scp"), "speech", "kaldi_ark")])
    for utt_id in lengths:
        video, segment = utt_id.split("-", 2)[2].split("+")
        _, start, end = segment.split("-")
        whole = noise(video, 3.0)
        part = whole[int(start) * 240 : int(end) * 240]
        wanted = soxr.resample(part.astype(np.float32), 24000, 16000)
        speech = audio[utt_id][1]["speech"]
        assert len(speech) == len(wanted) == int(lengths[utt_id])
        assert np.abs(speech - wanted).max() < 1e-3
        assert read_scp(out / "utt2spk")[utt_id].endswith(video)
    report = check_data_dir(out)
    assert not report.problems and report.speakers == 6
    # Kaldi requires utterances and speakers in the same order.
    speakers = list(read_scp(out / "utt2spk").values())
    assert speakers == sorted(speakers)
    assert not (out / "text").exists() and not (out / "category2utt").exists()


def test_a_part_of_another_part_takes_nothing_from_it():
    whole, some = "en000", ["en000/00000001", "en000/00000002"]
    there = ["de000", "en000"]
    assert wanted_subsets(some, there) == {"en000": {"00000001", "00000002"}}
    assert wanted_subsets([whole, *some], there) == {"en000": set()}
    assert wanted_subsets([*some, whole], there) == {"en000": set()}


def test_order_with_ids_of_any_length(release, prepare):
    release.add("en000/00000000", {"ab": ONE, "ab-00000": ONE, "ab-": ONE, "a": ONE})
    out = prepare(release, "--parts", "en", "--valid_hours", 0) / "yodas"
    speakers = list(read_scp(out / "utt2spk").values())
    assert speakers == sorted(speakers) and len(set(speakers)) == 4
    assert not check_data_dir(out).problems


def test_real_layout(shared_data, tmp_path, capsys):
    sets = {}
    for name in ("yodas", "yodas2"):
        folder = tmp_path / name
        options = ["--parts", "en", "--valid_hours", "0", "--text"]
        main(
            ["--yodas", f"{shared_data}/yodas/{name}", "--dest", str(folder), *options]
        )
        sets[name] = folder / "yodas"
        assert "27 utterances, 3 speakers" in capsys.readouterr().out
    # Both releases contain the same speech, cut by the publisher or by us.
    text = [read_scp(folder / "text") for folder in sets.values()]
    assert text[0] == text[1] and len(text[0]) == 27
    lengths = [read_scp(folder / "utt2num_samples") for folder in sets.values()]
    assert lengths[0] == lengths[1]
    wavs = [kaldiio.load_scp(str(folder / "wav.scp")) for folder in sets.values()]
    for utt_id in text[0]:
        first, second = (loader[utt_id][1] for loader in wavs)
        # The sample's segments were cut at 16 kHz, before it was resampled to 24 kHz.
        assert np.corrcoef(first, second)[0, 1] > 0.99


def test_captions_and_their_characters(release, prepare):
    segments = [(0, 1, "Plain  text"), (1, 2, "naïve"), (2, 3, ""), (3, 4, "ok\tno")]
    release.add("en000/00000000", {"abcdefghijk": segments})
    release.add("fr000/00000000", {"bbcdefghijk": [(0, 1, "naïve")]})
    options = ["--parts", "en", "fr", "--valid_hours", 0, "--text"]
    out = prepare(release, *options, "--characters", "en=a-zA-Z")
    assert list(read_scp(out / "yodas" / "text").values()) == [
        "Plain text",
        "ok no",
        "naïve",
    ]
    assert sorted(skipped(out).values()) == [
        "caption with other characters",
        "empty caption",
    ]
    assert "choose another --dest" in error_of(prepare, release, *options)


def test_filters(release, prepare, capsys):
    loud, hiss = noise("x", 2.0), 1e-4 * noise("x", 2.0)
    audio = {"a": loud, "b": 0 * loud, "c": hiss, "d": np.append(hiss, loud)}
    if release.name == "yodas":
        files = {
            f"{v}-00000-00000000-{len(s) // 240:08d}.wav": encode(s)
            for v, s in audio.items()
        }
        captions = {n[0]: {n[:-4]: "x"} for n in files}
    else:
        files = {f"{v}.wav": encode(s) for v, s in audio.items()}
        captions = {
            v: {f"{v}-00000-00000000-{len(s) // 240:08d}": "x"}
            for v, s in audio.items()
        }
    captions["a"] |= {"a-00001-00000100-00000110": "short"}
    if release.name == "yodas":
        files["a-00001-00000100-00000110.wav"] = encode(loud[:2400])
    write_tar(release.path("en000/00000000", "audio"), files)
    release.write_text("en000/00000000", captions)
    options = ["--parts", "en", "--valid_hours", 0, "--max_duration", 3]
    out = prepare(release, *options)
    assert skipped(out) == {
        "en000-00000000-a-00001-00000100-00000110": "shorter than 0.5 s",
        "en000-00000000-b-00000-00000000-00000200": "quieter than -60 dB",
        "en000-00000000-c-00000-00000000-00000200": "quieter than -60 dB",
        "en000-00000000-d-00000-00000000-00000400": "longer than 3 s",
    }
    assert len(read_scp(out / "yodas" / "wav.scp")) == 1
    said = capsys.readouterr().out
    assert "skipped 2 x quieter than -60 dB (0.00 hours); first: b-0" in said
    assert "1 utterances, 1 speakers (videos), 0.00 hours" in said


def test_hours_take_whole_shards_in_a_seeded_order(release, prepare):
    for number in range(8):
        videos = {f"video{number}{index}": [(0, 10, "x")] for index in range(2)}
        release.add(f"en000/{number:08d}", videos)
    used = {}
    for seed, hours in ((0, 0.015), (0, 0.03), (1, 0.03)):
        options = ["--parts", "en", "--hours", hours, "--seed", seed]
        options += ["--valid_hours", 0]
        out = prepare(release, *options, dest=f"{seed}{hours}") / "yodas"
        lines = [json.loads(line) for line in (out / "manifest.jsonl").open()]
        used[seed, hours] = [line["shard"] for line in lines[1:]]
        seconds = sum(map(int, read_scp(out / "utt2num_samples").values())) / 16000
        assert hours * 3600 <= seconds < hours * 3600 + 20
        made = (out.parent / "shards" / "en000").iterdir()
        assert sorted(p.name for p in made) == sorted(s[6:] for s in used[seed, hours])
    assert used[0, 0.03][:3] == used[0, 0.015] != sorted(used[0, 0.015])
    assert sorted(used[0, 0.03]) != sorted(used[1, 0.03])


def test_hours_of_each_language(release, prepare, capsys):
    for subset in ("de000", "en000", "en100"):
        for number in range(3):
            video = {f"{subset}video{number}": [(0, 10, "x")]}
            release.add(f"{subset}/{number:08d}", video)
    options = ["--parts", "en", "de000", "--hours", 0.01, "--valid_hours", 0]
    out = prepare(release, *options) / "yodas"
    assert "de: there are only 0.01 hours" in capsys.readouterr().out
    categories = read_scp(out / "category2utt")
    assert {k: len(v.split()) for k, v in categories.items()} == {"de": 3, "en": 4}
    utterances = [u for line in categories.values() for u in line.split()]
    assert utterances == list(read_scp(out / "wav.scp"))


def test_valid_set_is_of_other_videos(release, prepare):
    for number in range(3):
        videos = {f"video{number}{index}": ONE for index in range(5)}
        release.add(f"en000/{number:08d}", videos)
    out = prepare(release, "--parts", "en", "--valid_hours", 0.002)
    train, valid = (
        {speaker.split("-")[2] for speaker in read_scp(out / name / "utt2spk").values()}
        for name in ("yodas", "yodas_valid")
    )
    assert len(train) == 12 and len(valid) == 3 and not train & valid
    assert "other --parts, filters or --valid_hours" in error_of(
        prepare, release, "--parts", "en", "--name", "b"
    )
    assert not (out / "b").exists()


def test_no_language_is_held_out_as_a_whole(release, prepare):
    release.add("de000/00000000", {"onlyonlyonl": ONE})
    release.add("en000/00000000", {f"video{number}": ONE for number in range(4)})
    options = ["--parts", "en", "de", "--seed", 3, "--valid_hours"]
    refused = used = 0
    for seconds in (2, 4, 6, 8):
        try:
            out = prepare(release, *options, seconds / 3600)
        except SystemExit as error:
            assert "all videos of de would be held out" in str(error.code)
            refused += 1
        else:
            used += 1
            assert "de" in read_scp(out / "yodas" / "category2utt")
    assert refused and used


def test_held_out_videos_do_not_depend_on_the_order():
    videos = [(f"v{number}", 100 + number) for number in range(200)]
    chosen = set()
    for offered in (videos, videos[::-1]):
        held_out = HeldOut(1000, seed=3)
        for video in offered:
            held_out.offer(*video)
        chosen.add(frozenset(held_out.videos()))
    assert len(chosen) == 1
    sizes = sorted(dict(videos)[video] for video in chosen.pop())
    assert sum(sizes) >= 1000 > sum(sizes) - sizes[-1]


def test_a_video_is_used_once(release, prepare, capsys):
    release.add("en000/00000000", {"samesamesam": ONE, "otherothero": ONE})
    release.add("en100/00000000", {"samesamesam": ONE})
    out = prepare(release, "--parts", "en", "--valid_hours", 0)
    assert len(read_scp(out / "yodas" / "wav.scp")) == 4
    assert list(skipped(out).values()) == ["video is in another shard, too"]
    assert "skipped 2 x video is in another shard, too" in capsys.readouterr().out


def test_manifest_repeats_and_complains(release, prepare):
    for number in range(4):
        release.add(f"en000/{number:08d}", {f"video{number}": [(0, 10, "x")]})
    bad = release.path("en000/00000001", "audio")
    bad.write_bytes(bad.read_bytes()[:-40])
    options = ["--parts", "en", "--hours", 0.005, "--valid_hours", 0.002]
    first = prepare(release, *options, "--seed", 5, "--min_level", -50)
    manifest = first / "yodas" / "manifest.jsonl"
    again = prepare(release, "--manifest", manifest, dest="again")
    for name in ("manifest.jsonl", "utt2num_samples", "utt2spk", "skipped"):
        content = (again / "yodas" / name).read_bytes()
        assert content == (first / "yodas" / name).read_bytes(), name
    valid = "yodas_valid/utt2spk"
    assert (again / valid).read_bytes() == (first / valid).read_bytes()
    message = error_of(prepare, release, "--manifest", manifest, "--seed", 6)
    assert "--manifest says seed 5, the command line 6" in message
    used = [json.loads(line) for line in manifest.open()][1:]
    shard = next(line["shard"] for line in used if line["used"])
    release.add(shard, {"another": [(0, 10, "x")]})
    elsewhere = functools.partial(prepare, dest="other")
    message = error_of(elsewhere, release, "--manifest", manifest)
    assert f"{shard} differs: tar_sha256" in message
    assert not (again.parent / "other" / "yodas").exists()
    # Changes of shards that are already prepared are noticed, too.
    release.add(shard, {"another": [(0, 20, "x")]})
    message = error_of(prepare, release, *options, "--seed", 5, "--min_level", -50)
    assert "a different size than when it was prepared" in message


def test_changed_captions_of_a_prepared_shard(release, prepare):
    release.add("en000/00000000", {"abcdefghijk": ONE})
    options = ["--parts", "en", "--valid_hours", 0, "--text"]
    out = prepare(release, *options)
    path = release.path("en000/00000000", "text")
    path.write_text(path.read_text().replace("one two", "one too"))
    message = error_of(prepare, release, *options)
    assert "en000/00000000: its text file has other captions than" in message
    # Older versions did not record it.
    summary = out / "shards/en000/00000000/summary.json"
    content = json.loads(summary.read_text())
    del content["text"]
    summary.write_text(json.dumps(content))
    prepare(release, *options)


@pytest.mark.parametrize(
    "options, words",
    [
        ([], "--parts is required"),
        (["--parts", "xx"], "--parts xx: not there"),
        (["--parts", "en000/00000009"], "no such shard"),
        (["--parts", "en", "--text", "--uncaptioned"], "exclude each other"),
        (["--parts", "en", "--characters", "en=a"], "needs --text"),
        (["--parts", "en", "--min_duration", "40"], "not below --max_duration"),
        (
            [*"--parts en --uncaptioned --min_duration 0.1 --max_duration 0.2".split()],
            "--uncaptioned cannot cut pieces below 0.3 s",
        ),
        (["--manifest", "none.jsonl"], "none.jsonl: no such manifest"),
        (["--parts", "en", "--name", "a b"], "without spaces"),
    ],
)
def test_wrong_requests(make_release, prepare, options, words, tmp_path):
    release = make_release()
    release.add("en000/00000000", {"abcdefghijk": ONE})
    assert words in error_of(prepare, release, *options)
    assert not (tmp_path / "out").exists()


def test_other_folders_are_not_replaced(make_release, prepare, tmp_path):
    release = make_release()
    release.add("en000/00000000", {"abcdefghijk": ONE})
    (tmp_path / "out" / "yodas").mkdir(parents=True)
    assert "exists and is no set" in error_of(prepare, release, "--parts", "en")


def test_dry_run(release, prepare, capsys, tmp_path):
    release.add("en000/00000000", {"abcdefghijk": [(0, 36, "x")]})
    prepare(release, "--parts", "en", "--dry_run")
    assert "en: 0.01 hours before filters" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_wav_archives_at_another_rate(release, prepare):
    release.add("en000/00000000", {"abcdefghijk": ONE}, rate=44100)
    options = ["--audio_format", "wav.ark", "--fs", 8000, "--valid_hours", 0]
    out = prepare(release, "--parts", "en", *options) / "yodas"
    for rate, samples in kaldiio.load_scp(str(out / "wav.scp")).values():
        assert rate == 8000 and len(samples) in (8000, 11200)
    assert (out / "audio_format").read_text() == "wav.ark\n"
    assert soundfile.available_formats()["WAV"]


def test_validation_speech_is_not_trained_on_later(release, prepare):
    for number in range(4):
        release.add(f"en000/{number:08d}", {f"video{number}": [(0, 10, "x")]})
    options = ["--parts", "en", "--name", "x"]
    out = prepare(release, *options, "--valid_hours", 0.002)
    valid = (out / "x_valid" / "utt2spk").read_bytes()
    message = error_of(prepare, release, *options, "--valid_hours", 0)
    assert "x_valid: is from an earlier preparation" in message
    assert (out / "x_valid" / "utt2spk").read_bytes() == valid
    prepare(release, *options[:-1], "y", "--valid_hours", 0)
