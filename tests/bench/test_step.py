"""bench/step.py: equal losses of its builds, and correctness of its figures."""

import math
import sys
from pathlib import Path

import pytest
import torch
import yaml

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

import step  # noqa: E402
from plain import PlainModel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from espnet2_birq.errors import ConfigError  # noqa: E402
from espnet2_birq.planning import machine  # noqa: E402

DEVICES = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)


@pytest.fixture
def config(tmp_path):
    """bench/step.yaml, small and without dropout; the enhanced loss counts more."""
    conf = yaml.safe_load((BENCH / "step.yaml").read_text())
    for row in conf["objectives"]:
        row["labeller_conf"] = dict(codebook_size=64, codebook_dim=8)
    conf["objectives"][1].update(view="layer 2", weight=1.0)
    conf["encoder_conf"].update(
        output_size=64, attention_heads=2, linear_units=96, num_blocks=3
    )
    conf["encoder_conf"].update(cnn_module_kernel=7)
    for key in ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"):
        conf["encoder_conf"][key] = 0.0
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(conf))
    return str(path)


def options(config, *more):
    command = ["--config", config, "--batch", "2", "--seconds", "2", "--steps", "2"]
    return step.get_parser().parse_args([*command, "--warmup", "1", *more])


def outcome(build, seed):
    """Return loss and all gradients; the seed determines mask and masking noise."""
    torch.manual_seed(seed)
    loss, mask_share = build.forward(0)
    build.model.zero_grad()
    loss.backward()
    gradients = {
        name: parameter.grad
        for name, parameter in build.model.named_parameters()
        if name.startswith("encoder.")
    }
    return float(loss.detach()), float(mask_share), gradients


def both(config, method, device):
    return [
        step.make_build(
            options(config, "--method", method, "--build", name, "--device", device)
        )
        for name in ("ours", "plain")
    ]


@DEVICES
def test_best_rq_is_the_same_number_plainly_written(config, device, exact_products):
    ours, plain = (outcome(build, 3) for build in both(config, "best_rq", device))
    assert ours[0] == pytest.approx(plain[0], rel=1e-5)
    assert ours[1] == plain[1] and 0.2 < ours[1] < 0.8
    for name, gradient in ours[2].items():
        most = 1e-4 * float(plain[2][name].abs().max()) + 1e-6
        torch.testing.assert_close(gradient, plain[2][name], rtol=0, atol=most)


def test_flops_of_copies_are_counted_without_a_real_step(config):
    more = ["--options", "--target_branch_conf copies=2"]
    args = options(config, "--method", "birq", *more)
    build = step.make_build(args)
    conf = step.read_config(config, "birq", args.options)
    # A meta tensor has no values: a real step would raise, or take minutes at full size.
    assert build.flops == step.count_step(conf, torch.empty(2, 32000, device="meta"))
    with step.counted() as meter:
        build.forward(0)[0].backward()
    assert build.flops == pytest.approx(meter.flops, rel=0.02)  # other masked frames


@DEVICES
def test_birq_is_the_same_on_average_plainly_written(config, device, exact_products):
    """Single steps differ, since Gumbel noise is drawn in another order."""
    builds = both(config, "birq", device)
    for build in builds:  # freeze running statistics, so that all draws use one model
        for module in build.model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.momentum = 0.0
    differences, sums = [], [0.0, 0.0]
    for seed in range(30):
        ours, plain = (outcome(build, seed) for build in builds)
        assert ours[1] == plain[1]
        differences.append(ours[0] - plain[0])
        name = "encoder.encoders.0.feed_forward.w_1.weight"
        sums = [a + x[2][name] for a, x in zip(sums, (ours, plain))]
    differences = torch.tensor(differences)
    error = differences.std() / math.sqrt(len(differences))
    assert error < 0.02  # the loss is about 15
    assert differences.mean().abs() < 4 * error
    cosine = torch.nn.functional.cosine_similarity(*(x.flatten() for x in sums), dim=0)
    assert cosine > 0.95


@pytest.mark.parametrize("name", ["ours", "plain"])
def test_detached_is_the_same_loss_with_another_gradient(config, name):
    attached, detached = (
        step.make_build(options(config, "--method", method, "--build", name))
        for method in ("birq", "birq_stop_gradient")
    )
    one, other = outcome(attached, 0), outcome(detached, 0)
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    key = "encoder.encoders.0.feed_forward.w_1.weight"
    assert (one[2][key] - other[2][key]).abs().max() > 1e-6
    assert detached.flops < attached.flops


def test_flops_are_those_of_a_real_step(config):
    # Without depthwise convolutions, whose groups PyTorch's counter ignores.
    conf = yaml.safe_load(Path(config).read_text())
    conf["encoder_conf"]["use_cnn_module"] = False
    Path(config).write_text(yaml.safe_dump(conf))
    args = options(config, "--method", "birq")
    conf = step.read_config(config, "birq")
    conf.model_conf["accelerate"] = False
    plain = PlainModel(step.SSLTask.build_model(conf)).train()
    speech, lengths = step.random_speech(args)
    torch.manual_seed(0)
    xs, masked, xs_lengths, mask = plain.inputs(speech, lengths)
    index = mask.flatten().nonzero().squeeze(1)
    with FlopCounterMode(display=False) as counter:
        plain.loss(xs, masked, xs_lengths, index).backward()
    # Count for the accelerated model, whose own products PyTorch would not count.
    accelerated = step.SSLTask.build_model(step.read_config(config, "birq"))
    torch.manual_seed(0)
    counted = step.count_flops(PlainModel(accelerated), speech, lengths)
    total = counter.get_total_flops()
    # Ours are more by the zeros that align the vectors of distances.
    assert total > 1e8 and total <= counted < 1.005 * total


