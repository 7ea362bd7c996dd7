"""Model card of an experiment: description of the model and of its training."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from espnet2_birq.checkpoint import check_model_file, load_tensors
from espnet2_birq.config import data_lists, options_of, sampling_rate
from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.kaldi import iter_scp, parse_samples
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.markdown import markdown_table
from espnet2_birq.experiments.progress import read_config, time_words
from espnet2_birq.experiments.status import find_path
from espnet2_birq.experiments.training_log import (
    TrainingLog,
    all_objectives,
    last_of,
    read_training_log,
)

USE = """\
```python
from espnet2_birq.api import load

model = load("{name}")
features, lengths = model.extract_features([speech])  # samples at {rate} Hz
```

Or fine-tune the encoder with any ESPnet ASR recipe: {first}`asr.sh --pretrained_model
{file}:encoder:encoder`, with the same `frontend_conf` and `normalize`."""
USE_VECTORS = """\
```python
from espnet2_birq.tasks.loading import load_model

model = load_model("{name}")
codes, frames = model.label(xs, lengths, "{objective}")  # xs: (B, T, {size})
```"""
CONVERT = '`torch.save(model.model.state_dict(), "{file}")`, then '


def write_card(
    model: Path,
    out: Path,
    license: str | None = None,
    repository: str | None = None,
    published: Path | None = None,
) -> None:
    """Write a model card in Markdown, with metadata for the Hugging Face hub.

    It contains no names of machines or folders used in training.

    Args:
        model: Model file in its experiment's folder.
        out: File to write, usually README.md.
        license: Identifier of the licence, e.g. cc-by-4.0; None: the card says that
            none was given.
        repository: Name on the hub, for the title and the usage example.
        published: Folder that is published, with safetensors, which ESPnet does not
            read, instead of the model file.

    Raises:
        DataError: The model file is incomplete, or there is no training log.
    """
    check_model_file(model)
    folder = model.parent
    conf, log = read_config(folder), read_training_log(folder)
    wanted: dict[str, type] = {"frontend_conf": dict, "encoder_conf": dict}
    wanted |= {"encoder": str, "optim": str, "objectives": list}
    wanted |= {"train_shape_file": list, "valid_shape_file": list}
    options_of(conf, folder / "config.yaml", **wanted)
    meta: dict[str, Any] = {
        "library_name": "espnet",
        "tags": ["espnet", "audio", "self-supervised-learning", "feature-extraction"],
    }
    if license:
        meta["license"] = license
    rate = sampling_rate(conf["frontend_conf"])
    what = "A speech encoder pretrained without text by predicting labels of masked frames."
    if conf.get("input_size") is not None:  # vectors instead of speech
        what = "An encoder of vectors pretrained by predicting labels of masked ones."
        meta["tags"] = [x for x in meta["tags"] if x != "audio"]
    rows = [*_model(model, conf, rate), *_data(folder, conf, rate)]
    rows += [*_training(conf, log), ("licence", license or "not given")]
    objectives = yaml.safe_dump(conf["objectives"], sort_keys=False).rstrip()
    parts = [
        f"---\n{yaml.safe_dump(meta, sort_keys=False)}---",
        f"# {repository or folder.resolve().name}",
        what,
        markdown_table(("", ""), [list(row) for row in rows]),
        f"## Use\n\n{_use(model, conf, repository, published)}",
        f"## Objectives\n\n```yaml\n{objectives}\n```",
        f"## Numbers\n\n{_numbers(log)}",
    ]
    write_whole(out, "\n\n".join(parts) + "\n")


def _use(
    model: Path, conf: dict, repository: str | None, published: Path | None
) -> str:
    """Show how to load the model; arguments are those of write_card()."""
    size = conf.get("input_size")
    if size is not None:
        labels = conf["objectives"][0]["name"]
        return USE_VECTORS.format(name=model.name, objective=labels, size=size)
    rate = sampling_rate(conf["frontend_conf"])
    first, name = "", model.name
    if published:
        first, name = CONVERT.format(file=model.name), published.resolve().name
    return USE.format(name=repository or name, rate=rate, file=model.name, first=first)


def _model(model: Path, conf: dict, rate: int) -> Iterator[tuple[str, str]]:
    """Describe the encoder and its input."""
    state = load_tensors(model)
    size = sum(x.numel() for name, x in state.items() if name.startswith("encoder."))
    encoder = conf["encoder_conf"]
    sizes = [
        f"{encoder[key]} {text}"
        for key, text in (("num_blocks", "layers of"), ("output_size", "dimensions"))
        if key in encoder
    ]
    yield (
        "encoder",
        f"{conf['encoder']}, {' '.join(sizes)}, {size / 1e6:.1f} M parameters",
    )
    values = conf.get("input_size")
    vectors = f"vectors of {values} values, {rate} per second"
    yield "input", f"speech at {rate} Hz" if values is None else vectors


def _data(folder: Path, conf: dict, rate: int) -> Iterator[tuple[str, str]]:
    """Describe the training and validation sets by their lists of lengths."""
    for kind in ("train", "valid"):
        lists = data_lists(conf, kind)
        names = sorted({Path(x[0]).parent.name for x in lists if x[1] == "speech"})
        found = [find_path(folder, Path(str(x))) for x in conf[f"{kind}_shape_file"]]
        text = ", ".join(names)
        if found and os.path.isfile(found[0]):
            samples = [_samples(found[0], *line) for line in iter_scp(found[0])]
            hours = sum(samples) / rate / 3600
            text += f": {len(samples)} utterances, {hours:.1f} hours"
        yield {"train": "training data", "valid": "validation data"}[kind], text


def _samples(path: Path, utt_id: str, shape: str) -> int:
    samples = parse_samples(shape.split(",")[0])
    if samples is None:
        raise DataError(f"{path}: {utt_id} has no length; run stage 6 again")
    return samples


def _training(conf: dict, log: TrainingLog) -> Iterator[tuple[str, str]]:
    """Describe the length of the training."""
    yield "configuration", Path(str(conf["config"])).name if conf.get("config") else "-"
    text = (
        f"{log.last_update}, in {len(log.train)} epochs and {time_words(log.seconds)}"
    )
    yield "updates", text
    if log.train and "optim0_lr0" in log.train[-1]:
        rates = [values.get("optim0_lr0", 0.0) for values in log.intervals]
        yield "highest learning rate", f"{max(rates):.2g} ({conf['optim']})"
    yield "made with", f"ESPnet {conf.get('version', '-')}, espnet2_birq"


def _numbers(log: TrainingLog) -> str:
    """Tabulate the statistics of the last epoch, or of an objective's own last one."""
    if not log.train:
        raise DataError("the training has not finished an epoch; pack it later")
    rows = []
    for kind, epochs in (("training", log.train), ("validation", log.valid)):
        for name in all_objectives(log):
            last = last_of(name, epochs)
            if last is None:
                continue
            keys = ("loss", "acc", "label_ppl", "pred_ppl")
            found = [epochs[last].get(f"{key}_{name}") for key in keys]
            title = f"{name}, {kind}"
            if last + 1 < len(epochs):
                title += f", until epoch {last + 1}"
            rows.append([title, *("-" if x is None else f"{x:.3g}" for x in found)])
    head = (
        "last epoch",
        "loss",
        "accuracy",
        "label perplexity",
        "prediction perplexity",
    )
    return markdown_table(head, rows)
