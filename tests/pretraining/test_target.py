"""Targets from the configuration: defaults, and errors that name the remedy."""

import pytest

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.target import BEST_RQ, BIRQ, parse_targets


def test_presets():
    (anchor,) = parse_targets(BEST_RQ, num_blocks=10)
    assert (anchor.source, anchor.quantizer) == ("input", "random_projection")
    assert anchor.weight.at(0) == 1.0
    anchor, enhanced = parse_targets(BIRQ, num_blocks=10)
    assert (anchor.weight.at(0), enhanced.weight.at(0)) == (
        2.4,
        0.1,
    )  # the paper's w2 and w1
    assert (enhanced.source, enhanced.quantizer) == (7, "gumbel_softmax")


def test_a_target_of_ones_own():
    (target,) = parse_targets(
        [
            dict(
                name="mine",
                source="layer",
                layer=3,
                quantizer="random_projection",
                quantizer_conf={"seed": 5},
            )
        ],
        num_blocks=4,
    )
    assert target.source == 3 and target.weight.at(7) == 1.0
    assert target.quantizer_conf == {"seed": 5}


@pytest.mark.parametrize(
    "targets, words",
    [
        ([], "at least one target"),
        ([dict(name="anchr")], "unknown target 'anchr'"),
        ([dict(weight=1)], "needs a 'name'"),
        ([dict(name="anchor", quantizer="kmeans")], "unknown quantizer 'kmeans'"),
        ([dict(name="anchor", source="tape")], "unknown source 'tape'"),
        ([dict(name="anchor", source="disk")], "'disk' and quantizer 'given' go toge"),
        ([dict(name="anchor", weight="3e-3")], "a schedule is a number or"),
        ([dict(name="anchor", wieght=1)], "unknown key 'wieght'"),
        ([dict(name="anchor", layer=2)], "'layer' goes with source 'layer' only"),
        ([dict(name="enhanced", layer=9)], "label layer 9 is not among the encoder's"),
        ([dict(name="enhanced", layer=0)], "label layer 0 is not among the encoder's"),
        ([dict(name="anchor"), dict(name="anchor")], "a name of its own"),
    ],
)
def test_errors(targets, words):
    with pytest.raises(ConfigError, match=words) as error:
        parse_targets(targets, num_blocks=8)
    assert "\n" not in str(error.value)
