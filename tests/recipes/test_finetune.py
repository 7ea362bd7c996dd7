"""finetune.sh: what is given to asr.sh, which only prints its arguments here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from espnet2_birq.datadir.locking import locked
from espnet2_birq.datadir.stamp import write_stamp

ROOT = Path(__file__).resolve().parents[2]
FINETUNE = ROOT / "egs2/TEMPLATE/asr1/finetune.sh"
OURS = "python3 -m espnet2_birq.bin.with_encoders"


@pytest.mark.parametrize(
    "encoder, options, expected",
    [
        ("conformer  # not shaw_conformer", [], "python3"),
        ("shaw_conformer", [], OURS),
        ('"shaw_conformer"', [], OURS),
        ("shaw_conformer", ["--python", "python3 -u"], "python3 -u"),
        ("conformer\nencoder_lr_decay: 0.9", [], OURS),
        ("conformer\nfreeze_encoder_updates: 10", [], OURS),
        ("conformer\naccelerate: auto", [], OURS),
        ("conformer\nobjectives: []", [], OURS),
        ("conformer\n# encoder_lr_decay: 0.9", [], "python3"),
        ("conformer\nfrontend: birq", [], OURS),
        ("conformer\nfrontend: 'birq'  # frozen", [], OURS),
        ("conformer\nfrontend: default", [], "python3"),
        ("conformer", ["--asr_args", "--seed 1 --encoder_lr_decay 0.9"], OURS),
        ("conformer", ["--asr_args", "--freeze_encoder_updates=9"], OURS),
        ("conformer", ["--asr_args", "--accelerate float32"], OURS),
        ("conformer", ["--asr_args", "--encoder shaw_conformer"], OURS),
        ("conformer", ["--asr_args", "--seed 1 --frontend birq"], OURS),
        ("conformer", ["--asr_args", "--frontend=birq"], OURS),
        ("conformer", ["--asr_args", "--frontend default"], "python3"),
        ("conformer", ["--asr_args", "--frontend_conf fs=8k"], "python3"),
        ("conformer", ["--asr_args", "--objectives [{name:x}]"], OURS),
        ("conformer", ["--asr_args", "--encoder_conf num_blocks=3"], "python3"),
    ],
)
def test_python_of_asr_sh(tmp_path, encoder, options, expected):
    given = passed_on(tmp_path, f"encoder: {encoder}\n", options)
    assert given.count("--python") == 1
    assert given[given.index("--python") + 1] == expected


@pytest.mark.parametrize(
    "criteria, options, expected",
    [
        ("[[valid, cer_ctc, min]]", [], "valid.cer_ctc.ave.pth"),
        ("[[train, loss, min], [valid, loss, min]]", [], "valid.loss.ave.pth"),
        ("[]", [], "valid.acc.ave.pth"),
        ("[[valid, loss, min]]", ["--inference_asr_model", "x.pth"], "x.pth"),
    ],
)
def test_model_to_decode_with(tmp_path, criteria, options, expected):
    """It is the one that the configuration's training will leave."""
    given = passed_on(tmp_path, f"best_model_criterion: {criteria}\n", options)
    assert given.count("--inference_asr_model") == 1
    assert given[given.index("--inference_asr_model") + 1] == expected


ESPNET = """#!/bin/bash
while [ $# -gt 0 ]; do printf -v "${1#--}" %s "$2"; shift 2; done
if [ ! -e "$asr_exp/checkpoint.pth" ]; then echo "$asr_args" > "$asr_exp/m.pth"; fi
touch "$asr_exp/checkpoint.pth"
{ cat "$asr_config"; echo "# $asr_args"; } > "$asr_exp/config.yaml"
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Recipe's folder after stage 11, by stand-ins: as ESPnet, once trained, it is done."""
    files = {
        "asr.sh": ESPNET,
        "asr.yaml": "max_epoch: 3\nencoder_conf: {dropout: 0.1}\n",
    }
    files["python3"] = (
        f'#!/bin/sh\ncase "$*" in *bin.stamp*|-c*) exec {sys.executable} "$@" ;; esac\n'
    )
    files["path.sh"] = f"PATH={tmp_path}:$PATH\ncpu_training() {{ :; }}\n"
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    for name in ("train", "valid"):
        for folder in (f"exp/stats/{name}", f"dump/raw/{name}"):
            (tmp_path / folder).mkdir(parents=True)
            for file in ("speech_shape", "text", "wav.scp"):
                (tmp_path / folder / file).write_text("a b\n")
    monkeypatch.chdir(tmp_path)
    lists = [
        f"dump/raw/{x}/{y}" for x in ("train", "valid") for y in ("wav.scp", "text")
    ]
    write_stamp(Path("exp/stats"), [*lists, "data/token_list/bpe_unigram30/tokens.txt"])
    done = train(tmp_path, "--asr_args", "--seed 1")
    assert done.returncode == 0, done.stderr
    return tmp_path


