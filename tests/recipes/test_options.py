"""Options of the recipes' scripts that are refused before anything is run."""

import pytest
from checkout import copy_checkout, run


@pytest.fixture(scope="module")
def egs2(tmp_path_factory, an4_tarball):
    """Recipes of a copy, and a directory with a set, as users have theirs."""
    top = copy_checkout(tmp_path_factory.mktemp("options"), an4_tarball.parents[3])
    for name in ("mine/train", "mine/valid", "mine/train/more"):
        (top / name).mkdir(parents=True)
        (top / name / "wav.scp").write_text(f"u {top}/u.flac\n")
        (top / name / "text").write_text("u A\n")
    return top / "egs2"


def refused(folder, *command):
    """Run a command that must fail at once; return its last line."""
    done = run(command, folder, check=False)
    assert done.returncode == 1, done.stdout
    assert "Stage " not in done.stdout and "Traceback" not in done.stdout
    return done.stdout.splitlines()[-1]


TRAIN, VALID = "../../../mine/train", "../../../mine/valid"


@pytest.mark.parametrize(
    "path, name",
    [("{}/.", "train"), ("{}/./", "train"), ("{}/more/..", "train"), ("/.", "/")],
)
def test_a_set_has_a_name_however_its_path_ends(egs2, path, name):
    """Otherwise it would be imported to data/ itself, and replace all sets there."""
    sets = ["--train_set", path.format(TRAIN), "--valid_set", VALID]
    command = ["./birq.sh", *sets, "--train_config", "conf/train_birq.yaml"]
    if name == "/":
        said = refused(egs2 / "own/ssl1", *command)
        assert "--train_set: '/' cannot be the name of a set" in said
        return
    done = run([*command, "--dry_run", "true"], egs2 / "own/ssl1")
    assert "/. -> data/train\n" in done.stdout.replace("more/..", ".")
    folder = egs2 / "own/asr1"
    run(["local/data.sh", "--set", path.format(TRAIN)], folder, check=False)
    assert [x.name for x in (folder / "data").iterdir()] == ["train"]
    (folder / "finetune.sh").unlink()
    (folder / "finetune.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (folder / "finetune.sh").chmod(0o755)
    done = run(["./run.sh", *sets, "--test_sets", VALID], folder)
    given = done.stdout.splitlines()
    assert given[given.index("--train_set") + 1] == name
