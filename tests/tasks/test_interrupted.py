"""An interrupted training is resumed as if nothing had happened."""

import os
import random
import re
import shutil
import signal
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from espnet2.bin.split_scps import main as split_scps
from espnet2.train.reporter import Reporter
from trainings import CONFIG, Training, difference, write_data

from espnet2_birq.tasks import saving, stopping
from espnet2_birq.tasks.saving import (
    PROGRESS,
    Parts,
    Position,
    Saver,
    reporter_state,
    restore_reporter,
)

BEST = [".".join(criterion[:2]) for criterion in CONFIG["best_model_criterion"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with data, and an uninterrupted training in `whole`."""
    top = tmp_path_factory.mktemp("interrupted")
    write_data(top)
    training = Training(top, top / "whole")
    assert training.run() == 0, training.text()[-2000:]
    assert "objective 'late' begins at update" in training.text()
    return top


def state_of(path):
    return torch.load(path, weights_only=True)


def test_other_noise_makes_another_model(folder):
    """The comparisons below can fail."""
    training = Training(folder, folder / "other", seed=1)
    assert training.run() == 0
    assert difference(folder / "whole", folder / "other")


def kill_at(training, updates, seconds=0.0, saving=("--save_updates", "1")):
    """Start training, and kill it some seconds after saving the state of an update.

    Without seconds, it waits for that: trainings are quick, and machines may be busy.
    """
    training.start(*saving, pause=None if seconds else updates)
    path = training.out / PROGRESS
    for _ in range(20000):
        if path.exists() and state_of(path)["model"]["updates"] >= updates:
            break
        assert training.process.is_alive(), training.text()[-2000:]
        time.sleep(0.01)
    time.sleep(seconds)
    training.process.kill()
    assert training.wait() == -signal.SIGKILL, training.text()[-2000:]


def test_two_kills(folder):
    """Inside the first epoch, before any checkpoint, and inside the second."""
    training = Training(folder, folder / "killed")
    kill_at(training, 3)
    kill_at(training, 12 + 4)
    assert not (training.out / "2epoch.pth").exists()
    assert training.run() == 0
    assert "Resuming in epoch 1 after batch" in training.text()
    assert "Resuming in epoch 2 after batch" in training.text()
    assert difference(folder / "whole", training.out) is None


def test_a_kill_with_split_lists(folder):
    """In the second part of an epoch's lists (--num_splits_ssl)."""
    parts = folder / "parts"
    scps = ["--scps", str(folder / "wav.scp"), str(folder / "shape")]
    split_scps([*scps, "--num_splits", "2", "--output_dir", str(parts)])
    split = {
        "multiple_iterator": True,
        "num_iters_per_epoch": None,
        "batch_size": 1,
        "train_shape_file": [str(parts / "shape")],
        "train_data_path_and_name_and_type": [[f"{parts}/wav.scp", "speech", "sound"]],
    }
    experiments = []
    for name in ("whole_split", "killed_split"):
        training = Training(folder, folder / name, **split)
        place = training.found.index("--train_shape_file")
        del training.found[place : place + 4]
        experiments.append(training)
    whole, killed = experiments
    assert whole.run() == 0, whole.text()[-2000:]
    kill_at(killed, 7)  # of four updates an epoch, two of them in either part
    assert (killed.out / "1epoch.pth").exists()
    assert killed.run() == 0, killed.text()[-2000:]
    assert "Resuming in epoch 2 after batch 6" in killed.text()
    assert difference(whole.out, killed.out) is None


def test_a_second_training_in_the_same_folder(folder):
    """They would overwrite each other's states. A killed one does not stay in the way."""
    one, other = (Training(folder, folder / "twice", max_epoch=1) for _ in range(2))
    one.start("--save_updates", "1", pause=1)
    one.until("1/1epoch started")
    while not (one.out / "progress.pth").exists():
        time.sleep(0.1)
    assert other.run() == 1
    assert "twice: another training is at work in this folder" in other.text()
    one.process.kill()
    one.process.join()
    assert other.run() == 0


def test_minutes_between_states(folder):
    """The default interval is longer than this training."""
    training = Training(folder, folder / "rarely").start("--log_interval", "2")
    training.until("1epoch:train:7-8batch")
    training.process.kill()
    assert training.wait() == -signal.SIGKILL
    assert not (training.out / PROGRESS).exists()
    training = Training(folder, folder / "minutes")
    kill_at(training, 2, saving=("--save_minutes", "0.0005"))  # 30 ms
    assert training.run("--save_minutes", "0.0005") == 0
    assert "Resuming in epoch 1 after batch" in training.text()
    assert difference(folder / "whole", training.out) is None


@pytest.mark.slow
def test_twenty_kills_at_any_time(folder):
    """Kills hit any of 36 updates, while reading data, saving, validating, ..."""
    generator = random.Random(0)
    training = Training(folder, folder / "often")
    for updates in sorted(generator.choices(range(32), k=20)):
        kill_at(training, updates, generator.uniform(0.0, 0.4))
    assert training.run() == 0
    assert difference(folder / "whole", training.out) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_to_all_processes_saves(folder, number, workers):
    name = f"{number.name}_{workers}"
    training = Training(folder, folder / name, num_workers=workers)
    training.start("--log_interval", "2").until("1epoch:train:3-4batch")
    os.killpg(training.process.pid, number)
    assert training.wait() == 85
    assert f"Stopped by {number.name}; the same command resumes" in training.text()
    assert "Traceback" not in training.text()
    assert state_of(training.out / PROGRESS)["batches"] % CONFIG["accum_grad"] == 0
    assert not (training.out / "1epoch.pth").exists()
    assert training.run() == 0
    assert difference(folder / "whole", training.out) is None


def test_ctrl_c_again_does_not_wait(monkeypatch):
    monkeypatch.setattr(stopping, "_received", [])  # it outlives the context
    with stopping.listening():
        for _ in range(2):  # by the terminal, and passed on by the launching process
            signal.raise_signal(signal.SIGINT)
        assert stopping.stop_request() == "SIGINT"
        monkeypatch.setattr(stopping, "REPEATED", 0.0)
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGINT)
    assert end.value.code == 130


def test_a_signal_during_validation(folder):
    training = Training(folder, folder / "validation").start()
    for _ in range(20000):
        path = training.out / PROGRESS
        if path.exists() and state_of(path)["finished"]:
            break
        time.sleep(0.005)
    os.kill(training.process.pid, signal.SIGUSR1)
    assert training.wait() == 85
    assert training.run() == 0
    assert difference(folder / "whole", training.out) is None


@pytest.fixture(scope="module")
def validating(folder):
    """Folder of a training that was killed during its first validation."""
    out = folder / "validating"
    assert Training(folder, out, max_epoch=1).run() == 0
    shutil.copy(out / "1epoch.pth", folder / "expected.pth")
    for path in out.glob("*.pth"):
        if path.name != PROGRESS:
            path.unlink()
    assert state_of(out / PROGRESS)["finished"]
    return out


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"batch_size": 4}, "batch_size (2 -> 4)"),
        ({"accum_grad": 3}, "accum_grad (2 -> 3)"),
        ({"seed": 7}, "seed (0 -> 7)"),
        ({}, "processes (2 -> 1)"),
    ],
)
def test_a_finished_epoch_is_not_trained_again(folder, validating, changes, told):
    """Whatever has changed; other processes have random states of their own."""
    out = folder / f"again{told[:5]}"
    shutil.copytree(validating, out)
    if not changes:
        state = state_of(out / PROGRESS)
        state["origin"]["processes"], state["random"] = 2, []
        torch.save(state, out / PROGRESS)
    training = Training(folder, out, max_epoch=1, **changes)
    assert training.run("--save_updates", "1") == 0, training.text()[-2000:]
    assert f"{told}: epoch 1 is finished, and later ones" in training.text()
    model, expected = state_of(out / "1epoch.pth"), state_of(folder / "expected.pth")
    assert all(torch.equal(model[key], expected[key]) for key in expected)
    assert state_of(out / PROGRESS)["finished"]


