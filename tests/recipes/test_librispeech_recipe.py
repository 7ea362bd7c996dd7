"""egs2/librispeech: requests of its run.sh, and its data.sh on small corpora."""

import hashlib
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from checkout import ROOT, copy_checkout, run

from espnet2_birq.config import averaged_model
from espnet2_birq.corpora.librispeech_parts import UTTERANCES_OF_PART

RECIPE = ROOT / "egs2" / "librispeech"


@pytest.fixture
def mini(an4_tarball, tmp_path):
    """mini_librispeech/ssl1 in a copy, whose preparation writes nothing."""
    top = copy_checkout(tmp_path / "top", an4_tarball.parents[3])
    (tmp_path / "python3").write_text("#!/bin/sh\n")
    (tmp_path / "python3").chmod(0o755)
    folder = top / "egs2" / "mini_librispeech" / "ssl1"
    (folder / "local/path.sh").write_text(f"PATH={tmp_path}:$PATH\n")
    (folder / "data").mkdir()
    return folder


def test_sets_of_mini_librispeech_are_links(mini):
    status_of(mini, "local/data.sh", "--test_other", "dev-other")
    status, said = status_of(mini, "local/data.sh", "--dev", "dev-clean")
    links = {path.name: str(path.readlink()) for path in (mini / "data").iterdir()}
    assert status == 0, said
    assert links == {"valid": "dev_clean_valid", "test": "dev_clean_test"}
    (mini / "data/valid").unlink()
    (mini / "data/valid").mkdir()
    status, said = status_of(mini, "local/data.sh")
    assert status == 1 and "data/valid: not of this preparation" in said
    assert not list((mini / "data/valid").iterdir())


