"""Rates of a machine: their fit, their file, and plans made of them."""

import json
import math
import time
from argparse import Namespace

import numpy as np
import pytest
import soundfile
import torch
from checkout import ROOT

from espnet2_birq.bin.bench import main as bench
from espnet2_birq.bin.plan import main as plan
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.planning import machine, measured
from espnet2_birq.planning.cost import Parameters, StepCost
from espnet2_birq.planning.exchange import exchange_rate
from espnet2_birq.planning.plan import (
    Batch,
    Data,
    Machine,
    Memory,
    Plan,
    read_machine,
    time_around,
)
from espnet2_birq.pretraining.when import When

SMALL = ROOT / "conf/mini_librispeech/train_birq.yaml"
MACHINE = Machine("cpu", "a processor", False, 8e9, 4e11, 2e10, 0.3, reading=50.0)
TINY = (
    *("--encoder_conf", "output_size=16", "--encoder_conf", "linear_units=16"),
    *("--encoder_conf", "num_blocks=2", "--encoder_conf", "attention_heads=2"),
)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def write_machine(folder, machine=MACHINE):
    measured.write_machine(folder / "machine.json", machine, {})
    return str(folder / "machine.json")


def planned(capsys, *options) -> dict:
    command = ["--config", str(SMALL), "--json", "--hours", "100", *map(str, options)]
    plan([*command, *TINY, "--memory", "2"])  # a small one is filled faster
    return json.loads(capsys.readouterr().out)


def test_rates_are_found_again():
    costs = [StepCost(10**9 * a, 10**9 * b, 0) for a, b in ((1, 5), (3, 4), (9, 1))]
    seconds = [cost.flops / 2e11 + cost.moved / 1e10 for cost in costs]
    per_flop, per_byte = measured.fit_rates(costs, seconds)
    assert per_flop == pytest.approx(1 / 2e11) and per_byte == pytest.approx(1e-10)


def test_a_negative_rate_is_dropped_for_the_better_of_the_two():
    costs = [StepCost(10**9 * a, 10**9 * b, 0) for a, b in ((1, 5), (3, 4), (9, 1))]
    # Steps with more products take less time.
    seconds = [cost.moved / 1e10 - 0.1 * cost.flops / 1e11 for cost in costs]
    assert min(seconds) > 0
    per_flop, per_byte = measured.fit_rates(costs, seconds)
    assert per_flop == 0 and per_byte > 0
    swapped = [StepCost(cost.moved, cost.flops, 0) for cost in costs]
    assert measured.fit_rates(swapped, seconds) == pytest.approx([per_byte, 0])


def test_products_are_at_most_as_fast_as_large_ones():
    costs = [StepCost(10**9 * a, 10**9 * b, 0) for a, b in ((1, 5), (3, 4), (9, 1))]
    seconds = [cost.flops / 2e11 + cost.moved / 1e10 for cost in costs]
    rates = measured.fit_rates(costs, seconds, 3e11)
    assert rates == pytest.approx([1 / 2e11, 1e-10])
    per_flop, per_byte = measured.fit_rates(costs, seconds, 1e11)
    assert per_flop == 1e-11 and 0 < per_byte < 1e-10

    def error(per_byte):
        times = [cost.flops * 1e-11 + cost.moved * per_byte for cost in costs]
        return sum((time / real - 1) ** 2 for time, real in zip(times, seconds))

    assert error(per_byte) < min(error(0.99 * per_byte), error(1.01 * per_byte))
    # Without a bound, products would cost nothing.
    seconds = [cost.moved / 1e10 - 0.1 * cost.flops / 1e11 for cost in costs]
    per_flop, per_byte = measured.fit_rates(costs, seconds, 1e12)
    assert per_flop == 1e-12 and per_byte > 0
    # Moved bytes cost something, unless products alone take longer than the steps.
    swapped = [StepCost(cost.moved, cost.flops, 0) for cost in costs]
    per_flop, per_byte = measured.fit_rates(swapped, seconds, 1e12)
    assert per_flop == 1e-12 and per_byte > 0
    assert measured.fit_rates(costs, seconds, 1e9) == pytest.approx([1e-9, 0])


def test_steps_of_a_plan_are_at_the_measured_rates(tmp_path, capsys):
    numbers = planned(capsys, "--machine", write_machine(tmp_path))
    by_hand = numbers["step_flops_per_gpu"] / 4e11
    by_hand += numbers["step_bytes_moved_per_gpu"] / 2e10
    assert numbers["step_seconds"] == pytest.approx(by_hand)


def plan_of(workers, gpus, machine, **joint):
    """Plan 1,000 steps of half a second on 64 s of speech, with times beside steps."""
    args = Namespace(**joint)
    plan = Plan(
        Parameters(10**6, 0, 0),
        Batch(64.0, 64.0 / gpus, 1),
        StepCost(1, 1, 1),
        Memory(1.0, 1.0, 1.0),
        1.0,
        0.5,
        None,
        1000,
        3,
        gpus,
        workers,
    )
    return plan._replace(around=time_around(args, machine, plan, valid_hours=5.4))


