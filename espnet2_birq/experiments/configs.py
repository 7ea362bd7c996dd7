"""Configurations of a matrix's runs, and the FLOPs of their updates."""

import json
import tempfile
from functools import cache
from pathlib import Path

import yaml

from espnet2_birq.config import sampling_rate
from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.locking import locked
from espnet2_birq.errors import ConfigError
from espnet2_birq.experiments.spec import (
    Spec,
    System,
    merge,
    updates_of,
    updates_per_epoch,
    with_updates,
)
from espnet2_birq.reading import read_json, read_yaml

UTTERANCE = 5.0  # seconds per utterance when compute is counted
SSL_MODEL = "valid.total_count.ave.pth"
ROUNDS = 10  # in which a number of updates is found, of which three or so are needed


class Configs:
    """Configurations of all runs; computed without being written, so that they can be compared.

    Args:
        spec: The matrix.
        out: Output folder; configurations are written to OUT/config.
    """

    def __init__(self, spec: Spec, out: Path):
        self.spec = spec
        self.out = out
        self.folder = out / "config"
        self._flops = Flops(self.folder)
        # A run goes by what the files said at its beginning.
        self._base = cache(lambda: _read_options(spec.pretrain))
        self._pretraining: dict[str, dict] = {}
        self._finetuning: dict[str, str] = {}

    def model(self, name: str, seed: int) -> Path:
        """Return the averaged model of a pretraining run."""
        return self.out / "ssl" / f"ssl_{name}_seed{seed}" / SSL_MODEL

    def file(self, system: System, seed: int) -> Path:
        """Return the configuration file of a pretraining run."""
        return self.folder / f"{system.name}_seed{seed}.yaml"

    def finetune_file(self, system: System) -> Path | None:
        """Return the configuration file for fine-tuning a system, if there is any."""
        if system.finetune is None:
            return self.spec.finetune_config
        return self.folder / f"{system.name}_finetune.yaml"

    def pretraining(self, system: System) -> dict:
        """Return the configuration of pretraining, with its updates set but no seed.

        Raises:
            ConfigError: Updates are not whole epochs, or a reference is invalid.
        """
        if system.name not in self._pretraining:
            conf = self._with_own_updates(system)
            if system.compute_of is not None:
                other = self.spec.system(system.compute_of)
                flops = updates_of(self.pretraining(other)) * self.flops(other)
                conf = self._with_compute(conf, flops, system)
            self._pretraining[system.name] = conf
        return self._pretraining[system.name]

    def _with_compute(self, conf: dict, flops: float, system: System) -> dict:
        """Return a configuration with as many updates as cost some FLOPs."""
        each = updates_per_epoch(conf, system.name)
        if not _has_phases(conf):
            epochs = max(1, round(flops / self.flops(system) / each))
            return with_updates(conf, each * epochs, system.name)
        # The mean cost of an update depends on their number, which depends on it.
        for _ in range(ROUNDS):
            cost = self._flops.count_once(f"{system.name}.yaml", _dump(conf))
            epochs = max(1, round(flops / cost / each))
            before, conf = conf, with_updates(conf, each * epochs, system.name)
            if conf == before:
                break
        return conf

    def text(self, system: System, seed: int) -> str:
        """Return the text of the configuration file of a pretraining run."""
        own = {**self.pretraining(system), "seed": seed}
        if system.after is not None:
            own["init_param"] = [str(self.model(system.after, seed))]
        return yaml.safe_dump(own, sort_keys=False)

    def finetune_text(self, system: System) -> str:
        """Return the text of the configuration file for fine-tuning a system."""
        assert self.spec.finetune_config is not None  # see read_spec()
        if system.finetune is None:
            _read_options(self.spec.finetune_config)
            return self.spec.finetune_config.read_text("utf-8")
        if system.name not in self._finetuning:
            tune = _read_options(self.spec.finetune_config)
            text = yaml.safe_dump(merge(tune, system.finetune), sort_keys=False)
            self._finetuning[system.name] = text.replace("{out}", str(self.out))
        return self._finetuning[system.name]

    def flops(self, system: System) -> float:
        """Return the FLOPs of an update of pretraining."""
        conf = self._with_own_updates(system)
        if system.compute_of is not None and _has_phases(conf):
            conf = self.pretraining(system)
        return self._flops.count(system.name, _dump(conf))

    def write(self, seeds: list[int]) -> None:
        """Write all configurations, and the FLOPs of their updates.

        Raises:
            ConfigError: Updates are not whole epochs, or a reference is invalid.
        """
        with locked(self.folder / ".lock"):  # other matrices may have the same folder
            self._flops.keep_counts()
            for system in self.spec.systems:
                self.flops(system)
                path = self.finetune_file(system)
                if path is not None:
                    text = self.finetune_text(system)  # before all trainings, if wrong
                    if system.finetune is not None:
                        write_if_new(path, text)
                for seed in seeds:
                    write_if_new(self.file(system, seed), self.text(system, seed))

    def _with_own_updates(self, system: System) -> dict:
        conf = merge(self._base(), system.pretrain or {})
        if system.updates is not None:
            conf = with_updates(conf, system.updates, system.name)
        return conf


