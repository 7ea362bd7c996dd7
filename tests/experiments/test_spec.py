"""Reading of a matrix's YAML, and rejected input."""

from pathlib import Path

import pytest
import yaml

from espnet2_birq.errors import ConfigError
from espnet2_birq.experiments.spec import (
    merge,
    read_spec,
    updates_of,
    with_trunks,
    with_updates,
)
from espnet2_birq.pretraining.heads import Heads
from espnet2_birq.pretraining.objective import build_objective, parse_objectives
from espnet2_birq.pretraining.schedule import Schedule

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "file",
    [
        "matrix.yaml",
        "objectives.yaml",
        "evidence_best_rq.yaml",
        "evidence_branches.yaml",
        "relatives.yaml",
        "joint.yaml",
    ],
)
def test_matrices_of_the_project_are_sound(file):
    spec = read_spec(ROOT / "bench" / file)
    for system in (x for x in spec.systems if x.pretrain is not None):
        conf = merge(yaml.safe_load(spec.pretrain.read_text()), system.pretrain)
        blocks = conf["encoder_conf"]["num_blocks"]
        rows = parse_objectives(conf["objectives"], blocks)
        Heads(8, [build_objective(row, 8) for row in rows])


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(sytems=[]), "unknown key 'sytems'"),
        (dict(systems=[dict(name="a")]), "'pretrain' is missing"),
        (
            dict(systems=[dict(name="a", pretrain=None), dict(name="a", pretrain={})]),
            "two systems are called 'a'",
        ),
        (
            dict(systems=[dict(name="a", pretrain={}, compute_of="b")]),
            "no system 'b'",
        ),
        (dict(compare=[["best_rq", "nobody"]]), "are not two systems"),
        (
            dict(systems=[dict(name="a", pretrain={}, after="b")]),
            "'a': after needs two systems with pretraining, 'b' above it",
        ),
        (
            dict(finetune=dict(config="c", sets=dict(a=dict(hour=1)))),
            "unknown key 'hour'",
        ),
        (dict(finetune=dict(config="c")), "finetune: no sets, so nothing would be"),
        (dict(pretrain="conf/none.yaml"), "conf/none.yaml: no such file"),
        (dict(probe="--lr '1"), "probe: --lr '1: No closing quotation; correct it"),
        (dict(systems=[]), "key 'systems' is empty"),
        (dict(tests=[]), "key 'tests' is empty"),
        (dict(tests=[["x"]]), "tests: .'x'. is not the name of a set"),
        (dict(tests=[None]), "tests: None is not the name of a set"),
        (
            dict(
                finetune=dict(
                    config="conf/train_asr.yaml", sets=dict(b=dict(rest_of="c"))
                )
            ),
            "'b' is the rest of no set",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message) as error:
        changed(tmp_path, **change)
    assert str(tmp_path / "matrix.yaml") in str(error.value)


@pytest.mark.parametrize(
    "sets, message",
    [
        ({"a/b": None}, "'a/b' has other characters than letters"),
        ({"1 h": dict(hours=1)}, "'1 h' has other characters than letters"),
        ({"asr": dict(hours=1)}, "'asr' is the name of a step that prepares data"),
        ({"ssl": None}, "'ssl' is the name of a step that prepares data"),
        (
            {"a": dict(hours=1), "b": dict(rest_of="a", hours=3)},
            "'b' has hours and is the rest of 'a'; leave out one of them",
        ),
        ({"a": dict(rest_of="a", hours=1)}, "'a' has hours and is the rest of 'a'"),
        ({"a": dict(rest_of="a")}, "'a' is the rest of no set"),
        (
            {"a": dict(hours=1), "b": dict(rest_of="a"), "c": dict(rest_of="a")},
            "'b' is not the only rest of 'a'; leave out the others",
        ),
        ({"a": dict(hours=-1)}, "'a' has -1 hours; give a number above 0"),
        ({"a": dict(hours=float("nan"))}, "'a' has nan hours"),
        ({"a": dict(hours=True)}, "'hours' cannot be 'True'"),
    ],
)
def test_fine_tuning_sets_that_cannot_be(tmp_path, sets, message):
    with pytest.raises(ConfigError, match=f"matrix.yaml: .*{message}"):
        changed(tmp_path, finetune=dict(config="conf/train_asr.yaml", sets=sets))


@pytest.mark.parametrize(
    "system, message",
    [
        (dict(name="a/../b"), "system 'a/../b': names have letters, digits, _ and -"),
        (dict(name="a b"), "system 'a b': names have"),
        (dict(name=""), "system '': names have"),
        (dict(name="a", label=None), "'label' cannot be 'None'"),
        (dict(name="a", updates=True), "'updates' cannot be 'True'"),
        (dict(name="a", updates=-5), "'a' has -5 updates; give 1 or more"),
        (dict(name="a", pretrain=False), "'a': pretrain is a dictionary or null"),
    ],
)
def test_systems_that_cannot_be(tmp_path, system, message):
    with pytest.raises(ConfigError, match=message):
        changed(tmp_path, compare=[], systems=[{"pretrain": {}, **system}])


