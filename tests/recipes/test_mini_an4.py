"""mini_an4 end to end: pretraining, stock ESPnet fine-tuning, decoding, scoring.

The recipes run in a copy of the checkout's folders, so nothing is left behind here.
"""

import re
import sys
from pathlib import Path

import pytest
from checkout import copy_checkout, run

ROOT = Path(__file__).resolve().parents[2]
SSL_MODEL = "../ssl1/exp/ssl_train_birq_raw/valid.total_count.ave.pth"

# What a stock ESPnet environment is: espnet2_birq cannot be imported.
STOCK = (
    "import runpy, sys; sys.modules['espnet2_birq'] = None; "
    "runpy.run_module('espnet2.bin.asr_train', run_name='__main__', alter_sys=True)"
)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, an4_tarball):
    """A copy of egs2/, conf/ and local/ with mini_an4/ssl1 run to its end."""
    top = copy_checkout(tmp_path_factory.mktemp("checkout"), an4_tarball.parents[3])
    egs = top / "egs2" / "mini_an4"
    run(["./run.sh", "--stop_stage", "1"], egs / "ssl1")
    for text in (egs / "ssl1" / "data").glob("*/text"):
        text.unlink()  # pretraining needs none
    run(["./run.sh", "--stage", "2", "--skip_packing", "false"], egs / "ssl1")
    return egs


def test_pretraining_leaves_what_espnet_leaves(recipes):
    exp = recipes / "ssl1" / "exp" / "ssl_train_birq_raw"
    for name in (
        "config.yaml",
        "checkpoint.pth",
        "valid.total_count.ave.pth",
        "run.sh",
    ):
        assert (exp / name).exists(), name
    assert list(exp.glob("*.zip"))
    log = (exp / "train.log").read_text()
    assert "loss_anchor=" in log and "label_ppl_enhanced=" in log
    # Repeated, a finished training stage does nothing and does not fail.
    done = run(["./run.sh", "--stage", "7", "--stop_stage", "7"], recipes / "ssl1")
    assert "Training completed" in done.stdout


def test_fine_tuning_decoding_and_scoring(recipes):
    done = run(["./run.sh"], recipes / "asr1")
    exp = recipes / "asr1" / "exp" / "asr_birq"
    handoff = (exp / "handoff.txt").read_text()
    loaded, total = re.search(r"pretraining: (\d+) of (\d+)", handoff).groups()
    assert loaded == total and int(total) > 50
    results = (exp / "RESULTS.md").read_text()
    for kind, tokens in (("WER", 10), ("CER", 67)):
        section = results.split(f"### {kind}")[1].split("###")[0]
        row = section.strip().splitlines()[-1].split("|")[2:]
        assert [int(value) for value in row[:2]] == [2, tokens], done.stdout[-3000:]
        assert 0 < float(row[6]) <= 300
    table = run(
        [sys.executable, "-m", "espnet2_birq.bin.summarize"]
        + ["--system", "BiRQ", "../ssl1/exp/ssl_train_birq_raw", "exp/asr_birq"],
        recipes / "asr1",
    ).stdout
    assert f"| {loaded} of {total} |" in table


def test_stock_espnet_without_this_package(recipes, tmp_path):
    asr = recipes / "asr1"
    if not (asr / "dump" / "raw" / "train_nodev" / "text").exists():
        run(["./run.sh", "--stop_stage", "10"], asr)
    out = tmp_path / "stock"
    raw = "dump/raw"
    command = [sys.executable, "-c", STOCK, "--config", "conf/train_asr.yaml"]
    for data, folder in (("train", "train_nodev"), ("valid", "train_dev")):
        stats = f"exp/asr_stats_raw_en_char/{data}"
        command += [f"--{data}_data_path_and_name_and_type"]
        command += [f"{raw}/{folder}/wav.scp,speech,sound"]
        command += [f"--{data}_data_path_and_name_and_type"]
        command += [f"{raw}/{folder}/text,text,text"]
        command += [f"--{data}_shape_file", f"{stats}/speech_shape"]
        command += [f"--{data}_shape_file", f"{stats}/text_shape.char"]
    command += ["--token_type", "char", "--output_dir", str(out)]
    command += ["--token_list", "data/en_token_list/char/tokens.txt"]
    command += ["--init_param", f"{SSL_MODEL}:encoder:encoder"]
    run(command, asr)
    assert (out / "valid.loss.ave.pth").exists()
    check = [sys.executable, "-m", "espnet2_birq.bin.check_handoff", SSL_MODEL]
    done = run([*check, str(out / "valid.loss.ave.pth")], asr)
    assert "frontend and normalize are the same" in done.stdout
    # The proof can fail: a key that matches nothing loads nothing, without a word.
    command[command.index("--init_param") + 1] = f"{SSL_MODEL}:encodr:encoder"
    command[command.index("--output_dir") + 1] = str(tmp_path / "wrong")
    run(command, asr)
    done = run([*check, str(tmp_path / "wrong" / "config.yaml")], asr, check=False)
    assert done.returncode == 1
    assert "0 of" in done.stdout and "encoder.after_norm.weight" in done.stdout


@pytest.mark.parametrize(
    "options, words",
    [
        (["--train_set", "nowhere", "--stage", "3"], "no data/nowhere/wav.scp: run"),
        (["--train_config", "conf/no.yaml", "--stage", "7"], "no such file; see conf/"),
        (["extra"], "no positional arguments"),
        (
            ["--stage", "7", "--ssl_args", "--encoder konformer"],
            "invalid choice: 'konformer'",
        ),
        (["--min_wav_duration", "500", "--stage", "4"], "no utterance is left"),
    ],
)
def test_errors_say_what_to_do(recipes, options, words):
    done = run(["./run.sh", *options], recipes / "ssl1", check=False)
    assert done.returncode != 0
    assert words in done.stdout
    assert "Traceback" not in done.stdout


def test_other_sampling_rate_needs_to_be_asked_for(recipes):
    options = ["--stage", "3", "--stop_stage", "3", "--fs", "8k", "--dumpdir", "dump8k"]
    done = run(["./run.sh", *options], recipes / "ssl1", check=False)
    assert done.returncode != 0 and "--resample true" in done.stdout
    run(["./run.sh", *options, "--resample", "true"], recipes / "ssl1")
    lengths = recipes / "ssl1" / "dump8k" / "raw" / "org" / "train_nodev"
    assert (lengths / "utt2num_samples").stat().st_size > 0
