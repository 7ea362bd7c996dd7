"""Whether a matrix's steps and results are of the present settings and inputs."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from test_matrix import RUN, calls, matrix  # noqa: F401 (a fixture)

from espnet2_birq.errors import DataError
from espnet2_birq.experiments import configs, report
from espnet2_birq.experiments.matrix import run_matrix

# Models differ with their configurations. Training stops after its first checkpoint if the
# recipe has a file "stop", with the exit status of a batch system's signal.
TRAIN = """echo "${ssl_tag}" >> ../log
    [ -e "${exp}/checkpoint" ] || cat "${train_config}" > "${exp}/checkpoint"
    if [ -e ../stop ]; then exit 85; fi
    if [ -e ../fail ]; then exit 1; fi
    cat "${exp}/checkpoint" >"""
PATHS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.fixture
def quick(matrix, monkeypatch):  # noqa: F811
    """Matrix that is run in this process; returns its folder and a function to run it."""
    folder, _ = matrix
    run = folder / "recipe" / "ssl1" / "run.sh"
    run.write_text(RUN.replace("echo model >", TRAIN))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", PATHS)

    def updates(file):
        return float(len(yaml.safe_load(file.read_text())["objectives"]))

    monkeypatch.setattr(configs, "update_flops", updates)
    monkeypatch.setattr(report, "plot_all", lambda *_: [])

    def start(*only, out="out", **options):
        if only:
            options["only"] = only
        run_matrix(Path("matrix.yaml"), Path(out), [0], **options)
        return (Path(out) / "report.md").read_text()

    return folder, start


@pytest.fixture
def edit(quick):
    """Return a function to change the matrix's YAML file."""
    folder, _ = quick

    def change(function):
        file = folder / "matrix.yaml"
        conf = yaml.safe_load(file.read_text())
        function(conf)
        file.write_text(yaml.safe_dump(conf))

    return change


def mask(conf):
    """Change the pretraining of birq."""
    birq = next(one for one in conf["systems"] if one["name"] == "birq")
    birq["pretrain"]["masking_conf"] = dict(mask_prob=0.02)


def test_an_interrupted_branch_starts_anew_if_its_trunk_is_another(quick, edit, capsys):
    folder, start = quick

    def branch(conf):
        conf["systems"] = [conf["systems"][1]]
        conf["systems"].append(dict(name="more", pretrain={}, updates=4, after="birq"))
        del conf["finetune"], conf["compare"]

    edit(branch)
    start("birq")
    stop = folder / "recipe" / "stop"
    stop.touch()
    with pytest.raises(DataError, match="exit status 85"):
        start()
    stop.unlink()
    checkpoint = folder / "out/ssl/ssl_more_seed0/checkpoint"
    checkpoint.write_text("started from the old trunk")
    start("birq")
    assert checkpoint.is_file()  # nothing has changed
    edit(mask)
    capsys.readouterr()
    start()
    output = capsys.readouterr().out
    assert "ssl_more_seed0: " in output and "ave.pth has changed since" in output
    assert "old trunk" not in checkpoint.read_text()
    # Otherwise, an interrupted branch goes on.
    edit(lambda conf: conf["systems"][1].update(updates=8))
    stop.touch()
    with pytest.raises(DataError, match="exit status 85"):
        start()
    stop.unlink()
    checkpoint.write_text("started from this trunk")
    start()
    model = checkpoint.with_name("valid.total_count.ave.pth")
    assert model.read_text() == "started from this trunk"


def test_results_of_other_settings_are_left_out(quick, edit, capsys):
    folder, start = quick
    text = start()
    assert "Left out" not in text
    for row in ("| scratch | 1 |", "| birq | 1 |", "| long | 1 |", "| birq minus"):
        assert row in text
    # Of changed systems, only one is run again.
    base = folder / "recipe" / "ssl1" / "pretrain.yaml"
    conf = yaml.safe_load(base.read_text())
    base.write_text(yaml.safe_dump({**conf, "grad_clip": 3}))
    capsys.readouterr()
    text = start("birq")
    assert "| birq | 1 |" in text and "## Left out" in text
    assert "| scratch" not in text and "| long" not in text
    assert "minus" not in text
    line = "asr_scratch_seed0_1h: was made with other settings"
    error = capsys.readouterr().err
    assert f"- {line}\n" in text and f"warning: {line}; left out" in error
    assert "ssl_long_seed0: was made with other settings" in error
    # A step that fails takes along what was made of its earlier output.
    edit(mask)
    (folder / "recipe" / "fail").touch()
    with pytest.raises(DataError, match="exit status 1"):
        start("birq")
    (folder / "recipe" / "fail").unlink()
    text = (folder / "out" / "report.md").read_text()
    assert "| birq" not in text and "asr_birq_seed0_1h: was made" in text
    text = start("birq")
    assert "| birq | 1 |" in text and "asr_birq" not in text