def test_what_is_beside_steps_takes_time():
    slow = MACHINE._replace(reading=10.0, exchange=1e6)
    plan = plan_of(4, 2, slow)
    # 32 s of speech, read by 4 processes; 4 MB less what two thirds of a step hide;
    # 303.75 batches of validation at 0.3 of a step
    assert plan.around == pytest.approx((0.8, 4 - 1 / 3, 303.75 * 0.15))
    # Batches are read during steps, so the slower of the two counts.
    assert plan.epoch_seconds == pytest.approx(1000 * (0.5 + 4 - 1 / 3) + 45.5625)
    plan = plan_of(1, 2, slow._replace(exchange=1e9))
    assert plan.around[:2] == (pytest.approx(3.2), 0.0)
    assert plan.epoch_seconds == pytest.approx(1000 * 3.2 + 45.5625)
    assert plan.days == pytest.approx(3 * plan.epoch_seconds / 86400)
    alone = plan_of(4, 1, MACHINE._replace(reading=None, exchange=1e6))
    assert alone.around[:2] == (None, None)


def test_reading_without_workers_is_before_a_step():
    slow = MACHINE._replace(exchange=1e6)
    plan = plan_of(0, 2, slow)
    assert plan.around.reading == pytest.approx(32 / 50)
    assert plan.around.exchange == pytest.approx(4 - 1 / 3)
    by_hand = 1000 * (0.5 + 4 - 1 / 3 + 32 / 50) + 45.5625
    assert plan.epoch_seconds == pytest.approx(by_hand)


def test_joint_training_reads_two_batches():
    """Each has its own processes; without any, one is read after the other."""
    bins = dict(batch_type="numel", batch_bins=10, unlabelled_batch_bins=30)
    joint = dict(pretraining_conf={}, **bins)
    assert plan_of(4, 1, MACHINE, **joint).around.reading == pytest.approx(3 * 64 / 200)
    reading = plan_of(0, 1, MACHINE, **joint).around.reading
    assert reading == pytest.approx(4 * 64 / 50)
    joint["unlabelled_batch_bins"] = None
    assert plan_of(4, 1, MACHINE, **joint).around.reading == pytest.approx(64 / 200)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"machine": {}}', '{"machine": 3}', "\x00", "[" * 100000],
)
def test_another_file_is_named(tmp_path, content):
    (tmp_path / "x").write_text(content)
    with pytest.raises(DataError, match="x: not a file of birq bench"):
        read_machine(tmp_path / "x")
    with pytest.raises(DataError, match="y: no such file"):
        read_machine(tmp_path / "y")


@pytest.mark.parametrize("rate", [0, -1.0, "fast", None, math.nan])
def test_a_rate_that_is_none(tmp_path, rate):
    file = write_machine(tmp_path, MACHINE._replace(products=rate))
    with pytest.raises(DataError, match="a rate is no positive number"):
        read_machine(tmp_path / file)


@pytest.mark.parametrize(
    "change",
    [
        dict(products=1e30),
        dict(bandwidth=math.inf),
        dict(memory=1.0),
        dict(validation=1e9),
        dict(reading=1e-30),
        dict(exchange=1e30),
    ],
)
def test_an_impossible_machine(tmp_path, change):
    file = write_machine(tmp_path, MACHINE._replace(**change))
    (key,) = change
    with pytest.raises(DataError, match=f"machine.json: {key} .* is of no machine"):
        read_machine(tmp_path / file)


@pytest.mark.parametrize("change", [dict(reading=0), dict(products=True)])
def test_numbers_that_are_none(tmp_path, change):
    file = write_machine(tmp_path, MACHINE._replace(**change))
    with pytest.raises(DataError, match="a rate is no positive number"):
        read_machine(tmp_path / file)


@pytest.mark.parametrize("change", [dict(device="tpu"), dict(half="no")])
def test_a_machine_of_another_kind(tmp_path, change):
    file = write_machine(tmp_path, MACHINE._replace(**change))
    with pytest.raises(DataError, match="not a file of birq bench"):
        read_machine(tmp_path / file)


def test_a_folder_is_no_machine(tmp_path):
    with pytest.raises(DataError, match="Is a directory; give a file that birq bench"):
        read_machine(tmp_path)


