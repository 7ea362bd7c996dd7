"""k-means of a model's vectors: labels on disk, the file, rejected input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from espnet2.train.dataset import ESPnetDataset
from scipy.signal import savgol_filter
from sklearn.cluster import KMeans as Lloyd
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_mutual_info_score

from espnet2_birq import api
from espnet2_birq.bin import dump_labels, fit_kmeans
from espnet2_birq.datadir.locking import locked
from espnet2_birq.relabelling import kmeans as kmeans_module
from espnet2_birq.relabelling import labelling
from espnet2_birq.relabelling.kmeans import KMeans
from espnet2_birq.relabelling.sources import mfcc, source_vectors

MODEL = "exp/model.pth"


def fit(folder, out, view="layer 2", clusters=10, model=MODEL, **more):
    command = ["--model", str(folder / model), "--view", view, "--out", str(out)]
    command += ["--data", f"{folder}/wav.scp,speech,sound", "--clusters", str(clusters)]
    for key, value in more.items():
        command += [f"--{key}", str(value)]
    fit_kmeans.main(command)
    return KMeans.load(out)


def dump(folder, kmeans, out, *more, model=MODEL, data="wav.scp"):
    command = ["--model", str(folder / model), "--kmeans", str(kmeans)]
    command += ["--data", f"{folder / data},speech,sound", "--out", str(out), *more]
    dump_labels.main(command)
    return ESPnetDataset([(str(out / "labels.scp"), "labels", "kaldi_ark")])


@pytest.mark.parametrize("view", ["mfcc", "input", "layer 1", "layer 100%"])
def test_labels_on_disk_are_those_made_on_the_fly(folder, wave, tmp_path, view):
    """Labelled one by one, not in batches; one label for each encoder frame."""
    kmeans = fit(folder, tmp_path / "km.npz", view)
    found = dump(folder, tmp_path / "km.npz", tmp_path / "labels")
    model = api.load(folder / MODEL).model
    for number in range(12):
        codes, frames = kmeans.label(model, *wave(number))
        _, length = model.label(*wave(number), "anchor")
        labels = found[f"u{number:02}"][1]["labels"]
        assert len(labels) == frames == length
        assert np.array_equal(codes[0].numpy(), labels)
    assert len(np.unique(np.concatenate([found[u][1]["labels"] for u in found]))) == 10


def test_centroids_are_as_good_as_those_of_other_k_means(folder, wave, tmp_path):
    """On all frames, against Lloyd's algorithm and scikit-learn's own look-up."""
    kmeans = fit(folder, tmp_path / "km.npz", "input")
    model = api.load(folder / MODEL).model
    rows = torch.cat(
        [source_vectors(model, "input", *wave(n))[0][0] for n in range(12)]
    )
    assert kmeans.about["sampled_frames"] == len(rows)
    lloyd = Lloyd(10, n_init=3, random_state=0).fit(rows.numpy())
    codes = kmeans.codes(rows).numpy()
    distances = torch.cdist(rows.double(), torch.from_numpy(kmeans.centroids).double())
    assert np.array_equal(codes, distances.argmin(dim=1).numpy())
    error = distances.square().min(dim=1).values.sum()
    assert error < 1.15 * lloyd.inertia_
    assert adjusted_mutual_info_score(codes, lloyd.labels_) > 0.6


def test_centroids_far_from_the_origin():
    """Rounding does not change labels if vectors differ little relative to their norm."""
    draw = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    vectors = draw + 3000.0
    centroids = vectors[:20].clone()
    codes = KMeans(centroids.numpy(), {}).codes(vectors)
    exact = torch.cdist(vectors.double(), centroids.double()).argmin(dim=1)
    assert torch.equal(codes, exact)


def test_the_sample_is_seeded_and_spread(folder, tmp_path, caplog):
    one, same, other = (
        fit(folder, tmp_path / f"{n}.npz", clusters=5, frames=60, seed=seed)
        for n, seed in enumerate((0, 0, 1))
    )
    assert np.array_equal(one.centroids, same.centroids)
    assert not np.array_equal(one.centroids, other.centroids)
    # Up to 50 frames are sampled per utterance.
    assert one.about["sampled_frames"] <= 60 and one.about["sampled_utterances"] == 2
    whole = fit(folder, tmp_path / "all.npz", clusters=5, frames=240)
    assert whole.about["sampled_utterances"] == 5
    # Of all frames, too, k-means of another seed has other first centroids.
    first, second = (
        fit(folder, tmp_path / f"every{seed}.npz", clusters=5, seed=seed)
        for seed in (0, 1)
    )
    assert not np.allclose(first.centroids, second.centroids)
    # A repetition does nothing; with other options, centroids are made again.
    before = (tmp_path / "0.npz").stat().st_mtime_ns
    fit(folder, tmp_path / "0.npz", clusters=5, frames=60)
    assert (tmp_path / "0.npz").stat().st_mtime_ns == before
    fit(folder, tmp_path / "0.npz", clusters=6, frames=60)
    assert (tmp_path / "0.npz").stat().st_mtime_ns > before


def test_the_sample_is_of_whole_utterances(folder, tmp_path, monkeypatch):
    """The first frames of an utterance are mostly silence."""

    def places(model, view, speech, lengths):
        """Return each frame's number, and that of its utterance's frames."""
        vectors, frames = source_vectors(model, "input", speech, lengths)
        numbers = torch.arange(float(vectors.size(1))).expand(vectors.shape[:2])
        return torch.stack([numbers, frames[:, None].expand_as(numbers)], dim=2), frames

    class Recording(MiniBatchKMeans):
        def fit(self, sample):
            samples.append(sample)
            return super().fit(sample)

    samples = []
    monkeypatch.setattr(kmeans_module, "source_vectors", places)
    monkeypatch.setattr(kmeans_module, "MiniBatchKMeans", Recording)
    monkeypatch.setattr(kmeans_module, "FROM_EACH", 10)
    fit(folder, tmp_path / "km.npz", "input", clusters=2, frames=120)
    (sample,) = samples
    utterances = np.unique(sample[:, 1])
    assert len(sample) == 120 and len(utterances) == 12
    for length in utterances:
        frames = sample[sample[:, 1] == length, 0]
        assert len(set(frames)) == 10 and frames.max() < length
        assert sorted(frames) != list(range(10))
    assert abs(((sample[:, 0] + 0.5) / sample[:, 1]).mean() - 0.5) < 0.1
    fit(folder, tmp_path / "other.npz", "input", clusters=2, frames=120, seed=1)
    assert not np.array_equal(samples.pop(), sample)
    odd = fit(folder, tmp_path / "odd.npz", "input", clusters=2, frames=119)
    assert len(samples.pop()) == odd.about["sampled_frames"] == 119  # not 12 * 10
    # Of fewer utterances than there are, not only the first: later ones are longer.
    fit(folder, tmp_path / "half.npz", "input", clusters=2, frames=60)
    assert len(chosen := set(samples[1][:, 1])) == 6
    assert chosen != set(utterances[:6]) and chosen < set(utterances)


def test_other_content_of_the_list_gives_other_centroids(folder, tmp_path):
    """Its name is the same, as after a change of the data."""
    lines = (folder / "wav.scp").read_text().splitlines(True)
    found = []
    for number in (12, 6):
        (tmp_path / "wav.scp").write_text("".join(lines[:number]))
        found.append(fit(tmp_path, tmp_path / "km.npz", model=folder / MODEL))
    assert [x.about["sampled_utterances"] for x in found] == [12, 6]


def test_the_file_says_what_it_depends_on(folder, tmp_path):
    about = fit(folder, tmp_path / "km.npz").about
    assert about["view"] == "layer 2" and about["labels_per_second"] == 25.0
    assert "UtteranceMVN" in about["normalize"] and len(about["model_sha256"]) == 64
    with np.load(tmp_path / "km.npz") as file:  # without pickle
        assert json.loads(str(file["about"])) == about


def test_mfcc_are_those_of_hubert():
    """As in fairseq: torchaudio's Kaldi features, and deltas of deltas."""
    wave = torch.randn(16000, generator=torch.Generator().manual_seed(0)) * 0.1
    found = mfcc(wave, 16000, 10.0)
    # Frames have their centres at 5, 15, ... ms: that of 15 ms begins at sample 40.
    reference = torchaudio.compliance.kaldi.mfcc(
        wave[None, 40:], sample_frequency=16000, use_energy=False
    )
    assert found.shape == (100, 39) and reference.shape == (98, 13)
    first, slopes, bends = found.split(13, dim=1)
    torch.testing.assert_close(first[1:99], reference, atol=1e-3, rtol=1e-4)

    def regression(rows):
        """Fit a line to two frames on each side; the first and last are repeated."""
        return torch.from_numpy(
            savgol_filter(rows.numpy(), 5, 1, deriv=1, axis=0, mode="nearest")
        )

    torch.testing.assert_close(slopes, regression(first), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(bends, regression(slopes), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("frame", [0, 7, 23])
@pytest.mark.parametrize("milliseconds", [16, 34])
def test_a_click_is_in_its_frame(folder, frame, milliseconds):
    """Labels would otherwise be of speech before or after the encoder's frame."""
    model = api.load(folder / MODEL).model
    wave = 0.001 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    click = wave.clone()
    # Of the encoder's frame of 40 ms, 12.5 to 37.5 ms are seen.
    click[(40 * frame + milliseconds) * 16] = 0.5
    both, lengths = torch.stack([wave, click]), torch.tensor([len(wave)] * 2)
    vectors, frames = source_vectors(model, "mfcc", both, lengths)
    assert frames.tolist() == [24, 24]
    change = (vectors[1] - vectors[0])[:, :13].abs().amax(dim=1)
    assert change.nonzero().flatten().tolist() == [frame]


def test_mfcc_and_input_need_no_training(folder, tmp_path):
    for view in ("mfcc", "input"):
        config = "exp/config.yaml"
        fit(folder, tmp_path / "km.npz", view, model=config)
        dump(folder, tmp_path / "km.npz", tmp_path / "labels", model=config)
    with pytest.raises(
        SystemExit, match="layer 2 of an untrained model is of little use"
    ):
        fit(folder, tmp_path / "km.npz", "layer 2", model="exp/config.yaml")


@pytest.mark.parametrize(
    "view, more, words",
    [
        ("layer 3", {}, "'layer 3' is not among the encoder's layers 1 to 2"),
        ("nonsense", {}, "unknown view 'nonsense', use .*; or mfcc"),
        ("labels", {}, "view 'labels': this model has no such vectors"),
        ("teacher layer 1", {}, "'teacher layer 1': this model has no such vectors"),
        ("input", {"clusters": 9000}, "frames for 9000 clusters; give more speech"),
        ("input", {"clusters": 1}, "--clusters 1 of --frames 200000: give 2"),
    ],
)
def test_what_cannot_be_clustered(folder, tmp_path, view, more, words):
    with pytest.raises(SystemExit, match=f"fit_kmeans: error: .*{words}"):
        fit(folder, tmp_path / "km.npz", view, **more)
    assert not (tmp_path / "km.npz").exists()


def test_centroids_of_another_model(folder, tmp_path):
    fit(folder, tmp_path / "km.npz")
    shutil.copytree(folder / "exp", tmp_path / "exp")
    state = torch.load(tmp_path / MODEL)
    state["updates"] += 1
    torch.save(state, tmp_path / MODEL)
    with pytest.raises(
        SystemExit, match="km.npz: these are centroids of another model"
    ):
        dump(folder, tmp_path / "km.npz", tmp_path / "out", model=tmp_path / MODEL)
    assert not (tmp_path / "out").exists()
    (tmp_path / "km.npz").write_bytes((tmp_path / "km.npz").read_bytes()[:300])
    with pytest.raises(SystemExit, match="km.npz: no centroids of fit_kmeans"):
        dump(folder, tmp_path / "km.npz", tmp_path / "out")


def test_files_of_others_are_not_removed(folder, tmp_path):
    fit(folder, tmp_path / "km.npz")
    for name in ("labels.txt", "made_from.json"):
        out = tmp_path / name.partition(".")[0]
        out.mkdir()
        (out / name).write_text("precious")
        with pytest.raises(SystemExit, match=f"{name}: not of dump_labels; give anoth"):
            dump(folder, tmp_path / "km.npz", out)
        kept = [x.read_text() for x in out.iterdir() if x.name != ".lock"]
        assert kept == ["precious"]


def test_two_commands_do_not_label_into_one_folder(folder, tmp_path):
    fit(folder, tmp_path / "km.npz")
    with locked(tmp_path / "labels" / ".lock"):
        with pytest.raises(
            SystemExit, match="labels: another command is writing labels"
        ):
            dump(folder, tmp_path / "km.npz", tmp_path / "labels")
    assert len(
        dump(folder, tmp_path / "km.npz", tmp_path / "labels")["u00"][1]["labels"]
    )


def write_bad(path, kind):
    """Write bad audio that is not the first of a list."""
    if kind == "not finite":
        soundfile.write(path, np.full(16000, np.nan), 16000, "FLOAT")
    elif kind == "rate":
        soundfile.write(path, 0.1 * np.ones(8000), 8000)
    elif kind == "noise":
        path.write_bytes(bytes(range(256)) * 80)
    elif kind != "missing":
        soundfile.write(path, np.zeros({"empty": 0, "short": 100}[kind]), 16000)


@pytest.mark.parametrize("batch_size", ["1", "8"])
@pytest.mark.parametrize(
    "kind", ["not finite", "rate", "noise", "missing", "empty", "short"]
)
def test_bad_audio_is_left_out_of_the_sample(
    folder, tmp_path, caplog, kind, batch_size
):
    lines = (folder / "wav.scp").read_text().splitlines()
    write_bad(tmp_path / "u03.wav", kind)
    lines[3] = f"u03 {tmp_path}/u03.wav"
    (tmp_path / "wav.scp").write_text("\n".join(lines) + "\n")
    shutil.copytree(folder / "exp", tmp_path / "exp")
    kmeans = fit(tmp_path, tmp_path / "km.npz")
    assert (
        np.isfinite(kmeans.centroids).all() and kmeans.about["sampled_utterances"] == 11
    )
    assert "1 utterances not used, see above" in caplog.text
    common = ("--batch_size", batch_size)
    labels = dump(tmp_path, tmp_path / "km.npz", tmp_path / "labels", *common)
    assert (
        "1 utterances without a label (-1), for the reasons above: u03" in caplog.text
    )
    assert "wav.scp: u03 is left out: " in caplog.text
    assert set(labels["u03"][1]["labels"]) == {-1}
    assert min(labels["u01"][1]["labels"]) >= 0


def test_labelling_goes_on_where_it_was_interrupted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "PART", 5)
    fit(folder, tmp_path / "km.npz")
    expected = dump(folder, tmp_path / "km.npz", tmp_path / "whole")
    made = []
    write = labelling.write_labels

    def interrupted(ark, *arguments):
        if ark.name == "labels.2.ark" and len(made) == 1:
            made.append("stopped")
            ark.write_bytes(b"half of it")
            raise KeyboardInterrupt
        made.append(ark.name)
        write(ark, *arguments)

    monkeypatch.setattr(labelling, "write_labels", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        dump(folder, tmp_path / "km.npz", out)
    assert not (out / "labels.scp").exists()
    found = dump(folder, tmp_path / "km.npz", out)
    assert made == ["labels.1.ark", "stopped", "labels.2.ark", "labels.3.ark"]
    assert list(found) == list(expected) and len(list(found)) == 12
    for name in expected:
        assert np.array_equal(found[name][1]["labels"], expected[name][1]["labels"])
    dump(folder, tmp_path / "km.npz", out)  # complete: nothing is made
    assert len(made) == 4
    # With other centroids, all is made again, here in fewer parts.
    fit(folder, tmp_path / "km.npz", "layer 1")
    monkeypatch.setattr(labelling, "PART", 50)
    dump(folder, tmp_path / "km.npz", out)
    assert made[4:] == ["labels.1.ark"]
    assert sorted(x.name for x in out.glob("labels.*.ark")) == ["labels.1.ark"]


@pytest.mark.parametrize("step", ["write_whole", "check_stamp", "write_stamp"])
@pytest.mark.parametrize("anew", [False, True])  # True: all labels are made again
def test_a_kill_before_the_first_label(folder, tmp_path, monkeypatch, step, anew):
    fit(folder, tmp_path / "km.npz")
    out = tmp_path / "out"
    if anew:
        dump(folder, tmp_path / "km.npz", out)
        (tmp_path / "km.npz").unlink()
        fit(folder, tmp_path / "km.npz", "layer 1")
    real = getattr(labelling, step)

    def killed(*arguments, **more):
        if step == "write_stamp":
            real(*arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(labelling, step, killed)
        dump(folder, tmp_path / "km.npz", out)
    expected = dump(folder, tmp_path / "km.npz", tmp_path / "whole")
    found = dump(folder, tmp_path / "km.npz", out)
    assert (out / "codebook_size").is_file()
    for name in expected:
        assert np.array_equal(found[name][1]["labels"], expected[name][1]["labels"])


def test_a_kill_while_old_labels_are_removed(tmp_path, monkeypatch):
    """What is left of them does not count as complete."""
    out, origins = tmp_path / "out", []
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
        origins.append(labelling.Origin([tmp_path / name]))
    labelling._prepare(out, origins[0], 5)
    for name in ("labels.1.ark", "labels.1.scp", "labels.scp"):
        (out / name).touch()
    real = Path.unlink

    def killed(path, missing_ok=False):
        real(path, missing_ok)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        labelling._prepare(out, origins[1], 5)
    labelling._prepare(out, origins[0], 5)
    assert not list(out.glob("labels.*"))


@pytest.mark.parametrize("by", ["objective", "kmeans"])
def test_a_folder_with_another_model_gives_other_labels(folder, tmp_path, by):
    exp = shutil.copytree(folder / "exp", tmp_path / "exp")
    command = ["--data", f"{folder}/wav.scp,speech,sound"]

    def labels():
        given = ["--model", str(exp), "--out", str(tmp_path / "out")]
        if by == "kmeans":
            fit(folder, tmp_path / "km.npz", model=exp, view="layer 2")
            given += ["--kmeans", str(tmp_path / "km.npz")]
        else:
            given += ["--objective", "anchor"]
        dump_labels.main([*command, *given])
        found = tmp_path / "out" / "labels.scp"
        return found.stat().st_mtime_ns, (
            tmp_path / "out" / "labels.1.ark"
        ).read_bytes()

    before = labels()
    assert labels() == before
    state = torch.load(exp / "model.pth", weights_only=True)
    for name, x in state.items():
        if x.is_floating_point() and not name.endswith("identity"):
            state[name] = x + 0.5 * torch.randn_like(x) * (
                "weight" in name or "proj" in name
            )
    torch.save(state, exp / "model.pth")
    after = labels()
    assert after[0] != before[0] and after[1] != before[1]


def test_archives_that_were_removed_or_moved_are_made_again(folder, tmp_path):
    fit(folder, tmp_path / "km.npz")
    out, moved = tmp_path / "labels", tmp_path / "moved"
    before = dump(folder, tmp_path / "km.npz", out)["u03"][1]["labels"]
    (out / "labels.1.ark").unlink()
    after = dump(folder, tmp_path / "km.npz", out)["u03"][1]["labels"]
    assert np.array_equal(before, after)
    out.rename(moved)
    after = dump(folder, tmp_path / "km.npz", moved)["u03"][1]["labels"]
    assert np.array_equal(before, after)


@pytest.mark.parametrize(
    "more",
    [["--batch_size", "0"], ["--seed", "-1"], ["--clusters", "0"], ["--frames", "x"]],
)
def test_numbers_that_cannot_be(folder, tmp_path, more, capsys):
    with pytest.raises(SystemExit):
        fit(folder, tmp_path / "km.npz", **{more[0][2:]: more[1]})
    assert f"argument {more[0]}: '{more[1]}' is not a" in capsys.readouterr().err
