"""Readers of configurations, models, states, centroids and lists of labels."""

import io
import json
import zipfile
from argparse import Namespace

import numpy as np
import torch
import yaml
from espnet2.fileio.read_text import load_num_sequence_text, read_2columns_text
from fuzzing import Reader
from planted import BOOK, MODEL

from espnet2_birq.checkpoint import check_training_files, load_tensors, unpack
from espnet2_birq.config import read_config, sampling_rate
from espnet2_birq.experiments.checkpoint import check_training
from espnet2_birq.planning.configured import parse_config
from espnet2_birq.pretraining.heads import Heads
from espnet2_birq.pretraining.objective import (
    build_objective,
    parse_objectives,
)
from espnet2_birq.pretraining.when import check_always_on
from espnet2_birq.reading import read_yaml
from espnet2_birq.relabelling.kmeans import KMeans
from espnet2_birq.tasks.bad_audio import BadAudio, Unreadable
from espnet2_birq.tasks.given import check_files
from espnet2_birq.tasks.lists import check_tables
from espnet2_birq.tasks.loading import find_model
from espnet2_birq.tasks.saving import Saver

CONFIG = {
    **MODEL,
    "objectives": [{"name": "anchor", "labeller_conf": BOOK}],
    "best_model_criterion": [["valid", "loss", "min"]],
    "normalize_conf": {"stats_file": "exp/feats_stats.npz"},
    "max_epoch": 3,
}
# All keys, for all labellers that are quickly built.
OBJECTIVES = [
    {"name": "anchor", "weight": [[0, 1.0], [100, 0.5]], "labeller_conf": {**BOOK}},
    {
        "name": "enhanced",
        "view": "layer 70%",
        "head": "other",
        "gradient": 0.5,
        "diversity": 0.3,
        "labeller_conf": {**BOOK, "temperature": [[0, 2.0], [10, 0.5]]},
    },
    {
        "name": "late",
        "labeller": "random_projection",
        "view": "teacher layers top 2",
        "when": {"once": {"anchor": 2.0}},
        "labeller_conf": {**BOOK, "projection": "whitened", "num_codebooks": 2},
    },
    {
        "name": "disk",
        "labeller": "given",
        "view": "labels km every 2",
        "labeller_conf": {"codebook_size": 20},
        "when": {"start": 0, "stop": 10, "every": 2},
    },
]


def saved(content) -> bytes:
    """Make a file with torch.save()."""
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def npz(**arrays) -> bytes:
    """Make a file in NumPy's format."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def of_two_disks(content: bytes) -> bytes:
    """Make a zip that claims to have a part on another disk."""
    at = content.rindex(b"PK\x05\x06")  # its end-of-directory record
    locator = b"PK\x06\x07" + bytes(4) + bytes(8) + (2).to_bytes(4, "little")
    return content[:at] + locator + content[at:]


def packed() -> bytes:
    """Make a packed model."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("exp/config.yaml", "a: 1\n"), ("exp/m.pth", "x" * 100)):
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


TENSORS = saved({"encoder.a": torch.zeros(2, 3), "updates": torch.tensor(1)})
SAVED = (
    "epoch batches finished model optimizers schedulers scaler watches reporter random "
    "origin"
)
STATE = saved(dict.fromkeys(SAVED.split(), 1))
CHECKPOINT = saved(
    {
        "model": {"encoder.a": torch.zeros(2)},
        "reporter": {"epoch": 1, "stats": {1: {"train": {"grad_norm": 1.0}}}},
    }
)


def _config(folder) -> None:
    args = read_config(folder / "config.yaml")
    sampling_rate(getattr(args, "frontend_conf", None))
    find_model(folder)


def _config_of_plan(folder) -> None:
    try:
        parse_config(folder / "train.yaml", [])
    except SystemExit as stop:  # argparse has printed the error
        assert stop.code == 2


def _objectives(folder) -> None:
    rows = read_yaml(folder / "objectives.yaml")
    parsed = parse_objectives(rows, num_blocks=4)
    check_always_on([row.when for row in parsed])
    sizes = [row.labeller_conf.get(x) for row in parsed for x in BOOK]
    if not all(x is None or isinstance(x, int) and x < 1000 for x in sizes):
        return  # such a large model may be intended
    Heads(8, [build_objective(row, 8) for row in parsed])


def _state(folder) -> None:
    """A state that cannot be read costs only the current epoch."""
    Saver(folder, 15, None, {}, resume=True)


def _training_files(folder) -> None:
    check_training_files(Namespace(init_param=[], resume=True, output_dir=str(folder)))
    check_training(folder / "1epoch.pth")


