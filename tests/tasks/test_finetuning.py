"""Layer-wise learning rates, initial freezing, number of updates, schedule."""

import copy
import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
import yaml
from espnet2.tasks.abs_task import scheduler_classes
from two_ranks import one_rank, train

from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.finetuning import FROZEN, count_updates
from espnet2_birq.transfer import training_options

CONF = Path(__file__).resolve().parents[2] / "conf"
TOKENS = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]
SMALL = {
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 16,
        "num_blocks": 3,
        "rel_pos_type": "latest",
    },
    "model_conf": {"ctc_weight": 0.3},
    "decoder": "transformer",
    "decoder_conf": {"attention_heads": 2, "linear_units": 16, "num_blocks": 1},
    "token_list": TOKENS,
    "token_type": "char",
    "optim": "adamw",
    "optim_conf": {"lr": 0.01, "weight_decay": 0.1},
}


def parse(tmp_path, **changes):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**SMALL, **changes}))
    options = ["--config", str(tmp_path / "c.yaml"), "--output_dir", "unused"]
    return ASRTask.get_parser().parse_args(options)


def build(tmp_path, **changes):
    """Build a model, its optimizer, and a mapping from parameter name to group."""
    args = parse(tmp_path, **changes)
    torch.manual_seed(0)
    model = ASRTask.build_model(args)
    (optimizer,) = ASRTask.build_optimizers(args, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    members = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in members
            members[names[id(parameter)]] = group
    assert len(members) == len(names)
    return model, optimizer, members


SHAW = {"output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 3}


@pytest.mark.parametrize(
    "encoder, conf",
    [
        ("conformer", SMALL["encoder_conf"]),
        ("e_branchformer", {**SHAW, "cgmlp_linear_units": 16}),
        ("shaw_conformer", SHAW),
    ],
)
def test_learning_rates(tmp_path, encoder, conf):
    _, _, members = build(
        tmp_path, encoder=encoder, encoder_conf=conf, encoder_lr_decay=0.5
    )
    for name, group in members.items():
        expected = 0.01
        for part, factor in [
            ("encoder.embed.", 1 / 16),
            ("encoder.encoders.0.", 1 / 8),
            ("encoder.encoders.1.", 1 / 4),
            ("encoder.encoders.2.", 1 / 2),
            ("encoder.after_norm.", 1 / 2),
        ]:
            if name.startswith(part):
                expected *= factor
        assert group["lr"] == pytest.approx(expected), name
        assert group["weight_decay"] == 0.1
    assert {name.split(".")[0] for name in members} >= {"encoder", "decoder", "ctc"}


def test_no_option_is_espnets_optimizer(tmp_path):
    _, optimizer, _ = build(tmp_path)
    assert len(optimizer.param_groups) == 1 and FROZEN not in optimizer.param_groups[0]


def test_espnet_alone_reads_the_model(tmp_path):
    args = parse(tmp_path, encoder_lr_decay=0.5, freeze_encoder_updates=2)
    model = ASRTask.build_model(args)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    # In a process that cannot import this package
    code = (
        "import sys; sys.modules['espnet2_birq'] = None;"
        "from espnet2.tasks.asr import ASRTask;"
        "model, args = ASRTask.build_model_from_file('config.yaml', 'model.pth');"
        "print(len(model.state_dict()), args.encoder_lr_decay)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(len(model.state_dict())), "0.5"], done.stderr


def test_excluded_weight_decay(tmp_path):
    changes = {"encoder_lr_decay": 0.5, "exclude_weight_decay": True}
    _, _, members = build(tmp_path, **changes)
    for name, group in members.items():
        if name.endswith("bias"):
            assert group["weight_decay"] == 0.0
    top = members["encoder.encoders.2.feed_forward.w_1.weight"]
    assert (top["lr"], top["weight_decay"]) == (0.005, 0.1)
    assert members["encoder.encoders.2.feed_forward.w_1.bias"]["lr"] == 0.005


SCHEDULERS = {  # options that each of ESPnet's schedulers needs
    "steplr": {"step_size": 3},
    "multisteplr": {"milestones": [3, 6]},
    "exponentiallr": {"gamma": 0.9},
    "cosineannealinglr": {"T_max": 20},
    "onecyclelr": {"max_lr": 0.02, "total_steps": 20, "cycle_momentum": False},
    "cycliclr": {"base_lr": 0.001, "max_lr": 0.02, "cycle_momentum": False},
    "cosineannealingwarmrestarts": {"T_0": 5},
    "cosineannealingwarmuprestarts": {"first_cycle_steps": 20, "max_lr": 0.02},
    "tristagelr": {"max_steps": 20},
    "piecewiselinearwarmuplr": {
        "warmup_steps_list": [0, 5, 10],
        "warmup_lr_list": [0.0, 0.01, 0.02],
    },
    "exponentialdecaywarmup": {
        "max_lr": 0.02,
        "min_lr": 0.001,
        "total_steps": 20,
        "warmup_steps": 5,
    },
}


# lambdalr needs a function, which a configuration cannot give.
@pytest.mark.parametrize("name", sorted(scheduler_classes.keys() - {"lambdalr"}))
def test_a_scheduler_keeps_the_ratios_or_is_refused(tmp_path, name):
    """Several of ESPnet's schedulers set the rate of every group."""
    conf = SCHEDULERS.get(name, {})
    changes = {"scheduler": name, "scheduler_conf": conf, "encoder_lr_decay": 0.5}
    args = parse(tmp_path, **changes)
    model = ASRTask.build_model(args)
    try:
        (optimizer,) = ASRTask.build_optimizers(args, model)
    except ConfigError as refusal:
        assert name in str(refusal) and "scheduler" in str(refusal)
        return
    scheduler = scheduler_classes[name](optimizer, **args.scheduler_conf)
    for _ in range(19):
        rates = [group["lr"] for group in optimizer.param_groups]
        for deeper in range(5):
            assert rates[deeper] == pytest.approx(rates[0] * 0.5**deeper), rates
        optimizer.step()
        scheduler.step(*([1.0] if "plateau" in name else []))


def test_a_saved_configuration_gives_the_same_rates(tmp_path):
    """max_lr has become a list; the lr of optim_conf plays no part."""
    changes = {
        "optim_conf": {"weight_decay": 0.1},
        "scheduler": "onecyclelr",
        "scheduler_conf": {"max_lr": 0.02, "total_steps": 20},
        "encoder_lr_decay": 0.5,
    }
    args = parse(tmp_path, **changes)
    model = ASRTask.build_model(args)
    (optimizer,) = ASRTask.build_optimizers(args, model)
    changes["scheduler_conf"] = args.scheduler_conf
    (again,) = ASRTask.build_optimizers(parse(tmp_path, **changes), model)
    rates = [group["lr"] for group in again.param_groups]
    assert rates == [group["lr"] for group in optimizer.param_groups]
    assert (rates[0], rates[4]) == (0.02, 0.02 / 16)


def test_freezing_alone_goes_with_any_scheduler(tmp_path):
    conf = SCHEDULERS["cycliclr"]
    changes = {"scheduler": "cycliclr", "scheduler_conf": conf}
    build(tmp_path, freeze_encoder_updates=2, **changes)


def update(model, optimizer, number):
    """Make an update on data that depend on its number."""
    torch.manual_seed(number)
    model.train()
    lengths = torch.tensor([16000, 12000])
    text = torch.tensor([[2, 3, 2], [3, 2, -1]])
    loss, _, _ = model(torch.randn(2, 16000), lengths, text, torch.tensor([3, 2]))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def parameters_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize(
    "scheduler, conf",
    [
        ("tristagelr", {"max_steps": 40, "warmup_ratio": 0.1, "hold_ratio": 0.4}),
        ("onecyclelr", {"total_steps": 40, "max_lr": 0.01}),
    ],
)
def test_a_share_of_the_updates_is_frozen(tmp_path, scheduler, conf):
    _, _, members = build(
        tmp_path,
        scheduler=scheduler,
        scheduler_conf=conf,
        freeze_encoder_updates=0.1,
    )
    for name, group in members.items():
        assert group[FROZEN] == (4 if name.startswith("encoder.") else 0), name


def changed(before, after):
    return {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}


def test_the_encoder_rests(tmp_path, caplog):
    caplog.set_level("INFO")
    model, optimizer, _ = build(tmp_path, freeze_encoder_updates=2)
    assert "the encoder is frozen for 2 updates" in caplog.text
    for number, moved in enumerate([False, False, True, True]):
        before = parameters_of(model)
        update(model, optimizer, number)
        parts = changed(before, parameters_of(model))
        assert {"decoder", "ctc"} <= parts
        assert ("encoder" in parts) == moved, number
        assert ("the encoder is trained, too" in caplog.text) == (number >= 1)
    # The first updates leave no trace in the moments of any part of the encoder.
    for name, parameter in model.named_parameters():
        steps = 2 if name.startswith("encoder.") else 4
        assert optimizer.state[parameter]["step"] == steps, name


def test_an_update_that_the_loss_scale_skips_does_not_count(tmp_path):
    conf = {"lr": 0.01, "fused": True}
    model, optimizer, _ = build(tmp_path, freeze_encoder_updates=2, optim_conf=conf)
    scaler = torch.amp.GradScaler("cpu")
    frozen = []
    for scale in (torch.inf, 1.0):
        lengths, text = torch.tensor([16000]), torch.tensor([[2, 3, 2]])
        loss, _, _ = model(torch.randn(1, 16000), lengths, text, torch.tensor([3]))
        scaler.scale(scale * loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        frozen.append(max(group[FROZEN] for group in optimizer.param_groups))
    assert frozen == [2, 1]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_restart_changes_nothing(tmp_path, stop):
    options = {"freeze_encoder_updates": 2, "encoder_lr_decay": 0.7}
    model, optimizer, _ = build(tmp_path, **options)
    for number in range(stop):
        update(model, optimizer, number)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, other, _ = build(tmp_path, **options)
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    for number in range(stop, 5):
        update(model, optimizer, number)
        update(again, other, number)
    for name, value in parameters_of(model).items():
        assert torch.equal(value, parameters_of(again)[name]), name


def test_two_processes_are_one_with_the_joint_batch(tmp_path):
    args = parse(tmp_path, freeze_encoder_updates=3, encoder_lr_decay=0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(one_rank, (port, args, str(tmp_path / "rank")), nprocs=2)
    expected = train(args, lambda model: model, slice(None))
    for rank in (0, 1):
        state = torch.load(tmp_path / f"rank{rank}")
        for name, value in expected.items():
            torch.testing.assert_close(state[name], value, msg=name)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"encoder_lr_decay": 0.0}, "above 0, at most 1"),
        ({"encoder_lr_decay": 1.1}, "above 0, at most 1"),
        ({"freeze_encoder_updates": -1}, "give 0 or more"),
        ({"freeze_encoder_updates": 0.1}, "which scheduler None does not give"),
        (
            {"freeze_encoder_updates": 0.1, "scheduler": "warmuplr"},
            "a share of the schedule's updates, which scheduler warmuplr does not give",
        ),
        ({"encoder_lr_decay": 0.9, "use_deepspeed": True}, "leave out"),
        ({"encoder_lr_decay": 0.9, "optim_conf": {}}, "need an lr"),
        ({"encoder_lr_decay": 0.9, "optim_conf": {"lr": "1e-3"}}, "write 0.001"),
        ({"optim_conf": {"lr": "1e-3"}}, "optim_conf: lr is the text '1e-3'"),
        (
            {"scheduler": "onecyclelr", "scheduler_conf": {"max_lr": "3e-4"}},
            "scheduler_conf: max_lr is the text '3e-4'",
        ),
        (
            {
                "encoder_lr_decay": 0.9,
                "encoder": "rnn",
                "encoder_conf": {"hidden_size": 4, "output_size": 4},
            },
            "no layers encoder.encoders.N",
        ),
    ],
)
def test_wrong_settings(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        build(tmp_path, **changes)


def write_lengths(tmp_path, lengths):
    text = "".join(f"u{n:02d} {length}\n" for n, length in enumerate(lengths))
    (tmp_path / "speech_shape").write_text(text)
    return [str(tmp_path / "speech_shape")]


@pytest.mark.parametrize(
    "changes, gpus, updates",
    [
        # 12 utterances of 10. A batch ends when it exceeds batch_bins: 5, 5, 2
        ({"batch_type": "numel", "batch_bins": 40}, 1, 2 * 3),
        ({"batch_type": "numel", "batch_bins": 40, "accum_grad": 2}, 1, 2 * 1),
        ({"batch_type": "numel", "batch_bins": 20}, 1, 2 * 4),
        # and has an utterance for each process: 6, 6
        ({"batch_type": "numel", "batch_bins": 20}, 6, 2 * 2),
        # ESPnet makes batches of equal size: 6, 6
        ({"batch_type": "unsorted", "batch_size": 5}, 1, 2 * 2),
        ({"batch_type": "unsorted", "num_iters_per_epoch": 7}, 1, 2 * 7),
    ],
)
def test_updates_are_counted(tmp_path, changes, gpus, updates):
    shapes = write_lengths(tmp_path, [10] * 12)
    args = parse(tmp_path, train_shape_file=shapes, max_epoch=2, **changes)
    assert count_updates(args, gpus) == updates


def test_updates_are_those_of_espnets_iterator(tmp_path):
    # Count the batches that the training would go through.
    lengths = [int(900 + 700 * math.sin(n)) for n in range(40)]
    args = parse(
        tmp_path,
        train_shape_file=write_lengths(tmp_path, lengths),
        train_data_path_and_name_and_type=[
            [str(tmp_path / "speech_shape"), "speech", "rand_float"],
            [str(tmp_path / "text"), "text", "text_int"],
        ],
        use_preprocessor=False,
        batch_type="numel",
        batch_bins=5000,
        max_epoch=3,
        accum_grad=2,
        num_workers=0,
    )
    (tmp_path / "text").write_text("".join(f"u{n:02d} 2 3\n" for n in range(40)))
    options = ASRTask.build_iter_options(args, _NotDistributed, "train")
    factory = ASRTask.build_sequence_iter_factory(args, options, "train")
    batches = sum(1 for _ in factory.build_iter(1))
    assert batches > 5
    assert count_updates(args) == 3 * (batches // 2)


class _NotDistributed:
    distributed = False


@pytest.mark.parametrize(
    "changes", [{"batch_type": "folded"}, {"iterator_type": "chunk"}]
)
def test_updates_that_cannot_be_counted(tmp_path, changes):
    shapes = write_lengths(tmp_path, [10] * 12)
    assert count_updates(parse(tmp_path, train_shape_file=shapes, **changes)) is None


@pytest.mark.parametrize("changes", [{}, {"num_iters_per_epoch": 1}])
def test_no_update_in_an_epoch(tmp_path, changes):
    shapes = write_lengths(tmp_path, [10] * 12)
    changes.update(batch_type="unsorted", batch_size=12, accum_grad=2)
    with pytest.raises(ConfigError, match="1 batches has no update with accum_grad 2"):
        count_updates(parse(tmp_path, train_shape_file=shapes, **changes))


def test_an_encoder_that_would_never_be_trained(tmp_path):
    shapes = write_lengths(tmp_path, [10] * 12)
    changes = {"train_shape_file": shapes, "max_epoch": 2, "num_iters_per_epoch": 7}
    training_options(parse(tmp_path, **changes, freeze_encoder_updates=13), 1)
    words = "freeze_encoder_updates is 14, and the training has 14 updates"
    with pytest.raises(ConfigError, match=words):
        training_options(parse(tmp_path, **changes, freeze_encoder_updates=14), 1)


@pytest.mark.parametrize(
    "name", ["accum_grad", "batch_bins", "batch_size", "max_epoch"]
)
def test_counts_of_zero_are_refused(tmp_path, name):
    args = parse(tmp_path, train_shape_file=write_lengths(tmp_path, [10] * 12))
    args.batch_type = "unsorted" if name == "batch_size" else "numel"
    setattr(args, name, 0)
    with pytest.raises(ConfigError, match=f"{name} is a whole number of 1 or more"):
        count_updates(args)


@pytest.mark.parametrize(
    "content, words", [(b"", "is empty"), (b"a x\n", "no length"), (b"\xff 9\n", "UTF")]
)
def test_broken_lengths_are_named(tmp_path, content, words):
    args = parse(tmp_path, train_shape_file=write_lengths(tmp_path, [10]))
    args.batch_type = "numel"
    (tmp_path / "speech_shape").write_bytes(content)
    with pytest.raises(DataError, match=f"speech_shape: .*{words}"):
        count_updates(args)


def rate_of_the_paper(update, updates, peak):
    """Compute warm-up, hold, anneal, as in fairseq's tri_stage."""
    warm, hold = 0.1 * updates, 0.4 * updates
    if update <= warm:
        return peak * (0.01 + 0.99 * update / warm)
    if update <= warm + hold:
        return peak
    return peak * 0.01 ** ((update - warm - hold) / (updates - warm - hold))


@pytest.mark.parametrize(
    "name",
    sorted(
        str(path.relative_to(CONF))
        for path in CONF.glob("*/train_asr*.yaml")
        if path.parent.name in ("librispeech", "ami", "tuning", "mini_librispeech")
        and "joint" not in path.stem
        and not path.stem.endswith("quick")
    ),
)
def test_learning_rate_curve(name):
    config = ["--config", str(CONF / name), "--output_dir", "unused"]
    args = ASRTask.get_parser().parse_args(config)
    peak, updates = args.optim_conf["lr"], 1000
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    conf = {**args.scheduler_conf, "max_steps": updates}
    scheduler = scheduler_classes[args.scheduler](optimizer, **conf)
    for number in range(updates):
        # ESPnet counts from 1, so its first update has the rate of the second.
        expected = rate_of_the_paper(number + 1, updates, peak)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected), number
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * peak)
