"""mini_an4 end to end: pretraining, stock ESPnet fine-tuning, decoding, scoring.

The recipes run in a copy of the checkout's folders, so nothing is left behind here.
"""

import contextlib
import re
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from checkout import copy_checkout, run
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import unpack

from espnet2_birq.config import read_config
from espnet2_birq.tasks.ssl import SSLTask

ROOT = Path(__file__).resolve().parents[2]
SSL_MODEL = "../ssl1/exp/ssl_train_birq_raw/valid.total_count.ave.pth"

# As in a stock ESPnet environment, espnet2_birq cannot be imported.
STOCK = (
    "import runpy, sys; sys.modules['espnet2_birq'] = None; "
    "runpy.run_module('espnet2.bin.asr_train', run_name='__main__', alter_sys=True)"
)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, an4_tarball):
    """The folder mini_an4 in a copy of the checkout, with ssl1 run to its end."""
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
    (packed,) = exp.glob("*.zip")
    with zipfile.ZipFile(packed) as archive:
        card = archive.read("exp/ssl_train_birq_raw/README.md").decode()
    assert re.search(r"training data \| train_nodev: \d+ utterances", card), card
    log = (exp / "train.log").read_text()
    assert "loss_anchor=" in log and "label_ppl_enhanced=" in log
    # Repeating a finished training stage does nothing and does not fail.
    done = run(["./run.sh", "--stage", "7", "--stop_stage", "7"], recipes / "ssl1")
    assert "Training completed" in done.stdout
    stages = "1 data, 3 format, 4 length filter, 6 statistics, 7 training, 8 pack: done"
    assert stages in done.stdout, done.stdout


@pytest.mark.parametrize("private", [False, True])
def test_upload(recipes, tmp_path, private):
    """Stage 9 calls `hf` (here a stand-in) on a folder with the card at its top."""
    program = tmp_path / "hf"
    program.write_text(
        f'#!/bin/sh\necho "$*" > {tmp_path}/called\nls "$3" >> {tmp_path}/called\n'
    )
    program.chmod(0o755)
    options = ["--stage", "9", "--skip_upload_hf", "false"]
    more = ["--private", "true"] if private else []
    # Put it on the PATH before the environment's real one.
    (recipes / "ssl1" / "local" / "path.sh").write_text(f"PATH={tmp_path}:$PATH\n")
    try:
        run(["./run.sh", *options, "--hf_repo", "me/birq", *more], recipes / "ssl1")
    finally:
        (recipes / "ssl1" / "local" / "path.sh").unlink()
    call, *files = (tmp_path / "called").read_text().splitlines()
    words = call.split()
    assert words[:2] == ["upload", "me/birq"] and words[3] == "."
    assert words[4:] == ["--private"] * private
    assert {"README.md", "meta.yaml", "exp"} <= set(files)


def fine_tuned(recipes):
    """Run asr1 to its end, if that has not been done."""
    if not (recipes / "asr1" / "exp" / "asr_birq" / "RESULTS.md").exists():
        run(["./run.sh"], recipes / "asr1")


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


@pytest.mark.slow
def test_fine_tuning_without_an_update(recipes):
    fine_tuned(recipes)
    options = ["--stage", "11", "--asr_tag", "none", "--ssl_model", "none"]
    said = fails(recipes / "asr1", *options, "--asr_args", "--accum_grad 9")
    assert "an epoch of 2 batches has no update with accum_grad 9" in said
    # A failure that shows only in training, and that ESPnet reports as success.
    diverging = "--optim sgd --optim_conf lr=1.0e+38 --optim_conf weight_decay=0"
    said = fails(recipes / "asr1", *options, "--asr_args", f"{diverging} --max_epoch 2")
    assert "exp/asr_none: no update was made in epoch 2, where training stopped" in said
    assert "Stage 12" not in said


@pytest.mark.parametrize(
    "name, stage, words",
    [
        ("data/test/text", "12", "run stage 3 again (--stage 3)"),
        ("dump/raw/lm_train.txt", "10", "run stage 5 again (--stage 5)"),
        ("dump/raw/train_nodev/text", "11", "run stage 10 again (--stage 10)"),
        (
            "exp/asr_stats_raw_en_char/train/speech_shape",
            "11",
            "remove exp/asr_birq to",
        ),
        (
            SSL_MODEL,
            "11",
            "remove exp/asr_birq to train anew, or give another --asr_tag",
        ),
        ("exp/asr_birq/valid.loss.ave.pth", "13", "run stage 12 again (--stage 12)"),
    ],
)
def test_sources_of_fine_tuning_that_changed(recipes, name, stage, words):
    fine_tuned(recipes)
    with changed((recipes / "asr1" / name).resolve(), lambda text: text + b"x 1\n"):
        said = fails(recipes / "asr1", "--stage", stage)
    assert words in said and f"{name} has changed since" in said


