"""Residual quantization against a library and a plain version; codebook updates."""

import numpy as np
import pytest
import soundfile
import torch
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.utterance_mvn import UtteranceMVN
from test_model import make_batch, make_model
from test_ranks import HALVES, SECONDS, spawn

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.labellers.residual import ResidualLabeller
from espnet2_birq.pretraining.views import stack_frames

CONF = dict(num_codebooks=2, codebook_size=8)
INPUT = dict(name="rvq", view="input", labeller="residual", labeller_conf=CONF)
LAYER = {**INPUT, "name": "refit", "view": "layer 2"}
TAUGHT = {**INPUT, "name": "taught", "view": "teacher layer 3"}
SYSTEM = [INPUT, LAYER, TAUGHT]


def make_labeller(size=6, codebooks=None, **conf):
    conf = {**dict(num_codebooks=3, codebook_size=8), **conf}
    labeller = ResidualLabeller(size, running=True, **conf)
    if codebooks is not None:
        set_codebooks(labeller, codebooks)
    return labeller


def set_codebooks(labeller, codebooks):
    """Let a new labeller, whose codes are all equally used, start from given ones."""
    given = {"sums": codebooks / labeller.codebook_size, "started": torch.ones(())}
    labeller.load_state_dict({**labeller.state_dict(), **given})


