"""ESPnet's ASR task with our encoder: in spawned processes, in its model, its loss."""

import multiprocessing

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask as ESPnetASRTask

from espnet2_birq.encoders.shaw_conformer import ShawConformerEncoder
from espnet2_birq.tasks.asr import ASRTask

CONFIG = {
    "frontend_conf": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 20},
    "encoder": "shaw_conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 2,
        "interctc_layer_idx": [1],
    },
    "decoder": None,
    "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.3},
    "token_list": ["<blank>", "<unk>", "a", "b", "<sos/eos>"],
    "token_type": "char",
}


def test_spawned_processes_know_the_encoder():
    # As ESPnet starts one process for each GPU: the child unpickles a method of the
    # task. ESPnet's own task shows that registering in the parent is not enough.
    children = [
        multiprocessing.get_context("spawn").Process(
            target=task.main,
            kwargs={"cmd": ["--encoder", "shaw_conformer", "--print_config"]},
        )
        for task in (ASRTask, ESPnetASRTask)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 2]


def build_model(tmp_path, **changes):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **changes}))
    options = ["--config", str(tmp_path / "config.yaml"), "--output_dir", "unused"]
    return ASRTask.build_model(ASRTask.get_parser().parse_args(options))


def test_model_trains_with_intermediate_ctc(tmp_path):
    model = build_model(tmp_path)
    assert type(model.encoder) is ShawConformerEncoder
    loss, stats, _ = model(
        torch.randn(2, 16000),
        torch.tensor([16000, 12000]),
        torch.tensor([[2, 3, 2], [3, 2, -1]]),
        torch.tensor([3, 2]),
    )
    loss.backward()
    assert torch.isfinite(loss)
    expected = 0.7 * stats["loss_ctc"] + 0.3 * stats["loss_interctc_layer1"]
    torch.testing.assert_close(stats["loss"], expected)
    assert all(value.grad is not None for value in model.encoder.parameters())


def test_the_parser_still_rejects_unknown_encoders():
    with pytest.raises(SystemExit):
        ASRTask.get_parser().parse_args(["--encoder", "shaw_konformer"])
