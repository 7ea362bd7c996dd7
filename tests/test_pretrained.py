"""Features and labels of a pretrained model, whatever the batch and the length."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from espnet2.layers.utterance_mvn import UtteranceMVN
from planted import MODEL, OBJECTIVES, RATE, write_experiment

from espnet2_birq.api import load
from espnet2_birq.encoders import long_audio
from espnet2_birq.encoders.taps import encoder_lengths
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.glance import glance
from espnet2_birq.pretrained import PretrainedModel, Wanted
from espnet2_birq.tasks.ssl import SSLTask

SMALL = {"output_size": 16, "attention_heads": 2, "num_blocks": 2}
ENCODERS = {
    "conformer": {},
    "e_branchformer": {
        "encoder": "e_branchformer",
        "encoder_conf": {**SMALL, "cgmlp_linear_units": 32, "rel_pos_type": "latest"},
    },
    "shaw_conformer": {
        "encoder": "shaw_conformer",
        "encoder_conf": {**SMALL, "linear_units": 32},
    },
}


@pytest.fixture(scope="module", params=ENCODERS)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "exp"
    rows = [*OBJECTIVES, {"name": "slow", "view": "teacher layer 2", **TEACHER}]
    return load(
        write_experiment(folder, SSLTask, **ENCODERS[request.param], objectives=rows)
    )


TEACHER = {"labeller": "random_projection", "labeller_conf": {"codebook_size": 16}}
CONFORMER = pytest.mark.parametrize("model", ["conformer"], indirect=True)


def noise(seconds, seed=0):
    generator = torch.Generator().manual_seed(seed)
    wave = 0.1 * torch.randn(int(RATE * seconds), generator=generator)
    return wave * torch.linspace(0.1, 1, len(wave))  # louder at the end


def test_batched_is_single(model):
    waves = [noise(seconds, n) for n, seconds in enumerate((1.0, 2.345, 0.3, 1.7))]
    lengths = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    padded[0, lengths[0] :] = 5.0  # padding must have no effect
    layers, frames = model.extract_features(padded, lengths, [0, 1, 2])
    output, _ = model(padded, lengths)
    codes, _ = model.labels(padded, lengths)
    assert list(codes) == ["anchor", "enhanced", "slow"]
    assert codes["anchor"].shape == (4, 2, frames.max())
    for row, (wave, length) in enumerate(zip(waves, frames.tolist())):
        alone, (own,) = model.extract_features(wave[None], layers=[0, 1, 2])
        assert own == length
        for one, other in zip((*layers, output), (*alone, model(wave[None])[0])):
            assert (one[row, :length] - other[0]).abs().max() < 1e-5
            assert not one[row, length:].any()
        for name, found in model.labels([wave.numpy()])[0].items():
            assert torch.equal(codes[name][row, :, :length], found[0])
            assert (codes[name][row, :, length:] == -1).all()


def test_objectives_of_every_kind(tmp_path):
    """Codes of all objectives can be computed, except for vectors and labels from disk."""
    codes = {"num_codebooks": 2, "codebook_size": 8}
    rows = [
        OBJECTIVES[0],
        {"name": "bridle", "view": "tokenizer", "labeller": "residual"},
        {"name": "spidr", "view": "teacher layers top 2 each", "labeller": "clusters"},
        {"name": "latent", "view": "teacher layers top 2", "labeller": "latent"},
        {"name": "given", "labeller_conf": {"codebook_size": 3}},
    ]
    rows[1]["labeller_conf"] = rows[2]["labeller_conf"] = codes
    rows[2]["student"] = "each"
    conf = {"layers": 1, "attention_heads": 2, "estimator_layers": 1}
    model = load(
        write_experiment(
            tmp_path / "exp", SSLTask, objectives=rows, tokenizer_conf=conf
        )
    )
    speech = noise(3)
    samples = torch.tensor([len(speech)])
    model.model.prepare([dict(speech=speech[None], speech_lengths=samples)])
    found, (frames,) = model.labels([speech])
    look = glance(model.model, speech)
    assert (
        model.objectives == [*found] == [*look.codes] == ["anchor", "bridle", "spidr"]
    )
    for name, labels in found.items():
        expected = model.model.label(speech[None], samples, name)[0][:, 0, :frames]
        assert torch.equal(labels[0], expected)
        assert torch.equal(look.codes[name].labels, expected[0])
        assert look.codes[name].predictions.shape == (frames,)


def test_features_are_those_of_espnet_s_encoder(model):
    """Compare with a call by ESPnet's interface, in evaluation mode."""
    wave, inner = noise(2.0), model.model
    inner.train()  # as left by a caller
    layers, (frames,) = model.extract_features(wave[None])
    output, _ = model(wave[None])
    assert inner.training and not output.requires_grad
    inner.eval()
    with torch.no_grad():
        xs, lengths = inner._extract_feats(wave[None], torch.tensor([len(wave)]))
        xs = xs[:, : int(lengths)]
        (last, each), own, _ = inner.encoder(xs, lengths, return_all_hs=True)
    assert frames == own[0] == encoder_lengths(inner.encoder, lengths)
    assert len(layers) == len(each) == model.depth == 2
    for one, other in zip((*layers, output), (*each, last)):
        assert torch.allclose(one, other, atol=1e-5)
    seconds = frames * model.frame_shift
    assert model.sample_rate == RATE and abs(seconds - 2.0) < 3 * model.frame_shift


