"""Proof that a pretrained encoder reached an ASR model.

ESPnet's ``--init_param`` matches names by prefix and loads nothing, without a word,
when none matches. Here its own loading is repeated into a model full of NaN: what is
equal to the pretrained tensors afterwards was loaded, and nothing else was.
"""

import argparse
import re
from pathlib import Path
from typing import List, NamedTuple

import torch
import yaml
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from espnet2.torch_utils.safe_torch_load import safe_torch_load

from espnet2_birq.checkpoint import check_model_file
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.ssl import SSLTask

ENCODER = "encoder."
LAYER = re.compile(r"encoder\.encoders\.(\d+)\.")


class Handoff(NamedTuple):
    """Outcome of the check."""

    loaded: List[str]  # encoder tensors equal to the pretrained ones after loading
    missing: List[str]  # encoder tensors that loading left alone, or made different
    dropped: List[str]  # pretrained tensors of layers above the ASR encoder's last one
    unused: List[str]  # other ones that the ASR model has no place for
    differing: List[str]  # of frontend and normalize, those that differ
    values: int  # numbers in the loaded tensors


def read_config(path: Path) -> argparse.Namespace:
    """Read an experiment's config.yaml.

    Args:
        path: The config.yaml, or a model file beside it.

    Raises:
        ConfigError: There is none.
    """
    config = path if path.suffix in (".yaml", ".yml") else path.parent / "config.yaml"
    for file in (path, config):
        if not file.is_file():
            raise ConfigError(f"{file}: no such file; give a model beside its config")
    with open(config, encoding="utf-8") as stream:
        return argparse.Namespace(**yaml.safe_load(stream))


def init_param(ssl_model: Path, asr_args: argparse.Namespace) -> str:
    """Make ESPnet's ``--init_param`` for an ASR encoder, which may have less layers.

    ESPnet refuses tensors that the ASR model has no place for, so the layers above its
    last one are excluded by name. That is safer than ``--ignore_init_mismatch``, which
    would pass over anything.

    Args:
        ssl_model: Pretrained model file, its config.yaml beside it.
        asr_args: Options of asr_train.

    Returns:
        FILE:encoder:encoder, with the layers to leave out.

    Raises:
        ConfigError: A file is missing, or the ASR encoder has more layers.
    """
    have, want = (
        (args.encoder_conf or {}).get("num_blocks")
        for args in (read_config(ssl_model), asr_args)
    )
    spec = f"{ssl_model}:encoder:encoder"
    # A number that is not given is the encoder's default, which is that of both.
    if have == want or have is None or want is None:
        return spec
    if want > have:
        raise ConfigError(
            f"{ssl_model}: has {have} encoder layers, the ASR configuration wants "
            f"{want}; lower num_blocks in its encoder_conf"
        )
    # With the dot at its end: encoders.1 is the beginning of encoders.10, too.
    return f"{spec}:" + ",".join(f"encoder.encoders.{n}." for n in range(want, have))


def check_handoff(ssl_model: Path, asr_model: Path) -> Handoff:
    """Repeat the loading that an ASR experiment's configuration asks for, and compare.

    Args:
        ssl_model: Pretrained model file, its config.yaml beside it.
        asr_model: config.yaml of an ASR experiment, or a model file beside it.

    Returns:
        Which of the ASR model's encoder tensors came from the pretrained model.

    Raises:
        ConfigError: A file is missing.
    """
    ssl_args = read_config(ssl_model)
    # No label is made here: their statistics, in a path relative to another folder, are
    # not needed.
    ssl_args.frame_statistics, ssl_args.dry_run = None, True
    pretrained = SSLTask.build_model(ssl_args)
    check_model_file(ssl_model)
    # Its state is read as ESPnet will read it; the configuration must fit it whole.
    pretrained.load_state_dict(safe_torch_load(str(ssl_model), map_location="cpu"))
    asr_args = read_config(asr_model)
    model = ASRTask.build_model(asr_args)
    for tensor in model.encoder.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else -1)
    for spec in asr_args.init_param or []:
        file = Path(spec.split(":")[0])
        if not file.is_file():
            raise ConfigError(
                f"{file}: init_param of {asr_model} is not there; run this from the "
                "folder the ASR model was trained in"
            )
        check_model_file(file)
        load_pretrained_model(
            init_param=spec,
            model=model,
            ignore_init_mismatch=asr_args.ignore_init_mismatch,
        )
    source = pretrained.encoder.state_dict()
    state = model.encoder.state_dict()
    loaded = [
        key for key in state if key in source and torch.equal(state[key], source[key])
    ]
    layers = [int(match[1]) for key in state if (match := LAYER.match(ENCODER + key))]
    unused = [ENCODER + key for key in source if key not in state]
    dropped = [
        key
        for key in unused
        if (match := LAYER.match(key)) and layers and int(match[1]) > max(layers)
    ]
    return Handoff(
        loaded=[ENCODER + key for key in loaded],
        missing=[ENCODER + key for key in state if key not in set(loaded)],
        dropped=dropped,
        unused=[key for key in unused if key not in set(dropped)],
        differing=[
            name
            for name in ("frontend", "normalize")
            if not _same_module(getattr(pretrained, name), getattr(model, name))
        ],
        values=sum(state[key].numel() for key in loaded),
    )


def _same_module(one, other) -> bool:
    """Same settings (they show in repr) and same buffers, e.g. filters, statistics."""
    if one is None or other is None:
        return one is other
    one_state, other_state = one.state_dict(), other.state_dict()
    return (
        repr(one) == repr(other)
        and one_state.keys() == other_state.keys()
        and all(torch.equal(one_state[key], other_state[key]) for key in one_state)
    )


def change_since(ssl_model: Path, asr_model: Path) -> float:
    """How far fine-tuning moved the encoder: |after - before| / |before|.

    Args:
        ssl_model: Pretrained model file.
        asr_model: Fine-tuned model file.

    Returns:
        The ratio over all floating-point encoder tensors; 0 before fine-tuning.
    """
    for path in (ssl_model, asr_model):
        check_model_file(path)
    before = safe_torch_load(str(ssl_model), map_location="cpu")
    after = safe_torch_load(str(asr_model), map_location="cpu")
    moved = total = 0.0
    for key, value in before.items():
        if key.startswith(ENCODER) and value.is_floating_point() and key in after:
            moved += (after[key] - value).double().square().sum().item()
            total += value.double().square().sum().item()
    return (moved / total) ** 0.5
