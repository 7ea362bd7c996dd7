"""Log-probabilities of a CTC head in batches."""

import numpy as np
import pytest
import torch
from espnet2.bin.asr_inference import Speech2Text
from tiny_asr import make_data, make_model

from espnet2_birq.datadir.audio import read_wave
from espnet2_birq.evaluation.decode.network import Recogniser, Utterance, make_batches


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model") / "asr")


def test_log_probabilities_do_not_depend_on_the_batch(model, tmp_path):
    data = make_data(tmp_path / "test")
    recogniser = Recogniser(model, "cpu")
    waves = [read_wave(str(data / f"{n}.wav")) for n in (0, 2, 3, 5, 7)]
    together = recogniser.log_probs(waves)
    for wave, one in zip(waves, together):
        alone = recogniser.log_probs([wave])[0]
        assert one.shape == alone.shape
        np.testing.assert_allclose(one, alone, atol=2e-4)


def test_a_batch_that_does_not_fit_is_halved(model, tmp_path, monkeypatch):
    recogniser = Recogniser(model, "cpu")
    waves = [
        np.sin(np.arange(n) * 0.05).astype(np.float32) for n in (9000, 16000, 7000)
    ]
    whole, encode, sizes = recogniser.log_probs(waves), recogniser.model.encode, []

    def short_of_memory(speech, lengths):
        sizes.append(len(speech))
        if len(speech) > 1:
            raise torch.OutOfMemoryError("no memory")
        return encode(speech, lengths)

    monkeypatch.setattr(recogniser.model, "encode", short_of_memory)
    for one, other in zip(recogniser.log_probs(waves), whole):
        np.testing.assert_allclose(one, other, atol=2e-4)
    assert sizes == [3, 1, 2, 1, 1]


def test_batches_have_like_durations_and_a_limit():
    durations = [9.0, 1.0, 3.0, 0.1, 2.9, 3.3, 0.15, 20.0]  # 4 * 3.3 > 10
    utterances = [Utterance(f"u{n}", "x", s) for n, s in enumerate(durations)]
    batches = [[x.seconds for x in batch] for batch in make_batches(utterances, 10)]
    assert batches == [[0.1], [0.15], [1.0, 2.9, 3.0], [3.3], [9.0], [20.0]]


@pytest.mark.parametrize(
    "options",
    [{"rel_pos_type": "legacy"}, {"positionwise_layer_type": "conv1d"}],
    ids=str,
)
def test_encoders_that_see_padding(options, tmp_path):
    """Legacy positions are ESPnet's default. It decodes utterances one by one."""
    file = make_model(tmp_path / "asr", **options)
    data = make_data(tmp_path / "test")
    waves = [read_wave(str(data / f"{n}.wav")) for n in (0, 2, 3)]
    recogniser = Recogniser(file, "cpu")
    espnet = Speech2Text(file.parent / "config.yaml", file, ctc_weight=1.0).asr_model
    for wave, scores in zip(waves, recogniser.log_probs(waves), strict=True):
        with torch.no_grad():
            hs, _ = espnet.encode(
                torch.from_numpy(wave)[None], torch.tensor([len(wave)])
            )
            expected = espnet.ctc.log_softmax(hs)[0]
        np.testing.assert_allclose(scores, expected, atol=2e-4)