@CONFORMER
def test_layers_by_number(model):
    wave = noise(1.0)[None]
    each = model.extract_features(wave, layers=[0, 1, 2])[0]
    turned = model.extract_features(wave, layers=[-1, 0, -2])[0]
    assert all(map(torch.equal, turned, [each[2], each[0], each[1]]))
    assert each[0].shape[2] == 4 * 20 and each[1].shape[2] == 16
    with pytest.raises(ConfigError, match="no layer 3: there are 0 to 2"):
        model.extract_features(wave, layers=[3])


@CONFORMER
@pytest.mark.parametrize(
    "waveforms, lengths, words",
    [
        (noise(1.0), None, r"waveform\[None\]"),
        ((noise(1.0)[None] * 9999).short(), None, "of 16-bit integers samples / 32768"),
        (
            [noise(1.0), noise(1.0) * torch.nan],
            None,
            "waveform 1: samples that are NaN",
        ),
        ([noise(1.0), noise(0.05)], None, "waveform 1: 800 samples are too few"),
        ([noise(70.0), noise(0.05)], None, "waveform 1: 800 samples are too few"),
        (noise(1.0)[None], [RATE + 1], "waveform 0: length 16001 of 16000 samples"),
        (noise(1.0)[None], [9, 9], "2 lengths of 1 waveforms"),
    ],
)
def test_what_is_no_waveform(model, waveforms, lengths, words):
    with pytest.raises(DataError, match=words):
        model.labels(waveforms, lengths)


def jumps(features):
    """Return the distance of each frame from its predecessor."""
    return features.diff(dim=0).norm(dim=1)


def test_windows_without_a_seam(model):
    """With full attention, results differ from one pass, but not more so at seams."""
    wave = noise(58.0)
    whole = PretrainedModel(model.model, window=None)
    windowed = PretrainedModel(model.model, window=20.0)
    (inputs, own), (frames,) = windowed.extract_features(wave[None], layers=[0, 2])
    (expected, one_pass), (length,) = whole.extract_features(wave[None], layers=[0, 2])
    assert frames == length
    assert (inputs - expected).abs().max() < 1e-4
    shift = model.frame_shift
    windows = long_audio.windows_of(
        model.model.encoder, int(frames), int(20 / shift), int(5 / shift)
    )
    seams = torch.tensor([window.begin for window in windows][1:])
    assert len(seams) == 5
    own, one_pass = own[0], one_pass[0]
    error = (own - one_pass).norm(dim=1)
    assert error[seams].mean() < 1.5 * error.mean()
    assert jumps(own)[seams - 1].mean() < 1.2 * jumps(one_pass)[seams - 1].mean()
    codes, _ = windowed.labels(wave[None])
    assert torch.equal(codes["anchor"], whole.labels(wave[None])[0]["anchor"])


@pytest.mark.parametrize("kind", ["none", "global_mvn", "means", "variances"])
def test_features_in_pieces_are_those_of_one_pass(kind, tmp_path):
    """For any part and normalisation; 20001 samples end between two frames."""
    frontend = DefaultFrontend(fs=RATE, n_fft=512, win_length=400, hop_length=160)
    wave = noise(1.0)[None].repeat(1, 2)[:, :20001]
    feats, lengths = frontend(wave, torch.tensor([20001]))
    stats = {
        "count": 126,
        "sum": feats[0].sum(dim=0),
        "sum_square": feats[0].pow(2).sum(0),
    }
    np.savez(tmp_path / "stats.npz", **stats)
    norms = {"none": None, "global_mvn": GlobalMVN(tmp_path / "stats.npz")}
    norms["means"] = UtteranceMVN(norm_vars=False)
    norms["variances"] = UtteranceMVN(norm_means=False, norm_vars=True)
    expected = feats.clone()
    if norms[kind] is not None:
        expected, _ = norms[kind](expected, lengths)
    audio = long_audio.LongAudio(
        lambda a, b: wave[0, a:b], 20001, frontend, norms[kind], torch.device("cpu")
    )
    assert audio.frames == lengths[0] == 126
    for start, stop in ((0, 126), (0, 1), (50, 60), (125, 126), (3, 126)):
        found = audio.features(start, stop)
        assert (found - expected[:, start:stop]).abs().max() < 1e-4


