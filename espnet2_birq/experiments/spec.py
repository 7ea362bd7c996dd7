"""Specification of a matrix of experiments, read from YAML."""

import math
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet2_birq.config import count_of
from espnet2_birq.errors import ConfigError
from espnet2_birq.reading import read_yaml

KEYS = {
    "recipe": "folder with ssl1 and asr1, from the configuration's own",
    "pretrain": "configuration of pretraining, from the recipe's ssl1",
    "systems": "list of what is compared",
    "tests": "test sets of asr1/run.sh",
    "train_set": "of the recipe; default: train",
    "finetune": "dictionary: config, sets",
    "probe": "options of espnet2_birq.bin.probe, in one string; none: no probe",
    "compare": "pairs of systems whose difference is tested",
}
SYSTEM_KEYS = {
    "name": "letters, digits, _ and -; names its folders",
    "label": "what it is called in tables; default: the name",
    "pretrain": "changes of the configuration; null: not pretrained",
    "updates": "of pretraining; default: what the configuration says",
    "compute_of": "as many updates as cost what this system's cost",
    "finetune": "changes of the configuration of fine-tuning; in it, {out} is the matrix's "
    "output folder",
    "after": "system from whose model, of the same seed, this one's pretraining starts",
}


# Type of each key's value, at any level; values of other keys are not type-checked.
TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("recipe", "train_set", "probe", "name", "label"), str),
    **dict.fromkeys(("compute_of", "after", "rest_of", "config"), str),
    **dict.fromkeys(("systems", "tests", "compare"), list),
    **dict.fromkeys(("finetune", "sets"), dict),
    "updates": int,
    "hours": (int, float),
}


@dataclass(frozen=True)
class System:
    """A row of the matrix.

    Attributes:
        name: Name in folders.
        label: Name in tables.
        pretrain: Changes to the pretraining configuration; None: from scratch.
        updates: Updates of pretraining; None: max_epoch x num_iters_per_epoch.
        compute_of: Name of the system whose compute it matches.
        after: Name of the system whose model it starts from, with a new optimizer.
        finetune: Changes to the fine-tuning configuration.
    """

    name: str
    label: str
    pretrain: dict[str, Any] | None
    updates: int | None = None
    compute_of: str | None = None
    after: str | None = None
    finetune: dict[str, Any] | None = None


@dataclass(frozen=True)
class FinetuneSet:
    """Labelled speech to fine-tune on.

    Attributes:
        name: Name in tables and folders.
        hours: Hours of the training set; None: all, or the remainder of another.
        rest_of: Set whose remainder it is.
    """

    name: str
    hours: float | None = None
    rest_of: str | None = None


