"""Speech of a step and of an epoch, for each of ESPnet's samplers."""

import math

import pytest
from checkout import ROOT
from espnet2.samplers.build_batch_sampler import build_batch_sampler
from espnet2.samplers.folded_batch_sampler import FoldedBatchSampler
from espnet2.samplers.num_elements_batch_sampler import NumElementsBatchSampler
from espnet2.samplers.unsorted_batch_sampler import UnsortedBatchSampler

from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.batches import (
    configured_batch,
    configured_epoch,
    most_utterances,
    number_of_updates,
    setting_of,
    whole_steps,
)
from espnet2_birq.tasks.like_lengths import sort_into_batches
from espnet2_birq.tasks.ssl import SSLTask

SECOND = 16000
MULTILINGUAL = ROOT / "conf/yodas/train_birq_multilingual.yaml"


def options(*given):
    return SSLTask.get_parser().parse_args(["--output_dir", "-", *map(str, given)])


@pytest.mark.parametrize(
    "kind", ["length", "numel", "catpow", "catpow_balance_dataset"]
)
def test_samplers_that_fill_batches_up_to_bins(kind):
    args = options("--batch_type", kind, "--batch_bins", 400 * SECOND)
    assert configured_batch(args, 10.0, 4) == (400.0, 100.0, 1)
    # Each GPU gets an utterance, however small batch_bins is.
    assert configured_batch(args, 10.0, 64) == (640.0, 10.0, 1)


@pytest.mark.parametrize("kind", ["unsorted", "sorted", "folded", "catbel"])
def test_samplers_that_count_utterances(kind):
    args = options("--batch_type", kind, "--batch_size", 40)
    assert configured_batch(args, 10.0, 4) == (400.0, 100.0, 1)
    if kind == "folded":  # ESPnet adds utterances
        assert configured_batch(args, 10.0, 64) == (640.0, 10.0, 1)
    else:  # ESPnet stops
        with pytest.raises(ConfigError, match="give at least --batch_size 64"):
            configured_batch(args, 10.0, 64)


def shape_file(folder, seconds):
    """Write a shape file of utterances of these lengths."""
    lines = [f"u{x:05} {round(y * SECOND)}\n" for x, y in enumerate(seconds)]
    (folder / "shapes").write_text("".join(lines))
    return str(folder / "shapes")


def test_steps_of_samplers_that_count_utterances_are_as_espnets(tmp_path):
    """Batches have the plain mean of lengths, not the one that weights by length."""
    lengths = [1.0] * 1000 + [20.0] * 50
    sampler = UnsortedBatchSampler(10, shape_file(tmp_path, lengths))
    args = options("--batch_type", "unsorted", "--batch_size", 10)
    total, mean = sum(lengths), sum(lengths) / len(lengths)
    batch, steps = configured_epoch(args, total, mean, 1)
    assert steps == pytest.approx(len(sampler)) == 105
    assert batch.seconds == pytest.approx(10 * mean)


@pytest.mark.parametrize("kind", ["numel", "length", "folded"])
def test_the_smallest_batch_is_as_espnets(tmp_path, kind):
    shapes = [shape_file(tmp_path, [12.0] * 1000)]
    conf = dict(batch_bins=64 * SECOND, shape_files=shapes, min_batch_size=50)
    sampler = build_batch_sampler(
        type=kind, batch_size=20, fold_lengths=[5 * SECOND], **conf
    )
    (size,) = {len(batch) for batch in sampler}
    given = ["--batch_type", kind, "--batch_bins", conf["batch_bins"]]
    given += ["--batch_size", 20, "--fold_length", 5 * SECOND, "--min_batch_size", 50]
    batch, steps = configured_epoch(options(*given), 12000.0, 12.0, 1)
    assert batch.seconds == 12.0 * size and steps == len(sampler) == 20
    assert most_utterances(options(*given), 12.0, 1) == size == 50
    # With several GPUs, ESPnet's least number is theirs.
    assert most_utterances(options(*given), 12.0, 2) < 10


@pytest.mark.parametrize("kind", ["catpow", "catpow_balance_dataset"])
def test_the_largest_batch_of_drawn_utterances(kind):
    given = ("--batch_type", kind, "--batch_bins", 400 * SECOND, "--max_batch_size", 8)
    assert configured_batch(options(*given), 10.0, 2) == (80.0, 40.0, 1)
    assert most_utterances(options(*given), 10.0, 2) == 4
    # Other samplers do not know this option.
    args = options(*given, "--batch_type", "numel")
    assert configured_batch(args, 10.0, 2).seconds == 400.0
    sizes = dict.fromkeys(map(str, range(100)), 10 * SECOND)
    batches = sort_into_batches(list(sizes), sizes, 400 * SECOND, 1, 8)
    assert max(map(len, batches)) == 8