def test_a_machine_of_another_precision(tmp_path):
    gpu = write_machine(tmp_path, MACHINE._replace(device="cuda", half=True))
    options = ("--config", str(SMALL), "--hours", "1", "--machine", gpu)
    with pytest.raises(SystemExit, match="measured with use_amp True, and .* False"):
        plan([*options, "--use_amp", "false"])
    cpu = write_machine(tmp_path)
    options = ("--config", str(SMALL), "--hours", "1", "--machine", cpu)
    with pytest.raises(SystemExit, match="measured with cpu_bfloat16 False"):
        plan([*options, "--model_conf", "cpu_bfloat16=true"])


DATA = Data(total=3600.0, utterance=10.0, longest=20.0, mean=10.0)


def test_methods_and_lengths_are_measured():
    args = measured_args()
    cases = measured.list_cases(args, DATA, 40.0)
    assert [(x.name, x.utterances, x.seconds) for x in cases] == [
        ("input labels", 10, 4.0),
        ("input labels", 4, 10.0),
        ("as configured", 10, 4.0),
        ("as configured", 4, 10.0),
    ]
    assert [row["name"] for row in cases[0].args.objectives] == ["anchor"]
    cases = measured.list_cases(cases[0].args, DATA, 40.0)
    assert {x.name for x in cases} == {"as configured"}


def measured_args(*options, config=SMALL):
    from espnet2_birq.planning.configured import parse_config

    return parse_config(config, [*TINY, *options])


def test_input_objectives_alone_leave_out_what_others_need():
    copies = ("--target_branch_conf", "checkpoint=true")
    copies += ("--target_branch_conf", "copies=2")
    taught = measured_args()
    taught.objectives[1] = dict(
        name="latent", view="teacher layers top 2", labeller="latent"
    )
    taught.teacher_conf = {"decay": 0.99}
    taught.objectives[0]["when"] = {"every": 2}  # the other learns in all updates
    bridle = SMALL.with_name("train_bridle.yaml")
    branch = measured_args(*copies)
    for args in (branch, taught, measured_args(config=bridle)):
        case, *_ = measured.list_cases(args, DATA, 40.0)
        assert case.name == "input labels"
        model = measured.SSLTask.build_model(case.args)
        assert {one.view.kind for one in model.objectives} == {"input"}
    assert branch.target_branch_conf == {"checkpoint": True, "copies": 2}
    case, *_ = measured.list_cases(branch, DATA, 40.0)
    assert case.args.target_branch_conf == {"copies": 2}


def test_a_small_step_starts_codebooks_of_many_codes():
    args = measured_args(config=SMALL.with_name("train_rvq.yaml"))
    size = args.objectives[0]["labeller_conf"]["codebook_size"]
    step = measured.Step(args, 1, 16000)  # 25 encoder frames
    assert size > 25 and not step.model.unprepared and step() > 0


def test_frozen_parameters_rest_in_measured_steps():
    args = measured_args("--freeze_param", "encoder.embed")
    step = measured.Step(args, 1, 16000)
    before = {name: p.clone() for name, p in step.model.named_parameters()}
    assert step() > 0
    moved = {
        name
        for name, parameter in step.model.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert any(name.startswith("encoder.encoders.") for name in moved)
    assert not any(name.startswith("encoder.embed.") for name in moved)


def test_a_step_is_late_in_training():
    """All conditions are met, and a period of schedules is averaged."""
    args = measured_args()
    args.objectives[1]["when"] = {"start": 500, "every": 2}
    args.objectives[0]["when"] = {"stop": 700}
    with pytest.raises(ConfigError):  # every second update has nothing to learn
        measured.Step(args, 1, 16000)
    del args.objectives[0]["when"]
    step = measured.Step(args, 1, 16000)
    assert list(step.updates) == [500, 501]
    forward, updates = step.model._step, []

    def counted(*args, **kwargs):
        updates.append(step.model.update_number())
        return forward(*args, **kwargs)

    step.model._step = counted
    assert step() > 0 and updates == [500, 501]
    assert step.validate() > 0 and step.model.training


def test_reading(tmp_path):
    lines = []
    for number in range(5):
        path = tmp_path / f"{number}.flac"
        soundfile.write(path, 0.1 * np.random.randn(16000), 16000)
        lines.append(f"u{number} {path}\n")
    (tmp_path / "wav.scp").write_text("".join(lines))
    assert 10 < measured.reading_rate(tmp_path, 16000) < 1e6
    with pytest.raises(DataError, match="wav.scp: no such file"):
        measured.reading_rate(tmp_path / "none", 16000)


def test_reading_is_timed_by_the_clock(tmp_path, monkeypatch):
    """Waiting for a disk takes no CPU time."""
    for number in range(3):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, 0.1 * np.random.randn(16000), 16000)
        with (tmp_path / "wav.scp").open("a") as file:
            file.write(f"u{number} {path}\n")
    count = measured._samples

    def waits(*args):
        time.sleep(0.5)
        return count(*args)

    monkeypatch.setattr(measured, "_samples", waits)
    assert measured.reading_rate(tmp_path, 16000) < 2


