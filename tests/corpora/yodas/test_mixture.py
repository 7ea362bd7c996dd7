"""A set of two languages through ESPnet's category sampler."""

import collections
import itertools

import pytest
from espnet2.samplers.build_batch_sampler import build_category_batch_sampler

from espnet2_birq.datadir.kaldi import read_scp


@pytest.mark.parametrize("factor", [1.0, 0.5, 0.0])
def test_shares_of_languages(make_release, prepare, factor):
    release = make_release()
    for subset, videos in (("en000", 40), ("sw000", 4)):
        segments = [(index, index + 1, "x") for index in range(5)]
        release.add(
            f"{subset}/00000000", {f"{subset}video{n}": segments for n in range(videos)}
        )
    out = prepare(release, "--parts", "en", "sw", "--valid_hours", 0) / "yodas"
    drawn = collections.Counter()
    for epoch in range(1, 21):
        sampler, _ = build_category_batch_sampler(
            "catpow",
            batch_bins=160000,
            shape_files=[str(out / "utt2num_samples")],
            min_batch_size=1,
            max_batch_size=100,
            upsampling_factor=factor,
            dataset_scaling_factor=1.2,
            category2utt_file=str(out / "category2utt"),
            epoch=epoch,
        )
        utterances = itertools.chain.from_iterable(sampler)
        drawn.update(utt_id[:2] for utt_id in utterances)
    assert sum(drawn.values()) == pytest.approx(20 * 1.2 * 220, rel=0.01)
    weights = {"en": (40 / 44) ** factor, "sw": (4 / 44) ** factor}
    share = weights["sw"] / sum(weights.values())  # .09, .24, .5
    assert drawn["sw"] / sum(drawn.values()) == pytest.approx(share, abs=0.025)
    assert set(read_scp(out / "category2utt")) == {"en", "sw"}
