"""egs2/own: Kaldi data directories anywhere, from the audio to error rates."""

import shutil
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile
import yaml
from checkout import ROOT, copy_checkout, run

from espnet2_birq.bin.prepare_an4 import main as prepare_an4
from espnet2_birq.datadir.kaldi import read_scp

SETS = {"train": "train_nodev", "valid": "train_dev", "test": "test"}
SMALL = ["--ngpu", "0", "--nj", "2"]


@pytest.fixture(scope="module")
def places(tmp_path_factory, an4_tarball):
    """Make a copy of the recipes, and a user's data elsewhere."""
    top = tmp_path_factory.mktemp("own")
    birq = copy_checkout(top / "birq", an4_tarball.parents[3])
    made = ["--dest", top / "made", "--downloads", top / "downloads"]
    prepare_an4([*map(str, made), "--tarball", str(an4_tarball)])
    for name, source in SETS.items():
        shutil.copytree(top / "made" / source, top / "kaldi" / name)
    return birq / "egs2" / "own", top / "kaldi"


@pytest.mark.slow
def test_from_audio_to_error_rates(places):
    own, kaldi = places
    (kaldi / "test" / "utt2spk").unlink()  # unknown speakers
    given = [f"--{name}_set={kaldi / name}" for name in ("train", "valid")]
    given = [word for option in given for word in option.split("=")]
    tiny = ["--train_config", "../../../conf/mini_an4/train_birq.yaml"]
    run(["./run.sh", *SMALL, *given, *tiny], own / "ssl1")
    given += ["--test_sets", f"{kaldi / 'test'}", *SMALL, "--inference_nj", "2"]
    given += ["--asr_config", "../../../conf/mini_an4/train_asr.yaml"]
    done = run(["./run.sh", *given, "--stop_stage", "12"], own / "asr1")
    assert "frontend and normalize are the same" in done.stdout
    (texts,) = (own / "asr1" / "exp" / "asr_birq").glob("*/test/text")
    assert len(texts.read_text().splitlines()) == len(read_scp(kaldi / "test/wav.scp"))
    speakers = read_scp(own / "asr1" / "data" / "train" / "utt2spk")
    assert speakers == read_scp(kaldi / "train" / "utt2spk")
    unknown = read_scp(own / "asr1" / "data" / "test" / "utt2spk")
    assert all(utt_id == speaker for utt_id, speaker in unknown.items())


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_sizes_of_both_stages_fit(size):
    """The encoder is the same in pretraining and fine-tuning, for all methods."""
    conf = ROOT / "conf" / "own"
    suffix = "" if size == "small" else f"_{size}"
    asr = yaml.safe_load((conf / f"train_asr_{size}.yaml").read_text())
    methods = list(conf.glob(f"train_*rq*{suffix}.yaml"))
    if size == "small":
        methods = [path for path in methods if path.stem[-5:] not in ("_base", "large")]
    assert len(methods) == (2 if size == "large" else 3)
    free = ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate")
    for path in methods:
        ssl = yaml.safe_load(path.read_text())
        for key in ("frontend", "frontend_conf", "normalize", "encoder"):
            mine, theirs = dict(ssl)[key], asr[key]
            if key == "frontend_conf":
                mine, theirs = ({"fs": "16k", **conf} for conf in (mine, theirs))
            assert mine == theirs, (path, key)
        left = [{**conf["encoder_conf"]} for conf in (ssl, asr)]
        for conf_ in left:
            for key in free:
                conf_.pop(key, None)
        assert left[0] == left[1], path


@pytest.mark.parametrize(
    "options, words",
    [
        ("--size huge", "--size huge: give small, base or large"),
        ("--test_sets", "option --test_sets needs a value"),
        ("--train_set", "option --train_set needs a value"),
    ],
)
def test_wrong_options(places, options, words):
    own, kaldi = places
    given = (
        f"--train_set {kaldi}/train --valid_set {kaldi}/valid --test_sets {kaldi}/test"
    )
    done = run(
        ["./run.sh", *given.split(), *options.split()], own / "asr1", check=False
    )
    assert done.returncode == 1
    assert words in done.stdout and len(done.stdout.splitlines()) == 1


def test_sets_of_one_name(places, tmp_path):
    """Two directories called test are not confused."""
    own, kaldi = places
    data = Path(shutil.copytree(own / "asr1", own / "asr2", symlinks=True))
    shutil.copytree(kaldi / "test", tmp_path / "test")
    sets = ["--set", f"{kaldi}/test", "--set", f"{tmp_path}/test"]
    done = run(["local/data.sh", *sets], data, check=False)
    assert done.returncode == 1
    assert "give the new set by a link of another name" in done.stdout


