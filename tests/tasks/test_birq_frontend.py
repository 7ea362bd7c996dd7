"""A frozen pretrained model as ESPnet's frontend, alone and in ESPnet's own recipe."""

import re
import shutil

import pytest
import torch
import yaml
from checkout import GENERATED, ROOT, copy_checkout, run
from espnet2.torch_utils.initialize import initialize
from planted import OBJECTIVES, RATE, write_experiment

from espnet2_birq.api import load
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.frontend import BiRQFrontend
from espnet2_birq.tasks.ssl import SSLTask

LENGTHS = torch.tensor([RATE, RATE // 2, 3 * RATE // 4])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exp") / "ssl"
    return str(write_experiment(folder, SSLTask, objectives=OBJECTIVES))


@pytest.fixture
def speech():
    noise = torch.randn(3, RATE, generator=torch.Generator().manual_seed(0))
    return noise * (torch.arange(RATE) < LENGTHS[:, None])


def test_features_of_a_batch_are_those_of_each_utterance(model, speech):
    frontend = BiRQFrontend(model).train()
    torch.nn.init.normal_(frontend.weights)
    together, frames = frontend(speech, LENGTHS)
    assert together.shape == (3, int(frames.max()), frontend.output_size())
    for number, length in enumerate(LENGTHS):
        alone, one = frontend(speech[number : number + 1, :length], length[None])
        assert one[0] == frames[number]
        assert torch.allclose(alone[0], together[number, : one[0]], atol=1e-5)
        assert not together[number, one[0] :].any()


def test_layers_and_their_weights(model, speech):
    layers, _ = load(model).extract_features(speech, LENGTHS)
    both, _ = BiRQFrontend(model)(speech, LENGTHS)
    assert torch.allclose(both, torch.stack(layers).mean(dim=0), atol=1e-6)
    last, _ = BiRQFrontend(model, layers=[-1])(speech, LENGTHS)
    assert torch.allclose(last, layers[-1], atol=1e-6)
    with pytest.raises(ConfigError, match="takes speech at 16000 Hz"):
        BiRQFrontend(model, fs="8k")
    with pytest.raises(ConfigError, match="counted from 1"):
        BiRQFrontend(model, layers=[0])


def build(model, *more):
    config = ROOT / "conf/own/train_asr_frontend.yaml"
    args = ASRTask.get_parser().parse_args(
        ["--config", str(config), "--frontend_conf", f"model={model}"]
        + ["--output_dir", "-", "--token_list", "-", *more]
    )
    args.token_list = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]
    return ASRTask.build_model(args)


def test_only_the_weights_learn(model, speech):
    asr = build(model).train()
    before = {k: v.clone() for k, v in asr.frontend.upstream.state_dict().items()}
    text = torch.tensor([[2, 3], [3, 2], [2, 2]])
    loss, _, _ = asr(speech, LENGTHS, text, torch.tensor([2, 2, 2]))
    loss.backward()
    assert asr.frontend.weights.grad.abs().sum() > 0
    assert not any(x.grad is not None for x in asr.frontend.upstream.parameters())
    after = asr.frontend.upstream.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in asr.frontend.upstream.modules())


def test_initialisation_leaves_the_model_alone(model):
    asr = build(model)
    before = {k: v.clone() for k, v in asr.frontend.upstream.state_dict().items()}
    initialize(asr, "xavier_uniform")
    after = asr.frontend.upstream.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.recipe
def test_in_the_unchanged_mini_an4_of_espnet(model, tmp_path, an4_tarball):
    """Run ESPnet's recipe with few updates by the command of docs/espnet.md."""
    page = (ROOT / "docs/espnet.md").read_text()
    (command,) = re.findall(r"^```\n(./run.sh .*?)\n```", page, re.M | re.S)
    real = an4_tarball.parents[3].resolve()
    espnet = tmp_path / "espnet"
    (espnet / "egs2" / "mini_an4").mkdir(parents=True)
    (espnet / "tools").symlink_to(real / "tools")
    (espnet / "egs2" / "TEMPLATE").symlink_to(real / "egs2" / "TEMPLATE")
    recipe = espnet / "egs2" / "mini_an4" / "asr1"
    shutil.copytree(an4_tarball.parent, recipe, symlinks=True, ignore=GENERATED)
    birq = copy_checkout(tmp_path / "birq", real)
    ours = birq / "egs2/mini_an4"  # its preparation needs no sph2pipe
    run(["./run.sh", "--stop_stage", "1"], ours / "ssl1")
    shutil.copytree(ours / "ssl1/data", recipe / "data")
    small = (
        "--max_epoch 2 --encoder_conf num_blocks=1 --batch_type unsorted --batch_size 2"
    )
    command = command.replace("/path/to/espnet2_birq", str(birq))
    command = command.replace("/path/to/model.zip", model)
    command = command.replace('--asr_args "', f'--asr_args "{small} ')
    command += " --ngpu 0 --stage 2 --stop_stage 12 --test_sets test"
    printed = run(["bash", "-c", " ".join(command.split("\\\n"))], recipe).stdout
    exp = recipe / "exp/asr_frontend"
    texts = list(exp.glob("*/test/text"))
    assert texts and len(texts[0].read_text().splitlines()) == 2, printed[-3000:]
    saved = yaml.safe_load((exp / "config.yaml").read_text())
    assert saved["frontend"] == "birq" and saved["frontend_conf"]["model"] == model
