"""Starts of a training: in a used folder, and with options that cannot be."""

import logging
from pathlib import Path

import pytest
import torch
import yaml
from trainings import BOOK, CONFIG, options, write_data

from espnet2_birq.bin import ssl_train
from espnet2_birq.tasks.checks import check_training
from espnet2_birq.tasks.joint import JointTask
from espnet2_birq.tasks.ssl import SSLTask

CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[2] / "conf").rglob("train_*.yaml"))
    if "asr" not in path.name or "joint" in path.name
]

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
    # As a training leaves it that was killed in its first epoch.
    with pytest.raises(SystemExit, match=f"{exp}/progress.pth: there is a training"):
        train("--resume", "false", seed=7)
    assert (exp / "progress.pth").read_bytes() == before[exp / "progress.pth"]
    (exp / "progress.pth").unlink()
    train("--resume", "false", seed=7)
    assert yaml.safe_load((exp / "config.yaml").read_text())["seed"] == 7


def test_attention_is_plotted_in_bfloat16(tmp_path, train):
    """NumPy and so matplotlib have no bfloat16."""
    train(num_att_plot=1, use_matplotlib=True, model_conf={"cpu_bfloat16": True})
    assert list((tmp_path / "exp" / "att_ws").glob("u*/*.png"))
    assert torch.load(tmp_path / "exp" / "1epoch.pth", weights_only=True)


CATEGORY = {"iterator_type": "category", "valid_iterator_type": "sequence"}
CATEGORY["valid_batch_type"] = "unsorted"
WRONG = [
    ({"optim": "nosuch"}, "unknown optim 'nosuch', use one of "),
    ({"optim_conf": {"lr": 0.1, "foo": 1}}, "optim_conf: not options of adamw .*'foo'"),
    ({"optim_conf": 0.1}, "optim_conf has options, KEY: VALUE, got 0.1"),
    ({"scheduler": "nosuch"}, "unknown scheduler 'nosuch', use one of "),
    ({"scheduler_conf": {"foo": 1}}, "scheduler_conf: not options of warmuplr .*'foo'"),
    ({"scheduler_conf": {"warmup_steps": "9k"}}, "scheduler_conf: not options of warm"),
    ({"batch_type": "nosuch"}, "unknown batch_type 'nosuch', use one of "),
    (
        {"batch_type": "catpow"},
        "batch_type catpow of the train set is for iterator_type",
    ),
    ({"valid_batch_type": "catbel"}, "batch_type catbel of the valid set is for"),
    (
        {"batch_type": "folded"},
        "batch_type folded: give a fold_length for each --train_",
    ),
    (
        {"iterator_type": "category", "batch_type": "catpow"},
        "iterator_type category of the valid set: .*; give valid_iterator_type sequence",
    ),
    *(
        (
            {**CATEGORY, "batch_type": kind},
            f"batch_type {kind} of the train set is for iterator_type sequence: use one of",
        )
        for kind in ("numel", "folded", "unsorted")
    ),
    (
        {**CATEGORY, "batch_type": "catpow", "dataset_scaling_factor": 0.5},
        "dataset_scaling_factor is a number of 1 or more, got 0.5",
    ),
    (
        {"max_batch_size": 2, "min_batch_size": 3},
        "max_batch_size 2 is below min_batch_",
    ),
    ({"allow_multi_rates": True}, "allow_multi_rates: .* the model's .*; leave it out"),
    ({"shuffle_within_batch": True}, "shuffle_within_batch: .*; leave it out"),
    ({"iterator_type": "nosuch"}, "unknown iterator_type 'nosuch'"),
    ({"iterator_type": "none"}, "iterator_type none of the train set: use sequence or"),
    ({"iterator_type": "task"}, "iterator_type task of the train set: use sequence or"),
    ({"valid_iterator_type": "chunk"}, "iterator_type chunk of the valid set"),
    ({"accum_grad": 0}, "accum_grad is a whole number of 1 or more, got 0"),
    ({"accum_grad": None}, "accum_grad is a whole number of 1 or more, got None"),
    ({"batch_size": 0}, "batch_size is a whole number of 1"),
    ({"num_workers": -1}, "num_workers is a whole number of 0"),
    ({"seed": -1}, "seed is a whole number of 0"),
    ({"seed": 2**32}, "seed is a number from 0 to"),
    (
        {"specaug": "specaug", "specaug_conf": {}},
        "specaug_conf: not options of specaug .E",
    ),
    ({"encoder_conf": {"size": 1}}, "encoder_conf: not options of conformer .*'size'"),
    ({"max_epoch": 0}, "max_epoch is a whole number of 1"),
    ({"keep_nbest_models": 0}, "keep_nbest_models is a whole number of 1"),
    ({"keep_nbest_models": [2, 0]}, "keep_nbest_models is a whole number of 1"),
    ({"save_minutes": -1}, "save_minutes is a number of 0 or more, got -1"),
    ({"save_updates": -1}, "save_updates is a whole number of 1"),
    ({"max_skipped_updates": -5}, "max_skipped_updates is a whole number of 1"),
    ({"max_bad_audio": float("nan")}, "max_bad_audio is a number from 0 to 1, got nan"),
    ({"use_adapter": True}, "use_adapter: .* without adapters; leave it out"),
    ({"no_forward_run": True}, "no_forward_run: .*; leave it out"),
    (
        {"best_model_criterion": [["test", "loss", "min"]]},
        "best_model_criterion .'test', 'loss', 'min'.: give train or valid, the name",
    ),
    ({"best_model_criterion": ["loss"]}, "best_model_criterion loss: give train or"),
    (
        {"patience": 2, "early_stopping_criterion": ["valid", "loss", "least"]},
        "early_stopping_criterion .'valid', 'loss', 'least'.: give train or valid",
    ),
    (
        {"freeze_param": ["nosuch"]},
        "freeze_param: the model has no parameters nosuch; ",
    ),
]


