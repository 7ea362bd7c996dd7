"""docs/own_data.md: pretraining on an ESPnet recipe's data, then that recipe itself.

The recipe is a copy of ESPnet's mini_an4/asr1 as it ships, in an ESPnet tree that is
otherwise links to the real one.
"""

import hashlib
import re
import shutil
import sys

import pytest
import soundfile
import torch
from checkout import GENERATED, ROOT, copy_checkout, run
from omniio import kaldi as kaldi_io

from espnet2_birq.datadir.kaldi import read_scp

PRETRAIN = ["./run.sh", "--ngpu", "0", "--nj", "2"]
PRETRAIN += ["--train_config", "../../../conf/mini_an4/train_birq.yaml"]
# Replaces sph2pipe, which ESPnet's recipe requires and few machines have.
SPH2PIPE = """#!{python}
import io, sys
import soundfile
buffer = io.BytesIO()
soundfile.write(buffer, *soundfile.read(sys.argv[-1], dtype="int16"), format="WAV")
sys.stdout.buffer.write(buffer.getvalue())
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory, an4_tarball):
    """Make a copy of our checkout without tools/, and an ESPnet tree with mini_an4."""
    top = tmp_path_factory.mktemp("existing")
    copy_checkout(top / "birq")
    espnet, real = top / "espnet", an4_tarball.parents[3].resolve()
    (espnet / "egs2" / "mini_an4").mkdir(parents=True)
    (espnet / "tools").symlink_to(real / "tools")
    (espnet / "egs2" / "TEMPLATE").symlink_to(real / "egs2" / "TEMPLATE")
    recipe = espnet / "egs2" / "mini_an4" / "asr1"
    shutil.copytree(an4_tarball.parent, recipe, symlinks=True, ignore=GENERATED)
    (top / "bin").mkdir()
    (top / "bin" / "sph2pipe").write_text(SPH2PIPE.format(python=sys.executable))
    (top / "bin" / "sph2pipe").chmod(0o755)
    return top / "birq", recipe


def run_in(places, command, cwd, check=True):
    """Run a command with the stand-in for sph2pipe last on the PATH."""
    return run(command, cwd, check, [places[0].parent / "bin"])


def commands():
    """Return the page's commands, one line each, without the two assignments."""
    page = (ROOT / "docs" / "own_data.md").read_text()
    (block,) = re.findall(r"^```\n(birq=.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = block.replace("\\\n", " ").splitlines()
    assert lines[:3] == [
        "birq=/path/to/espnet2_birq",
        "recipe=/path/to/espnet/egs2/mini_an4/asr1",
        "",
    ]
    return lines[3:]


def tree_hash(folder):
    """Hash of all names and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def run_commands(places, given):
    """Run commands of the page; return what each printed, and the tree's hashes."""
    birq, recipe = places
    printed, hashes = [], []
    for command in given:
        script = f"birq={birq}\nrecipe={recipe}\nset -e\n{command}"
        printed.append(run_in(places, ["bash", "-c", script], "/").stdout)
        hashes.append(tree_hash(recipe))
    return printed, hashes


@pytest.fixture(scope="module")
def prepared(places):
    """Run the page's first two commands: the recipe's data, and our link to its tree."""
    return run_commands(places, commands()[:2])


@pytest.fixture(scope="module")
def five_commands(places, prepared):
    """Run the page's five commands; return what each printed, and the tree's hashes."""
    given = commands()
    assert len(given) == 5
    # Small configurations take seconds on a CPU; stage 13 would need sclite.
    given[2] += " --ngpu 0 --nj 2 --train_config ../../../conf/mini_an4/train_birq.yaml"
    given[3] = given[3].replace("own/train_asr_quick", "mini_an4/train_asr")
    given[3] = given[3].replace("own/decode_asr", "mini_an4/decode_asr")
    given[3] += " --ngpu 0 --stop_stage 12 --test_sets test"
    printed, hashes = run_commands(places, given[2:])
    return prepared[0] + printed, prepared[1] + hashes


@pytest.mark.slow
def test_the_five_commands(places, five_commands):
    birq, recipe = places
    printed, hashes = five_commands
    assert hashes[0] == hashes[1] == hashes[2], "pretraining changed the recipe"
    assert hashes[3] != hashes[2]
    for text in ("Stage 2:", "Stage 3:", "Stage 4:"):
        assert text not in printed[2]
    loaded, total = re.search(r"pretraining: (\d+) of (\d+)", printed[4]).groups()
    assert loaded == total and int(total) > 50
    assert "frontend and normalize are the same" in printed[4]
    decoded = list((recipe / "exp" / "asr_birq").glob("*/test/text"))
    assert len(decoded) == 1
    ssl = birq / "egs2" / "own" / "ssl1" / "exp" / "ssl_train_birq_raw"
    log = (ssl / "train.log").read_text()
    assert "loss_anchor=" in log
    assert not (birq / "egs2" / "own" / "ssl1" / "data").exists()


def own(places, name):
    """Make a separate recipe folder, without files left by other tests."""
    folder = places[0] / "egs2" / name / "ssl1"
    shutil.copytree(places[0] / "egs2" / "own" / "ssl1", folder, symlinks=True)
    for generated in ("dump", "exp", "data"):
        shutil.rmtree(folder / generated, ignore_errors=True)
    return folder


@pytest.mark.slow
def test_kaldi_directories_with_commands_in_wav_scp(places, five_commands):
    """The recipe's data/: commands with relative paths; read-only, in a path with a space,
    without spk2utt and text, and with segments for the validation set."""
    folder = own(places, "kaldi")
    recipe = places[1]
    source = recipe / "with space" / "data"
    for name, made_of in (("train", "train_nodev"), ("valid", "test_seg")):
        shutil.copytree(recipe / "data" / made_of, source / name)
        for useless in ("spk2utt", "text"):
            (source / name / useless).unlink()
    assert "./downloads" in (source / "train" / "wav.scp").read_text()
    for path in [*source.rglob("*"), source]:
        path.chmod(path.stat().st_mode & ~0o222)
    before = tree_hash(recipe)
    options = ["--train_set", source / "train", "--valid_set", f"{source}/valid/"]
    done = run_in(places, [*PRETRAIN, *options, "--stop_stage", "4"], folder)
    assert tree_hash(recipe) == before
    lengths = read_scp(folder / "dump" / "raw" / "train" / "utt2num_samples")
    assert lengths == read_scp(recipe / "dump/raw/train_nodev/utt2num_samples")
    assert list(read_scp(folder / "dump" / "raw" / "valid" / "wav.scp")) == [
        "fcaw-cen8-b",
        "mmxg-cen8-b",
    ]
    assert "valid: 2 of 2 utterances are longer" in done.stdout


@pytest.mark.slow
def test_arks_and_limits(places, five_commands):
    """One set is in an ark, the other in files; the longest utterance is left out.

    Only a layer's target is whitened, which needs no frame statistics.
    """
    folder = own(places, "arks")
    raw = places[1] / "dump" / "raw"
    source = folder / "arks" / "dump" / "raw" / "train_nodev"
    shutil.copytree(raw / "train_nodev", source, ignore=shutil.ignore_patterns("data"))
    (source / "audio_format").write_text("flac.ark\n")
    audio = read_scp(source / "wav.scp")
    (folder / "arks" / "audio").mkdir()
    with (source / "wav.scp").open("w") as scp:
        for utt_id, path in audio.items():
            with (folder / "arks" / "audio" / f"{utt_id}.ark").open("wb") as ark:
                kaldi_io.save_ark(
                    ark,
                    {utt_id: soundfile.read(places[1] / path, dtype="int16")},
                    write_function="soundfile",
                    write_kwargs={"format": "flac", "subtype": None},
                )
            scp.write(f"{utt_id} audio/{utt_id}.ark:{len(utt_id) + 1}\n")
    lengths = {k: int(v) for k, v in read_scp(source / "utt2num_samples").items()}
    limit = (max(lengths.values()) - 1) / 16000
    options = ["--train_set", str(source), "--valid_set", str(raw / "train_dev")]
    options += ["--max_wav_duration", str(limit), "--train_config", "layer.yaml"]
    config = (places[0] / "conf" / "mini_an4" / "train_birq.yaml").read_text()
    assert config.count(", projection: whitened") == 2
    config = config.replace(", projection: whitened", "", 1)
    (folder / "layer.yaml").write_text(config)
    done = run_in(places, [*PRETRAIN, *options], folder)
    assert "3 utterances of" in done.stdout and "1 left out" in done.stdout
    shape = read_scp(folder / "exp" / "ssl_stats_raw" / "train" / "speech_shape")
    kept = {k for k, v in lengths.items() if v < max(lengths.values())}
    assert set(shape) == kept == set(read_scp(folder / "dump/raw/train_nodev/wav.scp"))
    config = (folder / "exp" / "ssl_layer_raw" / "config.yaml").read_text()
    assert "- kaldi_ark\n" in config and "- sound\n" in config
    model = torch.load(folder / "exp/ssl_layer_raw/valid.total_count.ave.pth")
    assert all(torch.isfinite(value).all() for value in model.values())


@pytest.mark.parametrize(
    "train, valid, more, words",
    [
        ("{raw}/nowhere", "{raw}/train_dev", [], "no such directory"),
        ("{raw}/train_dev", "{raw}/org/train_dev", [], "both sets would be called"),
        ("{raw}", "{raw}/train_dev", [], "no wav.scp in it"),
        (
            "train",
            "{raw}/train_dev",
            [],
            "no data/train, nor a local/data.sh to make it",
        ),
        (
            "{raw}/train_nodev",
            "{raw}/train_dev",
            ["--speed_perturb_factors", "0.9 1.0"],
            "needs a Kaldi data directory",
        ),
        (
            "{raw}/train_nodev",
            "{raw}/train_dev",
            ["--speed_perturb_factors", "0.9,1.0,1.1"],
            "'0.9,1.0,1.1': give numbers, separated by spaces",
        ),
        (
            "{raw}/train_nodev",
            "{raw}/train_dev",
            ["--fs", "8k"],
            "sample rate is 16000",
        ),
        (
            "{raw}/train_nodev",
            "{raw}/train_dev",
            ["--max_wav_duration", "0.6"],
            "no utterance is left",
        ),
        (
            "{raw}/train_nodev",
            "{raw}/train_dev",
            ["--stage", "6"],
            "run stage 1 first",
        ),
    ],
)
def test_errors_say_what_to_do(places, prepared, tmp_path, train, valid, more, words):
    folder = own(places, tmp_path.name)
    raw = places[1] / "dump" / "raw"
    options = ["--train_set", train.format(raw=raw), "--valid_set"]
    options += [valid.format(raw=raw), "--stop_stage", "6", *more]
    done = run_in(places, [*PRETRAIN, *options], folder, check=False)
    assert done.returncode != 0 and words in done.stdout
    assert "Traceback" not in done.stdout
