"""egs2/yodas: preparation and a few updates, in a copy of the folders it needs."""

import re

import pytest
from checkout import copy_checkout, run

from espnet2_birq.datadir.kaldi import read_scp

TINY = (
    "--max_epoch 1 --batch_bins 320000 --accum_grad 1 --num_workers 0 --log_interval 1 "
    "--encoder_conf output_size=16 --encoder_conf linear_units=16 "
    "--encoder_conf num_blocks=4 --encoder_conf attention_heads=2"
)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, an4_tarball):
    """The folder egs2/yodas/ssl1 in a copy of egs2/, conf/ and local/."""
    top = copy_checkout(tmp_path_factory.mktemp("checkout"), an4_tarball.parents[3])
    return top / "egs2" / "yodas" / "ssl1"


def run_recipe(recipe, *options, check=True):
    """Run run.sh on one CPU thread; return its output."""
    command = ["./run.sh", "--ngpu", "0", "--num_threads", "1", "--nj", "2", *options]
    return run(command, recipe, check).stdout


def test_a_dry_run(recipe):
    before = set(recipe.rglob("*"))
    said = run_recipe(
        recipe, "--yodas", "/nowhere", "--lang", "en", "--dry_run", "true"
    )
    assert "stage 1: local/data.sh --set_name en_5000h --nj 2 --yodas /nowhere" in said
    assert "stage 7: training, iteration 0 -> exp/en_5000h/ssl_train_birq_raw" in said
    assert set(recipe.rglob("*")) == before


@pytest.mark.parametrize(
    "options, words",
    [
        ("--max_wav_duration 20", "--prepare_opts '--min_duration N --max_duration N'"),
        ("--min-wav-duration 2", "--prepare_opts '--min_duration N --max_duration N'"),
        ("--resample true", "--resample: has no effect here"),
        ("--speed_perturb_factors 0.9", "--speed_perturb_factors: has no effect here"),
        ("--dumpdir /d", "--dumpdir: has no effect here"),
        ("--audio_format wav", "give --prepare_opts '--audio_format wav.ark'"),
        ("--valid_hours 0", "--valid_hours '0': give more than 0, training needs"),
        ("--valid_hours 0.0", "training needs a validation set"),
        ("--manifest m.jsonl", "--manifest needs --set_name"),
        ("--manifest m --set_name x --lang fr", "leave out --lang and --hours"),
        ("--manifest m --set_name x --hours 9", "leave out --lang and --hours"),
    ],
)
def test_options_without_an_effect(recipe, options, words):
    command = ["./run.sh", "--yodas", "/nowhere", *options.split()]
    done = run(command, recipe, check=False)
    assert done.returncode == 1 and words in done.stdout
    assert len(done.stdout.splitlines()) == 1, done.stdout


def test_a_manifest_without_a_validation_set(recipe, tmp_path):
    (tmp_path / "m.jsonl").write_text('{"corpus": "YODAS", "valid_hours": 0.0}\n')
    options = ["--set_name", "x", "--manifest", f"{tmp_path}/m.jsonl"]
    said = run_recipe(recipe, "--yodas", "/nowhere", *options, check=False)
    assert "m.jsonl: its set was made with valid_hours 0" in said
    assert len(said.splitlines()) == 1


def test_a_set_that_is_not_there_is_made_by_stage_1(recipe):
    done = run(
        ["./run.sh", "--yodas", "/nowhere", "--stage", "6", "--ngpu", "0"],
        recipe,
        check=False,
    )
    assert done.returncode == 1 and "run stage 1 first (--stage 1)" in done.stdout


@pytest.mark.slow
def test_languages_are_mixed_and_splits_are_trained_on(recipe, make_release):
    release = make_release()
    for subset, count in (("en000", 6), ("sw000", 3)):
        videos = {f"{subset}video{n}": [(0, 5, "x"), (5, 9, "y")] for n in range(count)}
        release.add(f"{subset}/00000000", videos)
    languages = ["--yodas", str(release.root), "--lang", "en sw", "--hours", "1"]
    run_recipe(recipe, *languages, "--valid_hours", "0.002", "--ssl_args", TINY)
    exp = recipe / "exp" / "en_sw_1h" / "ssl_train_birq_multilingual_raw"
    assert (exp / "valid.total_count.ave.pth").exists()
    log = (exp / "train.log").read_text()
    assert "CategoryPowerSampler" in log and "upsampling_factor=0.5" in log
    assert "loss_enhanced=" in log
    train = recipe / "dump" / "raw" / "en_sw_1h"
    assert set(read_scp(train / "category2utt")) == {"en", "sw"}

    # Run stage 7 again with split lists, which exclude the category sampler.
    tiny = ["--ssl_args", f"{TINY} --resume false", "--num_splits_ssl", "2"]
    again = [*languages, *tiny, "--stage", "7"]
    assert "exclude each other" in run_recipe(recipe, *again, check=False)
    config = recipe.parents[2] / "conf" / "yodas" / "train_birq.yaml"
    run_recipe(recipe, *again, "--train_config", str(config), "--ssl_tag", "splits")
    log = (recipe / "exp" / "en_sw_1h" / "ssl_splits" / "train.log").read_text()
    parts = [
        list(read_scp(recipe / f"exp/en_sw_1h/ssl_stats_raw/splits2/wav.scp/split.{n}"))
        for n in range(2)
    ]
    assert sorted(parts[0] + parts[1]) == list(read_scp(train / "wav.scp"))
    assert "splits2/wav.scp/split.1" in log and re.search(r"1epoch results", log)


def test_preparation_by_manifest(recipe, make_release):
    release = make_release("yodas2")
    release.add("fr000/00000000", {f"video{n}": [(0, 5, "x")] for n in range(4)})
    data = ["--yodas", str(release.root), "--stop_stage", "1", "--valid_hours", "0.002"]
    run_recipe(recipe, *data, "--lang", "fr", "--hours", "all", "--seed", "7")
    first = recipe / "dump" / "raw" / "fr_allh" / "manifest.jsonl"
    run_recipe(recipe, *data, "--manifest", str(first), "--set_name", "again")
    later = ["--lang", "fr", "--hours", "all", "--stage", "7"]
    later += ["--dry_run", "true", "--seed"]
    run_recipe(recipe, *later, "7")
    said = run_recipe(recipe, *later, "8", check=False)
    assert "fr_allh/manifest.jsonl was made with seed '7', now it is '8'" in said
    assert (recipe / "dump/raw/again/manifest.jsonl").read_bytes() == first.read_bytes()
    out = run_recipe(recipe, *data, "--lang", "fr", "--valid_hours", "9", check=False)
    assert "other --parts, filters or --valid_hours" in out and "Traceback" not in out


def test_the_set_tells_whether_it_has_several_languages(recipe, make_release):
    release = make_release()
    for subset in ("de000", "sw000"):  # en000 is of another release above
        release.add(f"{subset}/00000000", {f"{subset}v": [(0, 5, "x"), (5, 9, "y")]})
    data = ["--yodas", str(release.root), "--stop_stage", "1", "--valid_hours", "0"]
    run_recipe(recipe, *data, "--lang", "de sw", "--set_name", "two")
    first = str(recipe / "dump/raw/two/manifest.jsonl")
    run_recipe(recipe, *data, "--manifest", first, "--set_name", "same")
    later = ["--manifest", first, "--set_name", "same", "--stage", "6"]
    said = run_recipe(recipe, *later, "--dry_run", "true")
    assert "-> exp/same/ssl_train_birq_multilingual_raw" in said
