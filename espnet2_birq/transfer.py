"""Hand-off of a pretrained encoder to an ASR model, and its verification.

ESPnet's ``--init_param`` matches names by prefix and silently loads nothing if none
matches. The check repeats this loading into a model filled with NaN, after which only
the loaded tensors equal the pretrained ones.
"""

import argparse
import inspect
import logging
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

from espnet2_birq.checkpoint import check_model_file, load_tensors
from espnet2_birq.config import read_asr_config, read_config
from espnet2_birq.encoders.frontend import FeatureInput
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.finetuning import count_updates
from espnet2_birq.tasks.ssl import SSLTask, encoder_choices, with_defaults

ENCODER = "encoder."
LAYER = re.compile(r"encoder\.encoders\.(\d+)\.")


class Handoff(NamedTuple):
    """Outcome of the check."""

    loaded: list[str]  # encoder tensors equal to the pretrained ones after loading
    missing: list[str]  # encoder tensors not loaded, or loaded with other values
    dropped: list[str]  # pretrained tensors of layers above the ASR encoder's last one
    unused: list[str]  # other pretrained tensors without a counterpart in the ASR model
    differing: list[str]  # frontend and normalize, if different
    values: int  # elements of the loaded tensors

    @property
    def is_whole(self) -> bool:
        """Whether the whole encoder was loaded, and both models have equal features."""
        return not (self.missing or self.unused or self.differing)

    def __str__(self) -> str:
        """Format counts, and names of missing or differing tensors."""
        lines = [
            f"encoder tensors from pretraining: {len(self.loaded)} of "
            f"{len(self.loaded) + len(self.missing)} "
            f"({self.values / 1e6:.2f} M values)"
        ]
        if self.dropped:
            found = (LAYER.match(name) for name in self.dropped)
            layers = sorted({int(match[1]) for match in found if match})
            lines.append(
                f"pretrained top layers that the ASR encoder does without: {len(layers)} "
                f"({', '.join(map(str, layers))}; {len(self.dropped)} tensors)"
            )
        for title, names in [
            ("not from pretraining", self.missing),
            ("pretrained, but without a place in the ASR model", self.unused),
            ("differs between the two models, so features do too", self.differing),
        ]:
            if names:
                lines += [f"{title}: {len(names)}", *(f"  {name}" for name in names)]
        return "\n".join(lines)


def init_param(ssl_model: Path, asr_args: argparse.Namespace) -> str:
    """Make ESPnet's ``--init_param`` for an ASR encoder, which may have fewer layers.

    ESPnet rejects tensors without a counterpart in the ASR model, so surplus top layers
    are excluded by name. That is safer than ``--ignore_init_mismatch``, which
    ignores any mismatch.

    Args:
        ssl_model: Pretrained model file next to its config.yaml.
        asr_args: Options of asr_train.

    Returns:
        FILE:encoder:encoder, with the layers to exclude.

    Raises:
        ConfigError: A file is missing, or the ASR encoder has more layers.
    """
    have, want = map(_depth, (read_config(ssl_model), asr_args))
    spec = f"{ssl_model}:encoder:encoder"
    if have == want or have is None or want is None:
        return spec
    if want > have:
        raise ConfigError(
            f"{ssl_model}: has {have} encoder layers, the ASR configuration needs "
            f"{want}; lower num_blocks in its encoder_conf"
        )
    # With a final dot, since encoders.1 is also a prefix of encoders.10.
    return f"{spec}:" + ",".join(f"encoder.encoders.{n}." for n in range(want, have))


def _depth(args: argparse.Namespace) -> int | None:
    """Return the number of layers, from a configuration; None if it does not tell."""
    given = (args.encoder_conf or {}).get("num_blocks")
    if given is not None or getattr(args, "encoder", None) is None:
        return given
    own = inspect.signature(encoder_choices.get_class(args.encoder)).parameters
    return own["num_blocks"].default if "num_blocks" in own else None


def copy_statistics(ssl_model: Path, dest: Path) -> bool:
    """Copy the feature statistics of pretraining.

    Statistics of other data would give the encoder other features than in pretraining.

    Args:
        ssl_model: Pretrained model file next to its config.yaml.
        dest: File to write atomically; its folder is created.

    Returns:
        Whether there are statistics, which only global_mvn has.

    Raises:
        ConfigError: The statistics are missing.
    """
    args = read_config(ssl_model)
    if args.normalize != "global_mvn":
        return False
    source = Path(args.normalize_conf["stats_file"])
    if not source.is_file():
        raise ConfigError(
            f"{source}: statistics that {ssl_model} was trained with are missing; "
            "put them beside it, as feats_stats.npz"
        )
    dest.parent.mkdir(parents=True, exist_ok=True)
    part = dest.with_name(dest.name + ".part")
    shutil.copyfile(source, part)
    part.replace(dest)
    return True