@pytest.mark.parametrize("name", ["a_finetune", "a_seed1"])
def test_systems_whose_configurations_would_be_one_file(tmp_path, name):
    systems = [dict(name=x, pretrain={}) for x in ("a", name)]
    with pytest.raises(ConfigError, match=f"'{name}': files of 'a' have this name"):
        changed(tmp_path, compare=[], systems=systems)
    assert changed(tmp_path, compare=[], systems=systems[1:]).names == [name]


def test_a_trunk_may_have_no_changes(tmp_path):
    systems = [dict(name="a", pretrain={}), dict(name="b", pretrain={}, after="a")]
    spec = changed(tmp_path, compare=[], systems=systems)
    assert spec.system("b").after == "a"


def test_systems_are_run_after_their_trunks(tmp_path):
    names = [("a", None), ("b", "a"), ("other", "a"), ("c", "b")]
    systems = [{"name": one, "pretrain": {}, "after": after} for one, after in names]
    spec = changed(tmp_path, systems=systems, compare=[])
    assert [one.name for one in with_trunks(spec, ["c"])] == ["a", "b", "c"]
    with pytest.raises(ConfigError, match="no system 'd' in the matrix"):
        with_trunks(spec, ["d"])


def changed(folder, **change):
    """Read the project's matrix with some keys changed."""
    conf = yaml.safe_load((ROOT / "bench" / "matrix.yaml").read_text())
    conf.update(recipe=str(ROOT / "egs2" / "mini_librispeech"), **change)
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(conf))
    return read_spec(path)


def test_systems_and_hours_by_name():
    spec = read_spec(ROOT / "bench" / "matrix.yaml")
    assert [spec.system(name).name for name in spec.names] == spec.names
    with pytest.raises(ConfigError, match="no system 'hubert'.*best_rq"):
        spec.system("hubert")
    assert [spec.hours_of(one) for one in spec.finetune_sets] == [1, 1]


def test_updates_are_whole_epochs_and_the_schedule_ends_with_them():
    conf = dict(num_iters_per_epoch=100, max_epoch=1, scheduler_conf=dict(a=1))
    changed = with_updates(conf, 300, "x")
    assert changed["max_epoch"] == 3 and changed["scheduler_conf"] == dict(a=1)
    assert updates_of(changed) == 300
    for key in ("total_steps", "max_steps"):
        conf["scheduler_conf"] = {"a": 1, key: 100}
        changed = with_updates(conf, 300, "x")
        assert changed["scheduler_conf"] == {"a": 1, key: 300}
    for wrong in (0, 250):
        with pytest.raises(ConfigError, match=f"{wrong} updates"):
            with_updates(conf, wrong, "x")
    with pytest.raises(ConfigError, match="num_iters_per_epoch"):
        with_updates({}, 100, "x")


def test_updates_are_not_batches():
    """accum_grad batches make an update, in both directions of the conversion."""
    conf = dict(num_iters_per_epoch=100, max_epoch=10, accum_grad=2)
    assert updates_of(conf) == 500
    assert with_updates(conf, updates_of(conf), "x")["max_epoch"] == 10
    with pytest.raises(ConfigError, match="no multiple of accum_grad 3"):
        updates_of({**conf, "accum_grad": 3})
    with pytest.raises(ConfigError, match="max_epoch, which is missing"):
        updates_of({"num_iters_per_epoch": 100})
    for key in ("accum_grad", "num_iters_per_epoch", "max_epoch"):
        for value in (0, "2", 1.5):
            with pytest.raises(ConfigError, match=f"{key} is a number of 1 or more"):
                updates_of({**conf, key: value})
    # A constant learning rate may be written without options.
    same = {**conf, "scheduler_conf": None}
    assert with_updates(same, 500, "x") == same


def test_joint_training_is_compared_at_equal_updates_and_at_equal_losses():
    """The schedules have the numbers stated at the head of the matrix."""
    spec = read_spec(ROOT / "bench" / "joint.yaml")
    base = yaml.safe_load(spec.finetune_config.read_text())
    confs = {x.name: merge(base, x.finetune or {}) for x in spec.systems}
    tuned = {
        name: conf["max_epoch"] * conf["num_iters_per_epoch"]
        for name, conf in confs.items()
    }
    for name, conf in confs.items():
        assert conf["scheduler_conf"]["total_steps"] == tuned[name]
    pretrained = {x.name: x.updates or 0 for x in spec.systems}
    total = tuned["joint"]
    assert pretrained["turns"] + tuned["turns"] == total == tuned["scratch"]
    for name in ("joint", "joint_barrier"):
        schedules = [
            Schedule(confs[name][key]) for key in ("penalty", "supervised_weight")
        ]
        made = [sum(x.at(update) > 0 for update in range(total)) for x in schedules]
        assert made == [pretrained["turns_losses"], tuned["turns_losses"]]
    pretraining = yaml.safe_load(spec.pretrain.read_text())
    assert confs["joint"]["masking_conf"] == pretraining["masking_conf"]
    assert confs["joint"]["objectives"] == pretraining["objectives"]
