"""A whole matrix with a recipe of quick stages, and its resumption."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from planted import write_speech

from espnet2_birq.experiments.configs import update_flops

ROOT = Path(__file__).resolve().parents[2]

# Writes the same files as birq.sh and asr.sh, and records its calls. If the recipe has a
# file "slow", pretraining waits; a file "tests" names the test sets.
RUN = r"""#!/usr/bin/env bash
set -e
kind=$(basename "$PWD")
while [ $# -gt 0 ]; do printf -v "${1#--}" %s "$2"; shift 2; done
echo "${kind} ${stage:-1} ${ssl_tag:-}${asr_tag:-}" >> ../calls
tests=$(cat ../tests 2> /dev/null || echo test)
if [ -z "${ssl_tag:-}${asr_tag:-}" ]; then
    mkdir -p dump/raw/train
    for test in ${tests}; do
        mkdir -p dump/raw/${test}
        echo "t-1 $PWD/none.flac" > dump/raw/${test}/wav.scp
        echo "t-1 $(cat ../words)" > dump/raw/${test}/text
    done
    stats=${asr_stats_dir:-${expdir}/ssl_stats_raw/train ${expdir}/ssl_stats_raw/valid}
    mkdir -p ${stats}
    for n in 1 2 3 4; do
        echo "s$n-u$n $PWD/none.flac" >> dump/raw/train/wav.scp.part
        echo "s$n-u$n s$n" >> dump/raw/train/utt2spk.part
        echo "s$n s$n-u$n" >> dump/raw/train/spk2utt.part
        echo "s$n-u$n 57600000" >> dump/raw/train/utt2num_samples.part
        echo "s$n-u$n a text" >> dump/raw/train/text.part
    done
    for file in dump/raw/train/*.part; do mv "$file" "${file%.part}"; done
    echo raw > dump/raw/train/feats_type
    for folder in ${stats}; do
        cp dump/raw/train/utt2num_samples "${folder}/speech_shape"
        python -m espnet2_birq.bin.stamp write "${folder}" \
            dump/raw/train/{utt2num_samples,text}
    done
elif [ "${kind}" = ssl1 ]; then
    exp=${expdir}/ssl_${ssl_tag}
    mkdir -p "${exp}"
    if [ -e ../slow ]; then sleep 600; fi
    cat > "${exp}/train.log" << EOF
[h] 2026-11-21 05:16:45,236 (t) INFO: 1epoch:train:1-2batch: loss_anchor=3.0, acc_anchor=0.1
[h] 2026-11-21 05:17:45,236 (t) INFO: 1epoch:train:3-4batch: loss_anchor=2.0, acc_anchor=0.3
[h] 2026-11-21 05:18:45,236 (t) INFO: 1epoch results: [train] loss_anchor=2.5, acc_anchor=0.2, [valid] loss_anchor=2.0
EOF
    echo model > "${exp}/valid.total_count.ave.pth"
else
    test -s "dump/raw/${train_set}/wav.scp"
    wrong=x
    if [ "${ssl_model}" != none ]; then test -e "${ssl_model}"; wrong=b; fi
    exp=${expdir}/asr_${asr_tag}
    if [ ! -e "${exp}/checkpoint" ]; then echo "${asr_tag}" >> ../tuned; fi
    for scores in $(for x in ${tests}; do echo "${exp}/decode/${x}"/score_{wer,cer}; done); do
        mkdir -p "${scores}"
        printf 'a b c (s-1)\nd e (s-2)\n' > "${scores}/ref.trn"
        printf 'a %s c (s-1)\nd e f (s-2)\n' "${wrong}" > "${scores}/hyp.trn"
    done
    touch "${exp}/checkpoint"
fi
"""


@pytest.fixture
def matrix(tmp_path):
    """Recipe and a matrix of two systems; returns its folder and a function to start it."""
    recipe = tmp_path / "recipe"
    for folder in ("ssl1", "asr1"):
        (recipe / folder).mkdir(parents=True)
        run = recipe / folder / "run.sh"
        run.write_text(RUN)
        run.chmod(0o755)
    base = yaml.safe_load((ROOT / "conf" / "matrix" / "pretrain.yaml").read_text())
    base.update(num_iters_per_epoch=2, max_epoch=2)
    (recipe / "ssl1" / "pretrain.yaml").write_text(yaml.safe_dump(base))
    (recipe / "asr1" / "finetune.yaml").write_text("{}")
    anchor = dict(name="anchor", labeller_conf=dict(codebook_size=16))
    enhanced = dict(name="enhanced", labeller_conf=dict(codebook_size=16))
    (recipe / "words").write_text("a text")
    spec = dict(
        recipe="recipe",
        pretrain="pretrain.yaml",
        tests=["test"],
        systems=[
            dict(name="scratch", pretrain=None),
            dict(name="birq", pretrain=dict(objectives=[anchor, enhanced]), updates=8),
            dict(name="long", pretrain=dict(objectives=[anchor]), compute_of="birq"),
        ],
        finetune=dict(
            config="finetune.yaml",
            sets={"1h": dict(hours=1), "rest": dict(rest_of="1h")},
        ),
        compare=[["birq", "scratch"]],
    )
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "espnet2_birq.bin.matrix", "matrix.yaml"]
    command += ["--out", "out", "--seeds", "0"]

    def start(*options):
        return subprocess.Popen(
            [*command, *options],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return tmp_path, start


def calls(folder):
    return (folder / "recipe" / "calls").read_text().splitlines()


def test_a_killed_matrix_goes_on_and_repeats_nothing(matrix):
    folder, start = matrix
    slow = folder / "recipe" / "slow"
    slow.touch()
    process = start()
    step = folder / "out" / "steps" / "ssl_birq_seed0"
    while not step.is_dir() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (folder / "out" / "steps" / "ssl_birq_seed0" / "done.json").exists()
    before = calls(folder)
    assert "asr1 11 scratch_seed0_rest" in before
    slow.unlink()

    process = start()
    output, _ = process.communicate()
    assert process.returncode == 0, output
    after = calls(folder)[len(before) :]
    assert after == [
        "ssl1 7 birq_seed0",
        "asr1 11 birq_seed0_1h",
        "asr1 11 birq_seed0_rest",
        "ssl1 7 long_seed0",
        "asr1 11 long_seed0_1h",
        "asr1 11 long_seed0_rest",
    ]
    # Six rows; pretraining avoids one error, "b" for "x".
    report = (folder / "out" / "report.md").read_text()
    assert "| scratch | 1 | 40.0 [" in report and "| birq | 1 | 20.0 [" in report
    assert "| birq minus scratch | 1h | test | 1 | -20.00 [" in report
    for name in ("learning.png", "wer.png"):
        assert f"({name})" in report and (folder / "out" / name).stat().st_size > 1000

    # As many updates as have the cost of BiRQ's: more of them, in whole epochs.
    configs = folder / "out" / "config"
    flops = json.loads((configs / "flops.json").read_text())
    epochs = yaml.safe_load((configs / "long_seed0.yaml").read_text())["max_epoch"]
    wanted = 8 * flops["birq"] / flops["long"]
    assert 8 < wanted and abs(2 * epochs - wanted) <= 1

    # Nothing is left to do; a changed configuration repeats its own steps only.
    output, _ = start().communicate()
    assert calls(folder)[len(before) :] == after, output
    conf = yaml.safe_load((folder / "matrix.yaml").read_text())
    conf["systems"][2]["pretrain"]["masking_conf"] = dict(mask_prob=0.02)
    (folder / "matrix.yaml").write_text(yaml.safe_dump(conf))
    start().communicate()
    now = calls(folder)
    again = [line for line in after if "long" in line]
    assert now[len(before) + len(after) :] == again
    # With other hours, everything is fine-tuned again and nothing pretrained.
    conf["finetune"]["sets"]["1h"]["hours"] = 2
    (folder / "matrix.yaml").write_text(yaml.safe_dump(conf))
    start().communicate()
    tuned = [line for line in calls(folder)[len(now) :] if " 11 " in line]
    assert len(tuned) == 6 and not any("ssl1" in x for x in calls(folder)[len(now) :])


def test_two_matrices_share_the_steps(matrix):
    """Also if one is killed alone: what it had started goes on."""
    folder, start = matrix
    slow = folder / "recipe" / "slow"
    slow.touch()
    first = start("--only", "birq")
    while not (folder / "out" / "ssl" / "ssl_birq_seed0").is_dir():
        assert first.poll() is None, first.communicate()
        time.sleep(0.1)
    second = start("--only", "birq")
    lines = []
    while not lines or "waiting" not in lines[-1]:
        lines.append(second.stdout.readline())
        assert lines[-1], lines
    assert "ssl_birq_seed0: another matrix is at it, waiting" in lines[-1]
    slow.unlink()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(1)
    assert calls(folder).count("ssl1 7 birq_seed0") == 1 and second.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    output, _ = second.communicate()
    assert second.returncode == 0, output
    assert "ssl_birq_seed0: started" in output and "ssl_birq_seed0: done" in output
    assert calls(folder).count("ssl1 7 birq_seed0") == 2
    assert calls(folder).count("asr1 11 birq_seed0_1h") == 1


@pytest.mark.slow
def test_what_is_missing_or_changed_is_made_again(matrix):
    folder, start = matrix
    # A command that ends without its output is a failure.
    run = folder / "recipe" / "ssl1" / "run.sh"
    run.write_text(RUN.replace("echo model >", "true || echo model >"))
    process = start("--only", "birq")
    output, _ = process.communicate()
    words = "ssl_birq_seed0: ended without .*/valid.total_count.ave.pth, see "
    assert process.returncode == 1 and re.search(words, output), output
    assert not (folder / "out" / "steps" / "ssl_birq_seed0" / "done.json").exists()
    run.write_text(RUN)
    output, _ = start("--only", "birq").communicate()
    before = calls(folder)
    assert before[-1] == "asr1 11 birq_seed0_rest", output
    # If transcripts of a test set change, nothing is pretrained again, and statistics stay.
    test = folder / "recipe" / "asr1" / "dump" / "raw" / "test"
    (folder / "recipe" / "words").write_text("another text")
    (test / "text").write_text("t-1 another text\n")
    output, _ = start("--only", "birq").communicate()
    assert "data_asr: " in output and "text has changed since" in output
    again = calls(folder)[len(before) :]
    assert again == [line for line in before if re.match("asr1 (1 |11)", line)]
    # A removed pretrained model is made again, with everything derived from it.
    now = calls(folder)
    (folder / "out" / "ssl" / "ssl_birq_seed0" / "valid.total_count.ave.pth").unlink()
    output, _ = start("--only", "birq").communicate()
    assert "valid.total_count.ave.pth is missing; made from what there is" in output
    assert calls(folder)[len(now)] == "ssl1 7 birq_seed0"


def test_a_failed_step_is_named_and_others_go_on(matrix):
    folder, start = matrix
    run = folder / "recipe" / "ssl1" / "run.sh"
    run.write_text(
        RUN.replace("echo model", "[ ${ssl_tag} != birq_seed0 ]; echo model")
    )
    output, _ = start().communicate()
    assert "1 failed, the first: ssl_birq_seed0: failed with exit status 1" in output
    assert "asr1 11 long_seed0_rest" in calls(folder)
    report = (folder / "out" / "report.md").read_text()
    assert "| long |" in report and "| birq |" not in report


def test_a_system_starts_from_the_model_of_another(matrix):
    folder, start = matrix
    conf = yaml.safe_load((folder / "matrix.yaml").read_text())
    conf["systems"].append(dict(name="more", pretrain={}, updates=4, after="birq"))
    del conf["finetune"]
    (folder / "matrix.yaml").write_text(yaml.safe_dump(conf))
    output, _ = start("--only", "more", "--jobs", "2").communicate()
    trained = [line for line in calls(folder) if line.startswith("ssl1 7")]
    assert trained == ["ssl1 7 birq_seed0", "ssl1 7 more_seed0"], output
    trunk = folder / "out" / "ssl" / "ssl_birq_seed0" / "valid.total_count.ave.pth"
    config = yaml.safe_load((folder / "out" / "config" / "more_seed0.yaml").read_text())
    assert config["init_param"] == [str(trunk)] and config["max_epoch"] == 2
    # A changed trunk repeats its branch.
    trunk.write_text("another model")
    output, _ = start("--only", "more").communicate()
    assert re.search("more_seed0: .*total_count.ave.pth has changed.*again", output)
    trained = [line for line in calls(folder) if line.startswith("ssl1 7")]
    assert trained[2:] == ["ssl1 7 more_seed0"]
    # Without its trunk, a branch is not trained from scratch.
    conf["systems"][1]["pretrain"]["masking_conf"] = dict(mask_prob=0.02)
    (folder / "matrix.yaml").write_text(yaml.safe_dump(conf))
    run = folder / "recipe" / "ssl1" / "run.sh"
    run.write_text(
        RUN.replace("echo model", "[ ${ssl_tag} != birq_seed0 ]; echo model")
    )
    output, _ = start("--only", "more").communicate()
    assert re.search("more_seed0: starts from .*, which is missing", output)


@pytest.mark.slow
def test_a_system_has_a_fine_tuning_of_its_own(matrix):
    """Only changes of its own fine-tuning repeat it."""
    folder, start = matrix
    file = folder / "recipe" / "asr1" / "finetune.yaml"
    file.write_text("{batch_bins: 10, optim_conf: {lr: 0.1, eps: 0.2}}")
    conf = yaml.safe_load((folder / "matrix.yaml").read_text())
    own = {"optim_conf": {"lr": 0.3}, "penalty": 2, "speech": ["{out}/ssl/list"]}
    conf["systems"] = [
        dict(name="scratch", pretrain=None),
        dict(name="joint", pretrain=None, finetune=own),
    ]
    del conf["compare"]
    conf["finetune"]["sets"] = {"all": None}

    def run():
        (folder / "matrix.yaml").write_text(yaml.safe_dump(conf))
        output, _ = start().communicate()
        return output, [x for x in calls(folder) if x.startswith("asr1 11")]

    output, tuned = run()
    assert tuned == ["asr1 11 scratch_seed0_all", "asr1 11 joint_seed0_all"], output
    config = folder / "out" / "config" / "joint_finetune.yaml"
    assert yaml.safe_load(config.read_text()) == {
        "batch_bins": 10,
        "optim_conf": {"lr": 0.3, "eps": 0.2},
        "penalty": 2,
        "speech": [f"{folder}/out/ssl/list"],
    }
    assert "joint_seed0_all: already done" in run()[0]
    own["penalty"] = 3
    output, tuned = run()
    assert tuned[2:] == ["asr1 11 joint_seed0_all"]
    assert "scratch_seed0_all: already done" in output
    del conf["finetune"]
    assert "'joint': changes of a fine-tuning, but the matrix has none" in run()[0]


@pytest.mark.slow
def test_phones_are_measured(matrix):
    folder, start = matrix
    write_speech(folder / "speech")
    probe = "--data speech/data --alignment speech/phones.tsv --units 4 --layers 0 1"
    output, _ = start("--only", "scratch", "--phones", probe).communicate()
    assert "report.md" in output, output
    found = json.loads((folder / "out" / "phones" / "scratch_seed0.json").read_text())
    accuracy = found["models"][0]["layers"][1]["accuracy"]["mean"]
    assert f"| scratch | {accuracy:.4f} |" in (folder / "out/report.md").read_text()
    output, _ = start("--only", "scratch", "--phones", probe).communicate()
    assert "phones_scratch_seed0: already done" in output
    output, _ = start("--only", "scratch", "--phones", probe + " 2").communicate()
    assert "phones_scratch_seed0: was made with other settings; made again" in output


def test_flops_of_an_update_are_a_mean_over_all_updates(tmp_path):
    """BiRQ from half of the updates on costs half of the difference from BEST-RQ."""
    base = yaml.safe_load((ROOT / "conf" / "matrix" / "pretrain.yaml").read_text())
    small = dict(codebook_size=16)

    def flops(**enhanced):
        rows = [dict(name="anchor", labeller_conf=small)]
        if enhanced:
            rows.append(dict(name="enhanced", labeller_conf=small, **enhanced))
        conf = dict(base, objectives=rows, num_iters_per_epoch=5, max_epoch=4)
        file = tmp_path / "pretrain.yaml"
        file.write_text(yaml.safe_dump(conf))
        return update_flops(file)

    never, always, late = flops(), flops(weight=0.1), flops(when={"start": 10})
    assert always > 1.3 * never
    assert late == pytest.approx((never + always) / 2, rel=1e-6)