@pytest.mark.parametrize(
    "line, words",
    [
        ("u1 /nowhere.wav\n", r"wav.scp: u1 cannot be read \(Error opening"),
        ("", "wav.scp: empty file; run the data preparation"),
    ],
)
def test_what_cannot_be_read_is_told_before_steps(
    tmp_path, monkeypatch, caplog, line, words
):
    (tmp_path / "utt2num_samples").write_text("u1 16000\n")
    (tmp_path / "wav.scp").write_text(line)
    monkeypatch.setattr(measured, "list_cases", None)  # never reached
    options = ("--config", str(SMALL), "--data", str(tmp_path), "--device", "cpu")
    with pytest.raises(SystemExit, match=words) as error:
        bench([*options, *TINY])
    assert "\n" not in str(error.value) and not caplog.records


def test_missing_gpus_are_told_before_steps(monkeypatch):
    monkeypatch.setattr(measured, "list_cases", None)  # never reached
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    options = ("--config", str(SMALL), "--hours", "9", "--processes", "2", *TINY)
    with pytest.raises(SystemExit, match="--processes 2: there are 1 GPUs"):
        bench([*options, "--device", "cuda"])


def test_exchange_among_two_processes():
    assert 1e5 < exchange_rate(100_000, 2, "cpu") < 1e12
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="there are 0 GPUs"):
            exchange_rate(1, 2, "cuda")


def test_a_batch_that_does_not_fit_is_lowered(monkeypatch):
    tried = []

    class Full:
        model = Namespace(whens=[When(), When(stop=500), When(start=900, every=2)])

        def __init__(self, args, utterances, samples, device):
            self.updates = range(900, 902)
            tried.append(utterances)
            if utterances > most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        def __call__(self):
            assert self.updates == [0, 500, 900]  # one with each set of objectives
            return 0.1

    monkeypatch.setattr(measured, "Step", Full)
    most = 90
    assert measured.largest_on_gpu(None, 100, 16000) == 90
    assert tried == [100, 95, 90]
    most = 0
    assert measured.largest_on_gpu(None, 3, 16000) == 0


def test_the_command(tmp_path, capsys, monkeypatch):
    """From one configuration to rates, and from these to a plan for another."""
    monkeypatch.setitem(machine.SIZES, "cpu", 128)
    monkeypatch.setattr("espnet2_birq.planning.bench.memory_of", lambda device: 2e9)
    out = tmp_path / "machine.json"
    options = (
        "--hours",
        "10",
        "--rounds",
        "1",
        "--most_seconds",
        "2",
        "--threads",
        "1",
    )
    options += ("--utterance_seconds", "1", "--longest_seconds", "2", "--out", str(out))
    bench(["--config", str(SMALL), *options, *TINY, "--max_epoch", "3"])
    lines = capsys.readouterr().out.splitlines()
    # So small steps need not tell both rates.
    lines = [line for line in lines if not line.startswith("rates ")]
    names = ["machine", "products"]
    names += 2 * ["input labels"] + 2 * ["as configured"]
    names += ["validation", "batch that fits", "10 h"]
    assert len(lines) == len(names)
    for line, name in zip(lines, names):
        assert line.startswith(name), line
    assert "x input labels alone" in lines[5]
    assert "for the 3 epochs" in lines[-1]
    assert read_machine(out).device == ("cuda" if torch.cuda.is_available() else "cpu")
    numbers = planned(capsys, "--machine", out)
    assert numbers["validation_seconds_per_epoch"] > 0


def test_a_machine_whose_moved_bytes_cost_nothing_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setitem(machine.SIZES, "cpu", 128)
    cost = StepCost(10**12, 10**6, 0)
    case = measured.Case("as configured", Namespace(), 1, 1.0)
    timed = measured.Timed([1e-3], [1e-3])
    monkeypatch.setattr(measured, "list_cases", lambda *args: [case])
    monkeypatch.setattr(
        measured, "time_cases", lambda *args: iter([(case, cost, timed)] * 2)
    )
    out = tmp_path / "machine.json"
    options = ("--config", str(SMALL), "--hours", "1", "--device", "cpu", *TINY)
    monkeypatch.setattr("espnet2_birq.planning.bench.memory_of", lambda device: 2e9)
    with pytest.raises(SystemExit, match="not written, as these steps are too small"):
        bench([*options, "--out", str(out)])
    assert not out.exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "give --hours or --data"),
        (("--hours", "inf"), "--hours inf: must be more than 0, and less"),
        (("--hours", "0"), "--hours 0.0: must be more than 0"),
        (("--hours", "1", "--rounds", "0"), "--rounds 0: must be more than 0"),
        (("--data", "nowhere"), "utt2num_samples: no such file"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(SystemExit) as error:
        bench(["--config", str(SMALL), *options])
    assert message in str(error.value) and "\n" not in str(error.value)
