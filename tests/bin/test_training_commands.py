"""Both training commands report what the user can mend in one line."""

import pytest
import torch
import yaml

from espnet2_birq.bin import asr_train, ssl_train
from espnet2_birq.pretraining.collapse import CollapseError
from espnet2_birq.tasks.commands import one_line_errors

COMMANDS = {"asr_train": asr_train, "ssl_train": ssl_train}
command = pytest.mark.parametrize("command", COMMANDS)


def said(command, *options):
    with pytest.raises(SystemExit) as caught:
        COMMANDS[command].main([*map(str, options)])
    text = str(caught.value)
    assert text.startswith(f"{command}: error: ") and "\n" not in text
    return text


@command
@pytest.mark.parametrize("content", [b"optim: [", b"optim: \xff"])
def test_a_configuration_that_is_no_yaml(command, tmp_path, content):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    assert "not valid YAML: " in said(
        command, "--config", path, "--output_dir", tmp_path
    )


@command
def test_an_option_that_is_no_yaml(command, tmp_path):
    assert "not valid YAML: " in said(
        command, "--optim_conf", "lr=[", "--output_dir", "x"
    )


def test_a_model_that_could_run_code(tmp_path):
    """As in tests/test_hostile.py, for fine-tuning."""

    class Bad:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"x": Bad()}, tmp_path / "bad.pth")
    config = {"encoder": "conformer", "encoder_conf": {"output_size": 16}}
    config |= {"model_conf": {"ctc_weight": 1.0}, "token_type": "char"}
    config["token_list"] = ["<blank>", "<unk>", "<sos/eos>"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", tmp_path / "c.yaml", "--output_dir", tmp_path / "exp"]
    text = said("asr_train", *options, "--init_param", tmp_path / "bad.pth")
    assert text.endswith("it is not loaded: it could execute code")


@command
def test_errors_of_all_kinds(command):
    for error, words in (
        (CollapseError("collapsed"), "collapsed"),
        (FileNotFoundError(2, "No such file", "x.scp"), "x.scp: No such file"),
        (OSError("short write"), "a file: short write"),
    ):
        with pytest.raises(SystemExit, match=f"^{command}: error: {words}$"):
            with one_line_errors(command):
                raise error
