"""Readers of training logs, results in JSON and matrices."""

import json

import yaml
from fuzz_models import CONFIG, TENSORS
from fuzzing import Reader

from espnet2_birq.experiments.card import write_card
from espnet2_birq.experiments.page import _phones, _probes
from espnet2_birq.experiments.spec import read_spec
from espnet2_birq.experiments.status import brief, describe

LINE = (
    "[h] 2026-11-21 05:16:{},236 (trainer:810) INFO: 1epoch:train:{}batch: "
    "iter_time=0.015, loss_anchor=9.075, acc_anchor=0.1, label_ppl_anchor=5.5, "
    "pred_ppl_anchor=3, optim0_lr0=1e-3, loss=22.698, train_time=0.5\n"
)
LOG = (
    "# Started at Sat Nov 21 05:16:10 UTC 2026\n"
    "[h] 2026-11-21 05:16:00 (x:1) INFO: [train] Batch sampler: X(N-batch=20, a)\n"
    + LINE.format(45, "1-10")
    + LINE.format(55, "11-20")
    + "[h] 2026-11-21 05:18:53,330 (trainer:392) INFO: 1epoch results: [train] "
    "iter_time=0.004, loss_anchor=8.9, acc_anchor=0.1, time=4 minutes, "
    "total_count=20, [valid] loss=2.5, loss_anchor=6.524\n"
    "# Ended (code 137) at Sat Nov 21 05:19:10 UTC 2026, elapsed time 180 seconds\n"
)
CONF = {
    **CONFIG,
    "num_iters_per_epoch": 20,
    "accum_grad": 2,
    "optim": "adamw",
    "config": "conf/train.yaml",
    "train_shape_file": ["train/speech_shape"],
    "valid_shape_file": ["valid/speech_shape"],
    "train_data_path_and_name_and_type": [["train/wav.scp", "speech", "sound"]],
    "valid_data_path_and_name_and_type": [["valid/wav.scp", "speech", "sound"]],
}
EXPERIMENT = {
    "exp/train.log": LOG,
    "exp/config.yaml": yaml.safe_dump(CONF),
    "exp/made_from.json": json.dumps(
        {"options": {}, "files": {"train/speech_shape": None}}
    ),
    "exp/m.pth": TENSORS,
    "train/speech_shape": "a 16000\nb 32000\n",
    "valid/speech_shape": "a 16000\n",
}
BOOKS = [{"pnmi": 0.1, "chance": 0.0, "perplexity": 5.0}]
PHONES = {
    "models": [
        {
            "name": "m",
            "file": "exp/m.pth",
            "layers": [
                {"layer": 0, "accuracy": {"speakers": {"a": 0.5}, "error": 0.1}}
            ],
            "objectives": [{"name": "anchor", "books": BOOKS}],
        }
    ]
}
PROBE = {
    "cer": {"test": {"percent": 10.0}},
    "wer": {"test": {"percent": 20.0}},
    "layer_weights": [0.5, 0.5],
}
SPEC = {
    "recipe": "recipe",
    "pretrain": "conf/p.yaml",
    "systems": [
        {"name": "none", "pretrain": None},
        {"name": "a", "pretrain": {}, "updates": 100},
        {"name": "b", "label": "B", "pretrain": {"x": {"y": 1}}, "compute_of": "a"},
        {"name": "c", "pretrain": {"x": 2}, "after": "b"},
    ],
    "tests": ["test"],
    "finetune": {
        "config": "conf/f.yaml",
        "sets": {"one": {"hours": 1}, "rest": {"rest_of": "one"}, "all": None},
    },
    "compare": [["b", "a"]],
    "probe": "--updates 10",
}


def _status(folder) -> None:
    describe(folder / "exp")
    brief(folder / "exp")


def _card(folder) -> None:
    write_card(folder / "exp/m.pth", folder / "exp/README.md")


READERS = [
    Reader(
        "status",
        EXPERIMENT,
        _status,
        ("exp/train.log", "exp/config.yaml", "exp/made_from.json"),
        faults=(
            *(("exp/made_from.json", x) for x in (b"9", b"{", b"")),
            ("exp/config.yaml", b"max_epoch: x\nobjectives: []"),
            ("exp/config.yaml", b"objectives: []"),
            ("exp/train.log", LOG.replace("2026-11", "2026-99").encode()),
            ("exp/train.log", LOG.replace("count=20", "count=inf").encode()),
        ),
        share=1,
    ),
    Reader(
        "card",
        EXPERIMENT,
        _card,
        faults=(
            ("exp/m.pth", b"PK\x03\x04"),
            ("exp/config.yaml", b"objectives: []"),
        ),
        share=1,
    ),
    Reader(
        "results_of_phones",
        {"phones.json": json.dumps(PHONES)},
        lambda x: _phones(x, [x / "phones.json"]),
        faults=(
            ("phones.json", b'{"models": [{}]}'),
            ("phones.json", json.dumps(PHONES).replace("0.1", "-1").encode()),
        ),
        share=1,
    ),
    Reader(
        "results_of_probe",
        {"probe.json": json.dumps(PROBE)},
        lambda x: _probes(x, [x / "probe.json"]),
        faults=(("probe.json", b'{"cer": {"a": {}}}'),),
        share=1,
    ),
    Reader(
        "matrix",
        {
            "m.yaml": yaml.safe_dump(SPEC),
            "recipe/ssl1/conf/p.yaml": "a: 1\n",
            "recipe/asr1/conf/f.yaml": "a: 1\n",
        },
        lambda x: read_spec(x / "m.yaml"),
        ("m.yaml",),
        faults=(
            *(
                ("m.yaml", yaml.safe_dump({**SPEC, **x}).encode())
                for x in (
                    {"systems": 1},
                    {"systems": [1]},
                    {"pretrain": {}},
                    {"tests": "x"},
                    {"compare": [1]},
                    {"compare": [["a"]]},
                    {"recipe": 1},
                    {"finetune": {"config": 1}},
                    {"finetune": {"sets": {}}},
                    {"finetune": {"config": "x" * 300}},
                    {"finetune": {"config": "conf/f.yaml", "sets": None}},
                )
            ),
        ),
    ),
]
