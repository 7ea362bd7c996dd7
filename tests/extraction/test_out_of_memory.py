"""Batches that exceed the GPU's memory."""

import numpy as np
import soundfile
import torch
from planted import OBJECTIVES, RATE, write_experiment

from espnet2_birq.bin import features
from espnet2_birq.pretrained import PretrainedModel
from espnet2_birq.tasks.ssl import SSLTask


def test_halves_of_a_batch_keep_their_order(tmp_path, monkeypatch):
    """Each recording has its own features, as from a batch that fits."""
    write_experiment(tmp_path / "exp", SSLTask, objectives=OBJECTIVES)
    (tmp_path / "audio").mkdir()
    generator = np.random.default_rng(0)
    for name in "abc":
        noise = generator.normal(0.0, 0.1, RATE)
        soundfile.write(tmp_path / "audio" / f"{name}.wav", noise, RATE)
    command = [f"{tmp_path}/exp", f"{tmp_path}/audio", "--out"]
    features.main([*command, f"{tmp_path}/whole"])
    compute, sizes = PretrainedModel.compute, []

    def full(self, rows, wanted):
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(self, rows, wanted)

    monkeypatch.setattr(PretrainedModel, "compute", full)
    features.main([*command, f"{tmp_path}/halved"])
    assert sizes == [3, 1, 2, 1, 1]
    for name in "abc":
        one, other = (
            np.load(tmp_path / out / "output/npy" / f"{name}.npy")
            for out in ("whole", "halved")
        )
        np.testing.assert_allclose(one, other, atol=1e-5)
