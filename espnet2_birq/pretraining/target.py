"""A target: what is to be predicted, as a value ``source -> quantizer -> weight``.

BEST-RQ and BiRQ are lists of targets; the model's forward pass knows no method by name:

    BEST-RQ    input   -> random_projection                weight 1
    BiRQ       input   -> random_projection   (anchor)     weight w2 = 2.4
               layer k -> gumbel_softmax      (enhanced)   weight w1 = 0.1
"""

from typing import Any, Dict, Iterable, List, NamedTuple, Union

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.quantizer import (
    GivenLabels,
    GumbelSoftmaxQuantizer,
    RandomProjectionQuantizer,
)
from espnet2_birq.pretraining.schedule import Schedule

SOURCES = ("input", "layer", "disk")
QUANTIZERS = {
    "random_projection": RandomProjectionQuantizer,
    "gumbel_softmax": GumbelSoftmaxQuantizer,
    "given": GivenLabels,
}

# What `name` alone stands for; any key can be given another value beside it.
PRESETS = {
    "anchor": dict(source="input", quantizer="random_projection", weight=2.4),
    "enhanced": dict(source="layer", quantizer="gumbel_softmax", weight=0.1),
    "given": dict(source="disk", quantizer="given", weight=1.0),
}

BEST_RQ = [dict(name="anchor", weight=1.0)]
BIRQ = [dict(name="anchor"), dict(name="enhanced")]


class Target(NamedTuple):
    """One row of the configuration's ``targets``, checked and completed."""

    name: str  # in statistics: loss_<name>, acc_<name>, ...
    source: Union[str, int]  # "input", "disk" or the label layer k, counted from 1
    quantizer: str  # a key of QUANTIZERS
    quantizer_conf: Dict[str, Any]
    weight: Schedule

    @property
    def of_layer(self) -> bool:
        """Whether an encoder layer makes its labels."""
        return isinstance(self.source, int)

    @property
    def wants_frame_statistics(self) -> bool:
        """Whether its projection starts from statistics of the input frames."""
        projection = self.quantizer_conf.get("projection", "xavier")
        return self.source == "input" and projection != "xavier"


def default_label_layer(num_blocks: int) -> int:
    """The label layer at about 70 % of the depth, the paper's choice (7 of 10)."""
    return max(1, round(0.7 * num_blocks))


def parse_targets(targets: List[Dict[str, Any]], num_blocks: int) -> List[Target]:
    """Check the configuration's ``targets`` and fill in what it leaves out.

    Args:
        targets: Dictionaries with ``name`` (``anchor``, ``enhanced``, or any other with
            ``source`` and ``quantizer`` given) and optionally ``source`` (``input``,
            ``layer``, or ``disk``: the data named ``labels``), ``layer`` (k, from 1;
            default 70 % of the depth), ``quantizer``, ``quantizer_conf`` and ``weight``
            (a number or a schedule).
        num_blocks: K, depth of the encoder.

    Returns:
        The targets, in order.

    Raises:
        ConfigError: In one line, what is wrong and what may stand there.
    """
    if not isinstance(targets, list) or not targets:
        raise ConfigError("targets: give a list with at least one target")
    parsed = [_parse_target(target, num_blocks) for target in targets]
    names = [target.name for target in parsed]
    if len(set(names)) < len(names):
        raise ConfigError(f"targets: each needs a name of its own, got {names}")
    return parsed


def _parse_target(target: Dict[str, Any], num_blocks: int) -> Target:
    if not isinstance(target, dict) or "name" not in target:
        raise ConfigError(f"targets: each needs a 'name', got {target!r}")
    name = target["name"]
    known = {"name", "source", "layer", "quantizer", "quantizer_conf", "weight"}
    unknown = sorted(set(target) - known)
    if unknown:
        raise ConfigError(
            f"target '{name}': unknown key {unknown[0]!r}, known are {sorted(known)}"
        )
    if name not in PRESETS and not {"source", "quantizer"} <= set(target):
        raise ConfigError(
            f"unknown target '{name}': use one of {sorted(PRESETS)}, or give the new "
            "one its 'source' and 'quantizer'"
        )
    row = {"weight": 1.0, **PRESETS.get(name, {}), **target}
    _check(name, "source", row["source"], SOURCES)
    _check(name, "quantizer", row["quantizer"], sorted(QUANTIZERS))
    if (row["source"] == "disk") != (row["quantizer"] == "given"):
        raise ConfigError(
            f"target '{name}': source 'disk' and quantizer 'given' go together"
        )
    return Target(
        name=name,
        source=_source(row, num_blocks),
        quantizer=row["quantizer"],
        quantizer_conf=dict(row.get("quantizer_conf") or {}),
        weight=Schedule(row["weight"]),
    )


def _check(name: str, key: str, value: Any, known: Iterable[str]):
    if value not in known:
        raise ConfigError(
            f"target '{name}': unknown {key} {value!r}, use one of {list(known)}"
        )


def _source(row: Dict[str, Any], num_blocks: int) -> Union[str, int]:
    layer = row.get("layer")
    if row["source"] != "layer":
        if layer is not None:
            raise ConfigError(
                f"target '{row['name']}': 'layer' goes with source 'layer' only"
            )
        return row["source"]
    if layer is None:
        return default_label_layer(num_blocks)
    if not isinstance(layer, int) or not 1 <= layer <= num_blocks:
        raise ConfigError(
            f"target '{row['name']}': label layer {layer} is not among the encoder's "
            f"1 to {num_blocks}, change 'layer' or encoder_conf's num_blocks"
        )
    return layer
