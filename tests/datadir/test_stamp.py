"""Stamps: inputs are recorded and compared."""

import json

import pytest

from espnet2_birq.bin.stamp import main
from espnet2_birq.datadir.stamp import sources


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Folder made from two lists, one of which does not exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "wav.scp").write_text("u1 a.wav\nu2 b.wav\n")
    main(["write", "set", "--option", "fs=16k", "wav.scp", "segments"])
    return tmp_path


CHECK = ["check", "set", "--option", "fs=16k", "--remedy", "run stage 3"]


def error_of(*command):
    """Return the message of a check that must fail."""
    with pytest.raises(SystemExit) as error:
        main(list(command))
    return error.value.code


def test_nothing_has_changed(made):
    main([*CHECK, "wav.scp", "segments"])
    assert sources(made / "set") == ["wav.scp", "segments"]
    (made / "wav.scp").unlink()  # as users may do to save space
    main([*CHECK, "wav.scp", "segments"])
    main([*CHECK[:2], "wav.scp", "segments"])  # a check need not give options


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("wav.scp", "u1 a.wav\n", "2 lines then, 1 now"),
        ("wav.scp", "u1 a.wav\nu2 cc.wav\n", "18 bytes then, 19 now"),
        ("wav.scp", "u1 a.wav\nu2 c.wav\n", "same length, other content"),
        ("segments", "u1 a 0 1\n", "it did not exist then"),
    ],
)
def test_a_changed_list(made, name, content, words):
    (made / name).write_text(content)
    message = f"error: {name} has changed since set was made: {words}: run stage 3"
    assert error_of(*CHECK, "wav.scp", "segments") == message


def test_another_list(made):
    message = error_of(*CHECK, "wav.scp", "segments", "text")
    assert message == "error: set was not made from text, but would be now: run stage 3"
    message = error_of(*CHECK, "wav.scp")
    assert "set was made from segments, but would not be now" in message


def test_another_option(made):
    other = ["--option", "fs=8k", "wav.scp", "segments"]
    assert "set was made with fs '16k', now it is '8k': run" in error_of(*CHECK, *other)
    other = ["--option", "format=wav", "wav.scp", "segments"]
    assert "made with format None, now it is 'wav'" in error_of(*CHECK, *other)


def test_without_a_stamp(made):
    (made / "own").mkdir()
    command = ["check", "own", "wav.scp"]
    main(command)
    assert "own: there is no record of what" in error_of(*command, "--required")
    assert sources(made / "own") == []


def test_stamp_of_a_file(made):
    (made / "x.arpa").touch()
    main(["write", "x.arpa", "wav.scp"])
    assert json.loads((made / "x.arpa.made_from.json").read_text())["options"] == {}
    main(["check", "x.arpa", "--required", "wav.scp"])
    (made / "wav.scp").write_text("")
    with pytest.raises(SystemExit, match="wav.scp has changed since x.arpa was made"):
        main(["check", "x.arpa", "--required", "wav.scp"])