def test_texts_that_would_be_paired_with_other_transcripts(recipes):
    fine_tuned(recipes)
    (text,) = (recipes / "asr1" / "exp" / "asr_birq").glob("decode*/test/text")
    with changed(text):
        said = fails(recipes / "asr1", "--stage", "13")
    assert "1 texts of 2 utterances; run stage 12 again" in said


@pytest.mark.slow
def test_validation_set_among_the_test_sets(recipes):
    """asr.sh expects it in another folder, and scores missing texts as empty."""
    fine_tuned(recipes)
    options = ["--stage", "12", "--stop_stage", "13", "--test_sets", "train_dev"]
    run(["./run.sh", *options, "--greedy_ctc", "true"], recipes / "asr1")
    exp = recipes / "asr1" / "exp" / "asr_birq"
    decoded = exp / "greedy_ctc_valid.loss.ave" / "org" / "train_dev"
    _, text = (decoded / "text").read_text().split(maxsplit=1)
    hypothesis = (decoded / "score_wer" / "hyp.trn").read_text()
    assert text.split() and hypothesis.split("\t")[0].split() == text.split()


TRUE_TEXTS = """
from pathlib import Path
texts = dict(line.split(maxsplit=1) for line in open("dump/raw/test/text"))
for path in map(Path("exp/asr_birq/self_train/test").joinpath, ("text", "token", "score")):
    assert [line.split()[0] for line in path.open()] == sorted(texts), path
    with path.open("w") as stream:
        for key, text in sorted(texts.items()):
            said = {"text": text, "token": " ".join(text.strip()), "score": "-1"}
            print(key, said[path.name].strip(), file=stream)
"""


@pytest.mark.slow
def test_a_round_of_self_training(recipes, tmp_path):
    """As after two updates nothing is recognised, true texts replace the recognised."""
    fine_tuned(recipes)
    (tmp_path / "fix.py").write_text(TRUE_TEXTS)
    (tmp_path / "python3").write_text(
        f'#!/bin/sh\n{sys.executable} "$@" || exit\n'
        f'case "$*" in *bin.ctc_decode*) exec {sys.executable} {tmp_path}/fix.py ;; esac\n'
    )
    (tmp_path / "python3").chmod(0o755)
    asr = recipes / "asr1"
    (asr / "local" / "path.sh").write_text(f"PATH={tmp_path}:$PATH\n")
    command = ["../../TEMPLATE/asr1/self_train.sh", "--asr_tag", "birq", "--keep", "1"]
    command += ["--asr_config", "conf/train_asr.yaml", "--ssl_model", SSL_MODEL]
    command += [
        "--ngpu",
        "0",
        "--inference_nj",
        "1",
        "--lang",
        "en",
        "--use_lm",
        "false",
    ]
    command += ["--token_type", "char", "--train_set", "train_nodev"]
    command += ["--valid_set", "train_dev", "--test_sets", "test"]
    command += ["--inference_config", "conf/decode_asr.yaml"]
    try:
        done = run([*command, "--unlabelled_set", "test"], asr)
    finally:
        (asr / "local" / "path.sh").unlink()
    texts = {
        name: set((asr / "dump/raw" / name / "text").read_text().splitlines())
        for name in ("train_nodev", "test", "exp+asr_birq_st1")
    }
    labelled, recognised, both = texts.values()
    assert labelled < both <= labelled | recognised
    assert "/test|2|10|" in (asr / "exp/asr_birq_st1/RESULTS.md").read_text(), (
        done.stdout
    )