ORIGIN = {"options": {}, "lists": [], "valid": [], "processes": 1}


@pytest.fixture
def reporter():
    """ESPnet's reporter of a first epoch."""
    found = Reporter()
    found.set_epoch(1)
    return found


def test_a_resumed_epoch_does_not_hold_the_saved_state(tmp_path, reporter, monkeypatch):
    """It is as large as model and optimizer together, on each rank."""
    monkeypatch.setattr(saving, "rank", lambda: 1)
    tensor = torch.zeros(5)
    reports = {"stats": {}, "count": 4, "total_count": 4, "seconds": 1.0}
    state = {"epoch": 1, "batches": 4, "finished": False, "model": {"x": tensor}}
    saver = Saver(tmp_path, 0.0, None, ORIGIN, resume=False)
    randoms = ["of rank 0", "mine"]
    saver.state = {**state, "random": randoms, "reporter": reports, "origin": ORIGIN}
    held = weakref.ref(tensor)
    del tensor, state
    with reporter.observe("train") as part:
        position = saver.restore(SimpleNamespace(load=lambda state: None), part)
        assert position == (4, False, "mine") and part.count == 4
        part.finished()
    assert held() is None


@pytest.mark.parametrize(
    "minutes, updates, saved",
    [(1.0, None, [6, 12, 18]), (0.0, None, []), (0.0, 4, [8, 16])],
)
def test_how_often_a_state_is_saved(
    tmp_path, reporter, monkeypatch, minutes, updates, saved
):
    """An epoch has 20 batches of 10 seconds each, and two of them are an update."""
    now, found, names = [0.0], [], []
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(torch, "save", lambda state, _: found.append(state["batches"]))
    saver = Saver(tmp_path, minutes, updates, ORIGIN, resume=False)
    model = torch.nn.Linear(1, 1)
    model.objectives = []
    parts = SimpleNamespace(model=model, state=dict)
    skipped = SimpleNamespace(
        accum_grad=2, after_update=lambda _, read: names.append(len(read))
    )
    part = reporter.start_epoch("train")
    for _ in saver.batches([(["u"], {})] * 20, parts, part, Position(), skipped):
        now[0] += 10.0
        part.register({"loss": 1.0})
        part.next()
    assert found == saved
    assert names == [2] * 10  # of each update, those of its own batches


