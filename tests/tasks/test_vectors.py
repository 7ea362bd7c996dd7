"""Sequences of vectors instead of waveforms: ESPnet's input_size, no frontend."""

import shutil
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import torch
import yaml

from espnet2_birq import api
from espnet2_birq.bin import check_handoff, model_card, plan, report, ssl_train
from espnet2_birq.config import read_config
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.pretraining.views import View
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.loading import load_model
from espnet2_birq.tasks.ssl import SSLTask

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import digits

SIZE = 4
CODES = {"num_codebooks": 2, "codebook_size": 8}
CONFIG = {
    "input_size": SIZE,
    "frontend_conf": {"fs": 100},
    "normalize": None,
    "masking_conf": {"mask_prob": 0.3, "mask_length_ms": 20},
    "objectives": [
        {"name": "rvq", "view": "input", "labeller": "residual", "labeller_conf": CODES}
    ],
    "encoder_conf": {
        "input_layer": "linear",
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 2,
        "rel_pos_type": "latest",
    },
    "batch_type": "numel",
    "batch_bins": 400,
    "max_epoch": 2,
    "num_workers": 0,
    "optim_conf": {"lr": 0.01},
    "best_model_criterion": [["valid", "total_count", "max"]],
    "keep_nbest_models": 1,
    "num_att_plot": 0,
    "use_matplotlib": False,
    "use_tensorboard": False,
}