def test_depthwise_convolutions_are_a_small_part(config):
    """2 x 3 FLOPs per value and tap, forward and backward, not 2 x 3 x channels."""
    args = options(config, "--method", "best_rq")
    small = step.make_build(args).flops
    conf = yaml.safe_load(Path(config).read_text())
    conf["encoder_conf"]["cnn_module_kernel"] = 21  # instead of 7
    Path(config).write_text(yaml.safe_dump(conf))
    assert 1.0 < step.make_build(args).flops / small < 1.1


@pytest.mark.parametrize("build, dtype", [("ours", "bfloat16"), ("plain", "float32")])
def test_figures(config, build, dtype, monkeypatch):
    monkeypatch.setitem(machine.SIZES, "cpu", 256)
    args = options(config, "--method", "birq", "--build", build, "--dtype", dtype)
    result = step.measure(args)
    assert result["seconds_min"] <= result["seconds"] <= result["seconds_max"]
    assert sum(result["phases"].values()) == pytest.approx(result["seconds"], rel=0.5)
    assert result["audio_per_second"] == pytest.approx(
        4 / result["seconds"],
        rel=0.01,
        abs=0.005,  # rounded to 0.01
    )
    rate = result["gflop"] / result["seconds"] / result["matrix_gflop_per_second"]
    assert result["share_of_matrix_rate"] == pytest.approx(rate, rel=0.1, abs=0.002)
    assert result["peak_rss_mib"] > 100 and 0 < result["mask_share"] < 1
    assert 0 < result["encoder_parameters"] < result["parameters"]
    assert math.isfinite(result["loss"]) and result["machine"]["processor"]
    assert build in step.readable(result)


def test_profile(config, capsys):
    args = options(config, "--method", "best_rq", "--profile")
    build = step.make_build(args)
    optimizer = torch.optim.SGD(build.model.parameters(), lr=0.1)
    rows = step.profile_steps(build, optimizer, args, 5.0)
    times = [row["milliseconds"] for row in rows]
    assert times == sorted(times, reverse=True) and times[-1] >= 0
    calls = {row["name"]: row["calls"] for row in rows}
    norms = [x for x in build.model.modules() if isinstance(x, torch.nn.LayerNorm)]
    assert calls["aten::native_layer_norm"] == len(norms)
    assert calls["aten::native_layer_norm_backward"] == len(norms)
    step.measure(args)
    lines = capsys.readouterr().err.splitlines()
    assert "ms a step" in lines[0]
    assert any("aten::native_layer_norm" in line for line in lines[1:])


def test_compiled_blocks_and_more_options(config):
    """PyTorch traces our model; the backend ``eager`` runs it unchanged."""
    command = ["--method", "best_rq", "--options", "--model_conf attention_window=9"]
    plain, compiled = (
        outcome(step.make_build(options(config, *command, *more)), 0)
        for more in ([], ["--compile", "eager"])
    )
    assert plain[0] == pytest.approx(compiled[0], rel=1e-5)
    whole = outcome(step.make_build(options(config, "--method", "best_rq")), 0)
    assert abs(whole[0] - plain[0]) > 1e-5
    for name, gradient in plain[2].items():
        torch.testing.assert_close(compiled[2][name], gradient, rtol=1e-3, atol=1e-5)


def test_sizes_of_the_configuration():
    """The sizes are those stated in bench/step.yaml."""
    conf = step.read_config(str(BENCH / "step.yaml"), "birq")
    model = step.SSLTask.build_model(conf)
    assert round(step.count_parameters(model.encoder) / 1e6, 1) == 17.7
    assert round(step.count_parameters(model) / 1e6, 1) == 19.8
    torch.manual_seed(0)
    frames = torch.full((2000,), 249)
    share = float(model.masking.draw(frames, 249).float().mean())
    assert share == pytest.approx(0.51, abs=0.01)
    assert model.objectives[1].view.layer == 7


def test_best_rq_of_a_configuration_for_layers(config):
    """Options for other objectives are left out with these."""
    more = "--target_branch_conf checkpoint=true --target_branch_conf copies=2"
    conf = step.read_config(config, "best_rq", more)
    assert step.SSLTask.build_model(conf).branch.copies == 2
    assert [row["weight"] for row in conf.objectives] == [1.0]
    assert step.read_config(config, "birq", more).target_branch_conf["checkpoint"]


def test_speechbrain(config):
    pytest.importorskip("speechbrain")
    sizes = {}
    for name in ("speechbrain", "speechbrain_equal"):
        args = options(config, "--method", "best_rq", "--build", name)
        build = step.make_build(args)
        loss, mask_share = build.forward(0)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(64), rel=0.2)
        assert float(mask_share) == pytest.approx(0.44, abs=0.08)
        sizes[name] = build.encoder_parameters
    ours = step.make_build(options(config, "--method", "best_rq"))
    assert sizes["speechbrain_equal"] == pytest.approx(ours.encoder_parameters, rel=0.1)
    args = options(config, "--method", "birq", "--build", "speechbrain")
    with pytest.raises(ConfigError, match="best_rq"):
        step.make_build(args)
