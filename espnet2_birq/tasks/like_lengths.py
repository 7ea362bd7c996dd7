"""Batches of similar lengths from ESPnet's category sampler.

ESPnet's ``catpow`` samples utterances so that each language has its share, and batches
them in sampling order: most of a batch is padding if lengths differ. Here the same
samples are batched with utterances of similar length.
"""

import logging

import torch
from espnet2.fileio.read_text import load_num_sequence_text
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.category_iter_factory import CategoryIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.samplers.category_power_sampler import CategoryPowerSampler
from torch.utils.data import DataLoader

from espnet2_birq.errors import DataError

POOL = 100  # batches sorted together


class LikeLengthsIterFactory(AbsIterFactory):
    """Iterators over the samples of ESPnet's ``CategoryPowerSampler``, sorted by length.

    Every epoch has the same utterances as with ESPnet's factory, equally often. Batches
    hold up to ``batch_bins`` samples including padding (ESPnet's: without padding).

    Args:
        factory: ESPnet's factory for ``batch_type: catpow``.
    """

    def __init__(self, factory: CategoryIterFactory):
        self.factory = factory
        (shape_file,) = factory.sampler_args["shape_files"]
        shapes = load_num_sequence_text(shape_file, loader_type="text_int")
        self.sizes = {key: shape[0] for key, shape in shapes.items()}

    def make_batches(self, epoch: int) -> list[list[str]]:
        """Make the batches of an epoch for all GPUs together."""
        options = {**self.factory.sampler_args, "epoch": epoch}
        drawn = [key for batch in CategoryPowerSampler(**options) for key in batch]
        names = ("batch_bins", "min_batch_size", "max_batch_size")
        batches = sort_into_batches(drawn, self.sizes, *(options[x] for x in names))
        speech = sum(self.sizes[key] for key in drawn)
        padded = sum(len(one) * max(self.sizes[key] for key in one) for one in batches)
        logging.info(
            f"Epoch {epoch}: {len(drawn)} utterances drawn, {len(batches)} batches of "
            f"like lengths, {1 - speech / padded:.1%} padding"
        )
        return batches[: options["num_batches"]]

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> DataLoader:
        """Build the iterator of an epoch over this rank's part of every batch."""
        batches = self.make_batches(epoch)
        if self.factory.sampler_args["distributed"]:
            ranks = torch.distributed.get_world_size()
            rank = torch.distributed.get_rank()
            batches = [batch[rank::ranks] for batch in batches]
        return SequenceIterFactory(
            dataset=self.factory.dataset,
            batches=batches,
            num_iters_per_epoch=self.factory.num_iters_per_epoch,
            seed=self.factory.seed,
            shuffle=self.factory.shuffle,
            num_workers=self.factory.num_workers,
            collate_fn=self.factory.collate_fn,
            pin_memory=self.factory.pin_memory,
        ).build_iter(epoch, shuffle)


def sort_into_batches(
    drawn: list[str],
    sizes: dict[str, int],
    batch_bins: int,
    min_batch_size: int = 1,
    max_batch_size: int | None = None,
) -> list[list[str]]:
    """Batch sampled utterances by length, longest first.

    Args:
        drawn: Sampled utterances, possibly repeated.
        sizes: Number of samples of each utterance.
        batch_bins: Maximum samples per batch including padding; exceeded only if
            min_batch_size requires it.
        min_batch_size: Minimum number of utterances per batch.
        max_batch_size: Maximum number, if min_batch_size allows; None: no limit.

    Raises:
        DataError: Fewer than min_batch_size utterances.
    """
    if len(drawn) < min_batch_size:
        raise DataError(
            f"{len(drawn)} utterances in an epoch are too few for batches of "
            f"{min_batch_size} (one for each GPU)"
        )
    batches = []
    for pool in make_pools(drawn, sizes, batch_bins, min_batch_size):
        rest = sorted(pool, key=sizes.__getitem__, reverse=True)
        while rest:
            count = batch_bins // max(1, sizes[rest[0]])
            count = max(min(count, max_batch_size or count), min_batch_size)
            missing = min_batch_size - (len(rest) - count)
            if 0 < missing < min_batch_size:  # too few would remain
                count -= missing
            if count < min_batch_size:
                count = len(rest)
            batches.append(rest[:count])
            rest = rest[count:]
    return batches


def make_pools(
    drawn: list[str], sizes: dict[str, int], batch_bins: int, min_batch_size: int
) -> list[list[str]]:
    """Split the samples into pools of up to POOL batches, each to be sorted by itself.

    Once a pool fills a batch, a repeated utterance starts the next pool: copies would be
    sorted next to each other.
    """
    pools: list[list[str]] = [[]]
    seen: set[str] = set()
    bins = 0
    for key in drawn:
        full = bins >= POOL * batch_bins or (key in seen and bins >= batch_bins)
        if full and len(pools[-1]) >= min_batch_size:
            pools.append([])
            seen, bins = set(), 0
        pools[-1].append(key)
        seen.add(key)
        bins += sizes[key]
    if len(pools) > 1 and len(pools[-1]) < min_batch_size:
        pools[-2:] = [pools[-2] + pools[-1]]
    return pools
