"""Plans of joint training: both losses, each on its batch, as in a real step."""

import pytest
import torch
import yaml
from planted import CONFORMER
from test_cost import BIRQ, SECOND

from espnet2_birq.errors import ConfigError
from espnet2_birq.planning.configured import parse_config, plan_run
from espnet2_birq.planning.cost import FakeModel, count_parameters, counted
from espnet2_birq.planning.joint import FakeJoint, fake_model
from espnet2_birq.planning.report import Speed
from espnet2_birq.tasks.joint import JointTask

BOOK = {"codebook_size": 32, "codebook_dim": 4}


def configuration(folder, **changes):
    path = folder / "c.yaml"
    conf = {
        "encoder": "conformer",
        "encoder_conf": {**CONFORMER, "num_blocks": 2},
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0},
        "ctc_conf": {"dropout_rate": 0.0},
        "objectives": [{**BIRQ[0], "labeller_conf": BOOK}],
        "token_list": list("abcdefghijklmnop"),
        "batch_type": "numel",
        "batch_bins": 10 * SECOND,
        "unlabelled_batch_bins": 20 * SECOND,
        "pretraining_conf": {"accelerate": False, "cpu_bfloat16": False},
    }
    path.write_text(yaml.safe_dump({**conf, **changes}))
    return path


def test_as_much_as_a_real_step(tmp_path):
    args = parse_config(configuration(tmp_path), [])
    fake = fake_model(args, gpu=False)
    assert isinstance(fake, FakeJoint)
    cost = fake.count_step(2, 3 * SECOND)
    model = JointTask.build_model(args).train()
    assert fake.parameters == count_parameters(model, model.pretraining)
    letters = 42
    speech, more = torch.randn(2, 3 * SECOND), torch.randn(4, 3 * SECOND)
    batch = dict(
        speech=speech,
        speech_lengths=torch.full((2,), 3 * SECOND),
        text=torch.randint(1, 15, (2, letters)),
        text_lengths=torch.full((2,), letters),
        unlabelled_speech=more,
        unlabelled_speech_lengths=torch.full((4,), 3 * SECOND),
    )
    model.prepare([batch])
    with counted() as meter:
        model(**batch)[0].backward()
    assert cost.flops == meter.flops > 0
    assert cost.peak == pytest.approx(meter.peak, rel=0.1)  # without CTC's recursion


def test_costs_more_than_its_parts(tmp_path):
    path = configuration(tmp_path, unlabelled_batch_bins=10 * SECOND)
    args = parse_config(path, [])
    conf = yaml.safe_load(path.read_text())
    kept = {key: conf[key] for key in ("encoder", "encoder_conf", "objectives")}
    path.write_text(yaml.safe_dump({**kept, "batch_type": "numel"}))
    alone = FakeModel(parse_config(path, [])).count_step(2, 3 * SECOND)
    joint = fake_model(args).count_step(2, 3 * SECOND)
    assert 1.9 < joint.flops / alone.flops < 2.1


def test_tokens_are_read_from_a_file(tmp_path):
    """They are the size of CTC's layer."""
    path, tokens = configuration(tmp_path), tmp_path / "tokens.txt"
    tokens.write_text("".join(f"t{number}\n" for number in range(500)))
    (tmp_path / "few.txt").write_text("".join(f"{x}\n" for x in "abcdefghijklmnop"))
    few, many, unknown = (
        fake_model(parse_config(path, ["--token_list", given])).parameters.others
        for given in (str(tmp_path / "few.txt"), str(tokens), "none")
    )
    size = CONFORMER["output_size"] + 1
    assert many - few == (500 - 16) * size
    assert unknown - few == (32 - 16) * size
    with pytest.raises(ConfigError, match="token_list nowhere: no such file; give"):
        fake_model(parse_config(path, ["--token_list", "nowhere"]))


def test_plan(tmp_path):
    speed, data = Speed(gpu="a100", gpus=1), dict(hours=1.0, utterance_seconds=3.0)
    assert "a100" in plan_run(configuration(tmp_path), [], speed, **data)
    for wrong, words in (
        ({"decoder": "transformer"}, "with CTC alone"),
        ({"objectives": None}, "objectives"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan_run(configuration(tmp_path, **wrong), [], speed, **data)
