"""The model card, and its instructions for use."""

import re

import pytest
import yaml
from planted import OBJECTIVES, write_experiment

from espnet2_birq.bin import model_card
from espnet2_birq.tasks.ssl import SSLTask

VALUES = "loss_anchor={0}, acc_anchor=0.25, label_ppl_anchor=9.1, pred_ppl_anchor=2.5, "
VALUES += "loss={0}, optim0_lr0=1.000e-03, total_count={1}"
LOG = "[h] 2026-11-21 05:{:02}:00,000 (trainer:392) INFO: {}epoch results: "
LOG += "[train] {}, [valid] {}\n"


@pytest.fixture
def model(tmp_path):
    """Model in a recipe's folder with lists of lengths."""
    folder = tmp_path / "exp" / "ssl_birq"
    path = write_experiment(folder, SSLTask, objectives=OBJECTIVES)
    conf = yaml.safe_load((folder / "config.yaml").read_text())
    for kind, samples in (("train", 16000 * 3600), ("valid", 16000 * 360)):
        shapes = tmp_path / "exp" / f"{kind}_shape"
        shapes.write_text(f"u1 {samples}\nu2 {samples}\n")
        conf[f"{kind}_shape_file"] = [f"exp/{kind}_shape"]
        scp = f"/secret/dump/raw/{kind}_set/wav.scp"
        conf[f"{kind}_data_path_and_name_and_type"] = [[scp, "speech", "sound"]]
    conf["config"] = "/secret/conf/train_birq.yaml"
    (folder / "config.yaml").write_text(yaml.safe_dump(conf))
    log = [
        LOG.format(n, n, VALUES.format(9 - n, 100 * n), VALUES.format(8 - n, 4 * n))
        for n in (1, 2)
    ]
    (folder / "train.log").write_text("".join(log))
    return path


def test_card(model, tmp_path):
    out = tmp_path / "README.md"
    options = ["--license", "cc-by-4.0", "--repository", "me/birq", "--out", str(out)]
    model_card.main([str(model), *options])
    text = out.read_text()
    _, meta, body = text.split("---\n", 2)
    assert yaml.safe_load(meta)["license"] == "cc-by-4.0"
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", body, re.MULTILINE))
    assert rows["training data"] == "train_set: 2 utterances, 2.0 hours"
    assert rows["validation data"] == "valid_set: 2 utterances, 0.2 hours"
    assert rows["encoder"].startswith("conformer, 2 layers of 16 dimensions, 0.0 M")
    assert rows["updates"] == "200, in 2 epochs and 1 min"
    assert rows["configuration"] == "train_birq.yaml"
    assert rows["highest learning rate"].startswith("0.001 (")
    assert "| anchor, training | 7 | 0.25 | 9.1 | 2.5 |" in body
    assert "| anchor, validation | 6 | 0.25 | 9.1 | 2.5 |" in body
    assert 'load("me/birq")' in body and "secret" not in text
    assert str(tmp_path) not in text
    (objectives,) = re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)
    assert yaml.safe_load(objectives) == OBJECTIVES


def test_an_objective_that_stopped_before_the_last_epoch(model, tmp_path):
    file = model.parent / "train.log"
    first, second = file.read_text().splitlines(keepends=True)
    file.write_text(first + second.replace("_anchor", "_units"))
    out = tmp_path / "README.md"
    model_card.main([str(model), "--out", str(out)])
    body = out.read_text()
    assert "| anchor, training, until epoch 1 | 8 | 0.25 | 9.1 | 2.5 |" in body
    assert "| anchor, validation, until epoch 1 | 7 | 0.25 | 9.1 | 2.5 |" in body
    assert "| units, training | 7 |" in body and "| units, validation | 6 |" in body


def test_cards_that_cannot_be(model, tmp_path):
    command = [str(model), "--out", str(tmp_path / "README.md")]
    model_card.main(command)
    text = (tmp_path / "README.md").read_text()
    assert "| licence | not given |" in text and "license:" not in text
    model_card.main([str(model.parent), *command[1:]])  # by its folder
    assert (tmp_path / "README.md").read_text() == text
    (model.parent / "train.log").unlink()
    with pytest.raises(
        SystemExit, match="model_card: error: .*train.log: no such file"
    ):
        model_card.main(command)
    model.write_bytes(b"")
    with pytest.raises(SystemExit, match="model.pth: is empty"):
        model_card.main(command)