def test_sets_in_data(places):
    """Without local/data.sh, the user has put them there; speakers need not be known."""
    own, kaldi = places
    ssl = Path(shutil.copytree(own / "ssl1", own / "ssl2", symlinks=True))
    for name in ("train", "valid"):
        (ssl / "data" / name).mkdir(parents=True)
        shutil.copy(kaldi / name / "wav.scp", ssl / "data" / name)
    audio = next(iter(read_scp(kaldi / "valid" / "wav.scp").values()))
    (ssl / "data/valid/wav.scp").write_text(f"r {audio}\n")
    (ssl / "data/valid/segments").write_text("s1 r 0 0.6\ns2 r 0.2 -1\n")
    tiny = ["--train_config", "../../../conf/mini_an4/train_birq.yaml"]
    command = ["./run.sh", *SMALL, *tiny, "--train_set", "train", "--valid_set"]
    run([*command, "valid", "--stop_stage", "4"], ssl)
    speakers = read_scp(ssl / "dump/raw/train/utt2spk")
    assert speakers.keys() == read_scp(kaldi / "train" / "wav.scp").keys()
    assert all(utt_id == speaker for utt_id, speaker in speakers.items())
    assert read_scp(ssl / "dump/raw/valid/spk2utt") == {"s1": "s1", "s2": "s2"}
    done = run([*command, "none", "--stop_stage", "1"], ssl, check=False)
    assert done.returncode == 1
    assert "--valid_set none: no data/none, nor a local/data.sh to" in done.stdout
    factors = ["--speed_perturb_factors", "0.9 1.0", "--stage", "2"]
    done = run([*command, "valid", *factors], ssl, check=False)
    assert done.returncode == 1 and "data/train: no utt2spk, which" in done.stdout


def test_a_set_that_is_given_twice(places, tmp_path):
    """Its audio is opened once."""
    own, kaldi = places
    shutil.copytree(own / "asr1", tmp_path / "egs2/own/asr1", symlinks=True)
    for name in ("local", "espnet2_birq", "tools", "egs2/TEMPLATE"):
        (tmp_path / name).symlink_to(own.parents[1] / name)
    sets = ["--set", f"{kaldi}/valid", "--set", f"{kaldi}/test"]
    done = run(["local/data.sh", *sets, *sets[:2]], tmp_path / "egs2/own/asr1")
    said = done.stdout.splitlines()
    assert [" ".join(line.split()[:2]) for line in said] == [
        "data/valid: 1",
        "data/test: 2",
        "data/valid: ok:",
        "data/test: ok:",
    ], done.stdout


def test_sets_in_archives(places, tmp_path):
    """As the recipe yodas makes them: ESPnet's scripts read their audio by commands."""
    own, kaldi = places
    asr = Path(shutil.copytree(own / "asr1", own / "asr3", symlinks=True))
    formatted = tmp_path / "train"
    shutil.copytree(kaldi / "train", formatted)
    audio = {u: soundfile.read(p) for u, p in read_scp(formatted / "wav.scp").items()}
    kaldiio.save_ark(
        f"{tmp_path}/audio.ark",
        {utt_id: (rate, samples) for utt_id, (samples, rate) in audio.items()},
        f"{formatted}/wav.scp",
        write_function="soundfile",
        write_kwargs={"format": "flac"},
    )
    lengths = "".join(f"{u} {len(samples)}\n" for u, (samples, _) in audio.items())
    (formatted / "utt2num_samples").write_text(lengths)
    (formatted / "feats_type").write_text("raw\n")
    run(["local/data.sh", "--set", str(formatted)], asr)
    command = (
        "scripts/audio/format_wav_scp.sh --nj 2 --audio-format flac data/train out"
    )
    run(
        ["bash", "-c", f". ./path.sh; {command.replace('train', 'train/wav.scp', 1)}"],
        asr,
    )
    for utt_id, path in read_scp(asr / "out" / "wav.scp").items():
        samples, rate = soundfile.read(asr / path)
        assert rate == audio[utt_id][1] and (samples == audio[utt_id][0]).all()


def test_another_sampling_rate(places, tmp_path):
    """The audio is checked for the rate of the model."""
    own, _ = places
    data = tmp_path / "eight"
    data.mkdir()
    soundfile.write(data / "u.wav", np.zeros(8000), 8000)
    (data / "wav.scp").write_text(f"u {data}/u.wav\n")
    (data / "text").write_text("u A\n")
    asr = Path(shutil.copytree(own / "asr1", own / "asr8", symlinks=True))
    (asr / "finetune.sh").unlink()
    (asr / "finetune.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
    (asr / "finetune.sh").chmod(0o755)
    command = ["./run.sh", "--test_sets", "x", "--fs", "8k"]
    given = run([*command, "--train_set", data, "--valid_set", data], asr).stdout
    given = given.splitlines()
    assert given[given.index("--fs") + 1] == "8k"
    options = given[given.index("--local_data_opts") + 1].split()
    run(["local/data.sh", *options], asr)
    done = run(["local/data.sh", *options, "--fs", "16k"], asr, check=False)
    assert done.returncode == 1 and "sample rate is 8000" in done.stdout