def test_the_loss_scale_is_restored(monkeypatch):
    """A new one skips updates until it fits."""
    monkeypatch.setattr(saving, "watches_state", lambda model: {})
    monkeypatch.setattr(saving, "restore_watches", lambda model, state: None)
    scalers = [torch.amp.GradScaler("cpu", init_scale=x) for x in (8.0, 2.0)]
    one, other = (Parts(torch.nn.Linear(1, 1), [], [], x) for x in scalers)
    other.load(one.state())
    assert scalers[1].get_scale() == 8.0


def test_the_time_of_an_epoch_goes_on(reporter):
    part, resumed = (reporter.start_epoch("train") for _ in range(2))
    part.start_time -= 1000.0
    restore_reporter(resumed, reporter_state(part))
    assert 1000.0 <= time.perf_counter() - resumed.start_time < 1100.0


def test_a_kill_between_checkpoint_and_model(folder):
    """ESPnet writes the checkpoint first, and needs the model for its averages."""
    out = folder / "between"
    assert Training(folder, out, max_epoch=2).run() == 0
    for path in (out / "2epoch.pth", *out.glob("*.ave*.pth")):
        path.unlink()
    assert Training(folder, out).run() == 0
    assert difference(folder / "whole", out) is None


def test_a_kill_between_model_and_links(folder):
    """The links to the latest and the best models are made again."""
    out = folder / "links"
    assert Training(folder, out, max_epoch=2).run() == 0
    links = {
        path.name: path.readlink() for path in out.glob("*.pth") if path.is_symlink()
    }
    names = {
        "latest.pth",
        *(f"{x}.{kind}.pth" for x in BEST for kind in ("best", "ave")),
    }
    assert set(links) == names
    assert links["latest.pth"] == links[f"{BEST[0]}.best.pth"] == Path("2epoch.pth")
    for name in (f"{x}.best.pth" for x in BEST):
        (out / name).unlink()
        (out / name).symlink_to("1epoch.pth")
    (out / "latest.pth").unlink()
    assert Training(folder, out, max_epoch=2).run() == 0
    assert links == {name: (out / name).readlink() for name in links}


