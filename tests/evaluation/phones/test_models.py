"""SpeechModel: outputs alone and in a batch, of pretrained and ASR models."""

import numpy as np
import pytest
import torch
import yaml
from planted import BOOK, MODEL, OBJECTIVES, write_experiment

from espnet2_birq.encoders.taps import encoder_lengths
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.phones.models import load_model
from espnet2_birq.pretraining.views import stack_frames
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.ssl import SSLTask

ASR = {
    "decoder": None,
    "model_conf": {"ctc_weight": 1.0},
    "token_type": "char",
    "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"],
}
SECONDS = (1.31, 0.7, 1.02)


@pytest.fixture(scope="module")
def ssl_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "ssl"
    return write_experiment(folder, SSLTask, objectives=OBJECTIVES)


def waves():
    generator = np.random.default_rng(0)
    return [
        0.1 * generator.standard_normal(int(16000 * s)).astype(np.float32)
        for s in SECONDS
    ]


@torch.no_grad()
def test_layers_and_codes_are_those_of_the_model(ssl_file):
    config = ssl_file.parent / "config.yaml"
    model, _ = SSLTask.build_model_from_file(config, ssl_file)
    model.eval()
    loaded = load_model(ssl_file)
    assert (loaded.depth, loaded.sample_rate, loaded.shift) == (2, 16000, 0.04)
    for wave in waves():
        (look,) = loaded.look([wave], [0, 1, 2])
        speech, samples = torch.from_numpy(wave)[None], torch.tensor([len(wave)])
        xs, lengths = model._extract_feats(speech, samples)
        xs = xs[:, : lengths[0]]
        (last, every), _, _ = model.encoder(xs, lengths, return_all_hs=True)
        frames = int(encoder_lengths(model.encoder, lengths)[0])
        expected = [stack_frames(xs, 4, frames), every[0], every[1]]
        for layer, values in enumerate(expected):
            assert look.layers[layer].shape == values[0].shape
            assert np.allclose(look.layers[layer], values[0], atol=1e-5)
        for objective, vectors in (("anchor", expected[0]), ("enhanced", expected[1])):
            labeller = {x.name: x.labeller for x in model.objectives}[objective]
            points = labeller.points(vectors[0])
            nearest = torch.cdist(points, labeller.codebook).argmin(dim=2)
            assert look.labels[objective].shape == nearest.shape
            assert (look.labels[objective] == nearest.numpy()).mean() > 0.98
    assert set(look.labels) == {"anchor", "enhanced"}
    assert look.labels["anchor"].shape[0] == 2  # codebooks


@pytest.mark.parametrize("positions", ["latest", "legacy"])
def test_batched_is_as_alone(tmp_path, positions):
    """Legacy positions, ESPnet's default, depend on the padding."""
    conf = {**MODEL["encoder_conf"], "rel_pos_type": positions}
    model = load_model(
        write_experiment(
            tmp_path / "ssl", SSLTask, objectives=OBJECTIVES, encoder_conf=conf
        )
    )
    together = model.look(waves(), [0, 1, 2])
    for wave, look in zip(waves(), together):
        (alone,) = model.look([wave], [0, 1, 2])
        for layer in range(3):
            assert look.layers[layer].shape == alone.layers[layer].shape
            assert np.allclose(look.layers[layer], alone.layers[layer], atol=1e-4)
        for objective, codes in alone.labels.items():
            assert look.labels[objective].shape == codes.shape
            assert (look.labels[objective] == codes).mean() > 0.98


def test_only_the_layers_asked_for(ssl_file):
    (look,) = load_model(ssl_file).look(waves()[:1], [2])
    assert set(look.layers) == {2}
    assert set(look.labels) == {"anchor", "enhanced"}


def test_a_fine_tuned_model(tmp_path, ssl_file):
    asr = write_experiment(tmp_path / "asr", ASRTask, seed=5, **ASR)
    state = torch.load(asr)
    pretrained = torch.load(ssl_file)
    state.update({k: v for k, v in pretrained.items() if k.startswith("encoder.")})
    torch.save(state, asr)
    ours, theirs = load_model(asr), load_model(ssl_file)
    assert ours.parameters == theirs.parameters
    for one, other in zip(ours.look(waves(), [0, 2]), theirs.look(waves(), [0, 2])):
        assert one.labels == {}
        for layer in (0, 2):
            assert np.allclose(one.layers[layer], other.layers[layer], atol=1e-5)


