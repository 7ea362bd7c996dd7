"""Speech of a step and of an epoch, for each of ESPnet's samplers."""

import math

import pytest
from checkout import ROOT
from espnet2.samplers.folded_batch_sampler import FoldedBatchSampler
from espnet2.samplers.num_elements_batch_sampler import NumElementsBatchSampler

from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.batches import (
    configured_batch,
    configured_epoch,
    most_utterances,
    setting_of,
)
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
    with pytest.raises(ConfigError, match="give at least --batch_bins 10240000"):
        configured_batch(args, 10.0, 64)


@pytest.mark.parametrize("kind", ["unsorted", "sorted", "folded", "catbel"])
def test_samplers_that_count_utterances(kind):
    args = options("--batch_type", kind, "--batch_size", 40)
    assert configured_batch(args, 10.0, 4) == (400.0, 100.0, 1)
    with pytest.raises(ConfigError, match="give at least --batch_size 64"):
        configured_batch(args, 10.0, 64)


def test_folded_batches_are_as_espnets(tmp_path):
    shapes = tmp_path / "shapes"
    shapes.write_text("".join(f"u{x:03} {12 * SECOND}\n" for x in range(60)))
    sampler = FoldedBatchSampler(20, [str(shapes)], [5 * SECOND])
    (size,) = {len(batch) for batch in sampler}
    given = ("--batch_size", 20, "--fold_length", 5 * SECOND)
    assert configured_batch(options(*given), 12.0, 1).seconds == 12.0 * size
    with pytest.raises(ConfigError, match="give at least --batch_size 24"):
        configured_batch(options(*given), 12.0, 8)
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