@pytest.mark.parametrize("changes, words", WRONG)
def test_options_without_sense(tmp_path, train, changes, words):
    with pytest.raises(SystemExit, match=f"^ssl_train: error: {words}"):
        train(**changes)
    assert not list((tmp_path / "exp").glob("*.pth"))


@pytest.mark.parametrize("kind", ["train", "valid"])
@pytest.mark.parametrize("option", ["shape_file", "data_path_and_name_and_type"])
def test_a_set_that_is_not_given(train, kind, option):
    with pytest.raises(SystemExit, match=f"^ssl_train: error: give --{kind}_{option}"):
        train(without=[f"--{kind}_{option}"])


@pytest.mark.parametrize(
    "places, words",
    [
        (":foo", "the file has no parameters foo; correct FILE:FROM:TO"),
        (":encoder:bar", "does not fit the model .*'bar'"),
        (":encoder.encoders:encoder", "does not fit the model .*Unexpected key"),
        ("", "does not fit the model .*size mismatch"),
    ],
)
def test_parameters_that_do_not_fit(tmp_path, train, places, words):
    train(freeze_param=["encoder.embed"])
    model = tmp_path / "first.pth"
    (tmp_path / "exp").rename(tmp_path / "before")
    model.write_bytes((tmp_path / "before" / "1epoch.pth").read_bytes())
    encoder = {**CONFIG["encoder_conf"], "linear_units": 24}
    with pytest.raises(SystemExit, match=f"error: init_param {model}{places}: {words}"):
        train("--init_param", f"{model}{places}", encoder_conf=encoder)
    train("--init_param", f"{model}:encoder:encoder", seed=7)
    assert (tmp_path / "exp" / "1epoch.pth").exists()


def test_objectives_on_the_command_line(tmp_path, train):
    train("--objectives", "[{name: anchor}]")
    config = yaml.safe_load((tmp_path / "exp" / "config.yaml").read_text())
    assert config["objectives"] == [{"name": "anchor"}]
    with pytest.raises(SystemExit, match="objectives: give a list with at least one"):
        train("--resume", "true", "--objectives", "anchor")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: "/".join(path.parts[-2:]))
def test_our_configurations_pass(config):
    task = JointTask if "joint" in config.name else SSLTask
    args = task.get_parser().parse_args(["--config", str(config), "--dry_run", "true"])
    args.distributed = False  # added by ESPnet
    check_training(task.get_parser(), args, ["speech"])


PLATEAU = {"scheduler": "reducelronplateau", "scheduler_conf": {}}


@pytest.mark.parametrize("phase", ["train", "valid"])
@pytest.mark.parametrize(
    "option, words, more",
    [
        ("best_model_criterion", [["losss", "min"]], {}),
        ("early_stopping_criterion", ["losss", "min"], {"patience": 2}),
        ("val_scheduler_criterion", ["losss"], PLATEAU),
    ],
)
def test_statistics_that_there_are_not(tmp_path, train, phase, option, words, more):
    """Nothing is lost: corrected, the training goes on."""
    triple = [[phase, *words[0]]] if option[0] == "b" else [phase, *words]
    said = f"error: {option}: {phase} has no statistic losss, but e.g. loss, "
    with pytest.raises(SystemExit, match=said):
        train(**{option: triple, **more})
    train(**more)
    state = torch.load(tmp_path / "exp" / "1epoch.pth", weights_only=True)
    assert state["updates"] == 2
    with pytest.raises(SystemExit, match=said):
        train(**{option: triple, **more})