def training_options(
    asr_args: argparse.Namespace,
    gpus: int,
    ssl_model: Path | None = None,
    stats: Path | None = None,
    steps_are_given: bool = False,
    resumed: Path | None = None,
) -> str:
    """Make the options of asr_train that depend on the data and the pretrained model.

    Args:
        asr_args: Options of asr_train.
        gpus: Number of GPUs.
        ssl_model: Pretrained model file next to its config.yaml.
        stats: File for a copy of pretraining's statistics, if any.
        steps_are_given: Whether the scheduler's number of updates is already set.
        resumed: config.yaml of the training that goes on, if there is one; a warning is
            logged if its schedule ends elsewhere, since ESPnet keeps that one.

    Returns:
        The options in one line; may be empty.

    Raises:
        ConfigError: Updates cannot be counted, an epoch has none, or the encoder would be
            frozen in all.
    """
    updates = count_updates(asr_args, gpus)
    if updates is not None and asr_args.freeze_encoder_updates >= updates:
        raise ConfigError(
            f"freeze_encoder_updates is {asr_args.freeze_encoder_updates:g}, and the "
            f"training has {updates} updates, so the encoder would never be trained; give "
            "fewer, or a share such as 0.1 (to keep it frozen: --freeze_param encoder)"
        )
    found = []
    if asr_args.scheduler == "tristagelr" and not steps_are_given:
        if updates is None:
            raise ConfigError(
                "the scheduler tristagelr needs the number of updates, which "
                f"is not known beforehand with iterator_type {asr_args.iterator_type}, "
                f"batch_type {asr_args.batch_type}; give --asr_args '--scheduler_conf "
                "max_steps=N'"
            )
        found.append(f"--scheduler_conf max_steps={updates}")
        if resumed is not None:
            conf = read_asr_config(resumed).scheduler_conf or {}
            if (before := conf.get("max_steps", updates)) != updates:
                logging.warning(
                    f"{resumed.parent}: its learning rate has a schedule of {before} updates, "
                    f"which goes on, and stays at its end; for a schedule of {updates}, train "
                    "anew with another --asr_tag"
                )
    if (
        ssl_model is not None
        and stats is not None
        and copy_statistics(ssl_model, stats)
    ):
        found.append(f"--normalize global_mvn --normalize_conf stats_file={stats}")
    return " ".join(found)


def check_handoff(ssl_model: Path, asr_model: Path) -> Handoff:
    """Repeat the loading configured by an ASR experiment, and compare tensors.

    Args:
        ssl_model: Pretrained model file next to its config.yaml.
        asr_model: config.yaml of an ASR experiment, or a model file next to it.

    Returns:
        Encoder tensors of the ASR model by origin.

    Raises:
        ConfigError: A file is missing, or is not of an ASR model.
    """
    ssl_args = read_config(ssl_model)
    pretrained = SSLTask.build_model(with_defaults(ssl_args))
    # The tensors must match the configuration exactly.
    pretrained.load_state_dict(load_tensors(ssl_model))
    asr_args = read_asr_config(asr_model)
    model = ASRTask.build_model(asr_args)
    for tensor in model.encoder.state_dict().values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else -1)
    for spec in asr_args.init_param or []:
        file = Path(spec.split(":")[0])
        if not file.is_file():
            raise ConfigError(
                f"{file}: init_param of {asr_model} is missing; run this from the "
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
        differing=_differing_modules(pretrained, model),
        values=sum(state[key].numel() for key in loaded),
    )


@torch.no_grad()
def _differing_modules(pretrained, model) -> list[str]:
    """Return which of frontend and normalize give different outputs for noise.

    Settings and buffers are unsuitable for comparison: the window is in none of them,
    the path of global_mvn's statistics differs between experiments, and averaging
    rounds filters and statistics once more.
    """
    shape = [1, 16000]
    if isinstance(pretrained.frontend, FeatureInput):
        shape = [1, 100, pretrained.frontend.size]
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    feats = _output(pretrained.frontend, noise)
    others = _output(model.frontend, noise)
    differing = [] if _same(feats, others) else ["frontend"]
    # With features of another size, normalize cannot be compared.
    if feats.shape[-1] == others.shape[-1]:
        feats, others = (_output(one.normalize, feats) for one in (pretrained, model))
        differing += [] if _same(feats, others) else ["normalize"]
    return differing


def _output(module: torch.nn.Module | None, inputs: torch.Tensor) -> torch.Tensor:
    if module is None:
        return inputs
    # Copied, because ESPnet's normalization works in place.
    return module.eval()(inputs.clone(), torch.tensor([inputs.shape[1]]))[0]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether outputs are equal up to float32 rounding (log-mel values are 1 to 10)."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-4)


def change_since(ssl_model: Path, asr_model: Path) -> float:
    """Compute how far fine-tuning moved the encoder: |after - before| / |before|.

    Args:
        ssl_model: Pretrained model file.
        asr_model: Fine-tuned model file.

    Returns:
        Ratio over all floating-point encoder tensors; 0 before fine-tuning.

    Raises:
        ConfigError: The models have no encoder tensors in common, or of other shapes.
    """
    before, after = load_tensors(ssl_model), load_tensors(asr_model)
    moved = total = 0.0
    for key, value in before.items():
        if key.startswith(ENCODER) and value.is_floating_point() and key in after:
            if after[key].shape != value.shape:
                raise ConfigError(f"{asr_model}: its {key} is of another shape")
            moved += (after[key] - value).double().square().sum().item()
            total += value.double().square().sum().item()
    if not total:
        raise ConfigError(f"{asr_model}: has no tensors of {ssl_model}'s encoder")
    return (moved / total) ** 0.5
