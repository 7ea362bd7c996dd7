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


def test_an_option_without_a_value(made, capsys):
    with pytest.raises(SystemExit):
        main(["write", "set", "--option", "fs"])
    assert "'fs' is not NAME=VALUE" in capsys.readouterr().err


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


def test_settings_that_older_records_do_not_have(made):
    """They are compared completely, but only with a record that has some."""
    (made / "asr.yaml").write_text("max_epoch: 30\nencoder_conf: {b: 1, a: 2}\n")
    now = ["--config", "asr.yaml", "--setting", "model=x.pth"]
    now += ["--free", "max_epoch log_interval"]
    files = ["wav.scp", "segments"]
    main([*CHECK, *files, *now])  # the record is of an older version
    main(["write", *CHECK[1:4], *files, *now, "--args", "--seed 1 --max-epoch=3"])
    main([*CHECK, *files])
    main([*CHECK, *files, *now, "--args", "--log_interval 5 --seed=1"])
    message = error_of(*CHECK, *files, *now)
    assert message.endswith("made with --seed 1, now there is no --seed: run stage 3")
    now += ["--args", "--seed 1"]
    (made / "asr.yaml").write_text(
        "# longer\nmax_epoch: 60\nencoder_conf: {a: 2, b: 1}"
    )
    main([*CHECK, *files, *now])
    assert "max_epoch 60" in error_of(*CHECK, *files, *now, "--free", "")
    other = [x.replace("x.pth", "y.pth") for x in now]
    assert "made with model x.pth, now there is model y" in error_of(
        *CHECK, *files, *other
    )
    (made / "asr.yaml").write_text("encoder_conf: {b: 1, a: 3}")
    words = 'encoder_conf {"a": 2, "b": 1}, now there is encoder_conf {"a": 3, "b": 1}'
    assert words in error_of(*CHECK, *files, *now)


def test_the_same_files_spelled_differently(made):
    """Stamps of older versions have paths as they were given."""
    (made / "link").symlink_to(made)
    main(["write", "set", "--option", "corpus=link/corpus", f"{made}/wav.scp"])
    main(["check", "set", "--option", f"corpus={made}/corpus/", "link/wav.scp"])
    (made / "wav.scp").write_text("u1 a.wav\n")
    said = error_of("check", "set", "link/wav.scp")
    assert "wav.scp has changed since set was made: 2 lines then, 1 now" in said
    assert "'link/corpus', now it is 'b'" in error_of(
        "check", "set", "--option", "corpus=b"
    )


def test_lines_of_a_configuration_that_change_from_start_to_start(made):
    """As ESPnet's random port of a training on several GPUs."""
    config = made / "config.yaml"
    config.write_text("dist_master_port: 41001\nngpu: 8\nencoder: conformer\n")
    main(["write", "set", "config.yaml"])
    config.write_text("dist_master_port: 41002\nngpu: 4\nencoder: conformer\n")
    main(["check", "set", "config.yaml"])
    config.write_text("dist_master_port: 41001\nngpu: 8\nencoder: branchformer\n")
    assert "config.yaml has changed" in error_of("check", "set", "config.yaml")
