"""Configurations and FLOPs of a folder that two matrices share."""

import json
import threading
from pathlib import Path

from espnet2_birq.datadir.locking import locked
from espnet2_birq.experiments import configs
from espnet2_birq.experiments.runner import Runner
from espnet2_birq.experiments.spec import read_spec

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
