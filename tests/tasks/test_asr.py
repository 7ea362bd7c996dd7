"""ESPnet's ASR task with our encoder: spawned processes, model, loss, acceleration."""

import multiprocessing

import pytest
import torch
import yaml
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.tasks.asr import ASRTask as ESPnetASRTask

from espnet2_birq.encoders.shaw_conformer import ShawConformerEncoder
from espnet2_birq.kernels import products
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
    # ESPnet starts one process per GPU in this way: the child unpickles a method of the
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


def batch():
    """Make speech and texts, and their lengths."""
    texts = torch.tensor([[2, 3, 2], [3, 2, -1]])
    return (
        torch.randn(2, 16000),
        torch.tensor([16000, 12000]),
        texts,
        torch.tensor([3, 2]),
    )


def test_model_trains_with_intermediate_ctc(tmp_path):
    model = build_model(tmp_path)
    assert type(model.encoder) is ShawConformerEncoder
    loss, stats, _ = model(*batch())
    loss.backward()
    assert torch.isfinite(loss)
    expected = 0.7 * stats["loss_ctc"] + 0.3 * stats["loss_interctc_layer1"]
    torch.testing.assert_close(stats["loss"], expected)
    assert all(value.grad is not None for value in model.encoder.parameters())


def test_a_model_that_espnet_trained(tmp_path):
    """Its config.yaml lacks our options."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "encoder": "rnn"}))
    stock = ["--config", str(tmp_path / "config.yaml"), "--output_dir", "unused"]
    args = ESPnetASRTask.get_parser().parse_args(stock)
    args.encoder_conf, args.model_conf = {"num_layers": 1}, {"ctc_weight": 1.0}
    assert isinstance(ASRTask.build_model(args).encoder, RNNEncoder)


def test_the_parser_still_rejects_unknown_encoders():
    with pytest.raises(SystemExit):
        ASRTask.get_parser().parse_args(["--encoder", "shaw_konformer"])


SIZES = {k: v for k, v in CONFIG["encoder_conf"].items() if k != "interctc_layer_idx"}
# Without dropout, which draws differently in ESPnet's modules and faster ones.
CONFORMER = {
    "encoder": "conformer",
    "encoder_conf": SIZES
    | {f"{kind}dropout_rate": 0.0 for kind in ("", "positional_", "attention_")}
    | {"interctc_layer_idx": [1], "rel_pos_type": "latest"},
}


def step(model):
    """Train on a batch; return its loss and the encoder's gradient."""
    torch.manual_seed(0)
    loss, _, _ = model(*batch())
    loss.backward()
    return loss.detach(), torch.cat(
        [one.grad.flatten() for one in model.encoder.parameters()]
    )


@pytest.mark.parametrize("intermediate", [True, False])
@pytest.mark.parametrize("how", ["float32", "auto"])
def test_accelerated_training(tmp_path, monkeypatch, how, intermediate):
    monkeypatch.setattr(products, "takes_bfloat16", lambda setting: True)
    changes = dict(CONFORMER)
    if not intermediate:
        changes["model_conf"] = {"ctc_weight": 1.0}
        changes["encoder_conf"] = CONFORMER["encoder_conf"] | {"interctc_layer_idx": []}
    stock, fast = (
        build_model(tmp_path, **changes, accelerate=x) for x in ("none", how)
    )
    assert list(stock.state_dict()) == list(fast.state_dict())
    fast.load_state_dict(stock.state_dict())
    dtypes = set()
    fast.encoder.encoders[0].feed_forward.w_1.register_forward_hook(
        lambda *seen: dtypes.add(seen[2].dtype)
    )
    (loss, gradient), (other, fast_gradient) = step(stock), step(fast)
    assert dtypes == {torch.bfloat16 if how == "auto" else torch.float32}
    error = (gradient - fast_gradient).norm() / gradient.norm()
    assert error < (0.1 if how == "auto" else 1e-4)
    torch.testing.assert_close(
        other, loss, rtol=0.02 if how == "auto" else 1e-5, atol=0
    )
    # Validation is in single precision, unaffected by the steps before.
    stock.eval(), fast.eval()
    fast.load_state_dict(stock.state_dict())  # BatchNorm has seen rounded values
    with torch.no_grad():
        speech = torch.randn(2, 16000), torch.tensor([16000, 12000])
        ys, others = stock.encode(*speech)[0], fast.encode(*speech)[0]
    for a, b in zip(*((x[0] if isinstance(x, tuple) else x) for x in (ys, others))):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