def make_codebooks(levels=3, number=8, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(levels, number, size, generator=generator)


def plain(vectors, codebooks):
    """Return codes and reconstruction, computed one by one in double precision."""
    codes, made = [], []
    for vector in np.asarray(vectors, dtype=np.float64):
        left, mine = vector.copy(), []
        for book in np.asarray(codebooks, dtype=np.float64):
            distances = [np.sum((left - code) ** 2) for code in book]
            mine.append(int(np.argmin(distances)))
            left = left - book[mine[-1]]
        codes.append(mine)
        made.append(vector - left)
    return np.array(codes).T, np.array(made)


def test_codes_and_reconstruction_are_the_plain_ones():
    books, vectors = make_codebooks(), torch.randn(500, 6)
    labeller = make_labeller(codebooks=books)
    codes, made = plain(vectors, books)
    assert np.array_equal(labeller.codes(vectors).numpy(), codes)
    assert np.allclose(labeller._quantize(vectors)[1], made, atol=1e-5)
    labels = labeller.label(vectors)
    assert np.array_equal(torch.stack([x.codes for x in labels]).numpy(), codes)


def test_a_step_is_the_plain_moving_average():
    books, vectors = make_codebooks(), torch.randn(200, 6)
    labeller = make_labeller(codebooks=books, decay=0.9, reseed=0)
    valid = torch.ones(200)
    valid[150:] = 0
    vectors[3], vectors[170] = float("nan"), 1e9
    labeller.observe(vectors, valid)
    labeller.step()
    labeller.step()  # nothing was observed since then
    rows = [i for i in range(150) if i != 3]
    codes, _ = plain(vectors[rows], books)
    left = vectors[rows].double().numpy()
    for level in range(3):
        usage, sums = np.full(8, 0.9 / 8), 0.9 / 8 * books[level].double().numpy()
        for code, x in zip(codes[level], left):
            usage[code] += 0.1 / len(rows)
            sums[code] += 0.1 / len(rows) * x
        left = left - books[level].double().numpy()[codes[level]]
        assert np.allclose(labeller.usage[level], usage, atol=1e-6)
        centres = sums / usage[:, None]
        assert np.allclose(labeller.codebooks()[level], centres, atol=1e-5)


def make_library(books, **conf):
    library = pytest.importorskip("vector_quantize_pytorch")
    levels, number, size = books.shape
    oracle = library.ResidualVQ(
        dim=size, num_quantizers=levels, codebook_size=number, **conf
    )
    for layer, book in zip(oracle.layers, books):
        layer._codebook.embed.copy_(book)
        layer._codebook.embed_avg.copy_(book)
    return oracle


@pytest.mark.parametrize("levels, number", [(4, 256), (8, 1024)])
def test_codes_are_those_of_vector_quantize_pytorch(levels, number):
    books = make_codebooks(levels, number, 40)
    oracle = make_library(books).eval()
    labeller = make_labeller(
        40, books, num_codebooks=levels, codebook_size=number
    ).eval()
    vectors = torch.randn(3000, 40)
    with torch.no_grad():
        made, codes, _ = oracle(vectors[None])
    ours = labeller.codes(vectors)
    assert (ours == codes[0].T).float().mean() > 0.9999  # ties in single precision
    same = (ours == codes[0].T).all(dim=0)
    assert torch.allclose(
        labeller._quantize(vectors)[1][same], made[0][same], atol=1e-5
    )


def test_training_moves_codebooks_as_vector_quantize_pytorch_does():
    books = make_codebooks()
    oracle = make_library(books, decay=0.9).train()
    labeller = make_labeller(codebooks=books, decay=0.9, reseed=0)
    # The library starts with a count of 1 per code; here, usage is a share of 200 frames.
    labeller.usage.fill_(1 / 200)
    labeller.sums.copy_(books / 200)
    for step in range(5):
        torch.manual_seed(step)
        vectors = torch.randn(200, 6)
        oracle(vectors[None])
        labeller.observe(vectors, torch.ones(200))
        labeller.step()
        for ours, layer in zip(labeller.codebooks(), oracle.layers):
            assert torch.allclose(ours, layer._codebook.embed[0], atol=1e-5)


def of_update(labeller, batches):
    for vectors, valid in batches:
        labeller.observe(vectors, valid)
    labeller.step()


def test_batches_of_an_update_count_like_one(monkeypatch):
    """accum_grad: labels stay the same within an update, and codebooks are equal after it."""
    books = make_codebooks()
    vectors, valid = torch.randn(300, 6), (torch.rand(300) < 0.8).float()
    whole, parts = (make_labeller(codebooks=books, decay=0.5) for _ in range(2))
    of_update(whole, [(vectors, valid)])
    batches = [(vectors[:50], valid[:50]), (vectors[50:], valid[50:])]
    before = parts.codes(vectors)
    parts.observe(*batches[0])
    assert torch.equal(parts.codes(vectors), before)
    parts.observe(*batches[1])
    parts.step()
    assert not torch.equal(parts.codes(vectors), before)
    assert torch.allclose(whole.sums, parts.sums, atol=1e-6)
    assert torch.allclose(whole.usage, parts.usage, atol=1e-6)
    assert torch.allclose(whole.errors, parts.errors, atol=1e-5)


def test_codes_out_of_use_become_vectors_of_the_batch():
    books = make_codebooks()
    books[:, 3:6] += 1000.0  # far from all vectors
    vectors = torch.randn(100, 6)
    labeller = make_labeller(codebooks=books, decay=0.9, reseed=0.01)
    valid = torch.ones(100)
    valid[50:] = 0
    updates = 0
    while (labeller.codebooks()[0].abs() > 100).any():
        of_update(labeller, [(vectors, valid)])
        updates += 1
    assert updates == 44  # 0.9^n < 0.01
    new = labeller.codebooks()[0, 3:6]
    distance = torch.cdist(new, vectors[:50])
    assert (distance.min(dim=1).values < 1e-2).all()
    assert distance.argmin(dim=1).unique().numel() == 3
    assert torch.allclose(labeller.usage[0, 3:6], torch.tensor(0.1 / 8))
    for _ in range(60):
        of_update(labeller, [(vectors, valid)])
    usage = labeller.statistics()["level1_usage"]
    assert usage == 1.0
    without = make_labeller(codebooks=books, decay=0.9, reseed=0)
    for _ in range(104):
        of_update(without, [(vectors, valid)])
    assert without.statistics()["level1_usage"] == 5 / 8


def test_new_codes_are_different_vectors_of_the_last_batch():
    """Its frames count, not those of all batches of the update (accum_grad)."""
    books = make_codebooks()
    books[:, 1:] += 1000.0  # 7 of 8 codes are far from all vectors
    labeller = make_labeller(codebooks=books, decay=0.0, reseed=0.01)
    batches = [(torch.randn(60, 6), torch.ones(60)), (torch.randn(9, 6), torch.ones(9))]
    of_update(labeller, batches)
    new = labeller.codebooks()[0, 1:]
    new = new[new.abs().max(dim=1).values < 100]
    assert len(new) == 3  # of 9 frames
    assert torch.cdist(new, batches[1][0]).argmin(dim=1).unique().numel() == 3
    of_update(labeller, [batches[0], (torch.randn(9, 6), torch.zeros(9))])
    assert not (labeller.usage == 0.1 / 8).any()  # none is new


def test_new_codes_of_two_levels_are_of_different_frames():
    """Else the levels would code the same few frames when both are out of use."""
    books = make_codebooks(levels=2)
    books[:, 1:] += 1000.0  # 7 of 8 codes are far from all vectors
    labeller = make_labeller(codebooks=books, num_codebooks=2, decay=0.0, reseed=0.01)
    vectors = torch.randn(60, 6)
    of_update(labeller, [(vectors, torch.ones(60))])
    first, second = labeller.codebooks()[:, 1:]
    rows = torch.cdist(first, vectors).argmin(dim=1).tolist()
    rows += torch.cdist(second, vectors - books[0, 0]).argmin(dim=1).tolist()
    assert len(set(rows)) == 14


def test_a_code_without_frames_stays_where_it_is():
    books = make_codebooks()
    books[:, 3] += 1000.0  # far from all vectors
    labeller = make_labeller(codebooks=books, decay=0.9, reseed=0)
    far = labeller.codebooks()[:, 3]
    for _ in range(500):  # its usage decays below the smallest number
        of_update(labeller, [(torch.randn(50, 6), torch.ones(50))])
    assert labeller.usage[0, 3] < 1e-20
    torch.testing.assert_close(labeller.codebooks()[:, 3], far, rtol=0.02, atol=0)


def test_wrong_options():
    for conf, words in (
        (dict(num_codebooks=0), "num_codebooks is a whole number of 1 or more, got 0"),
        (dict(codebook_size=1), "codebook_size is a whole number of 2 or more"),
        (dict(decay=1.5), "decay is a number from 0 to 1, got 1.5"),
        (dict(reseed=0.5), "reseed is below 0.1, the share .* got 0.5"),
        (dict(seed="a"), "seed is a whole number of 0 or more, got 'a'"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_labeller(**conf)
    state = make_labeller(codebooks=make_codebooks()).state_dict()
    with pytest.raises(ConfigError, match="codebook_size=16.*codebook_size=8"):
        make_labeller(codebook_size=16).load_state_dict(state)


def test_labels_before_the_start_and_too_little_speech():
    labeller = make_labeller()
    with pytest.raises(DataError, match="codebooks are computed from training data"):
        labeller.label(torch.randn(5, 6))
    labeller.observe(torch.randn(7, 6), torch.ones(7))
    with pytest.raises(DataError, match="7 frames for 8 codes"):
        labeller.start()


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_no_state_is_kept_in_half_precision(cast):
    labeller = make_labeller(codebooks=make_codebooks())
    getattr(labeller, cast)()
    assert all(x.dtype == torch.float32 for x in labeller.buffers())
    vectors = torch.randn(100, 6).to(getattr(torch, cast))
    codes = labeller.codes(vectors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(labeller.codes(vectors), codes)


# ------------------------------------------------------------------ in a model
def prepared_model(rows=slice(0, 4), objectives=SYSTEM, **conf):
    model = make_model(objectives, **conf)
    speech, lengths = make_batch(SECONDS)
    batch = dict(speech=speech[rows], speech_lengths=lengths[rows])
    assert model.prepare([batch]) == 39 + 27 + 39 + 17
    return model.train()


def train(model, optimizer, updates, seed, accumulate=1):
    history = []
    for update in range(updates):
        for part in range(accumulate):
            torch.manual_seed(1000 * seed + 10 * update + part)
            batch = make_batch(SECONDS, seed=10 * update + part)
            loss, stats, _ = model(*batch)
            (loss / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(stats)
    return history


def make_optimizer(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.count_updates_of(optimizer)
    return optimizer


def test_it_learns_and_logs_each_level():
    model = make_model(SYSTEM)
    assert model.unprepared == ["rvq", "refit", "taught"]
    model = prepared_model()
    assert model.unprepared == []
    before = {name: x.clone() for name, x in model.objectives.named_buffers()}
    history = train(model, make_optimizer(model), 25, seed=1)
    for name in ("rvq", "refit", "taught"):
        last, first = history[-1], history[0]
        assert last[f"loss_{name}"] < first[f"loss_{name}"]
        for level in (1, 2):
            assert 0 <= last[f"level{level}_acc_{name}"] <= 1
            assert 1 < last[f"level{level}_ppl_{name}"] <= 8
            assert last[f"level{level}_usage_{name}"] > 0.5
        assert last[f"level2_error_{name}"] < last[f"level1_error_{name}"] < 1
        mean = (last[f"level1_acc_{name}"] + last[f"level2_acc_{name}"]) / 2
        assert torch.allclose(last[f"acc_{name}"], mean)
    moved = [
        name
        for name, x in model.objectives.named_buffers()
        if not torch.equal(x, before[name])
    ]
    assert {x for x in moved if x.endswith("sums")} == {
        f"{number}.labeller.sums" for number in range(3)
    }


def test_evaluation_leaves_codebooks_alone():
    model = prepared_model().eval()
    before = {name: x.clone() for name, x in model.objectives.named_buffers()}
    _, stats, _ = model(*make_batch(SECONDS))
    model._count_update()
    assert "level1_error_rvq" in stats
    for name, x in model.objectives.named_buffers():
        assert torch.equal(x, before[name]), name


def test_a_resumed_training_is_the_same_to_the_bit(tmp_path):
    whole = prepared_model()
    optimizer = make_optimizer(whole)
    train(whole, optimizer, 4, seed=1)
    torch.save([whole.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint")
    expected = train(whole, optimizer, 4, seed=2)
    resumed = make_model(SYSTEM).train()
    optimizer = make_optimizer(resumed)
    state, optimizer_state = torch.load(tmp_path / "checkpoint")
    resumed.load_state_dict(state)
    optimizer.load_state_dict(optimizer_state)
    assert resumed.unprepared == []
    found = train(resumed, optimizer, 4, seed=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for key in expected[-1]:
        if "window" not in key and "_ppl" not in key:  # windows restart
            assert torch.equal(expected[-1][key], found[-1][key]), key


def test_a_checkpoint_reproduces_the_labels():
    model = prepared_model()
    train(model, make_optimizer(model), 3, seed=1)
    other = make_model(SYSTEM)
    other.load_state_dict(model.state_dict())
    averaged = make_model(SYSTEM)  # ESPnet's averaging: a sum, divided
    averaged.load_state_dict(
        {
            k: (v + v + v) / 3 if v.is_floating_point() else v
            for k, v in model.state_dict().items()
        }
    )
    for name in ("rvq", "refit", "taught"):
        codes, _ = model.eval().label(*make_batch(SECONDS), name)
        assert codes.shape == (2, 4, 39) and codes.unique().numel() > 4
        assert torch.equal(codes, other.eval().label(*make_batch(SECONDS), name)[0])
        same = codes == averaged.eval().label(*make_batch(SECONDS), name)[0]
        assert same.float().mean() > 0.99


def run_updates(rows):
    """Return codebooks after updates of two batches each, of which a rank has some rows."""
    torch.set_num_threads(1)
    conf = {**CONF, "decay": 0.6, "reseed": 0.05}  # so that codes are replaced
    objectives = [{**row, "labeller_conf": conf} for row in SYSTEM]
    # An encoder without BatchNorm, whose statistics differ between ranks.
    model = prepared_model(rows, objectives, encoder=EBranchformerEncoder)
    state = {k: x.clone() for k, x in model.objectives.named_buffers()}
    batches = [make_batch(SECONDS, seed=seed) for seed in range(12)]
    features = [model._extract_feats(*batch) for batch in batches]
    model.double()
    usage = []
    for number, ((feats, frames), (speech, lengths)) in enumerate(
        zip(features, batches)
    ):
        generator = torch.Generator().manual_seed(number)
        mask = torch.rand(4, 39, generator=generator) < 0.3
        mask = (mask & (torch.arange(39) < FRAMES[:, None]))[rows]
        given = feats[rows].double(), frames[rows]
        model._extract_feats = lambda *_, given=given: given
        model.masking.draw = lambda *_, mask=mask: mask
        model.masking.capacity = lambda *_, mask=mask: int(mask.sum()) + 3
        model(speech[rows], lengths[rows])
        if number % 2:
            model._count_update()
            usage.append(torch.stack([x.labeller.usage for x in model.objectives]))
    return state, dict(model.objectives.named_buffers()), torch.stack(usage)


FRAMES = torch.tensor([39, 27, 39, 17])


def test_two_ranks_equal_one(tmp_path):
    """K-means, moving averages and new codes are those of the joint batches."""
    threads = torch.get_num_threads()
    one, other = spawn(run_updates, tmp_path / "rank", HALVES)
    start, end, usage = run_updates(slice(0, 4))
    torch.set_num_threads(threads)
    for name in end:
        assert torch.equal(one[0][name], other[0][name]), name
        assert torch.equal(one[1][name], other[1][name]), name
        assert torch.allclose(start[name], one[0][name], atol=1e-4), name
    restarted = (usage - 0.1 / 8).abs() < 1e-12
    assert restarted.any()  # otherwise, this would not be tested
    for name in end:
        assert torch.allclose(end[name], one[1][name], atol=1e-4), name


# ---------------------------------------------------------------- on real speech
@pytest.fixture(scope="module")
def real_frames(shared_data):
    """Stacked log-mel frames of 100 utterances of LibriSpeech, as the model sees them."""
    folder = shared_data / "librispeech" / "LibriSpeech" / "train-clean-100"
    frontend = DefaultFrontend(n_fft=512, win_length=400, hop_length=160, n_mels=80)
    normalize, parts = UtteranceMVN(norm_vars=True), []
    for path in sorted(folder.glob("*/*/*.flac"))[::4][:100]:
        wave = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        with torch.no_grad():
            feats, lengths = frontend(wave, torch.tensor([wave.size(1)]))
            feats, _ = normalize(feats, lengths)
        parts.append(stack_frames(feats, 4, feats.size(1) // 4)[0])
    frames = torch.cat(parts)
    torch.manual_seed(0)
    return frames[torch.randperm(len(frames))]


def follow(labeller, frames, updates, size=1000):
    for update in range(updates):
        rows = (torch.arange(size) + size * update) % len(frames)
        of_update(labeller, [(frames[rows], torch.ones(size))])
    return [
        labeller.statistics()[f"level{level}_usage"].item()
        for level in range(1, 1 + labeller.num_codebooks)
    ]


def test_each_level_reduces_the_error_on_real_frames(real_frames):
    labeller = make_labeller(320, num_codebooks=4, codebook_size=256)
    labeller.observe(real_frames[:-2000], torch.ones(len(real_frames) - 2000))
    labeller.start()
    test = real_frames[-2000:]
    errors = []
    for levels in range(1, 5):
        part = make_labeller(
            320, labeller.codebooks()[:levels], num_codebooks=levels, codebook_size=256
        )
        errors.append((test - part._quantize(test)[1]).square().mean().item())
    shares = np.array(errors) / test.var(dim=0).mean().item()
    assert (np.diff(shares) < 0).all() and shares[0] < 0.6 and shares[-1] < 0.45


def test_new_codes_keep_codebooks_in_use_on_real_frames(real_frames):
    conf = dict(num_codebooks=4, codebook_size=256, decay=0.9)
    clustered = make_labeller(320, **conf)
    clustered.observe(real_frames, torch.ones(len(real_frames)))
    clustered.start()
    starts = {"random": make_codebooks(4, 256, 320), "k-means": clustered.codebooks()}
    usage = {
        (name, reseed): follow(
            make_labeller(320, books, reseed=reseed, **conf), real_frames, 150
        )
        for name, books in starts.items()
        for reseed in (0, 0.01)
    }
    print({key: np.round(value, 3).tolist() for key, value in usage.items()})
    for start in starts:
        assert min(usage[start, 0.01]) > 0.9
        assert min(usage[start, 0]) < 0.7


def test_observations_of_an_update_that_is_not_made_are_dropped():
    """As the gradients of an epoch's last batches are (accum_grad)."""
    labeller = make_labeller(codebooks=make_codebooks(), decay=0.5)
    before = labeller.codebooks().clone()
    labeller.observe(torch.randn(50, 6), torch.ones(50))
    labeller.forget()
    labeller.step()
    assert torch.equal(labeller.codebooks(), before)