@dataclass(frozen=True)
class Spec:
    """A matrix of experiments; see KEYS.

    Attributes:
        recipe: Folder with ssl1 and asr1.
        pretrain: Configuration of pretraining.
        systems: Systems to compare.
        tests: Test sets.
        train_set: Pretraining set of the recipe; fine-tuning sets are parts of it.
        finetune_config: Configuration of fine-tuning; None: no fine-tuning.
        finetune_sets: Fine-tuning sets.
        probe: Options of the probe; None: no probe.
        compare: Pairs of systems, the one expected to be better first.
    """

    recipe: Path
    pretrain: Path
    systems: list[System]
    tests: list[str]
    train_set: str = "train"
    finetune_config: Path | None = None
    finetune_sets: list[FinetuneSet] = field(default_factory=list)
    probe: str | None = None
    compare: list[tuple[str, str]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Return the names of the systems in order."""
        return [system.name for system in self.systems]

    def system(self, name: str) -> System:
        """Return a system by name; raise ConfigError if there is none."""
        if name not in self.names:
            raise ConfigError(
                f"no system '{name}' in the matrix; there are {', '.join(self.names)}"
            )
        return self.systems[self.names.index(name)]

    def hours_of(self, one: FinetuneSet) -> float | None:
        """Return the hours of a fine-tuning set, or of the set it complements; None: all."""
        hours = {each.name: each.hours for each in self.finetune_sets}
        return hours[one.rest_of or one.name]


def read_spec(path: Path) -> Spec:
    """Read a matrix.

    Args:
        path: YAML file.

    Raises:
        ConfigError: The file is missing or invalid; the message names the key.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; see bench/*.yaml for a matrix")
    conf = read_yaml(path, "correct it")
    _check_keys(path, "", conf, KEYS, ("recipe", "pretrain", "systems", "tests"))
    if not isinstance(conf["pretrain"], str):
        raise ConfigError(f"{path}: 'pretrain' is a configuration's name")
    finetune = conf.get("finetune") or {}
    required = ("config",) if finetune else ()
    _check_keys(path, "finetune: ", finetune, {"config": "", "sets": ""}, required)
    sets = finetune.get("sets") or {}
    if finetune and not sets:
        raise ConfigError(
            f"{path}: finetune: no sets, so nothing would be fine-tuned; give it sets, such "
            "as {10min: {hours: 0.1667}}, or leave finetune out"
        )
    for value in sets.values():
        keys = {"hours": "how many to draw", "rest_of": "the set whose rest it is"}
        _check_keys(path, "finetune: sets: ", value or {}, keys, ())
    for name in conf["tests"]:
        if not isinstance(name, (str, int)):
            raise ConfigError(f"{path}: tests: {name} is not the name of a set")
    pairs = conf.get("compare") or []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise ConfigError(f"{path}: compare: {pairs} are not two systems each")
    recipe = (path.parent / conf["recipe"]).resolve()
    spec = Spec(
        recipe=recipe,
        pretrain=recipe / "ssl1" / conf["pretrain"],
        systems=[_system(path, system) for system in conf["systems"]],
        tests=[str(name) for name in conf["tests"]],
        train_set=conf.get("train_set") or "train",
        finetune_config=recipe / "asr1" / finetune["config"] if finetune else None,
        finetune_sets=[
            FinetuneSet(str(name), **(value or {})) for name, value in sets.items()
        ],
        probe=conf.get("probe"),
        compare=[(str(one), str(other)) for one, other in pairs],
    )
    _check(path, spec)
    return spec


def with_trunks(spec: Spec, names: list[str]) -> list[System]:
    """Return systems by name, preceded by those they start from.

    Raises:
        ConfigError: No such system.
    """
    wanted = {spec.system(name).name for name in names}
    for system in reversed(spec.systems):
        if system.name in wanted and system.after is not None:
            wanted.add(system.after)
    return [system for system in spec.systems if system.name in wanted]


def _system(path: Path, conf: dict) -> System:
    _check_keys(path, "systems: ", conf, SYSTEM_KEYS, ("name", "pretrain"))
    if not re.fullmatch("[A-Za-z0-9_-]+", conf["name"]):
        raise ConfigError(
            f"{path}: system '{conf['name']}': names have letters, digits, _ and - only"
        )
    if not isinstance(conf["pretrain"], dict | None):
        raise ConfigError(f"{path}: '{conf['name']}': pretrain is a dictionary or null")
    return System(**{"label": conf["name"], **conf})


def _check_keys(path, where, conf, known, required) -> None:
    if not isinstance(conf, dict):
        raise ConfigError(f"{path}: {where}give a dictionary, not {conf!r}")
    for key, value in conf.items():
        kind = TYPES.get(key)
        if kind is not None and not _is_value(key, value, kind):
            raise ConfigError(f"{path}: {where}'{key}' cannot be {str(value)[:80]!r}")
        if key not in known:
            raise ConfigError(
                f"{path}: {where}unknown key '{key}'; there are {', '.join(known)}"
            )
    for key in required:
        if key not in conf or conf[key] is None and key != "pretrain":
            raise ConfigError(f"{path}: {where}key '{key}' is missing")
        if conf[key] == []:
            raise ConfigError(f"{path}: {where}key '{key}' is empty; give one at least")


def _is_value(key: str, value: Any, kind: type | tuple[type, ...]) -> bool:
    if value is None:  # as if it were not given, except in tables
        return key != "label"
    return isinstance(value, kind) and not isinstance(value, bool)


def _check(path: Path, spec: Spec) -> None:
    names = spec.names
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two systems are called '{name}'")
        # Files of a system's configurations, see Configs
        owner = re.sub("_(finetune|seed[0-9]+)$", "", name)
        if owner != name and owner in names:
            raise ConfigError(
                f"{path}: system '{name}': files of '{owner}' have this name; give "
                "another name"
            )
    for number, system in enumerate(spec.systems):
        if system.updates is not None and system.updates < 1:
            raise ConfigError(
                f"{path}: '{system.name}' has {system.updates} updates; give 1 or more"
            )
        if system.after is not None:
            above = spec.systems[:number]
            before = [one.name for one in above if one.pretrain is not None]
            if system.after not in before or system.pretrain is None:
                raise ConfigError(
                    f"{path}: '{system.name}': after needs two systems with "
                    f"pretraining, '{system.after}' above it in the list"
                )
        if system.finetune is not None and spec.finetune_config is None:
            raise ConfigError(
                f"{path}: '{system.name}': changes of a fine-tuning, but the matrix has "
                "none: give it finetune: {config, sets}"
            )
        other = system.compute_of
        if other is None:
            continue
        if other not in names:
            raise ConfigError(f"{path}: compute_of: no system '{other}'")
        if spec.system(other).pretrain is None or spec.system(other).compute_of:
            raise ConfigError(
                f"{path}: compute_of: '{other}' has no updates of its own"
            )
        if system.pretrain is None or system.updates is not None:
            raise ConfigError(
                f"{path}: '{system.name}': compute_of is for systems with pretraining and "
                "without updates"
            )
    for pair in spec.compare:
        if not set(pair) <= set(names):
            raise ConfigError(f"{path}: compare: {list(pair)} are not two systems")
    _check_sets(path, spec.finetune_sets)
    split_options(f"{path}: probe", spec.probe or "")
    for file in filter(None, (spec.pretrain, spec.finetune_config)):
        if not os.path.isfile(file):  # Path.is_file() raises if the name is too long
            raise ConfigError(f"{path}: {file}: no such file")


def _check_sets(path: Path, sets: list[FinetuneSet]) -> None:
    hours = {one.name: one.hours for one in sets}
    rests = [one.rest_of for one in sets]
    for one in sets:
        wrong = None
        if not re.fullmatch("[A-Za-z0-9_.-]+", one.name):
            wrong = "has other characters than letters, digits, _, - and ."
        elif one.name in ("asr", "ssl"):  # see Runner.prepare()
            wrong = "is the name of a step that prepares data; give another name"
        elif one.hours is not None and one.rest_of is not None:
            wrong = (
                f"has hours and is the rest of '{one.rest_of}'; leave out one of them"
            )
        elif one.hours is not None and not 0 < one.hours < math.inf:
            wrong = f"has {one.hours} hours; give a number above 0"
        elif one.rest_of is not None and hours.get(one.rest_of) is None:
            wrong = "is the rest of no set with a number of hours"
        elif one.rest_of is not None and rests.count(one.rest_of) > 1:
            wrong = f"is not the only rest of '{one.rest_of}'; leave out the others"
        if wrong is not None:
            raise ConfigError(f"{path}: finetune: sets: '{one.name}' {wrong}")


def split_options(where: str, text: str) -> list[str]:
    """Split options in one string into words, as a shell does.

    Raises:
        ConfigError: A quotation does not end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text}: {error}; correct it") from error


def merge(base: dict, changes: dict) -> dict:
    """Return base with changes: dictionaries are merged, other values replaced."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = merge(merged[key], value)
        merged[key] = value
    return merged


def with_updates(conf: dict, updates: int, where: str) -> dict:
    """Return a pretraining configuration with a given number of updates.

    Args:
        conf: Configuration with num_iters_per_epoch; finite schedulers
            (``total_steps``, ``max_steps``) are adapted.
        updates: Multiple of an epoch's updates.
        where: Context for error messages.

    Raises:
        ConfigError: The updates are not whole epochs.
    """
    each = updates_per_epoch(conf, where)
    if updates <= 0 or updates % each:
        raise ConfigError(
            f"{where}: {updates} updates are no multiple of an epoch's {each} "
            "(num_iters_per_epoch / accum_grad)"
        )
    changes: dict[str, Any] = {"max_epoch": updates // each}
    for key in ("total_steps", "max_steps"):  # of onecyclelr, of tristagelr
        if key in (conf.get("scheduler_conf") or {}):
            changes["scheduler_conf"] = {key: updates}
    return merge(conf, changes)


def updates_of(conf: dict) -> int:
    """Return the number of updates of a pretraining configuration.

    Raises:
        ConfigError: The number is not specified.
    """
    epochs = count_of(conf, "max_epoch")
    if epochs is None:
        raise ConfigError(
            "compute_of: updates are counted by max_epoch, which is missing"
        )
    return epochs * updates_per_epoch(conf, "compute_of")


def updates_per_epoch(conf: dict, where: str) -> int:
    """Return the number of updates of an epoch, num_iters_per_epoch / accum_grad.

    Raises:
        ConfigError: num_iters_per_epoch is missing, or not a multiple of accum_grad
            (ESPnet adds the remainder's gradients to the next epoch's first update,
            ssl_train drops them).
    """
    batches = count_of(conf, "num_iters_per_epoch")
    accum_grad = count_of(conf, "accum_grad", 1)
    if batches is None:
        raise ConfigError(
            f"{where}: updates are counted by num_iters_per_epoch, which is missing"
        )
    if batches % accum_grad:
        raise ConfigError(
            f"{where}: num_iters_per_epoch {batches} is no multiple of accum_grad "
            f"{accum_grad}"
        )
    return batches // accum_grad