def write_data(folder: Path, size: int = SIZE) -> list[str]:
    """Write twenty sequences of vectors, one of them with another size."""
    draw = np.random.default_rng(0)
    found = {
        f"u{n:02}": draw.standard_normal((12 + n, size)).astype(np.float32)
        for n in range(20)
    }
    found["u07"] = found["u07"][:, :3]
    kaldiio.save_ark(f"{folder}/feats.ark", found, scp=f"{folder}/feats.scp")
    lines = [f"{name} {len(x)},{SIZE}\n" for name, x in found.items()]
    (folder / "shape").write_text("".join(lines))
    options = ["--config", str(folder / "train.yaml"), "--ngpu", "0"]
    for kind in ("train", "valid"):
        options += [f"--{kind}_data_path_and_name_and_type"]
        options += [f"{folder}/feats.scp,speech,kaldi_ark"]
        options += [f"--{kind}_shape_file", f"{folder}/shape"]
    return [*options, "--output_dir", str(folder / "out")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    (folder / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    ssl_train.main(write_data(folder))
    return folder / "out"


def test_a_training_ends_with_a_model_that_labels_vectors(trained):
    listed = (trained / "bad_audio").read_text()
    assert listed == "u07 of shape (19, 3), not a row of 4 values each\n"
    model = load_model(trained / "valid.total_count.ave.pth")
    xs, lengths = torch.randn(2, 15, SIZE), torch.tensor([15, 9])
    codes, frames = model.label(xs, lengths, "rvq")
    assert codes.shape == (2, 2, 15) and frames.tolist() == [15, 9]
    inputs, _ = model.vectors(xs, lengths, View("input"))
    assert torch.equal(inputs, xs)  # the objective gets them unchanged
    hidden, _ = model.vectors(xs, lengths, View("layer", 2))
    assert hidden.shape == (2, 15, 16)


@pytest.mark.parametrize(
    "kind, longest", [("numel", 25), ("length", 100), ("catpow", 100), ("sorted", None)]
)
def test_a_whole_batch_in_vectors(kind, longest, tmp_path):
    """Only numel counts their values."""
    found = ["--batch_type", kind, "--batch_bins", "100", "--input_size", str(SIZE)]
    args = SSLTask.get_parser().parse_args([*found, "--output_dir", str(tmp_path)])
    bad_audio = SSLTask.build_collate_fn(args, train=True).bad_audio
    assert bad_audio.longest == longest
    whys = [bad_audio.fault({"speech": np.full((x, SIZE), np.nan)}) for x in (0, 3)]
    assert whys[0] == "no vectors" and whys[1].startswith("vectors that are NaN")
    if longest:
        why = bad_audio.fault({"speech": np.zeros((longest + 1, SIZE))})
        whole = f"{longest + 1} vectors, a whole batch has {longest} (raise batch_bins)"
        assert why == whole


def test_vectors_of_several_languages(tmp_path):
    found = {"iterator_type": "category", "batch_type": "catpow", "batch_bins": 100}
    valid = {"valid_iterator_type": "sequence", "valid_batch_type": "numel"}
    conf = {**CONFIG, **found, **valid, "valid_batch_bins": 400, "max_epoch": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(conf))
    options = write_data(tmp_path)
    names = [line.split()[0] for line in (tmp_path / "shape").open()]
    lines = f"a {' '.join(names[:8])}\nb {' '.join(names[8:])}\n"
    (tmp_path / "category2utt").write_text(lines)
    words = (
        f"^ssl_train: error: {tmp_path}/shape: line 1: u00 has no length alone; batch_type "
        "catpow wants lengths alone"
    )
    with pytest.raises(SystemExit, match=words):
        ssl_train.main(options)
    assert not (tmp_path / "out" / "config.yaml").exists()
    lines = [line.split(",")[0] + "\n" for line in (tmp_path / "shape").open()]
    (tmp_path / "lengths").write_text("".join(lines))
    options[options.index("--train_shape_file") + 1] = str(tmp_path / "lengths")
    ssl_train.main(options)
    assert [x.split()[0] for x in (tmp_path / "out" / "bad_audio").open()] == ["u07"]


def test_espnets_asr_takes_the_encoder_with_its_own_input_size(trained, capsys):
    """Stock ESPnet has no frontend with input_size, either."""
    model = trained / "valid.total_count.ave.pth"
    options = {
        "input_size": SIZE,
        "normalize": None,
        "encoder_conf": CONFIG["encoder_conf"],
        "token_type": "char",
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0},
        "token_list": ["<blank>", "<unk>", "a", "<sos/eos>"],
        "init_param": [f"{model}:encoder:encoder"],
    }
    args = ASRTask.get_parser().parse_args(["--output_dir", "x"])
    vars(args).update(options)
    (trained.parent / "asr").mkdir()
    config = trained.parent / "asr" / "config.yaml"
    config.write_text(yaml.safe_dump({**vars(args), "encoder": "conformer"}))
    check_handoff.main([str(model), str(config)])
    found = capsys.readouterr().out
    number = len([x for x in torch.load(model) if x.startswith("encoder.")])
    assert f"encoder tensors from pretraining: {number} of {number} " in found
    assert "frontend and normalize are the same" in found


def build(**changes):
    args = SSLTask.get_parser().parse_args(["--output_dir", "x"])
    vars(args).update({**CONFIG, **changes})
    return SSLTask.build_model(args)


@pytest.mark.parametrize("conf", [{}, {"fs": 100, "n_mels": 80}])
def test_how_many_vectors_a_second_must_be_known(conf):
    with pytest.raises(ConfigError, match="input_size 4: give the vectors' size, and"):
        build(frontend_conf=conf)


@pytest.mark.parametrize("shape", [(2, 800), (2, 12, 3)])
def test_no_vectors(shape):
    with pytest.raises(
        DataError, match="input_size is 4: give sequences of vectors of 4"
    ):
        build().label(torch.randn(shape), torch.tensor([12, 12]), "rvq")


VALUES = "loss_rvq={0}, acc_rvq=0.25, label_ppl_rvq=9.1, pred_ppl_rvq=2.5, loss={0}"
EPOCH = "[h] 2026-11-21 05:00:00,000 (trainer:392) INFO: 1epoch results: "
EPOCH += f"[train] {VALUES}, total_count=30, [valid] {VALUES}, total_count=3\n"


def test_page_and_card(trained, tmp_path):
    folder = tmp_path / "exp"
    shutil.copytree(trained, folder)
    (folder / "train.log").write_text(EPOCH.format(5.0))
    report.main([str(folder), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert (
        "<h2>Learning</h2>" in page and "The model takes vectors (input_size)" in page
    )
    card = tmp_path / "README.md"
    model_card.main([str(folder / "valid.total_count.ave.pth"), "--out", str(card)])
    text = card.read_text()
    assert "| input | vectors of 4 values, 100 per second |" in text
    assert "speech" not in text.split("## Objectives")[0]
    assert 'model.label(xs, lengths, "rvq")  # xs: (B, T, 4)' in text


def test_commands_of_speech_say_that_they_are(trained):
    with pytest.raises(ConfigError, match="a model of vectors .input_size., not of"):
        api.load(trained)
    with pytest.raises(SystemExit, match="only trainings on waveforms can be planned"):
        plan.main(
            ["--config", str(trained.parent / "train.yaml")]
            + ["--hours", "1", "--gpus", "1"]
        )


def test_models_from_before_an_option_load(trained):
    config = trained / "config.yaml"
    conf = yaml.safe_load(config.read_text())
    del conf["tokenizer_conf"]
    config.write_text(yaml.safe_dump(conf))
    assert not hasattr(read_config(config), "tokenizer_conf")
    load_model(trained / "valid.total_count.ave.pth")


def test_patches_of_digits():
    image = np.arange(64.0)[None]  # 8 rows of 8
    patches = digits.patches_of(image)
    assert patches.shape == (1, 16, 4)
    assert patches[0, 0].tolist() == [0, 1, 8, 9]
    assert patches[0, 5].tolist() == [18, 19, 26, 27]  # second row and column
    assert patches[0, 15].tolist() == [54, 55, 62, 63]


def test_phases_of_digits_are_shares_of_the_training():
    own = digits.in_updates(digits.SYSTEMS["BRIDLE"], 200)
    assert own["objectives"][0]["when"] == {"stop": 80}
    assert own["objectives"][1]["when"] == {"start": 100}
    assert own["tokenizer_conf"]["when"] == {"start": 80, "stop": 100}
    assert own["tokenizer_conf"]["weight"] == 1.0


def test_interval_is_students():
    assert digits.interval([1.0, 2.0, 3.0]) == "2.0 [-0.5, 4.5]"
