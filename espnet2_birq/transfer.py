"""Proof that a pretrained encoder reached an ASR model.

ESPnet's ``--init_param`` matches names by prefix and loads nothing, without a word,
when none matches. Here its own loading is repeated into a model full of NaN: what is
equal to the pretrained tensors afterwards was loaded, and nothing else was.
"""

import argparse
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model
from espnet2.torch_utils.safe_torch_load import safe_torch_load

from espnet2_birq.checkpoint import check_model_file, read_config
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.finetuning import count_updates
from espnet2_birq.tasks.ssl import SSLTask

ENCODER = "encoder."
LAYER = re.compile(r"encoder\.encoders\.(\d+)\.")


class Handoff(NamedTuple):
    """Outcome of the check."""

    loaded: list[str]  # encoder tensors equal to the pretrained ones after loading
    missing: list[str]  # encoder tensors that loading left alone, or made different
    dropped: list[str]  # pretrained tensors of layers above the ASR encoder's last one
    unused: list[str]  # other ones that the ASR model has no place for
    differing: list[str]  # of frontend and normalize, those that differ
    values: int  # numbers in the loaded tensors

    @property
    def is_whole(self) -> bool:
        """Whether all of the ASR encoder came over, and both see the same features."""
        return not (self.missing or self.unused or self.differing)

    def __str__(self) -> str:
        """Counts; names of what did not come over, or differs."""
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


def copy_statistics(ssl_model: Path, dest: Path) -> bool:
    """Copy the statistics that pretraining normalized features by.

    Those of other data would give the encoder other features than it was trained on.

    Args:
        ssl_model: Pretrained model file, its config.yaml beside it.
        dest: File to write, whole; its folder is made.

    Returns:
        Whether there are any: only with global_mvn.

    Raises:
        ConfigError: They are missing.
    """
    args = read_config(ssl_model)
    if args.normalize != "global_mvn":
        return False
    source = Path(args.normalize_conf["stats_file"])
    if not source.is_file():
        raise ConfigError(
            f"{source}: statistics that {ssl_model} was trained with are not there; "
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
) -> str:
    """Make options of asr_train that depend on the data and the pretrained model.

    Args:
        asr_args: Options of asr_train.
        gpus: How many train together.
        ssl_model: Pretrained model file, its config.yaml beside it.
        stats: Gets a copy of the statistics of pretraining, if it has any.
        steps_are_given: Do not set the number of updates of the scheduler.

    Returns:
        The options in one line; may be empty.

    Raises:
        ConfigError: Updates cannot be counted, or an epoch has none.
    """
    updates = count_updates(asr_args, gpus)
    found = []
    if asr_args.scheduler == "tristagelr" and not steps_are_given:
        if updates is None:
            raise ConfigError(
                "the scheduler tristagelr has to be told the number of updates, which "
                f"is not known beforehand with iterator_type {asr_args.iterator_type}, "
                f"batch_type {asr_args.batch_type}; give --asr_args '--scheduler_conf "
                "max_steps=N'"
            )
        found.append(f"--scheduler_conf max_steps={updates}")
    if (
        ssl_model is not None
        and stats is not None
        and copy_statistics(ssl_model, stats)
    ):
        found.append(f"--normalize global_mvn --normalize_conf stats_file={stats}")
    return " ".join(found)


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
        differing=_differing_modules(pretrained, model),
        values=sum(state[key].numel() for key in loaded),
    )


@torch.no_grad()
def _differing_modules(pretrained, model) -> list[str]:
    """Name those of frontend and normalize whose output differs on a second of noise.

    Outputs are compared because neither settings nor buffers tell: the window shows in
    none of them, the path of global_mvn's statistics is another one in each experiment,
    and an averaged model's filters and statistics have been rounded once more.
    """
    noise = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    feats = _output(pretrained.frontend, noise)
    others = _output(model.frontend, noise)
    differing = [] if _same(feats, others) else ["frontend"]
    # Features of another size are none that the other normalize could be tried on.
    if feats.shape[-1] == others.shape[-1]:
        feats, others = (_output(one.normalize, feats) for one in (pretrained, model))
        differing += [] if _same(feats, others) else ["normalize"]
    return differing


def _output(module: torch.nn.Module | None, inputs: torch.Tensor) -> torch.Tensor:
    if module is None:
        return inputs
    # A copy: ESPnet's normalization works in place.
    return module.eval()(inputs.clone(), torch.tensor([inputs.shape[1]]))[0]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for float32's rounding (log-mel values are of the order of 1 to 10)."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-4)


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
