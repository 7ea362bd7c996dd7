"""Stages 5 to 7 of birq.sh with labels from disk; stand-ins fit, label and train."""

import sys

import pytest
from checkout import copy_checkout, run

PYTHON = f"""#!/bin/bash
args="$*"
opt() {{ echo "$args" | grep -oP -- "$1 \\K\\S+" | tail -1; }}
case "$args" in
    *bin.stamp*|-c*) exec {sys.executable} "$@" ;;
    *--dry_run*) mkdir -p "$(opt --output_dir)"
        echo '{{frontend: x, frontend_conf: {{}}, max_epoch: 40}}' \\
            > "$(opt --output_dir)/config.yaml" ;;
    *fit_kmeans*) echo "$args" | grep -oP -- '--view .* --clusters \\S+' > "$(opt --out)" ;;
    *dump_labels*) out=$(opt --out) kmeans=$(opt --kmeans) model=$(opt --model)
        data=$(opt --data)
        mkdir -p "$out" && cp "$kmeans" "$out/labels.scp"
        size=$(grep -oP -- '--clusters \\K.*' "$kmeans")
        view=$(grep -oP -- '--view \\K.*(?= --clusters)' "$kmeans")
        echo "$size" > "$out/codebook_size"
        {sys.executable} -m espnet2_birq.bin.stamp write "$out" --setting "view=$view" \\
            --setting "clusters=$size" "$model" "$kmeans" \\
            "$(dirname "$model")/config.yaml" "${{data%%,*}}" ;;
    *espnet2.bin.launch*) exp=$(opt --output_dir)
        mkdir -p "$exp" && cp "$(opt --config)" "$exp/trained_with"
        cd "$exp" && echo | tee valid.total_count.ave.pth checkpoint.pth > config.yaml ;;
esac
"""
LAYER = ["--features_km", "none 70%", "--n_clusters", "8"]
LAST = ["--train_start_iter", "1", "--train_stop_iter", "1"]


@pytest.fixture(scope="module")
def ssl(tmp_path_factory, an4_tarball):
    """mini_an4/ssl1 with formatted sets, after iterations 0 and 1."""
    top = copy_checkout(tmp_path_factory.mktemp("top"), an4_tarball.parents[3])
    (top / "python").write_text(PYTHON)
    (top / "python").chmod(0o755)
    (top / "train.yaml").write_text("max_epoch: 1\n")
    ssl = top / "egs2" / "mini_an4" / "ssl1"
    for name in ("train_nodev", "train_dev"):
        (ssl / "dump/raw" / name).mkdir(parents=True)
        for file in ("wav.scp", "utt2num_samples"):
            (ssl / "dump/raw" / name / file).write_text("u 16000\n")
    pretrain(ssl, *LAYER, "--train_stop_iter", "1")
    return ssl


def pretrain(ssl, *options, check=True):
    top = ssl.parents[2]
    command = ["./run.sh", "--skip_data_prep", "true", "--python", str(top / "python")]
    command += ["--train_config", str(top / "train.yaml"), "--ssl_tag", "x"]
    done = run([*command, "--stage", "5", *options], ssl, check=check)
    return done.returncode, done.stdout


def test_a_configuration_for_no_iteration(ssl):
    config = str(ssl.parents[2] / "train.yaml")
    status, said = pretrain(ssl, "--relabel_config", config, check=False)
    assert status == 1 and "give --train_stop_iter, too" in said
    pretrain(
        ssl, "--relabel_config", config, "--stage", "4", "--stop_stage", "4", *LAST
    )


@pytest.mark.parametrize("stage, last", [("7", True), ("8", False)])
def test_stages_after_training_train_nothing(ssl, stage, last):
    """--stage up to 7 applies only to the first iteration, later ones to all."""
    options = ["--train_stop_iter", "1", "--dry_run", "true", "--stage", stage]
    options += ["--skip_packing", "false"]
    said = pretrain(ssl, *LAYER, *options)[1]
    assert ("stage 7: training, iteration 1" in said) == last


def test_data_options_of_later_stages(ssl):
    """Only local/data.sh, in stage 1, reads them."""
    (ssl / "local/data.sh").unlink()
    (ssl / "local/data.sh").write_text("mkdir -p data/train_nodev\n")
    (ssl / "local/data.sh").chmod(0o755)
    command = ["./run.sh", "--local_data_opts"]
    run([*command, "--train a --dev b", "--stop_stage", "1"], ssl)
    later = ["--stage", "2", "--stop_stage", "2"]
    for same in ("--dev b", "--train a --dev b", ""):
        run([*command, same, *later], ssl)
    for more in (later, ["--skip_data_prep", "true", "--stop_stage", "2"]):
        done = run([*command, "--train c --dev b", *more], ssl, check=False)
        assert done.returncode == 1, done.stdout
        assert "data/train_nodev was made with train 'a', now it is 'c'" in done.stdout


def test_the_configuration_is_that_of_now(ssl):
    trained = ssl / "exp/ssl_x_iter1/trained_with"
    assert "max_epoch: 1\n" in trained.read_text()
    (ssl.parents[2] / "train.yaml").write_text("max_epoch: 2\n")
    pretrain(ssl, *LAYER, *LAST, "--stage", "7")
    assert "max_epoch: 2\n" in trained.read_text()
    assert "codebook_size: 8" in trained.read_text()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--features_km", "none 50%"], "view layer 70%, now there is view layer 50%"),
        (["--n_clusters", "100"], "clusters 8, now there is clusters 100"),
        (["--features_km", "none enhanced"], "objective None, now it is 'enhanced'"),
    ],
)
@pytest.mark.parametrize("stage", ["6", "7"])
def test_labels_of_something_else(ssl, options, words, stage):
    status, said = pretrain(ssl, *LAYER, *LAST, "--stage", stage, *options, check=False)
    assert status == 1 and "Training completed" not in said, said
    assert words in said and "run stage 5 --train_start_iter 1 again" in said