class Flops:
    """FLOPs of an update of each configuration, cached in flops.json.

    Args:
        folder: Folder of the configurations.

    Attributes:
        of: FLOPs by name.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.path = folder / "flops.json"
        self._keep = False
        self._counted: dict[str, float] = {}  # by text
        self._read()

    def keep_counts(self) -> None:
        """Write new counts and their configurations to the folder from now on."""
        self._keep = True
        self._read()

    def count(self, name: str, text: str) -> float:
        """Count a configuration's FLOPs, unless already done."""
        file = self.folder / f"{name}.yaml"
        if name in self.of and file.is_file() and file.read_text("utf-8") == text:
            return self.of[name]
        if self._keep:
            self.of.pop(name, None)
            self._save()  # first, so that an interruption leaves no outdated count
            file.write_text(text, encoding="utf-8")
            self.of[name] = self._counted.get(text) or update_flops(file)
            self._save()
            return self.of[name]
        return self.count_once(file.name, text)

    def count_once(self, file: str, text: str) -> float:
        """Count a configuration's FLOPs without writing them to the folder."""
        if text not in self._counted:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / file
                copy.write_text(text, encoding="utf-8")
                self._counted[text] = update_flops(copy)
        return self._counted[text]

    def _read(self):
        self.of = read_json(self.path) if self.path.is_file() else {}

    def _save(self):
        write_whole(self.path, json.dumps(self.of, indent=1))


def _read_options(path: Path) -> dict:
    """Read a training configuration.

    Raises:
        ConfigError: The file is not YAML, or has no options.
    """
    conf = read_yaml(path, "correct it")
    if not isinstance(conf, dict):
        raise ConfigError(f"{path}: has no training options; correct it")
    return conf


def _dump(conf: dict) -> str:
    return yaml.safe_dump(conf, sort_keys=False)


def _has_phases(conf: dict) -> bool:
    """Whether updates differ in cost, since objectives start late or stop early."""
    parts = [*(conf.get("objectives") or []), conf.get("tokenizer_conf") or {}]
    return any(isinstance(part, dict) and part.get("when") for part in parts)


def update_flops(config: Path) -> float:
    """Count FLOPs of an update: matmuls and convolutions, including the target branch.

    They are counted on fake tensors (planning/cost.py), for utterances of UTTERANCE
    seconds, and averaged over the configured updates: objectives that start late or stop
    early cost nothing in the others.

    Args:
        config: Configuration of pretraining.

    Raises:
        ConfigError: Invalid configuration.
    """
    from espnet2_birq.planning.batches import configured_batch
    from espnet2_birq.planning.cost import FakeModel
    from espnet2_birq.tasks.ssl import SSLTask

    arguments = ["--config", str(config), "--output_dir", "-"]
    args = SSLTask.get_parser().parse_args(arguments)
    batch = configured_batch(args, UTTERANCE, gpus=1)
    utterances = max(1, round(batch.seconds / UTTERANCE))
    samples = round(UTTERANCE * sampling_rate(args.frontend_conf))
    updates = range(updates_of(vars(args))) if args.num_iters_per_epoch else None
    cost = FakeModel(args, gpu=False).count_step(utterances, samples, updates=updates)
    return cost.flops * batch.seconds / (UTTERANCE * utterances) * batch.accum_grad


def write_if_new(path: Path, text: str) -> None:
    """Write a file unless its content is unchanged."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)
