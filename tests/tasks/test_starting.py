"""Starts of a training: in a used folder, and with options that cannot be."""

import logging

import pytest
import torch
import yaml
from trainings import BOOK, options, write_data

from espnet2_birq.bin import ssl_train

SMALL = {
    "objectives": [{"name": "anchor", "labeller_conf": BOOK}],
    "teacher_conf": {},
    "num_iters_per_epoch": 2,
    "accum_grad": 1,
    "max_epoch": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folder with data."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture
def train(data, tmp_path):
    """Function that trains in tmp_path/exp."""

    def start(*more, without=(), **changes):
        found = options(data, tmp_path / "exp", **{**SMALL, **changes})
        for name in without:
            place = found.index(name)
            del found[place : place + 2]
        ssl_train.main([*found, *more])

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield start
    root.handlers, root.level = handlers, level


def test_a_folder_with_another_training(tmp_path, train):
    """A later --resume true would have gone on with the old one."""
    train(max_epoch=1)
    exp = tmp_path / "exp"
    before = {path: path.read_bytes() for path in exp.glob("*.*") if path.is_file()}
    words = (
        f"^ssl_train: error: {exp}/checkpoint.pth: there is a training already; "
        "give another output_dir, or --resume true"
    )
    with pytest.raises(SystemExit, match=words):
        train("--resume", "false", seed=7)
    for path, content in before.items():
        if path.suffix != ".jsonl":
            assert path.read_bytes() == content
    train("--resume", "false", "--dry_run", "true")
    (exp / "checkpoint.pth").unlink()
    train("--resume", "false", seed=7)
    assert yaml.safe_load((exp / "config.yaml").read_text())["seed"] == 7


def test_attention_is_plotted_in_bfloat16(tmp_path, train):
    """NumPy and so matplotlib have no bfloat16."""
    train(num_att_plot=1, use_matplotlib=True, model_conf={"cpu_bfloat16": True})
    assert list((tmp_path / "exp" / "att_ws").glob("u*/*.png"))
    assert torch.load(tmp_path / "exp" / "1epoch.pth", weights_only=True)