def test_folded_batches_are_as_espnets(tmp_path):
    shapes = tmp_path / "shapes"
    shapes.write_text("".join(f"u{x:03} {12 * SECOND}\n" for x in range(60)))
    sampler = FoldedBatchSampler(20, [str(shapes)], [5 * SECOND])
    (size,) = {len(batch) for batch in sampler}
    given = ("--batch_size", 20, "--fold_length", 5 * SECOND)
    assert configured_batch(options(*given), 12.0, 1).seconds == 12.0 * size
    sampler = FoldedBatchSampler(20, [str(shapes)], [5 * SECOND], min_batch_size=10)
    (size,) = {len(batch) for batch in sampler}
    assert configured_batch(options(*given), 12.0, 10).seconds == 12.0 * size
    # There, ESPnet takes it for catbel.
    given += ("--iterator_type", "category")
    assert configured_batch(options(*given), 12.0, 1).seconds == 12.0 * 20


def test_an_epoch_of_drawn_utterances():
    args = options("--config", MULTILINGUAL)
    assert configured_epoch(args, 400_000.0, 12.3, 1) == ((400, 400, 4), 1200)
    args.batch_type = "numel"
    assert configured_epoch(args, 400_000.0, 12.3, 1) == ((400, 400, 4), 1000)


def test_an_epoch_without_an_update():
    args = options("--batch_type", "numel", "--batch_bins", 10 * SECOND)
    args.accum_grad = 2
    assert configured_epoch(args, 15.0, 1.0, 1) == ((10, 10, 2), 1.5)
    args.accum_grad = 3
    with pytest.raises(ConfigError, match="an epoch of 2 batches has no update with"):
        configured_epoch(args, 15.0, 1.0, 1)


def test_updates_leave_out_the_last_steps_of_an_epoch():
    args = options("--max_epoch", 3, "--accum_grad", 2)
    assert number_of_updates(args, 10.5) == 3 * 5
    assert number_of_updates(args, 9.999999999) == 3 * 5
    assert [whole_steps(x) for x in (0.2, 1.0, 1.0000000001, 1.5)] == [1, 1, 1, 2]


@pytest.mark.parametrize("bins", [30 * SECOND - 1, 30 * SECOND, 39 * SECOND])
@pytest.mark.parametrize("gpus", [1, 2])
def test_the_worst_batch_is_as_espnets(tmp_path, bins, gpus):
    """ESPnet's samplers end a batch after it has more than batch_bins."""
    shapes = tmp_path / "shapes"
    shapes.write_text("".join(f"u{x:03} {10 * SECOND}\n" for x in range(60)))
    sampler = NumElementsBatchSampler(bins, [str(shapes)], min_batch_size=gpus)
    most = math.ceil(max(len(batch) for batch in sampler) / gpus)
    args = options("--batch_type", "numel", "--batch_bins", bins)
    assert most_utterances(args, 10.0, gpus) == most
    setting = setting_of(args, most, 10.0, gpus).split()
    assert most_utterances(options(*setting, "--batch_type", "numel"), 10.0, gpus) == (
        most
    )


@pytest.mark.parametrize("kind", ["catpow", "numel", "length", "unsorted", "folded"])
def test_the_setting_of_a_batch_makes_it(kind):
    given = ("--batch_type", kind, "--fold_length", 5 * SECOND)
    for number, gpus in ((1, 1), (3, 1), (3, 8)):
        setting = setting_of(options(*given), number, 12.3, gpus).split()
        assert most_utterances(options(*given, *setting), 12.3, gpus) == number
    given += ("--min_batch_size", 5, "--max_batch_size", 6)
    for number in (3, 7):  # beyond limits of the configuration
        setting = setting_of(options(*given), number, 12.3, 1).split()
        assert most_utterances(options(*given, *setting), 12.3, 1) == number


def test_the_batches_of_joint_training_keep_their_ratio():
    args = options("--batch_type", "numel", "--batch_bins", 10 * SECOND)
    args.unlabelled_batch_bins = 25 * SECOND
    bins = 2 * SECOND - 1  # ends with the second utterance
    assert setting_of(args, 2, 1.0, 1) == (
        f"--batch_bins {bins} --unlabelled_batch_bins {bins * 5 // 2}"
    )
