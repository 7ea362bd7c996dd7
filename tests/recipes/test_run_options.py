"""Options of the recipes' scripts that are refused before anything is run."""

import os
import shutil
import subprocess

import pytest
from checkout import ROOT, copy_checkout, run


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


@pytest.mark.parametrize("task", ["ssl1", "asr1"])
def test_recipes_have_links_to_the_same_scripts(task):
    """A command that the documentation gives for one recipe then works in all."""
    links = {
        f"{folder}/{path.name}": os.readlink(path)
        for folder in ROOT.glob(f"egs2/*/{task}")
        for path in folder.iterdir()
        if path.is_symlink() and "TEMPLATE" in os.readlink(path)
    }
    recipes = {path.rpartition("/")[0] for path in links}
    names = {path.rpartition("/")[2]: target for path, target in links.items()}
    assert len(recipes) >= 6 and {"utils", "cmd.sh"} < names.keys()
    assert links == {f"{x}/{name}": names[name] for x in recipes for name in names}


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


SETS = "--train_set a --valid_set b"
ASR = "./finetune.sh --asr_tag x --asr_config conf/train_asr.yaml"


@pytest.mark.parametrize(
    "folder, command, words",
    [
        (
            "mini_an4/asr1",
            f"{ASR} --greedy_ctc yes",
            "--greedy_ctc 'yes': give true or",
        ),
        (
            "mini_an4/asr1",
            f"{ASR} --skip-train True",
            "--skip-train 'True': give true or",
        ),
        (
            "yodas/ssl1",
            "./run.sh --dry_run True",
            "--dry_run 'True': give true or false",
        ),
        (
            "own/ssl1",
            "./run.sh --method bestrq",
            "--method bestrq --size small: no conf/train_bestrq.yaml",
        ),
        (
            "mini_synth/asr1",
            "./run.sh --method scratch --dry_run true",
            "--dry_run: only ssl1/run.sh has it; leave it out",
        ),
        ("own/ssl1", "./run.sh --method=best_rq", "give '--method best_rq', without ="),
        ("mini_an4/ssl1", f"./birq.sh {SETS} --stage x", "--stage 'x': give a whole"),
        (
            "mini_an4/ssl1",
            f"./birq.sh {SETS} --stage 4-6",
            "--stage '4-6': give a whole",
        ),
        (
            "mini_an4/ssl1",
            f"./birq.sh {SETS} --nj 0",
            "--nj '0': give a whole number of",
        ),
        (
            "mini_an4/ssl1",
            f"./birq.sh {SETS} --nj 08",
            "--nj '08': give a whole number",
        ),
        ("mini_an4/asr1", f"{ASR} --stage 4-6", "--stage '4-6': give a whole number"),
        (
            "mini_an4/asr1",
            f"{ASR} --nj x",
            "--nj 'x': give a whole number of 1 or more",
        ),
        (
            "mini_synth/asr1",
            "./run.sh --self_train x",
            "--self_train 'x': give a whole",
        ),
        (
            "mini_librispeech/asr1",
            "./decode_ctc.sh --inference_nj x",
            "--inference_nj 'x': gi",
        ),
        ("yodas/ssl1", "./run.sh --stage x", "--stage 'x': give a whole number"),
        ("yodas/ssl1", "./run.sh --stage 10", "--stage 10: there are stages 1 to 9"),
        (
            "mini_an4/ssl1",
            f"./birq.sh {SETS} --stage 7 --stop_stage 6",
            "--stage 7 --stop_stage 6: no stage is between them",
        ),
        (
            "mini_an4/ssl1",
            f"./birq.sh {SETS} --stage 8",
            "--stage 8: packs only with --skip_packing false",
        ),
        (
            "mini_an4/ssl1",
            f"./birq.sh {SETS} --stage 9 --skip_packing false",
            "--stage 9: uploads only with --skip_upload_hf false",
        ),
        ("mini_an4/asr1", f"{ASR} --stage 16", "--stage 16: there are stages 1 to 15"),
        (
            "mini_an4/asr1",
            f"{ASR} --stage 14",
            "--stage 14: packs only with --skip_packing false",
        ),
        (
            "mini_an4/asr1",
            f"{ASR} --stage 15 --skip_packing false",
            "--stage 15: uploads only with --skip_upload_hf false",
        ),
        (
            "mini_an4/asr1",
            f"{ASR} --stage 12 --stop_stage 11",
            "--stage 12 --stop_stage 11: no stage is between them",
        ),
    ],
)
def test_wrong_values(egs2, folder, command, words):
    assert words in refused(egs2 / folder, *command.split())


