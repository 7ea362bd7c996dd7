"""Configurations and FLOPs of a folder that two matrices share."""

import json
import threading
from pathlib import Path

import pytest
import yaml

from espnet2_birq.bin import matrix
from espnet2_birq.datadir.locking import locked
from espnet2_birq.experiments import configs
from espnet2_birq.experiments.runner import Runner
from espnet2_birq.experiments.spec import read_spec, updates_of

ROOT = Path(__file__).resolve().parents[2]


def test_two_matrices_write_one_folder_in_turn(tmp_path, monkeypatch):
    """The second waits, and keeps the counts of the first."""
    monkeypatch.setattr(configs, "update_flops", lambda path: len(path.name))
    spec = read_spec(ROOT / "bench" / "matrix.yaml")
    mine = configs.Configs(spec, tmp_path)
    writing = threading.Thread(target=mine.write, args=([0],))
    with locked(tmp_path / "config" / ".lock"):
        writing.start()
        writing.join(1)
        assert writing.is_alive()
        assert [x.name for x in (tmp_path / "config").iterdir()] == [".lock"]
        counts = tmp_path / "config" / "flops.json"
        counts.write_text(json.dumps({"of another matrix": 1.0}))
    writing.join()
    kept = json.loads(counts.read_text())
    assert kept.pop("of another matrix") == 1.0
    assert set(kept) == {x.name for x in spec.systems}
    assert not list(tmp_path.rglob("*.part"))


def test_equal_compute_of_an_objective_that_starts_late(tmp_path, monkeypatch):
    """The cost is that of the updates found, not of those that the file has."""

    def count(path):
        conf = yaml.safe_load(path.read_text())
        updates = updates_of(conf)
        late = any(one.get("when") for one in conf["objectives"])
        return 1 + max(0, updates - 600) / updates * late

    monkeypatch.setattr(configs, "update_flops", count)
    spec = read_spec(ROOT / "bench" / "matrix.yaml")
    system = spec.system("birq_equal_compute")
    system.pretrain["objectives"][1]["when"] = {"start": 600}
    mine = configs.Configs(spec, tmp_path)
    # Of BEST-RQ's 1200, 600 and half of the others, each of twice the cost; in epochs
    updates = updates_of(mine.pretraining(system))
    assert updates * mine.flops(system) == pytest.approx(1200, abs=200)
    mine.write([0])
    again = configs.Configs(spec, tmp_path)
    assert again.flops(system) == mine.flops(system) == 1 + (updates - 600) / updates


@pytest.mark.parametrize("changes", [{}, {"max_epoch": 1}])
@pytest.mark.parametrize("content, words", [("", "has no tr"), ("a: [", "no YAML")])
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_files_without_options(tmp_path, monkeypatch, kind, content, words, changes):
    """They are refused before the first training."""
    monkeypatch.setattr(configs, "update_flops", lambda path: 1.0)
    files = {"pretrain": "ssl1", "finetune": "asr1"}
    for name, folder in files.items():
        path = tmp_path / folder / f"{name}.yaml"
        path.parent.mkdir()
        path.write_text(content if name == kind else "max_epoch: 2")
    spec = dict(recipe=".", pretrain="pretrain.yaml", tests=["test"])
    spec["systems"] = [dict(name="a", pretrain=changes, finetune=changes or None)]
    spec["finetune"] = dict(config="finetune.yaml", sets={"all": None})
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(spec))
    command = [f"{tmp_path}/matrix.yaml", "--out", f"{tmp_path}/out"]
    with pytest.raises(SystemExit, match=f"^error: .*{kind}.yaml: {words}.*correct it"):
        matrix.main(command)
    assert not (tmp_path / "out" / "steps").exists()


def test_a_probe_of_halves_has_no_training_set(tmp_path):
    spec = read_spec(ROOT / "bench" / "relatives.yaml")
    runner = Runner(spec, tmp_path)
    step = runner.probe(spec.system("untrained"), 0)
    ((_, words),) = step.commands
    config = runner.configs.file(spec.system("untrained"), 0)
    assert words[words.index("--model") + 1] == config
    assert "--halves" in words and "--train" not in words
    assert {x.parent.name for x in step.lists()} == {"test_other"}
    other = read_spec(ROOT / "bench" / "matrix.yaml")
    step = Runner(other, tmp_path).probe(other.systems[0], 0)
    ((_, words),) = step.commands
    assert words[words.index("--train") + 1].name == "train"
    assert {x.parent.name for x in step.lists()} >= {"train", *other.tests}