def test_a_state_that_cannot_be_read(folder):
    """An unreadable state costs the epoch, not the training."""
    training = Training(folder, folder / "broken")
    training.start("--log_interval", "2").until("2epoch:train:3-4batch")
    os.killpg(training.process.pid, signal.SIGTERM)
    assert training.wait() == 85
    path = training.out / PROGRESS
    path.write_bytes(path.read_bytes()[:5000])
    assert training.run() == 0
    assert (
        f"{path}: is cut short: what was learned since the end of the last epoch"
        in (training.text())
    )
    assert state_of(training.out / "3epoch.pth")["updates"] == 36


def changed(folder, name, **changes):
    """Stop a training in its second epoch, and resume it with changes."""
    training = Training(folder, folder / name)
    training.start("--log_interval", "2").until("2epoch:train:3-4batch")
    os.killpg(training.process.pid, signal.SIGTERM)
    assert training.wait() == 85
    before = state_of(training.out / PROGRESS)
    found = {**CONFIG, **changes}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(found))
    return training, before


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"optim": "sgd"}, r"optim \(adamw -> sgd\)"),
        ({"scheduler": None, "scheduler_conf": {}}, r"scheduler \(warmuplr -> None\)"),
        ({"exclude_weight_decay": True}, r"exclude_weight_decay \(False -> True\)"),
    ],
)
def test_another_optimizer_is_refused(folder, changes, words):
    """Its saved state would be of no use, or break training."""
    training, before = changed(folder, next(iter(changes)), **changes)
    assert training.run() == 1
    assert re.search(f"error: .*progress.pth: changed .*{words}", training.text())
    assert "Traceback" not in training.text()
    assert state_of(training.out / PROGRESS).keys() == before.keys()


def test_changed_options_are_told(folder):
    training, before = changed(
        folder, "options", optim_conf={"lr": 1.0}, batch_size=4, keep_nbest_models=3
    )
    assert training.run() == 0
    text = training.text()
    assert "batch_size (2 -> 4): epoch 2 begins anew, with other batches" in text
    assert "optim_conf.lr (0.01 -> 1.0): without effect" in text
    assert "keep_nbest_models (2 -> 3): in effect from here on" in text
    updates = state_of(training.out / "3epoch.pth")["updates"]
    assert updates == before["model"]["updates"] + 12 + 12
    rates = [
        x["lr"]
        for x in state_of(training.out / "checkpoint.pth")["optimizers"][0][
            "param_groups"
        ]
    ]
    assert max(rates) < 0.01


def test_changed_data_are_told(folder):
    training, _ = changed(folder, "lists")
    shape = folder / "fewer"
    shape.write_text("".join((folder / "shape").read_text().splitlines(True)[:-1]))
    place = training.found.index("--train_shape_file") + 1
    training.found[place] = str(shape)
    assert training.run() == 0
    words = "training lists (others, or of other content): epoch 2 begins anew"
    assert words in training.text()