@pytest.mark.parametrize("corpus", ["mini_librispeech", "ami", "yodas"])
def test_a_method_that_does_not_exist(egs2, corpus):
    """It is found before hours of data preparation."""
    way = "--train_config conf/x.yaml" if corpus == "yodas" else "--method best_qr"
    said = refused(egs2 / corpus / "ssl1", "./run.sh", *way.split())
    assert "--train_config 'conf/" in said and ": no such file; see conf/" in said
    assert not (egs2 / corpus / "ssl1/dump").exists()


@pytest.mark.parametrize("task", ["ssl1", "asr1"])
def test_no_gpu_here(egs2, task, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = f"./birq.sh {SETS} --train_config conf/train_birq.yaml"
    if task == "asr1":
        command = f"{ASR} {SETS} --test_sets c"
    said = refused(egs2 / "mini_an4" / task, *command.split(), "--ngpu", "1")
    assert "--ngpu 1: PyTorch finds 0 GPUs here: give --ngpu 0, which trains" in said
    monkeypatch.setenv("CMD_BACKEND", "slurm")
    done = run([*command.split(), "--ngpu", "1"], egs2 / "own" / task, check=False)
    assert "GPUs here" not in done.stdout


def test_no_gpu_for_yodas(egs2, monkeypatch):
    """Its preparation takes days."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = refused(egs2 / "yodas/ssl1", "./run.sh", "--hub", "yodas")
    assert "--ngpu 1: PyTorch finds 0 GPUs here: give --ngpu 0, which trains" in said


@pytest.mark.parametrize(
    "script", sorted(ROOT.glob("egs2/*/*/run.sh")), ids=lambda x: "-".join(x.parts[-3:])
)
def test_from_another_folder(script, tmp_path):
    done = run([script, "--help"], tmp_path)
    assert "--stage" in done.stdout and "No such" not in done.stdout
    said = refused(tmp_path, script, "--ngpu", "0")
    assert said == f"{script}: error: run it in its folder: cd {script.parent}"


def test_no_number_at_all(egs2):
    """Every stage would be later than an empty last one."""
    said = refused(
        egs2 / "mini_an4/ssl1", *f"./birq.sh {SETS} --stop_stage".split(), ""
    )
    assert "--stop_stage '': give a whole number" in said


@pytest.mark.parametrize(
    "folder, script, options",
    [
        ("librispeech/ssl1", "birq.sh", "--librispeech /c --subset dev:1 --need dev"),
        ("librispeech/asr1", "finetune.sh", "--librispeech /c --skip_bad true"),
        ("mini_librispeech/ssl1", "birq.sh", "--librispeech /c --train a,b"),
        ("mini_librispeech/asr1", "finetune.sh", "--librispeech /c --test_other x"),
        ("ami/ssl1", "birq.sh", "--ami /c --mic sdm1"),
        ("ami/asr1", "finetune.sh", "--ami /c --mic sdm1"),
        ("own/asr1", "finetune.sh", f"--set {TRAIN}"),
    ],
)
def test_options_for_the_data_in_one(egs2, tmp_path, folder, script, options):
    """They are added to those that run.sh has, and it heeds them, too."""
    copy = egs2 / f"{tmp_path.name}" / "x"
    shutil.copytree(egs2 / folder, copy, symlinks=True)
    (copy / script).unlink(missing_ok=True)
    (copy / script).write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (copy / script).chmod(0o755)
    sets = f"--train_set {TRAIN} --valid_set {VALID} --test_sets x"
    command = ["./run.sh", "--method", "scratch", *(sets.split() * ("own" in folder))]
    options = f"--resample true {options}"
    ways = (["--local_data_opts", options], options.split())
    one, each = (run([*command, *given], copy).stdout for given in ways)
    assert one == each and options in one


def test_a_recipe_that_is_reached_by_a_link(tmp_path):
    checkout = tmp_path / "checkout"
    (checkout / "egs2/own/ssl1").mkdir(parents=True)
    shutil.copy(ROOT / "egs2/TEMPLATE/ssl1/path.sh", checkout / "egs2/own/ssl1")
    (checkout / "tools/espnet/egs2").mkdir(parents=True)
    (checkout / "tools/espnet/tools").mkdir()
    (checkout / "tools/espnet/tools/extra_path.sh").touch()
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python3").touch()
    (tmp_path / "link").symlink_to(checkout / "egs2/own/ssl1")
    command = "set -eu; cd link; . ./path.sh; echo ${MAIN_ROOT}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(checkout)], done.stderr
