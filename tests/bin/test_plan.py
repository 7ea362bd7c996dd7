"""The planner's arithmetic and its errors."""

import json
import re
from pathlib import Path

import pytest
import yaml

from espnet2_birq.bin.plan import main
from espnet2_birq.errors import DataError
from espnet2_birq.planning.measured import write_machine
from espnet2_birq.planning.plan import Data, Machine

CONF = Path(__file__).resolve().parents[2] / "conf"
SMALL = CONF / "mini_librispeech" / "train_birq.yaml"
C2 = CONF / "tuning" / "train_birq_c2.yaml"


def plan(capsys, *options, config=SMALL) -> dict:
    if config != C2:  # with a small encoder and little memory, this is faster
        options = ("--memory", 2, *options, "--encoder_conf", "num_blocks=2")
    main(["--config", str(config), "--json", *map(str, options)])
    return json.loads(capsys.readouterr().out)


def test_the_papers_encoder(capsys):
    options = ("--hours", 960, "--gpus", 8, "--batch_bins", 51200000)
    numbers = plan(capsys, *options, config=C2)
    assert numbers["encoder_parameters"] == pytest.approx(154.9e6, rel=1e-3)
    frames = numbers["batch_seconds_per_gpu"] * 50
    # 1.73 GFLOP by hand, without position terms and recomputed attention.
    assert 1.73e9 < numbers["step_flops_per_gpu"] / frames < 1.85e9
    assert numbers["steps_per_epoch"] == pytest.approx(960 * 3600 / 3200)
    # Weights, accumulated gradients, AdamW's two moments, and DDP's buckets
    kept = numbers["memory_kept_bytes"] / numbers["parameters"]
    assert kept == pytest.approx(5 * 4, rel=0.02)


def test_a_teacher_is_kept_beside_the_encoder(tmp_path, capsys):
    config = yaml.safe_load(SMALL.read_text())
    del config["objectives"][-1]["diversity"]
    config["objectives"][-1].update(view="teacher layer 70%", gradient=0)
    (tmp_path / "with.yaml").write_text(yaml.safe_dump(config))
    without = plan(capsys, "--hours", 1)
    numbers = plan(capsys, "--hours", 1, config=tmp_path / "with.yaml")
    assert numbers["parameters"] == without["parameters"]  # those that are trained
    more = numbers["memory_kept_bytes"] - without["memory_kept_bytes"]
    assert more == pytest.approx(4 * numbers["encoder_parameters"], rel=1e-3)


def test_days_follow_from_a_measured_step(capsys):
    options = ("--hours", 64, "--step_seconds", 0.5, "--max_epoch", 3)
    numbers = plan(capsys, *options)
    steps = 64 * 3600 / 64  # 64 s of speech per step
    assert numbers["days"] == pytest.approx(3 * steps * 0.5 / 86400)
    assert numbers["gpu_hours"] == pytest.approx(24 * numbers["days"])
    flops = numbers["step_flops_per_gpu"]
    assert numbers["effective_flops_per_second"] == pytest.approx(flops / 0.5)
    tflops = flops / 0.5e12
    same = plan(capsys, "--hours", 64, "--tflops", tflops, "--max_epoch", 3)
    assert same["days"] == pytest.approx(numbers["days"])


def test_the_batch_that_fits_fits_and_no_more(capsys):
    options = ("--hours", 1, "--memory", 3, "--longest_seconds", 12.3)
    numbers = plan(capsys, *options)
    seconds = numbers["fits_seconds_per_gpu"]
    key, bins = numbers["fits_options"].split()
    assert key == "--batch_bins"

    def used(bins):
        numbers = plan(capsys, *options, "--batch_bins", bins)
        assert numbers["fits_seconds_per_gpu"] == pytest.approx(seconds, rel=0.1)
        used = numbers["memory_kept_bytes"] + numbers["memory_step_bytes"]
        return used / numbers["memory_limit_bytes"]

    most = round(16000 * (1.02 * seconds + 12.4))
    assert 0.95 < used(int(bins)) <= 1 < used(most)


def test_several_languages_are_drawn_up_to_bins(capsys):
    config = CONF / "yodas/train_birq_multilingual.yaml"
    numbers = plan(capsys, "--hours", 100, config=config)
    assert numbers["batch_seconds"] == 400
    assert numbers["steps_per_epoch"] == pytest.approx(1.2 * 100 * 3600 / 400)
    numbers = plan(capsys, "--hours", 1, "--batch_type", "unsorted")
    assert numbers["fits_options"].startswith("--batch_size ")