def _labels(folder) -> None:
    check_files([(str(folder / "labels.scp"), "labels", "kaldi_ark")])


def _labels_text(folder) -> None:
    check_files([(str(folder / "labels"), "labels", "text_int")])


def _training_lists(folder) -> None:
    """ESPnet can read the lists that we accept."""
    scp, shape = (str(folder / x) for x in ("wav.scp", "speech_shape"))
    check_tables([(scp, "speech", "sound")], [shape])
    read_2columns_text(scp)
    load_num_sequence_text(shape, "csv_int")


def _bad_audio(folder) -> None:
    found = Unreadable(speech=np.zeros(0, np.float32))
    found.why = "not readable"
    assert not BadAudio(folder).is_good("a", found)


def _kmeans(folder) -> None:
    KMeans.load(folder / "kmeans.npz").codes(torch.zeros(2, 3))


ABOUT = {"view": "input", "model_sha256": "x"}
READERS = [
    Reader(
        "config",
        {"config.yaml": yaml.safe_dump(CONFIG), "a.pth": "x"},
        _config,
        ("config.yaml",),
        faults=(
            ("config.yaml", b"frontend_conf: {fs: 1e400k}"),
            ("config.yaml", b"best_model_criterion: [[x]]"),
            ("config.yaml", b"normalize_conf: 1"),
            ("config.yaml", b"normalize_conf: {stats_file: " + b"a" * 300 + b"}"),
        ),
    ),
    Reader(
        "config_of_plan",
        {"train.yaml": yaml.safe_dump({"max_epoch": 3, "optim_conf": {"lr": 0.1}})},
        _config_of_plan,
        share=1,
    ),
    Reader(
        "objectives",
        {"objectives.yaml": yaml.safe_dump(OBJECTIVES)},
        _objectives,
        faults=(
            *(
                ("objectives.yaml", f"[{{name: anchor, {x}}}]".encode())
                for x in (
                    "labeller_conf: {codebook_size: -1}",
                    "labeller_conf: [x]",
                    "when: {every: null}",
                    "when: {start: null}",
                    "when: {every: 99999999999}",
                    "when: [x]",
                    "view: layer " + "9" * 5000,
                )
            ),
        ),
        share=1,
    ),
    Reader(
        "model",
        {"m.pth": TENSORS},
        lambda x: load_tensors(x / "m.pth"),
        faults=(("m.pth", of_two_disks(TENSORS)),),
    ),
    Reader("packed", {"m.zip": packed()}, lambda x: unpack(x / "m.zip", x / "out")),
    Reader(
        "state",
        {"progress.pth": STATE},
        _state,
        faults=(
            ("progress.pth", b"PK\x03\x04"),
            ("progress.pth", CHECKPOINT),
            ("progress.pth", of_two_disks(STATE)),
        ),
    ),
    Reader(
        "training_files",
        {"checkpoint.pth": CHECKPOINT, "1epoch.pth": TENSORS},
        _training_files,
        faults=(
            ("checkpoint.pth", b"PK\x03\x04"),
            ("checkpoint.pth", b"\x80\x02}."),
        ),
    ),
    Reader(
        "kmeans",
        {
            "kmeans.npz": npz(
                centroids=np.zeros((2, 3), np.float32),
                about=np.array(json.dumps(ABOUT)),
            )
        },
        _kmeans,
        faults=(("kmeans.npz", npz(centroids=np.zeros((2, 3)), about=np.array("[]"))),),
    ),
    Reader(
        "labels", {"labels.scp": "a l.ark:2\n", "l.ark": "x"}, _labels, ("labels.scp",)
    ),
    Reader(
        "labels_text",
        {"labels": "a 1 2 -1\nb 3\n"},
        _labels_text,
        faults=(
            ("labels", b"a \x0b| 1"),
            ("labels", b"\xff"),
            ("labels", "a \u00b2".encode()),
        ),
    ),
    Reader(
        "training_lists",
        {"wav.scp": "a x.wav\nb x.wav\n", "speech_shape": "a 160,1\nb 320\n"},
        _training_lists,
        faults=(
            *(
                ("speech_shape", x)
                for x in (b"a", b"a x", b"a 1\n\n", b"\xff", b"", b"a 1 2")
            ),
            *(("wav.scp", x) for x in (b"a x\na x\n", b"\xff", b"\n")),
        ),
    ),
    Reader(
        "bad_audio",
        {"bad_audio": "b no samples\n"},
        _bad_audio,
        faults=(("bad_audio", b"\xef"),),
    ),
]