@pytest.fixture
def recipe(tmp_path):
    """The recipe's folders side by side, as in a checkout, still empty."""
    for folder in ("local", "espnet2_birq", "conf"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for task in ("ssl1", "asr1"):
        folder = tmp_path / "egs2" / "librispeech" / task
        folder.mkdir(parents=True)
        for name in ("run.sh", "local", "conf"):
            (folder / name).symlink_to(RECIPE / task / name)
    return tmp_path / "egs2" / "librispeech"


def status_of(folder, *command):
    """Run a command; return status and output."""
    done = run(command, folder, check=False)
    return done.returncode, done.stdout


def options_of(folder, script, *arguments):
    """Return what run.sh passes to a script, by option; the last value counts."""
    (folder / script).write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (folder / script).chmod(0o755)
    status, said = status_of(folder, "./run.sh", *arguments)
    assert status == 0, said
    given = said.splitlines()
    return dict(zip(given[::2], given[1::2], strict=True))


@pytest.mark.parametrize("corpus", ["librispeech", "mini_librispeech", "ami"])
def test_folders_with_spaces_are_refused(corpus, tmp_path):
    """Else the options after them would be dropped."""
    folder = ROOT / "egs2" / corpus / "ssl1"
    status, said = status_of(
        folder,
        "local/data.sh",
        "--librispeech" if "libri" in corpus else "--ami",
        str(tmp_path),
        "folder",
        "--x",
        "y",
    )
    assert status == 1 and "'folder' is no option; folders must not have spaces" in said


@pytest.mark.parametrize(
    "corpus, options, words",
    [
        (
            "yodas",
            "--lang en fr --hours 5",
            "'fr' is no option; quote values of several",
        ),
        ("mini_an4", "--x y", "'--x': there are no options; leave it out"),
        ("mini_synth", "--x y", "'--x': there are no options; leave it out"),
    ],
)
def test_stray_words_are_refused(corpus, options, words):
    folder = ROOT / "egs2" / corpus / "ssl1"
    status, said = status_of(folder, "local/data.sh", *options.split())
    assert status == 1 and words in said, said


@pytest.mark.parametrize(
    "method, config",
    [("birq", "train_birq"), ("best_rq_c2", "tuning/train_best_rq_c2")],
)
def test_pretraining_options(recipe, method, config):
    given = options_of(recipe / "ssl1", "birq.sh", "--method", method)
    assert given["--train_set"] == "train_960" and given["--valid_set"] == "dev"
    assert given["--local_data_opts"].split() == ["--need", "train_960,dev"]
    assert given["--train_config"] == f"conf/{config}.yaml"
    assert (recipe / "ssl1" / given["--train_config"]).is_file()
    given = options_of(
        recipe / "ssl1",
        "birq.sh",
        *("--train_set", "train_clean_100", "--librispeech", "/corpora"),
        *("--resample", "true", "--dry_run", "true", "--ngpu", "1"),
    )
    assert (
        given["--local_data_opts"].split()
        == (
            "--need train_clean_100,dev --librispeech /corpora --resample true "
            "--dry_run true"
        ).split()
    )
    assert given["--ngpu"] == "1" and given["--stop_stage"] == "1"
    assert given["--resample"] == "true" and "--librispeech" not in given


@pytest.mark.parametrize(
    "method, config, model",
    [
        ("best_rq", "train_asr", "ssl_train_best_rq_raw"),
        ("scratch", "train_asr", None),
        ("birq_c1", "tuning/train_asr_c1", "ssl_train_birq_c1_raw"),
        ("scratch_c2", "tuning/train_asr_c2", None),
    ],
)
def test_fine_tuning_options(recipe, method, config, model):
    given = options_of(recipe / "asr1", "finetune.sh", "--method", method)
    assert given["--asr_config"] == f"conf/{config}.yaml"
    assert (recipe / "asr1" / given["--asr_config"]).is_file()
    expected = f"../ssl1/exp/{model}/valid.total_count.ave.pth" if model else "none"
    assert given["--ssl_model"] == expected
    assert given["--train_set"] == "train_clean_100" and given["--valid_set"] == "dev"
    assert given["--test_sets"] == "test_clean test_other dev_clean dev_other"
    assert given["--local_data_opts"].split() == [
        "--need",
        "train_clean_100,dev,test_clean,test_other,dev_clean,dev_other",
    ]
    given = options_of(recipe / "asr1", "finetune.sh", "--dry_run", "true")
    assert given["--local_data_opts"].endswith("--dry_run true")
    assert given["--stop_stage"] == "1" and given["--ssl_model"] == "none"


def test_strong_protocol(recipe):
    arguments = ("--method", "best_rq", "--protocol", "strong")
    given = options_of(recipe / "asr1", "finetune.sh", *arguments)
    assert given["--asr_tag"] == "best_rq_strong" and given["--token_type"] == "bpe"
    for name in ("asr_config", "inference_config"):
        assert (recipe / "asr1" / given[f"--{name}"]).is_file()
        assert "strong" in given[f"--{name}"]
    config = recipe / "asr1" / given["--asr_config"]
    assert averaged_model(config) == "valid.acc.ave.pth"
    twin = options_of(
        recipe / "asr1", "finetune.sh", "--method", "scratch", *arguments[2:]
    )
    differing = {name for name in given if given[name] != twin[name]}
    assert differing == {"--asr_tag", "--ssl_model"} and twin["--ssl_model"] == "none"
    for wrong in (["--protocol", "x"], [*arguments[2:], "--method", "birq_c1"]):
        status, said = status_of(recipe / "asr1", "./run.sh", *wrong)
        assert status == 1 and "error: " in said


def test_hours_of_the_training_set(recipe):
    given = options_of(recipe / "asr1", "finetune.sh", "--train_hours", "10")
    assert given["--train_set"] == "train_clean_100_10h"
    assert "--subset train_clean_100:10" in given["--local_data_opts"]
    assert "train_clean_100_10h" not in given["--local_data_opts"]
    assert given["--expdir"] == "exp/10h" and given["--asr_tag"] == "birq"
    assert given["--lm_train_text"] == "data/train_clean_100/text"


def test_arguments_of_training_are_added_to_those_of_the_hours(recipe):
    own = ("--asr_args", "--seed 7")
    given = options_of(recipe / "asr1", "finetune.sh", "--train_hours", "1", *own)
    assert given["--asr_args"] == "--num_iters_per_epoch 260 --seed 7"
    given = options_of(recipe / "asr1", "finetune.sh", *own)
    assert given["--asr_args"] == "--seed 7"


def test_a_dry_run_does_not_train_itself(recipe):
    for script in ("finetune.sh", "self_train.sh"):
        (recipe / "asr1" / script).write_text("#!/bin/sh\necho called\n")
        (recipe / "asr1" / script).chmod(0o755)
    options = ("--self_train", "2", "--dry_run", "true")
    status, said = status_of(recipe / "asr1", "./run.sh", *options)
    assert status == 1 and "leave out --self_train" in said and "called" not in said


@pytest.fixture
def prepared(recipe):
    """The recipe with the parts of ESPnet that data.sh needs."""
    tree = Path(os.environ.get("ESPNET_ROOT", ROOT / "tools" / "espnet"))
    if not (tree / "egs2" / "TEMPLATE").is_dir():
        pytest.skip(f"no ESPnet tree: {tree} is not there, set ESPNET_ROOT")
    (recipe.parents[1] / "tools").mkdir()
    (recipe.parents[1] / "tools" / "espnet").symlink_to(tree.resolve())
    for task in ("ssl1", "asr1"):
        (recipe / task / "utils").symlink_to(tree / "egs2/TEMPLATE/asr1/utils")
        path = ROOT / "egs2" / "TEMPLATE" / "ssl1" / "path.sh"
        (recipe / task / "path.sh").symlink_to(path)
    return recipe


def make_corpus(top, parts):
    """Write parts with one utterance each."""
    noise = np.random.default_rng(0).normal(0.0, 0.1, 1600)
    for number, part in enumerate(parts):
        folder = top / "LibriSpeech" / part / f"{number}" / "7"
        folder.mkdir(parents=True)
        soundfile.write(folder / f"{number}-7-0000.flac", noise, 16000)
        (folder / f"{number}-7.trans.txt").write_text(f"{number}-7-0000 A\n")
    speakers = "".join(f"{n} | F | {part}\n" for n, part in enumerate(parts))
    (top / "LibriSpeech" / "SPEAKERS.TXT").write_text(speakers)
    return str(top)


def test_whole_corpus_makes_all_sets(prepared, tmp_path):
    corpus = make_corpus(tmp_path / "c", UTTERANCES_OF_PART)
    need = "train_clean_100,dev,test_clean,test_other,dev_clean,dev_other,train_960"
    command = ["local/data.sh", "--librispeech", corpus, "--need", need]
    status, said = status_of(prepared / "asr1", *command)
    assert status == 1 and "train-clean-100: has 1 of the 28539 utterances" in said
    status, said = status_of(prepared / "asr1", *command, "--skip_bad", "true")
    assert status == 0, said
    for name in need.split(","):
        assert (prepared / "asr1" / "data" / name / "wav.scp").is_file()


def test_hours_are_taken_out_of_a_set(prepared, tmp_path):
    corpus = make_corpus(tmp_path / "c", ["train-clean-100"])
    command = ["local/data.sh", "--librispeech", corpus, "--subset"]
    # There is a single utterance of 0.1 s.
    status, said = status_of(prepared / "asr1", *command, "train_clean_100:0.00002")
    assert status == 0, said
    data = prepared / "asr1" / "data"
    for name in ("text", "utt2spk", "spk2gender"):
        whole = (data / "train_clean_100" / name).read_text()
        assert (data / "train_clean_100_0.00002h" / name).read_text() == whole
    status, said = status_of(prepared / "asr1", *command, "train_clean_100:10")
    assert status == 1 and "10 hours were asked for, there are" in said


def test_partial_corpus_is_prepared_and_said_to_be(prepared, tmp_path):
    corpus = make_corpus(tmp_path / "c", ["train-clean-100", "dev-clean"])
    command = ["local/data.sh", "--librispeech", corpus, "--skip_bad", "true"]
    status, said = status_of(prepared / "ssl1", *command, "--need", "train_clean_100")
    assert status == 0, said
    assert (prepared / "ssl1" / "data" / "dev_clean" / "wav.scp").is_file()
    status, said = status_of(prepared / "ssl1", *command, "--need", "train_960,dev")
    assert status == 1
    last = said.splitlines()[-1]
    assert last.startswith(
        "error: data/train_960: would not be made: no train_clean_360 "
    )
    assert f"{corpus}" in last and "--train_set" in last
    # Sets of an earlier preparation, of a fuller corpus, do not count; one's own do.
    data = prepared / "ssl1" / "data"
    for name in ("test_clean", "mine"):
        shutil.copytree(data / "dev_clean", data / name)
    for parts in ([], ["--parts", "dev-clean"]):
        more = [*parts, "--need", "mine,dev_clean,test_clean"]
        status, said = status_of(prepared / "ssl1", *command, *more)
        assert status == 1 and "data/test_clean: would not be made" in said, said
    status, said = status_of(prepared / "ssl1", *command, "--need", "mine,dev_clean")
    assert status == 0, said


def test_download_and_preparation(prepared, tmp_path):
    # The archives exist already, so their addresses are never contacted.
    downloads = prepared / "ssl1" / "downloads"
    downloads.mkdir()
    lines = []
    for part in ("dev-clean", "dev-other"):
        top = tmp_path / part
        make_corpus(top, ["x", part] if part == "dev-other" else [part])
        shutil.rmtree(top / "LibriSpeech" / "x", ignore_errors=True)
        with tarfile.open(downloads / f"{part}.tar.gz", "w:gz") as tar:
            tar.add(top / "LibriSpeech", "LibriSpeech")
        checksum = hashlib.md5(b"").hexdigest()
        lines.append(f"{checksum} http://127.0.0.1:9/{part}.tar.gz {part}.tar.gz\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    command = ["local/data.sh", "--list", str(tmp_path / "list.txt")]
    command += ["--parts", "dev-clean,dev-other", "--need", "dev", "--skip_bad", "true"]
    status, said = status_of(prepared / "asr1", *command, "--dry_run", "true")
    assert status == 0 and "to fetch" in said, said
    assert not (downloads / "LibriSpeech").exists()
    # asr1 also uses ssl1's downloads, so that there is one copy of the corpus.
    status, said = status_of(prepared / "asr1", *command)
    assert status == 0, said
    assert (
        f"{prepared}/ssl1/downloads"
        in (prepared / "asr1" / "data" / "dev" / "wav.scp").read_text()
    )
    assert len(list((downloads / "LibriSpeech").rglob("*.flac"))) == 2


def test_help_of_data_sh(prepared):
    status, said = status_of(prepared / "ssl1", "local/data.sh", "--help")
    assert status == 0 and "--need SET,SET" in said and "set -e" not in said
