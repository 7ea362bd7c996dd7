"""Errors in a corpus are counted, named and skipped; the rest is used."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from espnet2_birq.corpora.yodas import shard as module
from espnet2_birq.corpora.yodas.layout import Shard
from espnet2_birq.corpora.yodas.writer import ShardOptions, ShardWriter
from espnet2_birq.datadir.audio import NOT_FINITE
from espnet2_birq.datadir.kaldi import read_scp

from .conftest import encode, noise, write_tar
from .test_sets import ONE, error_of, skipped

GOOD, BAD = "en000/00000000", "en000/00000001"
TAR, TEXT = "its tar file ", "its text file "


@pytest.fixture
def two(release):
    """Release with a good shard and one that the test damages."""
    release.add(GOOD, {"goodgoodgoo": ONE})
    release.add(BAD, {"badbadbadba": ONE})
    return release


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda r: cut(r.path(BAD, "audio"), -40), TAR + "is truncated or damaged"),
        (lambda r: cut(r.path(BAD, "audio"), 30000), TAR + "is truncated or damaged"),
        (lambda r: cut(r.path(BAD, "audio"), 0), TAR + "is truncated or damaged"),
        (lambda r: write_tar(r.path(BAD, "audio"), {}), TAR + "holds no audio"),
        (
            lambda r: r.path(BAD, "audio").write_bytes(b"no archive at all"),
            TAR + "is truncated or damaged",
        ),
        (
            lambda r: r.path(BAD, "audio").write_bytes(
                b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n"
            ),
            TAR + "is a git-LFS pointer",
        ),
        (lambda r: r.path(BAD, "text").unlink(), TEXT + "is missing"),
        (lambda r: r.path(BAD, "text").write_bytes(b"\xff\xfe"), TEXT + "is not UTF-8"),
        (
            lambda r: r.path(BAD, "text").write_text("version https://git-lfs x"),
            TEXT + "is a git-LFS pointer",
        ),
    ],
)
def test_a_bad_shard_is_reported_and_skipped(two, prepare, damage, reason, capsys):
    damage(two)
    out = prepare(two, "--parts", "en", "--valid_hours", 0)
    assert skipped(out)[BAD].startswith(reason)
    assert len(read_scp(out / "yodas" / "wav.scp")) == 2
    assert f"skipped 1 x shard: {reason}" in (said := capsys.readouterr().out)
    assert f"first: {BAD}" in said
    lines = [json.loads(line) for line in (out / "yodas/manifest.jsonl").open()]
    assert {"shard": BAD, "used": False, "reason": skipped(out)[BAD]} in lines
    assert not (out / "shards" / BAD).exists()
    # Once repaired, it is used by the same command.
    two.add(BAD, {"badbadbadba": ONE})
    prepare(two, "--parts", "en", "--valid_hours", 0)
    assert len(read_scp(out / "yodas" / "wav.scp")) == 4


def test_a_tar_that_ends_inside_a_member(two, prepare):
    # The gzip stream is complete here.
    path = two.path(BAD, "audio")
    plain = gzip.decompress(path.read_bytes())
    member = tarfile.open(fileobj=io.BytesIO(plain)).getmembers()[0]
    path.write_bytes(gzip.compress(plain[: member.offset_data + 1000]))
    out = prepare(two, "--parts", "en", "--valid_hours", 0)
    assert skipped(out)[BAD].startswith(TAR + "is truncated")


def test_nothing_usable_is_an_error(two, prepare, tmp_path):
    for name in (GOOD, BAD):
        two.path(name, "text").unlink()
    call = ("--parts", "en", "--valid_hours", 0)
    message = error_of(prepare, two, *call)
    assert "no utterance would be in it, skipped 2 x shard: its text file" in message
    assert not (tmp_path / "out" / "yodas").exists()


def test_a_video_without_captions(make_release, prepare, capsys):
    release = make_release("yodas2")
    release.add(GOOD, {"goodgoodgoo": ONE, "silentabout": []})
    captions = {"goodgoodgoo": {"goodgoodgoo-00000-00000050-00000150": "x"}}
    release.write_text(GOOD, captions)
    out = prepare(release, "--parts", "en", "--valid_hours", 0)
    assert skipped(out) == {"en000-00000000-silentabout": "video without captions"}
    said = capsys.readouterr().out
    assert "skipped 1 x video without captions (0.00 hours); first: silentabout" in said


def test_a_segment_without_caption(make_release, prepare):
    release = make_release("yodas")
    release.add(GOOD, {"goodgoodgoo": ONE, "untexted-_-": ONE})
    release.write_text(
        GOOD, {"goodgoodgoo": {"goodgoodgoo-00000-00000050-00000150": "x"}}
    )
    out = prepare(release, "--parts", "en", "--valid_hours", 0)
    assert len(skipped(out)) == 3 and set(skipped(out).values()) == {"no caption"}


def test_without_captions_all_audio_is_used(release, prepare):
    release.add(GOOD, {"goodgoodgoo": ONE})
    release.path(GOOD, "text").unlink()
    options = ["--parts", "en", "--valid_hours", 0, "--uncaptioned"]
    out = prepare(release, *options, "--max_duration", 1.45) / "yodas"
    lengths = {k: int(v) for k, v in read_scp(out / "utt2num_samples").items()}
    if release.name == "yodas":
        assert sum(lengths.values()) == round(2.4 * 16000)
    else:  # cut at quiet places, without losses
        assert len(lengths) > 2 and sum(lengths.values()) == pytest.approx(48000, abs=3)
        times = [utt_id.rsplit("-", 2)[1:] for utt_id in lengths]
        assert times[0][0] == "00000000" and times[-1][1] == "00000300"
        assert [end for _, end in times][:-1] == [start for start, _ in times][1:]


@pytest.mark.parametrize(
    "segments, reason",
    [
        ({"v-00000-00000000-00000900": "x"}, "caption reaches beyond the end"),
        ({"v-00000-00000200-00000100": "x"}, "shorter than 0.5 s"),
        ({"w-00000-00000000-00000100": "x"}, "caption's id is not of its video"),
        ({"v-first": "x"}, "caption's id is not of its video"),
        ({"v-00000-00000305-00000315": "x"}, "caption reaches beyond the end"),
    ],
)
def test_captions_that_do_not_fit_their_video(make_release, prepare, segments, reason):
    release = make_release("yodas2")
    release.add(GOOD, {"goodgoodgoo": ONE, "v": ONE})
    captions = {"v": {"v-00001-00000100-00000200": "fine"} | segments}
    release.write_text(GOOD, captions | {"goodgoodgoo": {}})
    out = prepare(release, "--parts", "en", "--valid_hours", 0)
    reasons = list(skipped(out).values())
    assert len(reasons) == 2 and "video without captions" in reasons
    assert any(r.startswith(reason) for r in reasons)
    assert len(read_scp(out / "yodas" / "wav.scp")) == 1


def test_a_caption_may_end_a_little_after_its_video(make_release, prepare):
    release = make_release("yodas2")
    release.add(GOOD, {"v": ONE})  # of 3 s
    release.write_text(GOOD, {"v": {"v-00000-00000100-00000319": "fine"}})
    out = prepare(release, "--parts", "en", "--valid_hours", 0) / "yodas"
    assert list(read_scp(out / "utt2num_samples").values()) == ["32000"]


def test_limits_of_the_length_are_allowed(tmp_path):
    options = ShardOptions(min_duration=1.0, max_duration=2.0)
    with ShardWriter(Shard("en000", "00000000"), options, tmp_path) as writer:
        lengths = 0.99, 1.0, 2.0, 2.01
        good = [writer.has_good_length(f"v{x}", x) for x in lengths]
    assert good == [False, True, True, False]


def test_bad_members(release, prepare):
    extra = {
        "a/README.txt": b"not audio",
        "zero-------.wav": b"",
        "bad name!.wav": encode(noise("x", 1)),
        "goodgoodgoo-00007-00000000-00000900.wav": encode(noise("x", 1)),
    }
    release.add(GOOD, {"goodgoodgoo": ONE, "missingmiss": ONE}, extra=extra)
    captions = {
        "goodgoodgoo": {
            "goodgoodgoo-00000-00000050-00000150": "x",
            "goodgoodgoo-00007-00000000-00000900": "x",
        },
        "lostlostlos": {"lostlostlos-00000-00000000-00000100": "x"},
    }
    release.write_text(GOOD, captions)
    out = prepare(release, "--parts", "en", "--valid_hours", 0)
    found = {k.removeprefix("en000-00000000-"): v for k, v in skipped(out).items()}
    assert found["README"] == found["zero-------"] == "not readable as audio"
    assert found["bad name!.wav"] == "its name is no id of YODAS"
    assert found["lostlostlos-00000-00000000-00000100"] == "caption without audio"
    assert "goodgoodgoo-00007-00000000-00000900" in found
    assert len(read_scp(out / "yodas" / "wav.scp")) == 1


def test_names_that_lists_cannot_have(release, prepare):
    """Names of files are bytes, and those in JSON any characters."""
    odd = {"caf\udce9.wav": b"x", "a\tb\nc.wav": b"x"}
    release.add(GOOD, {"goodgoodgoo": ONE}, extra=odd)
    wanted = [r"'a\tb\nc'", r"'caf\udce9'"]
    if release.name == "yodas2":
        captions = json.loads(release.path(GOOD, "text").read_text())
        captions[0]["text"]["d\te\ud800"] = "x"
        release.path(GOOD, "text").write_text(json.dumps(captions))
        wanted.append(r"'d\te\ud800'")
    out = prepare(release, "--parts", "en", "--valid_hours", 0)
    assert sorted(skipped(out)) == [f"en000-00000000-{name}" for name in wanted]
    assert len(read_scp(out / "yodas" / "wav.scp")) == 2


def test_a_member_twice_is_used_once(make_release, prepare):
    release = make_release()
    release.add(GOOD, {"goodgoodgoo": ONE[:1]})
    name = "goodgoodgoo-00000-00000050-00000150.wav"
    release.add(GOOD, {"goodgoodgoo": ONE[:1]}, extra={name: encode(noise("y", 1))})
    out = prepare(release, "--parts", "en", "--valid_hours", 0)
    assert list(skipped(out).values()) == ["twice in its shard"]
    assert len(read_scp(out / "yodas" / "wav.scp")) == 1


def test_large_members_go_through_a_file(release, prepare, monkeypatch):
    release.add(GOOD, {"goodgoodgoo": ONE})
    small = prepare(release, "--parts", "en", "--valid_hours", 0, dest="small")
    monkeypatch.setattr(module, "MEMORY_BYTES", 1000)
    large = prepare(release, "--parts", "en", "--valid_hours", 0, dest="large")
    ark = f"shards/{GOOD}/audio.ark"
    assert (small / ark).read_bytes() == (large / ark).read_bytes()
    assert sorted(p.name for p in (large / "shards" / GOOD).iterdir()) == [
        "audio.ark",
        "skipped.tsv",
        "summary.json",
        "utterances.tsv",
        "videos.tsv",
    ]


def test_stereo_and_floats_that_are_not_numbers(make_release, prepare):
    import soundfile

    release = make_release("yodas2")
    mono = noise("m", 2.0).astype(np.float32)
    broken = mono.copy()
    broken[100] = np.nan
    files = {}
    for name, samples in (("mono", mono), ("stereo", mono), ("broken", broken)):
        wide = np.stack([1.5 * samples, 0.5 * samples], 1)
        stream = io.BytesIO()
        soundfile.write(
            stream, wide if name == "stereo" else samples, 24000, "FLOAT", format="WAV"
        )
        files[f"{name}.wav"] = stream.getvalue()
    write_tar(release.path(GOOD, "audio"), files)
    release.write_text(
        GOOD, {n[:-4]: {f"{n[:-4]}-00000-00000000-00000200": "x"} for n in files}
    )
    out = prepare(release, "--parts", "en", "--valid_hours", 0)
    assert list(skipped(out).values()) == [NOT_FINITE]
    import kaldiio

    one, two = kaldiio.load_scp(str(out / "yodas" / "wav.scp")).values()
    assert np.abs(one[1] - two[1]).max() < 1e-4
