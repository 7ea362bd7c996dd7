"""What a corpus lacks is not lost without a word: languages, hours, ends of recordings."""

import re

import pytest

from espnet2_birq.datadir.kaldi import read_scp

from .conftest import encode, noise, write_tar
from .test_sets import ONE, error_of, skipped

EN, DE = "en000/00000000", "de000/00000000"
CALL = ("--parts", "en", "de", "--valid_hours", 0)


@pytest.fixture
def two(release):
    """Release of two languages."""
    release.add(EN, {"goodgoodgoo": ONE})
    release.add(DE, {"gutgutgutgu": ONE})
    return release


def test_a_language_without_text_files(two, prepare, tmp_path):
    two.path(DE, "text").unlink()
    message = error_of(prepare, two, *CALL)
    assert f"no utterance of de would be in it, {DE}: its text file is mis" in message
    assert message.endswith("--uncaptioned, or leave de out of --parts")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shards"]


def test_a_language_whose_videos_are_all_of_another(two, prepare):
    two.add(DE, {"goodgoodgoo": ONE})
    message = error_of(prepare, two, *CALL)
    # Shards are used language by language, in alphabetical order.
    assert "no utterance of en would be in it" in message
    assert "2 x video is in another shard, too; leave en out" in message


@pytest.mark.parametrize("part", ["de", "de000"])
def test_a_part_without_shards(two, prepare, part):
    two.path(DE, "audio").unlink()
    message = error_of(prepare, two, "--parts", "en", part, "--valid_hours", 0)
    assert f"--parts {part}: no shard with audio in {two.root}" in message
    # Another subset of the language will do.
    two.add("de100/00000000", {"automatical": ONE})
    if part == "de":
        prepare(two, *CALL)
    else:
        error_of(prepare, two, "--parts", "en", part)


def test_a_truncated_video_is_not_used(make_release, prepare):
    """Its header tells how long it was; without captions, nothing else does."""
    release = make_release("yodas2")
    whole = encode(noise("cut", 6.0))
    files = {"whole.wav": whole, "cut.wav": whole[: len(whole) // 2]}
    write_tar(release.path(EN, "audio"), files)
    options = ("--parts", "en", "--valid_hours", 0, "--uncaptioned")
    out = prepare(release, *options)
    assert skipped(out) == {"en000-00000000-cut": "truncated"}
    lengths = read_scp(out / "yodas" / "utt2num_samples").values()
    assert sum(map(int, lengths)) == 6 * 16000


def test_hours_of_what_is_skipped_are_told(make_release, prepare, capsys):
    """Times are in the ids, also of captions whose audio is not there or too short."""
    release = make_release("yodas2")
    release.add(EN, {"goodgoodgoo": ONE, "v": ONE})
    captions = {
        "goodgoodgoo": {"goodgoodgoo-00000-00000050-00000150": "x"},
        "v": {
            "v-00000-00000000-00003600": "beyond its end, 36 s",
            "w-00001-00000000-00007200": "of another video, 72 s",
        },
        "lost": {"lost-00000-00000000-00010800": "without audio, 108 s"},
    }
    release.write_text(EN, captions)
    prepare(release, "--parts", "en", "--valid_hours", 0)
    found = re.findall(r"skipped 1 x (.*) \((.*) hours\)", capsys.readouterr().out)
    assert found == [
        ("caption reaches beyond the end of its video", "0.01"),
        ("caption without audio", "0.03"),
        ("caption's id is not of its video", "0.02"),
    ]


def test_hours_of_segments_that_cannot_be_read(make_release, prepare, capsys):
    release = make_release("yodas")
    name = "goodgoodgoo-00007-00000000-00003600"
    release.add(EN, {"goodgoodgoo": ONE}, extra={f"{name}.wav": b"no audio"})
    prepare(release, "--parts", "en", "--valid_hours", 0)
    said = capsys.readouterr().out
    assert f"skipped 1 x not readable as audio (0.01 hours); first: {name}" in said
