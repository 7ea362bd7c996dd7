"""The interface of S3PRL's upstreams: what its Featurizer and runners read of one.

S3PRL itself is not installed. Its nn.S3PRLUpstream calls
``getattr(hub, name)(ckpt=...)``, then ``upstream(list of (N,) waveforms)``, reads
"hidden_states" and asks get_downsample_rates("hidden_states").
"""

import pytest
import torch
from planted import OBJECTIVES, RATE, write_experiment

from espnet2_birq.consumers.s3prl import UpstreamExpert, birq
from espnet2_birq.tasks.ssl import SSLTask


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "ssl"
    return birq(ckpt=str(write_experiment(folder, SSLTask, objectives=OBJECTIVES)))


def test_batch_equals_single(upstream):
    generator = torch.Generator().manual_seed(0)
    wavs = [torch.randn(n, generator=generator) for n in (RATE, RATE // 2, 12345)]
    together = upstream(wavs)
    assert isinstance(upstream, UpstreamExpert) and isinstance(
        upstream, torch.nn.Module
    )
    assert len(together["hidden_states"]) == 2
    for number, wav in enumerate(wavs):
        alone = upstream([wav])["hidden_states"]
        for one, all_of_them in zip(alone, together["hidden_states"]):
            assert torch.allclose(one[0], all_of_them[number, : one.size(1)], atol=1e-5)
            assert not all_of_them[number, one.size(1) :].any()
    last = together["last_hidden_state"]
    assert torch.equal(last, together["hidden_states"][-1])


def test_rate_and_mode(upstream):
    rate = upstream.get_downsample_rates("hidden_states")
    assert rate == 640
    frames = upstream([torch.randn(10 * RATE)])["last_hidden_state"].size(1)
    # S3PRL compares frames with samples / rate and accepts a few of difference
    assert abs(frames - 10 * RATE / rate) < 5
    upstream.train()
    assert not any(module.training for module in upstream.modules())
    assert not any(x.requires_grad for x in upstream.parameters())