def test_a_failure_outdates_what_depends_on_inputs(quick, capsys):
    """Unlike a setting, a model that is gone is not in the keys of later steps."""
    folder, start = quick
    start("birq")
    (folder / "out/ssl/ssl_birq_seed0/valid.total_count.ave.pth").unlink()
    (folder / "recipe" / "fail").touch()
    with pytest.raises(DataError, match="exit status 1"):
        start("birq")
    text = (folder / "out" / "report.md").read_text()
    assert "| birq" not in text
    assert "- asr_birq_seed0_1h: was made from an earlier model\n" in text
    assert not (folder / "out/steps/asr_birq_seed0_1h/done.json").exists()
    # The same model again: what was made of it holds.
    (folder / "recipe" / "fail").unlink()
    before = calls(folder)
    assert "| birq | 1 |" in start("birq")
    assert calls(folder)[len(before) :] == ["ssl1 7 birq_seed0"]


def test_a_report_alone_compares_what_is_there(quick, edit):
    folder, start = quick
    text = start("birq", "scratch", data_options="--corpus here")
    before = {
        x: x.stat().st_mtime_ns for x in (folder / "out").rglob("*") if x.is_file()
    }
    only = dict(report_only=True)
    assert start(**only) == text  # without the data options
    assert start(**only, data_options="--corpus here") == text
    assert "| birq" not in start(**only, data_options="--corpus there")
    # On another machine, there are neither data nor models.
    elsewhere = shutil.copytree("out", "elsewhere")
    (folder / "recipe/asr1/dump").rename("dump")
    shutil.move("out", "away")
    for model in Path(elsewhere).glob("ssl/*/*.pth"):
        model.unlink()
    found = start(out=elsewhere, **only)
    assert "| birq | 1 | 20.0" in found and "Left out" not in found
    (folder / "dump").rename("recipe/asr1/dump")
    shutil.move("away", "out")
    # A file that has changed is noticed, and so are other sets.
    file = folder / "recipe/asr1/dump/raw/test/text"
    words = file.read_text()
    file.write_text("t-1 other words\n")
    assert "text has changed since" in start(**only)
    file.write_text(words)
    assert start(**only) == text
    # Settings may have changed since. Nothing is written but the report.
    edit(mask)
    changed = start(**only)
    assert "| birq" not in changed and "| scratch | 1 |" in changed
    assert "- ssl_birq_seed0: was made with other settings\n" in changed
    for file, time in before.items():
        if file.suffix not in (".md", ".png"):
            assert file.stat().st_mtime_ns == time, file


def test_a_branch_of_a_changed_trunk_is_left_out(quick, edit):
    folder, start = quick

    def branch(conf):
        conf["systems"].append(dict(name="more", pretrain={}, updates=4, after="birq"))

    edit(branch)
    assert "| more | 1 |" in start("more")
    edit(mask)
    text = start(report_only=True)
    assert "| more" not in text
    words = "ssl_more_seed0: was made from ssl_birq_seed0, which is not finished or not"
    assert words in text


def test_keys_are_those_of_earlier_versions(quick):
    """With other content, all results that exist would be made again."""
    folder, start = quick
    start("birq", data_options="--corpus here")
    steps = folder / "out" / "steps"
    config = (folder / "out/config/birq_seed0.yaml").read_text()
    base = (folder / "recipe/ssl1/pretrain.yaml").read_text()
    options, recipe = ["--corpus", "here"], str(folder / "recipe")
    run = [options, ["--ngpu", "0"], recipe]
    hours = {"1h": 1, "rest": 1}
    for name, key in {
        "data_ssl": [*run, base],
        "data_asr": run,
        "data_1h": [*run, hours],
        "stats_rest": [*run, hours],
        "ssl_birq_seed0": [options, config],
        "asr_birq_seed0_rest": [options, config, "rest", 1, "{}"],
    }.items():
        assert (steps / name / "key.json").read_text() == json.dumps(key), name
