"""Draws of ESPnet's category sampler, batched by similar length."""

import collections
import itertools

import numpy as np
import pytest
import soundfile
import torch
from espnet2.samplers.category_power_sampler import CategoryPowerSampler
from espnet2.train.distributed_utils import DistributedOption

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.tasks.like_lengths import POOL, make_pools, sort_into_batches
from espnet2_birq.tasks.ssl import SSLTask

BINS = 16000


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Utterances of 0.01 to 0.25 s in two languages, one with a tenth as many."""
    monkeypatch.setattr("espnet2_birq.tasks.ssl.SHORTEST", 0.0)
    draw = np.random.RandomState(0)
    sizes = {f"en{i:03}": int(draw.randint(160, 4000)) for i in range(600)}
    sizes.update({f"sw{i:03}": int(draw.randint(160, 4000)) for i in range(60)})
    lines = {"wav.scp": "", "speech_shape": "", "category2utt": ""}
    for key, size in sizes.items():
        soundfile.write(tmp_path / f"{key}.wav", np.zeros(size), 16000)
        lines["wav.scp"] += f"{key} {tmp_path / key}.wav\n"
        lines["speech_shape"] += f"{key} {size}\n"
    for language in ("en", "sw"):
        keys = [key for key in sizes if key.startswith(language)]
        lines["category2utt"] += f"{language} {' '.join(keys)}\n"
    for name, text in lines.items():
        (tmp_path / name).write_text(text)
    return tmp_path, sizes


def make_factory(folder, *options, distributed=False, mode="train"):
    command = [
        *("--iterator_type", "category", "--batch_type", "catpow"),
        *("--batch_bins", str(BINS), "--upsampling_factor", "0.5"),
        *("--train_data_path_and_name_and_type", f"{folder}/wav.scp,speech,sound"),
        *("--train_shape_file", f"{folder}/speech_shape", "--num_workers", "0"),
        *("--output_dir", str(folder), "--ngpu", "0", *options),
    ]
    args = SSLTask.get_parser().parse_args(command)
    where = DistributedOption()
    where.distributed = distributed
    return SSLTask.build_iter_factory(args, where, mode=mode)


def espnets(folder, epoch, least=1):
    sampler = CategoryPowerSampler(
        batch_bins=BINS,
        shape_files=[str(folder / "speech_shape")],
        min_batch_size=least,
        upsampling_factor=0.5,
        category2utt_file=str(folder / "category2utt"),
        epoch=epoch,
    )
    return list(sampler)


def padding(batches, sizes):
    speech = sum(sizes[key] for key in itertools.chain.from_iterable(batches))
    return 1 - speech / sum(len(x) * max(map(sizes.get, x)) for x in batches)


def keys_of(iterator):
    return [list(keys) for keys, _ in iterator]


def test_espnets_draws_less_padding(corpus):
    folder, sizes = corpus
    factory = make_factory(folder)
    orders = []
    for epoch in (1, 2):
        batches = keys_of(factory.build_iter(epoch))
        theirs = espnets(folder, epoch)
        count = collections.Counter(itertools.chain.from_iterable(batches))
        assert count == collections.Counter(itertools.chain.from_iterable(theirs))
        assert max(len(x) * max(map(sizes.get, x)) for x in batches) <= BINS
        assert padding(theirs, sizes) > 0.4
        assert padding(batches, sizes) < 0.1
        assert keys_of(factory.build_iter(epoch)) == batches  # after a restart
        longest = [max(map(sizes.get, batch)) for batch in batches]
        assert longest != sorted(longest, reverse=True)  # batches are shuffled
        orders.append(batches)
    assert orders[0] != orders[1]
    # A fourth of some 800 draws are the 60 of sw, but no batch has one of them twice.
    twice = sum(len(set(batch)) < len(batch) for batch in orders[0])
    assert twice == 0


def test_ranks_share_batches(corpus, monkeypatch):
    folder, sizes = corpus
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        parts.append(keys_of(make_factory(folder, distributed=True).build_iter(2)))
    assert len(set(map(len, parts))) == 1
    for batch in zip(*parts):
        counts = [len(part) for part in batch]
        assert min(counts) > 0 and max(counts) - min(counts) <= 1
    drawn = itertools.chain.from_iterable(itertools.chain(*parts))
    theirs = itertools.chain.from_iterable(espnets(folder, 2, least=3))
    assert sorted(drawn) == sorted(theirs)


def test_iterations_of_an_epoch(corpus):
    folder, _ = corpus
    factory = make_factory(folder, "--num_iters_per_epoch", "7")
    first, second = (keys_of(factory.build_iter(epoch)) for epoch in (1, 2))
    assert len(first) == len(second) == 7 and first != second


@pytest.mark.parametrize("least, most", [(1, None), (4, None), (1, 3), (3, 5), (8, 4)])
def test_counts(least, most):
    draw = np.random.RandomState(least)
    sizes = {f"u{i}": int(size) for i, size in enumerate(draw.randint(1, 90, 500))}
    sizes["giant"] = 1000
    drawn = [f"u{i}" for i in draw.randint(0, 500, 777)] + ["giant"]
    batches = sort_into_batches(drawn, sizes, 200, least, most)
    assert sorted(itertools.chain.from_iterable(batches)) == sorted(drawn)
    for batch in batches:
        assert least <= len(batch)
        over = len(batch) * sizes[batch[0]] > 200 or len(batch) > (most or len(drawn))
        assert not over or len(batch) < 2 * least
        assert sizes[batch[0]] == max(map(sizes.get, batch))
    # Utterances without a sample are left out when they are read.
    sizes["empty"] = 0
    assert sort_into_batches(["empty"] * least, sizes, 200, least, most)
    with pytest.raises(DataError, match="2 utterances in an epoch are too few"):
        sort_into_batches(drawn[:2], sizes, 200, 3)


@pytest.mark.parametrize(
    "lines, words",
    [
        (None, "category2utt: no such file, from which iterator_type category samples"),
        ("en en001 en002\nfi\n", "language 'fi' has no utterance of the training set"),
        ("en en001\nfi fi1 fi2\n", "language 'fi' has no utterance of the training"),
        (
            "en en001 en999 en998\nsw sw001\n",
            "language 'en': 2 utterances are not in .*speech_shape, the first: en998",
        ),
        (
            "en en001\nen en002\n",
            "no lines `LANGUAGE UTTERANCE ...` .*duplicated.*; corr",
        ),
        ("en en001  en002\n", "language 'en': utterances are not separated by single"),
        (
            "en en003 en002 en001\nsw en002 en001 sw001\n",
            "category2utt: 2 utterances are listed more than once, the first: en001",
        ),
        (
            "en en002 en001 en002\nsw sw001\n",
            "category2utt: 1 utterances are listed more than once, the first: en002",
        ),
        (
            "en en001 en002\nsw sw001\n",
            "657 utterances of .*speech_shape are in no language, the first: en000",
        ),
    ],
)
def test_languages_without_data(corpus, lines, words):
    folder, _ = corpus
    (folder / "category2utt").unlink()
    if lines is not None:
        (folder / "category2utt").write_text(lines)
    with pytest.raises(DataError, match=words):
        make_factory(folder)


def test_a_batch_has_an_utterance_for_each_rank(corpus, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    words = (
        "max_batch_size 2: each of the 3 processes needs an utterance of every batch"
    )
    with pytest.raises(ConfigError, match=words):
        make_factory(corpus[0], "--max_batch_size", "2", distributed=True)


def test_plots_need_no_languages(corpus):
    folder, _ = corpus
    (folder / "category2utt").unlink()
    more = ["--valid_data_path_and_name_and_type", f"{folder}/wav.scp,speech,sound"]
    more += ["--valid_shape_file", f"{folder}/speech_shape", "--num_att_plot", "2"]
    assert len(make_factory(folder, *more, mode="plot_att").build_iter(1)) == 2


def test_pools():
    sizes = {"a": 10, "b": 10, "c": 10}
    pools = make_pools(list("abcabab"), sizes, 20, 1)
    assert pools == [list("abc"), list("ab"), list("ab")]
    pools = make_pools(list("abcabab"), sizes, 50, 1)  # a pool has at least a batch
    assert pools == [list("abcab"), list("ab")]
    assert make_pools(list("abcab"), sizes, 20, 3) == [list("abcab")]
    many = {str(i): 20 for i in range(3 * POOL)}
    assert [len(x) for x in make_pools(list(many), many, 20, 1)] == [POOL] * 3
