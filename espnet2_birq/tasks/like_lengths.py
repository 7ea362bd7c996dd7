"""Batches of like lengths from ESPnet's category sampler.

ESPnet's ``catpow`` draws utterances so that each language has its share, and makes batches
of them in the order drawn: most of a batch is padding when lengths differ. Here the same
draws go into batches with utterances of about their length.
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

POOL = 100  # batches that are sorted together


class LikeLengthsIterFactory(AbsIterFactory):
    """Iterators over the draws of ESPnet's ``CategoryPowerSampler``, sorted by length.

    Every epoch has the utterances that ESPnet's factory would give, each as often. Batches
    hold up to ``batch_bins`` samples, padding included (ESPnet's: without padding).

    Args:
        factory: What ESPnet makes for ``batch_type: catpow``.
    """

    def __init__(self, factory: CategoryIterFactory):
        self.factory = factory
        (shape_file,) = factory.sampler_args["shape_files"]
        shapes = load_num_sequence_text(shape_file, loader_type="text_int")
        self.sizes = {key: shape[0] for key, shape in shapes.items()}

    def make_batches(self, epoch: int) -> list[list[str]]:
        """Batches of an epoch, over all GPUs."""
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
        """The iterator of an epoch, of this rank's part of every batch."""
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
    """Put drawn utterances into batches of like lengths, longest first.

    Args:
        drawn: Utterances; one may come several times.
        sizes: Samples of each utterance.
        batch_bins: Samples of a batch, padding included; a batch has more only where
            min_batch_size asks for it.
        min_batch_size: Utterances that a batch has at least.
        max_batch_size: At most, where min_batch_size allows it; None: as many as fit.

    Raises:
        DataError: There are fewer than min_batch_size utterances.
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
            count = max(batch_bins // sizes[rest[0]], min_batch_size)
            count = min(count, max_batch_size or count)
            missing = min_batch_size - (len(rest) - count)
            if 0 < missing < min_batch_size:  # what is left would be too few
                count -= missing
            if count < min_batch_size:
                count = len(rest)
            batches.append(rest[:count])
            rest = rest[count:]
    return batches


def make_pools(
    drawn: list[str], sizes: dict[str, int], batch_bins: int, min_batch_size: int
) -> list[list[str]]:
    """Cut the draws into pieces to sort, of up to POOL batches.

    An utterance comes once in a pool, as far as a pool is a batch at least: copies of an
    utterance, which are equally long, would end up side by side.
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