def test_too_small_a_gpu(capsys):
    main(["--config", str(C2), "--hours", "960", "--memory", "4"])
    out = capsys.readouterr().out
    assert "DOES NOT FIT" in out and "not one of the longest utterances" in out


def test_lengths_of_the_data(tmp_path, capsys):
    (tmp_path / "utt2num_samples").write_text("a 160000\nb 480000\n")
    data = Data.read(tmp_path, 16000)
    # 10 s and 30 s: 30 of the 40 seconds are in the longer one.
    assert data == Data(total=40.0, utterance=25.0, longest=30.0, mean=20.0)
    numbers = plan(capsys, "--data", tmp_path, "--batch_bins", 16000 * 40)
    assert numbers["steps_per_epoch"] == 1
    (tmp_path / "utt2num_samples").write_text("a many\n")
    with pytest.raises(DataError, match="not a number of samples"):
        Data.read(tmp_path, 16000)


def test_lengths_that_training_leaves_out(tmp_path, capsys):
    """What is shorter than 0.15 s, and longer than a whole batch."""
    lengths = [1600] + 99 * [16000] + [16000 * 3600]
    lines = [f"u{x:03} {y}\n" for x, y in enumerate(lengths)]
    (tmp_path / "utt2num_samples").write_text("".join(lines))
    numbers = plan(capsys, "--data", tmp_path, "--batch_bins", 16000 * 33)
    assert numbers["steps_per_epoch"] == 3 and numbers["batch_seconds"] == 33
    with pytest.raises(SystemExit, match="no utterance of 0.15 s to 0.5 s"):
        plan(capsys, "--data", tmp_path, "--batch_bins", 8000)
    # Training stops at more than 5 % of the utterances, or 5.
    lines = [f"u{x:02} {1600 if x < 6 else 16000}\n" for x in range(60)]
    (tmp_path / "utt2num_samples").write_text("".join(lines))
    with pytest.raises(
        SystemExit, match="6 of 60 utterances are shorter than 0.15 s or"
    ):
        plan(capsys, "--data", tmp_path)
    assert plan(capsys, "--data", tmp_path, "--max_bad_audio", 0.06)
    (tmp_path / "utt2num_samples").write_text("".join(lines[1:]))
    assert plan(capsys, "--data", tmp_path)
    lines = [f"u{x:03} {y}\n" for x, y in enumerate(lengths)]
    (tmp_path / "utt2num_samples").write_text("".join(lines))
    # A sampler that counts utterances leaves out none for its length.
    numbers = plan(
        capsys, "--data", tmp_path, "--batch_type", "unsorted", "--batch_size", 10
    )
    assert numbers["steps_per_epoch"] == pytest.approx(10)


def test_a_small_batch_of_many_gpus(capsys):
    """Each GPU has an utterance, as ESPnet's samplers see to."""
    numbers = plan(capsys, "--hours", 9, "--gpus", 64)
    assert numbers["batch_seconds"] == pytest.approx(64 * 12.3)


def test_all_phases_of_the_training_are_planned(tmp_path, capsys):
    """The largest step counts for the memory, all for the time."""

    def numbers(when):
        config = yaml.safe_load(SMALL.read_text())
        if when is None:
            del config["objectives"][1:]
        else:
            config["objectives"][1]["when"] = when
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        options = ("--hours", 6.4, "--max_epoch", 10)  # 3600 updates
        return plan(capsys, *options, config=tmp_path / "c.yaml")

    never, always, stops = numbers(None), numbers({}), numbers({"stop": 900})
    assert stops["memory_step_bytes"] == always["memory_step_bytes"]
    assert stops["memory_step_bytes"] > 1.2 * never["memory_step_bytes"]
    key = "step_flops_per_gpu"
    assert stops[key] == pytest.approx(0.75 * never[key] + 0.25 * always[key])
    late = numbers({"start": 3600})  # not reached, but more epochs would
    assert late["memory_step_bytes"] == always["memory_step_bytes"]
    assert late[key] == never[key]


