"""Page of an experiment in a single file: curves, codebooks, probes, an utterance."""

import base64
import html
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet2_birq.api import load
from espnet2_birq.config import data_lists
from espnet2_birq.datadir.audio import probe_entry, read_wave
from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.kaldi import iter_scp
from espnet2_birq.datadir.paths import PathResolver
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.glance import glance
from espnet2_birq.evaluation.similarity import layer_similarity
from espnet2_birq.experiments import page_plots as plots
from espnet2_birq.experiments.progress import read_config
from espnet2_birq.experiments.status import describe, find_path
from espnet2_birq.experiments.training_log import (
    TrainingLog,
    all_objectives,
    read_training_log,
)
from espnet2_birq.reading import read_json, refusing

SECONDS = 5.0  # length of an utterance whose codes are legible in a plot
LOOKED_AT = 100  # utterances searched for one of about this length
COMPARED = 20  # utterances on which layers are compared
# Parts of the configuration that define the method; the rest is ESPnet's
SHOWN = (
    "objectives",
    "masking_conf",
    "target_branch_conf",
    "teacher_conf",
    "tokenizer_conf",
    "model_conf",
    "frontend_conf",
    "normalize",
    "normalize_conf",
    "encoder",
    "encoder_conf",
    "batch_type",
    "batch_bins",
    "accum_grad",
    "max_epoch",
    "num_iters_per_epoch",
    "optim",
    "optim_conf",
    "scheduler",
    "scheduler_conf",
    "init_param",
    "seed",
)
NO_RESULTS = "not the results that it should have"
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; color: #111; background: #fff }
img { max-width: 100% } h2 { margin-top: 2.2rem; border-bottom: 1px solid #999 }
pre { background: #f3f3f3; padding: .8rem; white-space: pre-wrap }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: right;
       border-bottom: 1px solid #ccc } td:first-child, th:first-child { text-align: left }
"""


def write_page(
    folder: Path,
    out: Path,
    phones: Sequence[Path] = (),
    probes: Sequence[Path] = (),
    audio: Path | None = None,
) -> None:
    """Write an experiment's page.

    Args:
        folder: Pretraining experiment, running or not.
        out: HTML file.
        phones: Results of phone_probe, in addition to those beside the experiment.
        probes: Files probe.json of the text probe, likewise.
        audio: Utterance to show; None: one of the validation set.

    Raises:
        DataError: There is no update yet, or a given file is missing.
        ConfigError: The experiment's model cannot be loaded.
    """
    log = read_training_log(folder)
    parts = [_section("State", f"<pre>{html.escape(describe(folder))}</pre>")]
    parts += _curves(log)
    parts += _phones(folder, phones)
    parts += _probes(folder, probes)
    parts += _model_at_work(folder, audio)
    conf = {key: x for key, x in read_config(folder).items() if key in SHOWN}
    ordered = {key: conf[key] for key in SHOWN if conf.get(key) not in (None, {}, [])}
    text = yaml.safe_dump(ordered, sort_keys=False)
    parts.append(_section("Configuration", f"<pre>{html.escape(text)}</pre>"))
    name = html.escape(folder.resolve().name)
    head = '<!doctype html><html lang="en"><meta charset="utf-8">'
    head += '<meta name="viewport" content="width=device-width">'
    head += f"<title>{name}</title>"
    body = "\n".join(parts)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(
        out, f"{head}<style>{STYLE}</style>\n<h1>{name}</h1>\n{body}\n</html>\n"
    )


def _curves(log: TrainingLog) -> list[str]:
    """Show the objectives' learning; nothing while a tokenizer learns alone."""
    if not all_objectives(log):
        return []
    return [
        _section(
            "Learning",
            _picture(plots.learning_curves(log), "loss and accuracy over updates"),
            "Lines: training, means over the log's intervals. White markers: validation, "
            "after each epoch.",
        ),
        _section(
            "Codebooks",
            _picture(plots.codebook_use(log), "perplexity over updates"),
            "Perplexity: as many codes, equally often, would be as uncertain. A batch "
            "cannot show more codes than it has frames. Labels in the grey have "
            "collapsed; predictions begin there.",
        ),
    ]


def _section(title: str, content: str, note: str = "") -> str:
    note = f"<p>{note}</p>" if note else ""
    return f"<h2>{title}</h2>\n{content}\n{note}"


def _picture(png: bytes, text: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return read_json(path)


def _beside(folder: Path, *patterns: str) -> Iterator[Path]:
    """Yield files in an experiment's folder, and in the folder of its matrix."""
    for pattern in patterns:
        yield from sorted(folder.glob(pattern))
        yield from sorted(folder.resolve().parent.parent.glob(pattern))


def _phones(folder: Path, given: Sequence[Path]) -> list[str]:
    """Show results of phone_probe, both given ones and those beside the experiment."""
    measured: dict[str, dict] = {}

    def add(model: dict, path: Path) -> None:
        # Several files may have results of one model, such as on other speech.
        name = model["name"]
        measured[f"{name}, {path}" if name in measured else name] = model

    for path in given:
        for model in _models(path):
            add(model, path)
    shown = {path.resolve() for path in given}
    for path in _beside(folder, "phones*.json", "phones/*.json"):
        for model in _models(path) if path.resolve() not in shown else []:
            file = Path(model["file"])
            if file.suffix in (".yaml", ".yml"):
                measured.setdefault("untrained", model)
            elif file.resolve().parent == folder.resolve():
                add(model, path)
    if not measured:
        return []
    picture = plots.phone_accuracy(list(measured.items()))
    note = "Frames of speakers not trained on; bars: standard errors over speakers."
    rows = [
        (
            f"{name}, {one['name']}.{number}",
            book["pnmi"],
            book["chance"],
            round(book["perplexity"]),
        )
        for name, model in measured.items()
        for one in model["objectives"]
        for number, book in enumerate(one["books"])
    ]
    content = _picture(picture, "accuracy of phones by layer")
    if rows:
        content += _table(("labels of", "PNMI", "by chance", "codes in use"), rows)
    return [_section("Phones in the layers", content, note)]


def _models(path: Path) -> list[dict]:
    """Read the models in a file of phone_probe.

    Raises:
        DataError: The file is damaged, or of another kind.
    """
    content = _read(path)
    with refusing(path, NO_RESULTS):
        models = content["models"]
        for model in models:
            Path(model["file"]), str.strip(model["name"])
            sizes = set()
            for layer in model["layers"]:
                speakers = layer["accuracy"]["speakers"]
                sizes.add(len(speakers))
                sum([float(layer["layer"]), *speakers.values()])
                error = layer["accuracy"]["error"]  # of one speaker: none
                if not (error is None and len(speakers) == 1 or float(error) >= 0):
                    raise ValueError("an error below 0")
            if len(sizes) != 1:
                raise ValueError("layers of different speakers")
            for one in model["objectives"]:
                str.strip(one["name"])
                for book in one["books"]:
                    sum(float(book[key]) for key in ("pnmi", "chance", "perplexity"))
    return models


def _probes(folder: Path, given: Sequence[Path]) -> list[str]:
    """Show the results of the text probe."""
    # A matrix has OUT/ssl/ssl_NAME and OUT/probe/NAME.
    whole = folder.resolve()
    name = whole.name.removeprefix("ssl_")
    of_matrix = whole.parent.parent / "probe" / name / "probe.json"
    found = [*given, *sorted(folder.glob("probe*/probe.json"))]
    found += [of_matrix] if of_matrix.is_file() else []
    parts = []
    shown: dict[Path, Path] = {}
    for path in found:
        shown.setdefault(path.resolve(), path)
    for path in shown.values():
        result = _read(path)
        with refusing(path, NO_RESULTS):
            rows = [
                (name, *(result[kind][name]["percent"] for kind in ("cer", "wer")))
                for name in result["cer"]
            ]
            if not all(isinstance(x, (int, float)) for row in rows for x in row[1:]):
                raise ValueError("error rates that are no numbers")
            layers = [float(weight) for weight in result["layer_weights"]]
        content = _table(("set", "CER %", "WER %"), rows)
        weights = plots.layer_weights(layers)
        content += _picture(weights, "weights of the layers")
        parts.append(_section("Text in the layers", content, html.escape(str(path))))
    return parts


def _table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else html.escape(str(value))

    lines = ["".join(f"<th>{html.escape(x)}</th>" for x in head)]
    lines += ["".join(f"<td>{cell(x)}</td>" for x in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _model_at_work(folder: Path, audio: Path | None) -> list[str]:
    """Show an utterance's mask, labels and predictions, and the layers' similarity."""
    title = "An utterance"
    if not any(folder.glob("*epoch.pth")) and not any(folder.glob("*.ave*.pth")):
        text = "There is no model yet: it is saved after an epoch."
        return [_section(title, "", text)]
    if read_config(folder).get("input_size") is not None:
        text = (
            "The model takes vectors (input_size), not speech: there is none to show."
        )
        return [_section(title, "", text)]
    model = load(folder)
    if audio is None:
        entries, why = _find_utterances(folder, model.sample_rate, model.frames)
        if not entries:
            logging.warning(f"{folder}: {why}; give --audio")
            return [_section(title, "", html.escape(f"{why}; give --audio."))]
    else:
        entries = [str(audio)]
        probe_entry(entries[0], model.sample_rate)
    waves = [torch.from_numpy(read_wave(entry)) for entry in entries]
    look = glance(model.model, waves[0])
    note = (
        "Predictions from the masked input; labels from the clean input, without noise; "
        f"the first codebook of each objective. {html.escape(entries[0])}"
    )
    picture = _picture(plots.prediction(look), "input, mask, labels and predictions")
    similarity = plots.layer_similarity(layer_similarity(model, waves).numpy())
    seconds = sum(len(wave) for wave in waves) / model.sample_rate
    return [
        _section(
            "Layers",
            _picture(similarity, "similarity of the layers"),
            f"Linear centred kernel alignment over {seconds:.0f} s of speech; 0 is the "
            "input. After a collapse of labels the layers from theirs on are all alike.",
        ),
        _section(title, picture, note),
    ]


def _find_utterances(
    folder: Path, rate: int, frames: Callable[[int], int]
) -> tuple[list[str], str]:
    """Find validation utterances, best length first, or why there are none.

    Args:
        folder: Experiment.
        rate: Sample rate of the model in Hz.
        frames: Computes the number of frames of some samples.
    """
    lists = data_lists(read_config(folder), "valid")
    scps = [path for path, name, _ in lists if name == "speech"]
    if not scps:
        return [], "the configuration names no validation set"
    scp = find_path(folder, Path(scps[0]))
    if not scp.is_file():
        return [], f"the validation set's {scp} is not seen from here"
    resolve = PathResolver(scp.parent)
    found: list[tuple[float, str]] = []  # distance from SECONDS, file
    for _, entry in itertools.islice(iter_scp(scp), LOOKED_AT):
        try:
            entry = resolve(entry)
            info = probe_entry(entry, rate)
            if frames(info.frames):
                found.append((abs(info.seconds - SECONDS), entry))
        except DataError as error:
            return [], str(error)
        if len(found) >= COMPARED and min(found)[0] < SECONDS / 4:
            break
    why = "" if found else f"{scp}: its first utterances are too short for a frame"
    return [entry for _, entry in sorted(found)[:COMPARED]], why