@pytest.mark.slow
def test_global_mvn_from_pretraining_to_scores(recipes, tmp_path):
    """Its statistics stay with the model: in fine-tuning and in both packed models."""
    fine_tuned(recipes)
    ssl = ["--stage", "6", "--feats_normalize", "global_mvn", "--expdir", "exp_mvn"]
    run(["./run.sh", *ssl, "--skip_packing", "false"], recipes / "ssl1")
    model = recipes / "ssl1/exp_mvn/ssl_train_birq_raw/valid.total_count.ave.pth"
    asr = ["--stage", "11", "--asr_tag", "mvn", "--ssl_model", str(model)]
    run(["./run.sh", *asr, "--skip_packing", "false"], recipes / "asr1")
    exp = recipes / "asr1" / "exp" / "asr_mvn"
    loaded, total = re.search(
        r"(\d+) of (\d+)", (exp / "handoff.txt").read_text()
    ).groups()
    assert loaded == total
    stats = (model.parent / "feats_stats.npz").read_bytes()
    assert (exp / "train" / "feats_stats.npz").read_bytes() == stats
    assert "/test|2|10|" in (exp / "RESULTS.md").read_text()
    # Unpacked by ESPnet in another place.
    (zip_of_ssl,), (zip_of_asr,) = model.parent.glob("*.zip"), exp.glob("*.zip")
    ssl = unpack(zip_of_ssl, tmp_path / "ssl")
    asr = unpack(zip_of_asr, tmp_path / "asr")
    read = SSLTask.build_model(read_config(Path(ssl["ssl_model_file"]))).normalize
    assert read.state_dict().keys() == {"mean", "std"}
    normalize = Speech2Text(
        asr["asr_train_config"], asr["asr_model_file"], ctc_weight=1.0
    ).asr_model.normalize
    assert torch.allclose(normalize.mean, read.mean.float())
    # Statistics of other features are rejected.
    other = ["--stage", "7", "--feats_normalize", "global_mvn", "--expdir", "exp_mvn"]
    said = fails(recipes / "ssl1", *other, "--ssl_args", "--frontend_conf n_mels=40")
    assert "exp_mvn/ssl_stats_raw/train was made with global_mvn" in said


def test_stock_espnet_without_this_package(recipes, tmp_path):
    asr = recipes / "asr1"
    fine_tuned(recipes)
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
    # The check can fail: a key that matches nothing silently loads nothing.
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
        (["--expdir", "my exp"], "--expdir 'my exp': has a space in it"),
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


@contextlib.contextmanager
def changed(path, change=lambda text: text[text.index(b"\n") + 1 :]):
    """Temporarily remove the first line of a file, or change it otherwise."""
    before = path.read_bytes()
    path.write_bytes(change(before))
    yield
    path.write_bytes(before)


def fails(folder, *options):
    """Run run.sh, which must fail; return its output."""
    done = run(["./run.sh", *options], folder, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stdout, done.stdout
    assert "completed" not in done.stdout
    return done.stdout


@pytest.mark.parametrize(
    "name, stage, words",
    [
        ("data/train_nodev/wav.scp", "4", "run stage 3 again (--stage 3)"),
        ("data/train_dev/wav.scp", "7", "run stage 3 again (--stage 3)"),
        ("dump/raw/org/train_dev/utt2num_samples", "6", "run stage 4 again (--stage"),
        ("dump/raw/train_nodev/wav.scp", "7", "run stage 6 again (--stage 6)"),
        ("exp/ssl_stats_raw/train/speech_shape", "7", "to train anew, or give another"),
    ],
)
def test_data_that_changed_after_a_stage(recipes, name, stage, words):
    with changed(recipes / "ssl1" / name):
        said = fails(recipes / "ssl1", "--stage", stage)
    assert words in said and f"{name} has changed since" in said
    assert re.search(r"\d lines then, \d now", said)


def test_other_options_than_those_of_an_earlier_stage(recipes):
    said = fails(recipes / "ssl1", "--stage", "6", "--max_wav_duration", "29")
    assert "was made with max_wav_duration '30', now it is '29': run stage 4" in said
    said = fails(recipes / "ssl1", "--stage", "7", "--train_set", "train_dev")
    assert (
        "exp/ssl_stats_raw/train was not made from dump/raw/train_dev/wav.scp" in said
    )


@pytest.mark.slow
def test_pretraining_without_an_update(recipes):
    options = ["--stage", "7", "--ssl_tag", "none", "--ssl_args", "--accum_grad 9"]
    done = run(["./run.sh", *options], recipes / "ssl1", check=False)
    assert done.returncode != 0 and "Training completed" not in done.stdout
    assert "an epoch of 2 batches has no update with accum_grad 9" in done.stdout
    assert not list((recipes / "ssl1" / "exp" / "ssl_none").glob("*.pth"))


def test_other_sampling_rate_needs_to_be_asked_for(recipes):
    options = ["--stage", "3", "--stop_stage", "3", "--fs", "8k", "--dumpdir", "dump8k"]
    done = run(["./run.sh", *options], recipes / "ssl1", check=False)
    assert done.returncode != 0 and "--resample true" in done.stdout
    run(["./run.sh", *options, "--resample", "true"], recipes / "ssl1")
    lengths = recipes / "ssl1" / "dump8k" / "raw" / "org" / "train_nodev"
    assert (lengths / "utt2num_samples").stat().st_size > 0