BLOCKS = {
    "conformer": {"model_conf": {"attention_window": 30}},
    "e_branchformer": {"model_conf": {"attention_window": 30}},
    "shaw_conformer": {},
}


@pytest.mark.parametrize("name", ENCODERS)
def test_windows_are_exact_where_attention_is_in_blocks(name, tmp_path):
    conf = {**ENCODERS[name], **BLOCKS[name]}
    if name == "shaw_conformer":
        conf["encoder_conf"] = {**conf["encoder_conf"], "attention_window": 30}
    path = write_experiment(tmp_path / "exp", SSLTask, objectives=OBJECTIVES, **conf)
    windowed, whole = load(path, window=20.0), load(path, window=None)
    wave = noise(47.0)
    for one, other in zip(
        windowed.extract_features(wave[None])[0] + [windowed(wave[None])[0]],
        whole.extract_features(wave[None])[0] + [whole(wave[None])[0]],
    ):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-4
    # The test can fail: without context, there are seams.
    encoder = windowed.model.encoder
    assert long_audio.reach(encoder, 30) == 60
    found = list(long_audio.windows_of(encoder, 1000, 300, 0))
    assert [x.begin for x in found[1:]] == [x.end for x in found[:-1]]
    assert all(x.begin - x.first == 60 and x.first % 30 == 0 for x in found[1:])


@CONFORMER
def test_a_long_file_piece_by_piece(model, tmp_path):
    wave = noise(70.0)
    path = tmp_path / "long.wav"
    soundfile.write(path, wave.numpy(), RATE, "FLOAT")
    pieces = list(model.stream(path, Wanted((0, 2), True, ("enhanced",))))
    assert len(pieces) == 2
    found = [torch.cat(column) for column in zip(*pieces)]
    layers, _ = model.extract_features(wave[None], layers=[0, 2])
    codes, _ = model.labels(wave[None])
    expected = [*layers, model(wave[None])[0], codes["enhanced"].transpose(1, 2)]
    assert all(torch.equal(one, other[0]) for one, other in zip(found, expected))
    # Any kind of floating-point samples, as for short recordings
    double = wave.double()
    assert torch.equal(model(double[None])[0], expected[-2])
    (*_, last) = model.stream(double, Wanted(output=True))
    assert torch.equal(last[0], pieces[-1][2])
    short = list(model.stream(wave[:RATE], Wanted(output=True)))
    assert torch.equal(short[0][0], model(wave[None, :RATE])[0][0])
    wave[60 * RATE] = torch.nan
    soundfile.write(path, wave.numpy(), RATE, "FLOAT")
    with pytest.raises(DataError, match="long.wav: samples that are NaN"):
        list(model.stream(path))
    with pytest.raises(ConfigError, match="window: give at least 20 seconds"):
        PretrainedModel(model.model, window=5)


@pytest.mark.slow
def test_an_hour_in_windows_is_an_hour_in_one_pass(tmp_path):
    """Within 1e-3 everywhere, including seams, for features of the input and a layer."""
    blocks = {**MODEL_OF_ONE_LAYER, **BLOCKS["conformer"]}
    model = load(write_experiment(tmp_path / "exp", SSLTask, **blocks))
    wave = torch.cat([noise(60.0, minute) for minute in range(60)])
    wanted = Wanted((0, 1), True)
    found = [torch.cat(x) for x in zip(*model.stream(wave, wanted))]
    model.window = None
    for one, other in zip(found, model.compute([wave], wanted)[0]):
        assert one.shape == other.shape and len(one) > 89_990
        assert (one - other).abs().max() < 1e-3


