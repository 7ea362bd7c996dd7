"""Whether a matrix's steps and results are of the present settings and inputs."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from test_matrix import RUN, calls, matrix  # noqa: F401 (a fixture)

from espnet2_birq.bin import matrix as command
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.experiments import configs, report
from espnet2_birq.experiments.matrix import run_matrix
from espnet2_birq.experiments.runner import Runner
from espnet2_birq.experiments.spec import read_spec
from espnet2_birq.experiments.steps import Record, lacking

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


def test_missing_results_are_made_from_the_trained_model(quick):
    """Without a new training, unless the settings have changed, too."""
    folder, start = quick
    text = start("birq")
    tuned = folder / "out/asr/asr_birq_seed0_1h"
    (tuned / "checkpoint.pth").touch()
    shutil.rmtree(tuned / "decode")
    before = calls(folder)
    assert start("birq") == text
    assert calls(folder)[len(before) :] == ["asr1 11 birq_seed0_1h"]
    assert (tuned / "checkpoint.pth").exists()
    shutil.rmtree(tuned / "decode")
    (folder / "recipe/asr1/finetune.yaml").write_text("{grad_clip: 3}")
    start("birq")
    assert not (tuned / "checkpoint.pth").exists()


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
    assert found == text  # with the pretraining, of which train.log is there
    for log in Path(elsewhere).glob("ssl/*/train.log"):
        log.unlink()
    found = start(out=elsewhere, **only)
    assert "| birq | 1 | 20.0" in found and "## Pretraining" not in found
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


def test_other_test_sets_need_no_other_training(quick, edit):
    """Models that are there decode another set; one that is left out is only that."""
    folder, start = quick
    first = start("birq")
    before = calls(folder)
    edit(lambda conf: conf.update(tests=["test", "more"]))
    (folder / "recipe" / "tests").write_text("test more")
    text = start("birq")
    assert "| birq | 1 | 20.0" in text and text.count("| birq |") > first.count(
        "| birq |"
    )
    since = calls(folder)[len(before) :]
    assert [x for x in since if "birq" in x] == [
        "asr1 11 birq_seed0_1h",
        "asr1 11 birq_seed0_rest",
    ]
    edit(lambda conf: conf.update(tests=["more"]))
    assert "| birq | 1 | 20.0" in start("birq")
    assert start("birq", report_only=True) == start("birq")
    assert not [x for x in calls(folder)[len(before + since) :] if "birq" in x]
    tuned = (folder / "recipe" / "tuned").read_text().split()
    assert tuned == ["birq_seed0_1h", "birq_seed0_rest"]


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


def test_files_that_settings_name_are_inputs(quick, edit):
    folder, start = quick
    teacher = folder / "recipe/ssl1/teacher.pth"
    teacher.write_text("a model")
    speech = folder / "recipe/ssl1/wav.scp"
    speech.write_text("u u.flac\n")
    shapes = folder / "out/lengths"
    shapes.parent.mkdir()
    shapes.write_text("u 16000\n")

    def name_files(conf):
        conf["systems"][1]["pretrain"]["init_param"] = ["teacher.pth:encoder:encoder"]
        unlabelled = dict(
            unlabelled_data_path_and_name_and_type=[["../ssl1/wav.scp", "x", "sound"]],
            unlabelled_shape_file=["{out}/lengths"],
        )
        conf["systems"][0]["finetune"] = unlabelled

    edit(name_files)
    start("scratch", "birq")
    before = calls(folder)

    def repeated():
        known = len(before)
        before.extend(calls(folder)[known:])
        return before[known:]

    start("scratch", "birq")
    assert repeated() == []
    for file in (speech, shapes):
        file.write_text("u u.flac 2\n")
        assert "| scratch | 1 |" not in start(report_only=True)
        start("scratch", "birq")
        assert repeated() == ["asr1 11 scratch_seed0_1h", "asr1 11 scratch_seed0_rest"]
    teacher.write_text("another model")
    start("scratch", "birq")
    assert repeated() == ["ssl1 7 birq_seed0"]  # from which the same model results
    # Earlier versions have recorded none.
    for stamp in (folder / "out" / "steps").glob("*/named_files.made_from.json"):
        stamp.unlink()
    teacher.unlink()
    start("scratch", "birq")
    assert repeated() == []


def test_phones_depend_on_alignments_and_lists(quick):
    folder, _ = quick
    (folder / "speech").mkdir()
    (folder / "grids" / "a").mkdir(parents=True)
    files = [folder / "phones.ctm", folder / "speech" / "wav.scp"]
    files.append(folder / "grids" / "a" / "u.TextGrid")
    for file in files:
        file.write_text("before")
    options = "--data speech --alignment phones.ctm --other=grids --layers 0 1"
    spec = read_spec(folder / "matrix.yaml")

    def record(options):
        out = folder / "out"
        runner = Runner(spec, out, phones=options, report_only=not options)
        step = runner.phone_probe(spec.systems[0], 0)
        runner.phones_file(spec.systems[0], 0).parent.mkdir(parents=True, exist_ok=True)
        runner.phones_file(spec.systems[0], 0).write_text("{}")
        return Record(out.resolve(), step)

    record(options).start()
    record(options).finish(1)
    assert record(options).why_redo() is None and record("").why_outdated() is None
    for file in files:
        file.write_text("after")
        reasons = record(options).why_redo(), record("").why_outdated()
        assert all(f"{file} has changed" in reason for reason in reasons)
        file.write_text("before")
    (folder / "grids" / "v.TextGrid").write_text("another")
    assert "was not made from" in record(options).why_redo()


def test_an_output_folder_whose_name_looks_like_a_pattern(quick):
    folder, _ = quick
    out = folder / "out[1]"
    runner = Runner(read_spec(folder / "matrix.yaml"), out)
    system, (one, *_) = runner.spec.systems[1], runner.spec.finetune_sets
    steps = [runner.pretraining(system, 0), runner.finetuning(system, 0, one)]
    made = runner.asr_exp(system, 0, one.name) / "decode/test/score_wer/hyp.trn"
    for step, file in zip(steps, (runner.model(system.name, 0), made), strict=True):
        assert lacking(step.makes) is not None
        file.parent.mkdir(parents=True)
        file.touch()
        assert lacking(step.makes) is None


def options_of(folder, **options):
    runner = Runner(read_spec(folder / "matrix.yaml"), folder / "out", **options)
    system = runner.spec.systems[1]
    words = [str(x) for x in runner.pretraining(system, 0).commands[0][1]]
    last = {a: b for a, b in zip(words, words[1:], strict=False) if a.startswith("--")}
    return {
        key: last[key] for key in ("--ngpu", "--num_threads", "--nj") if key in last
    }


def test_run_options_add_to_the_default_and_override_it(quick):
    folder, _ = quick
    cpu = {"--ngpu": "0", "--num_threads": "1"}
    assert options_of(folder) == cpu
    assert options_of(folder, run_options="--nj 4") == {**cpu, "--nj": "4"}
    given = "--ngpu 0 --num_threads 2"
    assert options_of(folder, run_options=given)["--num_threads"] == "2"
    gpu = {"--ngpu": "1", "--nj": "4"}
    assert options_of(folder, run_options="--nj 4", gpus=["0"]) == gpu
    assert options_of(folder, run_options="--ngpu 2", gpus=["0"]) == {"--ngpu": "2"}


def test_options_that_would_not_be_noticed_or_used_are_refused(quick):
    folder, start = quick
    for option in ("ssl_args", "asr_args", "train_config", "asr-config"):
        with pytest.raises(
            ConfigError, match=f"--run_options: --{option} changes .*YAML"
        ):
            start(run_options=f"--nj 2 --{option} '--max_epoch 3'")
    for option in ("stage", "stop-stage", "skip_train"):
        with pytest.raises(ConfigError, match=f"--{option}: .*leave it out"):
            start(run_options=f"--nj 2 --{option} 7")
    for option in ("data_options", "run_options", "phones"):
        with pytest.raises(ConfigError, match=f"--{option}: --nj '2: No closing quot"):
            start(**{option: "--nj '2"})
    line = ["matrix.yaml", "--out", "out", "--gpus", "0", "--jobs", "2"]
    with pytest.raises(SystemExit, match="^error: --jobs: .*leave out --jobs$"):
        command.main(line)