@pytest.mark.parametrize("task, options", [(SSLTask, {}), (ASRTask, ASR)])
def test_untrained_is_always_the_same(tmp_path, task, options):
    trained = write_experiment(tmp_path / "exp", task, **options)
    config = trained.parent / "config.yaml"
    looks = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        looks += load_model(config).look(waves()[:1], [0, 2])
        assert torch.equal(torch.random.get_rng_state(), before)
    (other,) = load_model(trained).look(waves()[:1], [0, 2])
    assert (looks[0].layers[2] == looks[1].layers[2]).all()
    assert looks[0].labels == {}
    assert np.allclose(looks[0].layers[0], other.layers[0], atol=1e-6)
    assert not np.allclose(looks[0].layers[2], other.layers[2], atol=0.1)


@pytest.mark.parametrize("task, options", [(SSLTask, {}), (ASRTask, ASR)])
def test_untrained_is_of_the_configured_seed(tmp_path, task, options):
    """Seeds of a comparison are different models, also without pretraining."""
    config = write_experiment(tmp_path / "exp", task, **options).parent / "config.yaml"
    conf = yaml.safe_load(config.read_text())
    outputs = []
    for seed in (0, 1, 1):
        config.write_text(yaml.safe_dump({**conf, "seed": seed}))
        outputs += load_model(config).look(waves()[:1], [2])
    zero, one, again = (look.layers[2] for look in outputs)
    assert (one == again).all() and not np.allclose(zero, one, atol=0.1)


def test_a_configuration_of_training_needs_no_statistics(tmp_path):
    config = tmp_path / "train.yaml"
    objective = {"name": "anchor", "labeller_conf": {"projection": "pca"}}
    config.write_text(yaml.safe_dump({**MODEL, "objectives": [objective]}))
    assert load_model(config).depth == 2


def test_errors(tmp_path, ssl_file):
    with pytest.raises(ConfigError, match="nothing.pth: no such file"):
        load_model(tmp_path / "nothing.pth")
    (tmp_path / "alone.pth").write_bytes(ssl_file.read_bytes())
    with pytest.raises(ConfigError, match="config.yaml: no such file"):
        load_model(tmp_path / "alone.pth")
    (tmp_path / "config.yaml").write_text("lr: 1\n")
    with pytest.raises(DataError, match="config.yaml: not a configuration"):
        load_model(tmp_path / "alone.pth")
    config = (ssl_file.parent / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(
        config.replace("output_size: 16", "output_size: 8")
    )
    # The kind of error depends on whether labels or the encoder do not fit.
    with pytest.raises((ConfigError, DataError), match="alone.pth: "):
        load_model(tmp_path / "alone.pth")
    config = {**MODEL, "encoder": "conformer"}  # no objectives
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match="no 'objectives'"):
        load_model(tmp_path / "alone.pth")


def test_an_asr_model_that_does_not_fit(tmp_path):
    asr = write_experiment(tmp_path / "asr", ASRTask, **ASR)
    config = asr.parent / "config.yaml"
    config.write_text(config.read_text().replace("output_size: 16", "output_size: 8"))
    with pytest.raises(DataError, match="model.pth: Error.* in loading") as error:
        load_model(asr)
    assert "\n" not in str(error.value)
    asr.write_bytes(asr.read_bytes()[:1000])
    with pytest.raises(DataError, match="model.pth: is cut short"):
        load_model(asr)


def test_labels_of_a_teacher_and_from_disk(tmp_path):
    book = {"labeller_conf": BOOK}
    rows = [
        {"name": "anchor", **book},
        {"name": "old", "view": "teacher layer 2", "head": "own", **book},
        {"name": "given", "head": "given", "labeller_conf": {"codebook_size": 5}},
    ]
    rows[1]["labeller"] = "random_projection"
    file = write_experiment(tmp_path / "ssl", SSLTask, objectives=rows)
    state = torch.load(file)
    for name in state:  # make the teacher differ from the encoder
        if name.startswith("teacher.") and state[name].is_floating_point():
            state[name] = state[name] * 1.3
    torch.save(state, file)
    model = load_model(file)
    looks = model.look(waves(), [1, 2])
    plain, _ = SSLTask.build_model_from_file(file.parent / "config.yaml", file)
    plain.eval()
    for wave, look in zip(waves(), looks):
        assert set(look.labels) == {"anchor", "old"}  # not from disk
        speech, samples = torch.from_numpy(wave)[None], torch.tensor([len(wave)])
        with torch.no_grad():
            codes, frames = plain.label(speech, samples, "old")
        assert look.labels["old"].shape == (1, int(frames))
        assert (look.labels["old"] == codes[:, 0, : frames[0]].numpy()).mean() > 0.98


def test_an_encoder_without_blocks(tmp_path):
    conf = {"encoder": "vgg_rnn", "encoder_conf": {"num_layers": 1, "output_size": 4}}
    asr = write_experiment(tmp_path / "asr", ASRTask, **{**ASR, **conf})
    with pytest.raises(ConfigError, match="the encoder have blocks"):
        load_model(asr)
