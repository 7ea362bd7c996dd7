"""bench/methods.py: its memory is the planner's."""

import json
import sys

import pytest
import yaml
from checkout import ROOT

sys.path.insert(0, str(ROOT / "bench"))

import methods

from espnet2_birq.bin.plan import main as plan


def test_memory_is_the_planners(tmp_path, capsys):
    conf = yaml.safe_load((ROOT / "conf/mini_librispeech/train_birq.yaml").read_text())
    conf["encoder_conf"]["num_blocks"] = 1
    conf["accum_grad"] = 2
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(conf))
    seconds = methods.SECONDS
    bins = round(methods.UTTERANCES * seconds * 16000) - 1
    command = f"--config {path} --json --hours 100 --memory 2 --batch_bins {bins} "
    command += f"--utterance_seconds {seconds} --longest_seconds {seconds}"
    plan(command.split())
    numbers = json.loads(capsys.readouterr().out)
    planned = numbers["memory_kept_bytes"] + numbers["memory_step_bytes"]
    flops, _, memory = methods.cost_of(path)
    assert memory == planned
    assert flops == pytest.approx(numbers["step_flops_per_gpu"], rel=0.01)