def test_a_changed_validation_set_is_told(folder):
    training, _ = changed(folder, "validation_lists")
    fewer = folder / "fewer.scp"
    fewer.write_text("".join((folder / "wav.scp").read_text().splitlines(True)[:-1]))
    fewer.with_name("fewer_shape").write_text(
        "".join((folder / "shape").read_text().splitlines(True)[:-1])
    )
    for option, new in (
        ("--valid_shape_file", folder / "fewer_shape"),
        ("--valid_data_path_and_name_and_type", f"{fewer},speech,sound"),
    ):
        training.found[training.found.index(option) + 1] = str(new)
    assert training.run() == 0
    words = "validation lists (others, or of other content): in effect from here on"
    assert words in training.text()
    assert "begins anew" not in training.text()


def test_a_changed_model_is_refused(folder):
    encoder = {**CONFIG["encoder_conf"], "linear_units": 32}
    training, _ = changed(folder, "model", encoder_conf=encoder)
    before = (training.out / PROGRESS).read_bytes()
    assert training.run() == 1
    last = training.text().strip().splitlines()[-1]
    assert last.startswith("ssl_train: error: ")
    assert "encoder_conf.linear_units: 16 -> 32" in last
    assert (training.out / PROGRESS).read_bytes() == before
    # Nor is it, if only ESPnet's checkpoint is left.
    config = yaml.safe_load((training.out / "config.yaml").read_text())
    assert config["encoder_conf"]["linear_units"] == 16
    (training.out / PROGRESS).unlink()
    assert training.run() == 1
    last = training.text().strip().splitlines()[-1]
    assert re.match(
        "ssl_train: error: .*checkpoint.pth: its model is not the con", last
    )
    assert "feed_forward.w_1.bias: (16,) -> (32,)" in last
    assert yaml.safe_load((training.out / "config.yaml").read_text()) == config


def two_ranks(folder, out):
    """Make the two processes of a training, over gloo."""
    found = []
    for rank in range(2):
        one = Training(folder, out, batch_type="unsorted", batch_size=4)
        one.log = folder / f"{out.name}.{rank}.log"
        one.found += ["--dist_world_size", "2", "--dist_rank", str(rank)]
        one.found += ["--dist_backend", "gloo", "--dist_launcher", "none"]
        one.found += ["--multiprocessing_distributed", "false"]
        found.append(one)
    return found


def start_all(folder, trainings):
    """Start the ranks with a new rendezvous file."""
    meeting = folder / f"meeting.{time.monotonic_ns()}"
    for one in trainings:
        one.start("--dist_init_method", f"file://{meeting}", "--log_interval", "2")


@pytest.mark.slow
def test_two_ranks(folder):
    """Both stop if one is told to; both are killed; the result is the same."""
    whole = two_ranks(folder, folder / "two_whole")
    start_all(folder, whole)
    assert [one.wait() for one in whole] == [0, 0], whole[0].text()[-2000:]

    ranks = two_ranks(folder, folder / "two")
    start_all(folder, ranks)
    ranks[0].until("1epoch:train:3-4batch")
    os.kill(ranks[1].process.pid, signal.SIGUSR1)
    assert [one.wait() for one in ranks] == [85, 85]
    assert "Stopped by a signal to another rank" in ranks[0].text()
    assert len(state_of(ranks[0].out / PROGRESS)["random"]) == 2

    start_all(folder, ranks)
    ranks[0].until("2epoch:train:3-4batch")
    for one in ranks:
        one.process.kill()
    assert [one.wait() for one in ranks] == [-signal.SIGKILL] * 2
    start_all(folder, ranks)
    assert [one.wait() for one in ranks] == [0, 0], ranks[0].text()[-2000:]
    assert "Resuming in epoch 1 after batch" in ranks[0].text()
    # Sums of two numbers do not depend on their order, so results are bit-identical.
    assert difference(whole[0].out, ranks[0].out) is None

    # With one process fewer, the model is kept, and the consequences are logged.
    one = Training(folder, folder / "two", batch_size=4, max_epoch=4)
    assert one.run() == 0
    assert "processes (2 -> 1): epoch 4 begins anew" in one.text()