MEMORY = """
import sys
from espnet2_birq.api import load
model = load(sys.argv[1])
frames = sum(len(output) for (output,) in model.stream(sys.argv[2]))
with open("/proc/self/status") as status:
    print(frames, *[line.split()[1] for line in status if "VmHWM" in line])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length(tmp_path):
    """A file of an hour and one of three minutes."""
    exp = write_experiment(tmp_path / "exp", SSLTask, **MODEL_OF_ONE_LAYER)
    peaks = []
    for minutes in (3, 60):
        path = tmp_path / "long.flac"
        with soundfile.SoundFile(path, "w", RATE, 1) as file:
            for minute in range(minutes):
                file.write(noise(60.0, minute).numpy())
        command = [sys.executable, "-c", MEMORY, str(exp), str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        frames, kilobytes = map(int, done.stdout.split())
        assert abs(frames - 1500 * minutes) < 3
        peaks.append(kilobytes)
    # In kB. The allocator needs time to settle; the samples alone are 230 MB.
    assert peaks[1] - peaks[0] < 100_000


MODEL_OF_ONE_LAYER = {
    "encoder_conf": {**MODEL["encoder_conf"], "num_blocks": 1},
    "objectives": OBJECTIVES[:1],
}


@pytest.mark.gpu
@CONFORMER
def test_on_a_gpu(model, exact_products):
    waves = [noise(1.0), noise(70.0)]
    expected, codes = model.extract_features(waves)[0], model.labels(waves)[0]
    try:
        model.to("cuda")
        assert model.device.type == "cuda"
        for one, other in zip(model.extract_features(waves)[0], expected):
            assert (one.cpu() - other).abs().max() < 1e-3
        same = model.labels(waves)[0]["anchor"].cpu() == codes["anchor"]
        assert same.float().mean() > 0.99
    finally:
        model.to("cpu")


@CONFORMER
def test_numpy_is_taken(model):
    wave = noise(1.0)
    expected, _ = model(wave[None])
    assert torch.equal(model(np.stack([wave.numpy()]))[0], expected)
    assert torch.equal(model([np.flip(np.flip(wave.numpy()).copy())])[0], expected)
    (streamed,) = next(model.stream(wave.numpy()))
    assert torch.equal(streamed, expected[0])
    assert len(model.extract_features(wave[None], layers=np.array([1, -1]))[0]) == 2


@CONFORMER
def test_precisions_of_one_list(model):
    """Each waveform is converted by itself, whatever the first one's type."""
    waves = [noise(1.0).half(), noise(1.5, 1), noise(2.0, 2).double()]
    together, frames = model(waves)
    for wave, row, length in zip(waves, together, frames.tolist()):
        alone, _ = model([wave.float()])
        assert (row[:length] - alone[0]).abs().max() < 1e-5


@CONFORMER
def test_results_in_the_order_wanted(model):
    wave = noise(1.0)
    anchor, enhanced = (model.labels([wave])[0][x][0].T for x in ("anchor", "enhanced"))
    wanted = Wanted(layers=(-1, 1), labels=("enhanced", "anchor"))
    ((last, first, *codes),) = model.compute([wave], wanted)
    assert torch.equal(codes[0], enhanced) and torch.equal(codes[1], anchor)
    layers, _ = model.extract_features([wave])
    assert torch.equal(last, layers[1][0]) and torch.equal(first, layers[0][0])
    for wanted, words in (
        (Wanted(layers=(3,)), "no layer 3"),
        (
            Wanted(labels=("x",)),
            "no objective 'x' .*; there are anchor, enhanced, slow",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            model.compute([wave], wanted)
        with pytest.raises(ConfigError, match=words):
            next(model.stream(wave, wanted))


CONFORMER_LAYERS = {
    "legacy positions": {"rel_pos_type": "legacy"},
    "convolutions as feed-forward": {"positionwise_layer_type": "conv1d"},
    "convolution and linear": {"positionwise_layer_type": "conv1d-linear"},
    "convolutional positions": {
        "pos_enc_layer_type": "conv",
        "selfattention_layer_type": "selfattn",
    },
}


@pytest.mark.parametrize("options", CONFORMER_LAYERS.values(), ids=CONFORMER_LAYERS)
def test_layers_that_see_padding(options, tmp_path):
    """ESPnet's layers that depend on padding never see any."""
    conf = {**MODEL["encoder_conf"], **options}
    exp = write_experiment(
        tmp_path / "exp", SSLTask, encoder_conf=conf, objectives=OBJECTIVES
    )
    model = load(exp)
    waves = [noise(1.0), noise(2.0, 1), noise(1.5, 2)]
    output, frames = model(waves)
    codes, _ = model.labels(waves)
    for row, (wave, length) in enumerate(zip(waves, frames.tolist())):
        assert torch.equal(output[row, :length], model([wave])[0][0])
        for name, found in model.labels([wave])[0].items():
            assert torch.equal(codes[name][row, :, :length], found[0])


def test_a_frontend_that_is_not_centred(tmp_path):
    """Frames are counted without the reflection at the ends."""
    frontend = {**MODEL["frontend_conf"], "center": False}
    exp = write_experiment(
        tmp_path / "exp", SSLTask, frontend_conf=frontend, objectives=OBJECTIVES
    )
    model = load(exp)
    for seconds in (1.0, 1.234, 0.11, 0.5):
        wave = noise(seconds)
        assert model([wave])[1].item() == model.frames(len(wave))
    with pytest.raises(DataError, match="waveform 0: 1200 samples are too few"):
        model([noise(0.075)])
    with pytest.raises(ConfigError, match="centred"):
        model([noise(70.0)])