def test_the_screen(tmp_path, capsys):
    options = ("--config", str(SMALL), "--encoder_conf", "num_blocks=1")
    options += ("--memory", "2", "--hours", "0.004")
    main([*options])
    out = capsys.readouterr().out
    assert "1 steps, 1 updates" in out and "GPU hours" in out and "CUDA's own" in out
    machine = Machine("cpu", "x", False, 1, 1e9, 1e10, 0.3, reading=64.0)
    write_machine(tmp_path / "m.json", machine._replace(memory=2e9), {})
    main([*options, "--machine", str(tmp_path / "m.json"), "--num_workers", "0"])
    out = capsys.readouterr().out
    assert "GPU" not in out and "CUDA" not in out and "of 1.8 usable" in out
    assert "memory a process" in out and "reading 1 s a step" in out
    seconds = re.search(r"validation (\S+) s an epoch", out)[1]
    assert "e" not in seconds and float(seconds) > 100


def test_a_cpu_computes_in_the_machines_precision(tmp_path, capsys):
    """Whatever the processor that plans has instructions for."""
    moved = []
    for half in (True, False):
        machine = Machine("cpu", "x", half, 2e9, 1e11, 1e10, 0.3)
        write_machine(tmp_path / "m.json", machine, {})
        numbers = plan(capsys, "--hours", 9, "--machine", tmp_path / "m.json")
        moved.append(numbers["step_bytes_moved_per_gpu"])
    assert moved[0] < 0.9 * moved[1]


@pytest.mark.parametrize(
    "options, words",
    [
        ([], "give --hours or --data"),
        (["--hours", "9", "--data", "x"], "give --hours or --data"),
        (["--hours", "9", "--gpus", "0"], "--gpus 0: must be more than 0"),
        (["--hours", "9", "--accum_grad", "0"], "accum_grad is a whole number of 1 or"),
        (["--hours", "9", "--max_epoch", "0"], "max_epoch is a whole number of 1 or"),
        (["--hours", "inf"], "--hours inf: must be more than 0, and less"),
        (["--hours", "1e30"], "--hours 1e+30: must be more than 0, and less"),
        (["--hours", "9", "--valid_hours", "inf"], "--valid_hours inf: must be more"),
        (
            ["--hours", "9", "--tflops", "inf"],
            "--tflops inf: must be more than 0, and less",
        ),
        (["--hours", "9", "--iterator_type", "chunk"], "iterator_type chunk: "),
        (["--hours", "9", "--optim_conf", "lr=1e-3"], "lr is the text '1e-3'"),
        (["--hours", "9", "--machine", "/"], "/: Is a directory; give a file that"),
        (["--hours", "-1"], "--hours -1.0: must be more than 0"),
        (["--data", "nowhere"], "nowhere/utt2num_samples: no such file"),
        (["--hours", "9", "--batch_bins", "9"], "give at least --batch_bins 196800"),
        (
            ["--hours", "9", "--utterance_seconds", "0.05"],
            "--utterance_seconds 0.05: training leaves out utterances of less than 0.15 s",
        ),
        (
            ["--hours", "9", "--train_dtype", "float64"],
            "train_dtype float64: parameters",
        ),
        (
            ["--hours", "9", "--train_dtype", "float16"],
            "train_dtype float16: parameters",
        ),
        (
            ["--hours", "9", "--valid_hours", "5"],
            "--valid_hours 5: validation is planned at measured rates",
        ),
        (
            ["--hours", "9", "--machine", "x", "--gpu", "a100"],
            "--gpu: --machine has its own rates",
        ),
    ],
)
def test_errors_are_one_line(options, words):
    with pytest.raises(SystemExit) as stop:
        main(["--config", str(SMALL), *options])
    assert words in str(stop.value) and "\n" not in str(stop.value)


def test_unreadable_configurations(tmp_path):
    broken, text = tmp_path / "broken.yaml", tmp_path / "text.yaml"
    broken.write_text("a: [1\nb")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("batch_type: nunel")
    text.write_text("hello")
    for path, words in (
        (tmp_path / "none.yaml", "no such file"),
        (broken, "no YAML"),
        (text, "not a YAML file of options"),
        (unknown, "unknown batch_type 'nunel', use one of"),
    ):
        with pytest.raises(SystemExit, match=words) as stop:
            main(["--config", str(path), "--hours", "9"])
        assert "\n" not in str(stop.value)