def train(folder, *options):
    """Run stage 11."""
    command = [FINETUNE, "--asr_tag", "x", "--asr_config", "asr.yaml", "--stage", "11"]
    command += [
        "--ngpu",
        "0",
        "--stop_stage",
        "11",
        "--train_set",
        "train",
        "--valid_set",
        "valid",
    ]
    command += ["--asr_stats_dir", "exp/stats", "--inference_asr_model", "m.pth"]
    return subprocess.run(
        [*command, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_resuming_with_the_same_options(trained):
    """Training can also go on for longer, or with a record of an older version."""
    assert train(trained, "--asr_args", "--seed 1").returncode == 0
    longer = trained / "asr.yaml"
    longer.write_text(longer.read_text().replace("3", "6"))
    assert train(trained, "--asr_args", "--max_epoch 9 --seed 1").returncode == 0
    stamp = trained / "exp/asr_x/made_from.json"
    record = json.loads(stamp.read_text())
    assert record.pop("settings")["--seed"] == "1"
    stamp.write_text(json.dumps(record))
    assert train(trained).returncode == 0


def test_a_folder_of_its_own(trained):
    """The checks are for the folder that asr.sh trains in."""
    mine = ["--asr_exp", "exp/mine", "--asr_args"]
    done = train(trained, *mine, "--seed 2")
    assert done.returncode == 0, done.stderr
    assert (trained / "exp/mine/m.pth").read_text().split() == ["--seed", "2"]
    done = train(trained, *mine, "--seed 3")
    assert done.returncode == 1 and "exp/mine" in done.stderr


@pytest.mark.parametrize(
    "option, value",
    [
        ("cleaner", "tacotron"),
        ("g2p", "g2p_en"),
        ("asr_speech_fold_length", "400"),
        ("asr_text_fold_length", "100"),
        ("num_splits_asr", "2"),
    ],
)
def test_texts_and_batches_of_a_training(trained, option, value):
    """They are no options of the training itself; defaults may be given."""
    given = ["--asr_args", "--seed 1", f"--{option}"]
    names = (ROOT / "local/asr_names.sh").read_text()
    default = dict(re.findall(r"(\w+)=([^\s;\"]+)", names))[option]
    assert train(trained, *given, default).returncode == 0
    done = train(trained, *given, value)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    if option in ("cleaner", "g2p"):  # its statistics have a record of an older version
        assert f"no {option}, now there is {option} {value}: remove" in done.stderr
    stage = ["--stage", "10", "--stop_stage", "10", *given]
    assert train(trained, *stage, value).returncode == 0
    done = train(trained, *given[:2])
    if option in ("cleaner", "g2p"):
        assert f"{option} {value}, now there is {option} {default}" in done.stderr
        assert "run stage 10 again" in done.stderr
    else:
        assert done.returncode == 0


@pytest.mark.parametrize("what", ["asr_args", "asr_config"])
def test_training_with_other_options_is_not_resumed(trained, what):
    """ESPnet would train nothing, and leave old weights with the new configuration."""
    config = trained / "exp/asr_x/config.yaml"
    before = config.read_text()
    if what == "asr_config":
        (trained / "asr.yaml").write_text("max_epoch: 3\nencoder_conf: {dropout: 0.2}")
    done = train(
        trained, "--asr_args", "--seed 2" if what == "asr_args" else "--seed 1"
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    words = {"asr_args": "--seed 1, now there is --seed 2"}
    words["asr_config"] = 'encoder_conf {"dropout": 0.1}, now there is encoder_conf'
    assert words[what] in done.stderr
    assert "remove exp/asr_x to train anew, or give another --asr_tag" in done.stderr
    assert config.read_text() == before


def test_an_average_is_not_the_result_of_more_epochs(trained):
    """Until they are there; a finished training repeated keeps its model."""
    folder = trained / "exp/asr_x"
    (folder / "latest.pth").symlink_to("3epoch.pth")
    (folder / "valid.loss.ave.pth").write_text("of 3 epochs")
    for options in ("--seed 1", "--seed 1 --max_epoch 2"):
        assert train(trained, "--asr_args", options).returncode == 0
        assert (folder / "valid.loss.ave.pth").exists()
    done = train(trained, "--asr_args", "--seed 1 --max_epoch 4")
    assert "in exp/asr_x/averages_before" in done.stdout, done.stderr
    assert [x.name for x in folder.rglob("*.ave.pth")] == ["valid.loss.ave.pth"]
    assert (folder / "averages_before/valid.loss.ave.pth").exists()


def test_two_fine_tunings_at_once(trained):
    """The second in a folder is refused, and changes nothing there."""
    lock, options = trained / "exp/asr_x/.lock_finetune", ["--asr_args", "--seed 1"]
    tried = f"flock --nonblock {lock} true || echo locked\n"
    (trained / "asr.sh").write_text(ESPNET + tried)
    done = train(trained, *options)
    assert done.returncode == 0 and "locked" in done.stdout, done.stderr
    record = trained / "exp/asr_x/made_from.json"
    before = record.stat().st_mtime_ns
    with locked(lock):
        done = train(trained, *options)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert "exp/asr_x: another fine-tuning is at work" in done.stderr
        assert "give another --asr_tag" in done.stderr
        assert train(trained, *options, "--asr_tag", "y").returncode == 0
    assert record.stat().st_mtime_ns == before
    assert train(trained, *options).returncode == 0


def test_audio_that_a_fine_tuning_reads_is_kept(trained):
    stage = ["--stage", "3", "--stop_stage", "3"]
    (trained / "asr.sh").write_text("#!/bin/sh\necho called\n")
    config = trained / "exp/asr_x/config.yaml"
    config.write_text("-   - dump/raw/valid/wav.scp\n    - speech\n")
    with locked(config.with_name(".lock_finetune")):
        done = train(trained, *stage)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert "dump/raw/valid: the training in exp/asr_x reads files" in done.stderr
        assert done.stderr.endswith("or begin with --stage 11\n")
        assert "called" in train(trained, *stage, "--valid_set", "other").stdout
    assert "called" in train(trained, *stage).stdout


def test_two_preparations_at_once(trained):
    """One has the lock while it prepares; the second is refused, and calls nothing."""
    for stage, folder in (("3", "dump"), ("10", "exp/stats")):
        lock = trained / folder / ".lock"
        (trained / "asr.sh").write_text(
            f"#!/bin/sh\nflock --nonblock {lock} true && echo free || echo locked\n"
        )
        options = ["--stage", stage, "--stop_stage", stage]
        assert "locked" in train(trained, *options).stdout
        with locked(lock):
            done = train(trained, *options)
            assert done.returncode == 1 and not done.stdout
            assert f"{folder}: another command is preparing data" in done.stderr
            assert done.stderr.endswith("and begin with --stage 11\n")
            # Other stages do not care.
            assert (
                "locked" in train(trained, "--stage", "8", "--stop_stage", "8").stdout
            )


def test_parts_of_lists_that_a_fine_tuning_reads_are_kept(trained):
    (trained / "asr.sh").write_text("#!/bin/sh\necho called\n")
    part = trained / "exp/stats/splits2/wav.scp"
    part.parent.mkdir()
    part.touch()
    config = trained / "exp/asr_x/config.yaml"
    config.write_text("-   - exp/stats/splits2/wav.scp\n    - speech\n")
    stage = ["--stage", "10", "--stop_stage", "10"]
    with locked(config.with_name(".lock_finetune")):
        done = train(trained, *stage)
        assert done.returncode == 1 and part.exists() and not done.stdout
        assert "exp/stats/splits2: the training in exp/asr_x reads" in done.stderr
    assert "called" in train(trained, *stage).stdout and not part.exists()


DATA = "--librispeech /x --train a,b --need train"


@pytest.mark.parametrize(
    "options, words",
    [
        (DATA, None),
        ("--need valid --resample true --train a,b", None),
        ("", None),
        ("--train a", "train 'a,b', now it is 'a'"),
        ("--librispeech /y --train a,b", "librispeech '/x', now it is '/y'"),
        ("--dev c", "dev None, now it is 'c'"),
        ("--set /b/train --set /b/valid", "data/train was made with set None, now"),
    ],
)
def test_data_options_of_later_stages(trained, options, words):
    """Only stage 1 reads them; afterwards, they are compared with those it had."""
    (trained / "data/train").mkdir(parents=True)
    (trained / "asr.sh").write_text("#!/bin/sh\n")
    first = ["--stage", "1", "--stop_stage", "1", "--local_data_opts"]
    assert train(trained, *first, DATA).returncode == 0
    dry = train(trained, *first, "--train none --dry_run true")
    assert dry.returncode == 0, dry.stderr
    later = ["--stage", "2", "--stop_stage", "2", "--local_data_opts", options]
    done = train(trained, *later)
    assert (done.returncode == 0) is (words is None), done.stderr
    if words:
        assert words in done.stderr and "run stage 1 again" in done.stderr


def test_sets_of_other_folders_in_later_stages(trained):
    for name in ("train", "valid", "test"):
        (trained / "data" / name).mkdir(parents=True)
    (trained / "asr.sh").write_text("#!/bin/sh\n")
    sets = "--set /a/train --set /a/valid --set /a/test"
    first = ["--test_sets", "test", "--stage", "1", "--stop_stage", "1"]
    assert train(trained, *first, "--local_data_opts", sets).returncode == 0
    later = [*first[:2], "--stage", "2", "--stop_stage", "2", "--local_data_opts"]
    assert train(trained, *later, sets).returncode == 0
    other = sets.replace("/a/test", "/b/../a/test/")
    assert train(trained, *later, other).returncode == 0
    done = train(trained, *later, sets.replace("/a/test", "/b/test"))
    assert (
        "give the path as in stage 1 (--train_set, --valid_set, --test" in done.stderr
    )
    assert "data/test was made with set '/a/test', now it is '/b/test'" in done.stderr


@pytest.mark.parametrize("option", ["--lm_interpolate", "--lm_words"])
def test_options_for_an_n_gram_that_is_not_given(trained, option):
    done = train(trained, option, "x")
    assert done.returncode == 1 and "give --decode_lm" in done.stderr


def test_an_n_gram_is_trained_again_when_texts_to_mix_in_change(trained):
    """They may be data directories, whose file text counts."""
    for name in ("train", "valid", "more"):
        (trained / "data" / name).mkdir(parents=True)
        (trained / "data" / name / "text").write_text("a b\n")
    (trained / "asr.sh").write_text("#!/bin/sh\n")
    (trained / "python3").write_text(
        f'#!/bin/bash\ncase "$*" in *bin.stamp*) exec {sys.executable} "$@" ;;\n'
        "*bin.train_ngram*) mkdir -p exp/ngram && echo x >> exp/ngram/train_mixed.arpa ;;\n"
        "*bin.tune_lm*) echo x > exp/asr_x/ctc_train_mixed_m.yaml ;; esac\n"
    )
    command = [FINETUNE.parent / "decode_ctc.sh", "--asr_exp", "exp/asr_x", "--lm"]
    command += ["train", "--lm_interpolate", "data/more", "--train_set", "train"]
    command += ["--valid_set", "valid", "--test_sets", "valid"]
    command += ["--inference_asr_model", "m.pth"]

    def times_trained():
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=trained, env=environment, check=True)
        return len((trained / "exp/ngram/train_mixed.arpa").read_text().split())

    assert times_trained() == times_trained() == 1
    (trained / "data/more/text").write_text("c d\n")
    assert times_trained() == 2


def passed_on(tmp_path, config, options):
    """Return the arguments of asr.sh in stage 12."""
    (tmp_path / "asr.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (tmp_path / "asr.sh").chmod(0o755)
    (tmp_path / "path.sh").touch()
    (tmp_path / "asr.yaml").write_text(config)
    command = [FINETUNE, "--asr_tag", "x", "--asr_config", "asr.yaml", "--stage", "12"]
    command += ["--stop_stage", "12"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


NAMES = """
for name in asr_stats_dir lm_tag lm_exp ngram_exp inference_tag; do
    eval "$(sed -n '/^if \\[ -z "${'$name'}" \\]; then$/,/^fi$/p' "$ASR")"
done
printf '%s\\n' "$asr_stats_dir" "$inference_tag"
"""


@pytest.mark.parametrize(
    "options",
    [
        "--use_lm false",
        "--use_lm true",
        "--use_lm true --lm_config a/b.yaml --lm_args --x=1 --token_type char --lang en",
        "--use_lm true --lm_tag y --inference_lm a/3epoch.pth --nbpe 50",
        "--use_lm true --lm_exp z/lm --use_ngram true --ngram_exp z/ng",
        "--use_lm false --use_ngram true --inference_ngram 4gram.bin",
        "--use_lm false --inference_args --lm_weight=0.1 --inference_config c/d.yaml",
        "--use_lm false --use_k2 true --k2_ctc_decoding false",
        "--use_lm false --speed_perturb_factors 0.9",
    ],
)
def test_names_are_those_of_asr_sh(tmp_path, options, an4_tarball):
    """The checks before decoding and scoring are of the files that it will use."""
    script = an4_tarball.parents[2] / "TEMPLATE/asr1/asr.sh"
    (tmp_path / "c").mkdir()
    (tmp_path / "c/d.yaml").touch()
    given = passed_on(tmp_path, "encoder: conformer\n", options.split())
    ours = [given[given.index(x) + 1] for x in ("--asr_stats_dir", "--inference_tag")]
    header = script.read_text().partition("help_message=")[0]
    words = options.split()
    given = [f"{x[2:]}={y}" for x, y in zip(words[::2], words[1::2], strict=True)]
    lines = [*re.findall(r"^[a-z_0-9]+=[^\s#]*", header, re.MULTILINE), *given]
    lines += ["feats_type=raw lm_token_type=$token_type", f"ASR={script}", NAMES]
    lines = "\n".join(lines)
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True)
    assert done.stdout.splitlines() == ours, done.stderr


@pytest.mark.parametrize("option", ["--inference_args", "--inference_config"])
def test_what_is_not_decoded_is_not_scored(trained, option):
    done = train(trained, "--stage", "13", "--stop_stage", "13", "--test_sets", "valid")
    assert done.returncode == 1 and "run stage 12 first (--stage 12)" in done.stderr
    decoded = ["--stage", "12", "--stop_stage", "12", "--test_sets", "valid"]
    folder = (
        trained / "exp/asr_x/inference_lm_lm_train_bpe30_valid.loss.ave_asr_model_m"
    )
    (folder / "org/valid").mkdir(parents=True)
    (folder / "org/valid/text").write_text("a b\n")
    (trained / "dump/raw/org/valid").mkdir(parents=True)
    (trained / "dump/raw/org/valid/wav.scp").write_text("a b\n")
    assert train(trained, *decoded).returncode == 0
    scored = ["--stage", "13", *decoded[2:]]
    scored[3] = "13"
    assert train(trained, *scored).returncode == 0
    done = train(trained, *scored, option, "x.yaml")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "/org/valid/text: run stage 12 first (--stage 12)" in done.stderr


@pytest.mark.parametrize(
    "option", ["inference_config", "decode_lm", "lm_words", "lm_interpolate"]
)
def test_files_of_later_stages_are_looked_for_first(trained, option):
    (trained / "asr.sh").write_text("#!/bin/sh\necho called\n")
    lm = ["--decode_lm", "train"] * option.startswith("lm_")
    given = [
        "--stage",
        "2",
        "--stop_stage",
        "13",
        "--token_type",
        "char",
        *lm,
        f"--{option}",
        "no.file",
    ]
    done = train(trained, *given)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"--{option}" in done.stderr and "no.file" in done.stderr
    assert "called" not in done.stdout


@pytest.mark.parametrize(
    "options, words",
    [
        (["--pretrained_model", "m.pth"], "give the model as --ssl_model"),
        (
            ["--ssl_model", "m.pth", "--feats-normalize", "global_mvn"],
            "set normalize in --asr_config",
        ),
        (
            ["--token_type", "bpe", "--decode_lm", "train"],
            "--decode_lm needs --token_type char",
        ),
        (
            ["--token_type", "char", "--decode_lm", "asr.yaml"]
            + ["--lm_interpolate", "asr.yaml"],
            "--lm_interpolate works only with --decode_lm train",
        ),
    ],
)
def test_what_would_fail_or_be_ignored_after_training(trained, options, words):
    (trained / "asr.sh").write_text("#!/bin/sh\necho called\n")
    (trained / "m.pth").write_text("")
    done = train(trained, *options)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert words in done.stderr and "called" not in done.stdout
