"""Objectives from the configuration: defaults, and errors that name the remedy."""

import math

import pytest
import torch
from test_model import ANCHOR, ENHANCED, make_model

from espnet2_birq.errors import ConfigError
from espnet2_birq.pretraining.heads import Heads, Hidden
from espnet2_birq.pretraining.labels import HardLabels
from espnet2_birq.pretraining.objective import (
    BEST_RQ,
    BIRQ,
    build_objective,
    parse_objectives,
)
from espnet2_birq.pretraining.views import View

LEVELS = {"num_codebooks": 1, "codebook_size": 8}


def test_presets():
    (anchor,) = parse_objectives(BEST_RQ, num_blocks=10)
    assert (anchor.view, anchor.labeller) == (View("input"), "random_projection")
    assert anchor.weight.at(0) == 1.0 and anchor.gradient == 0.0
    anchor, enhanced = parse_objectives(BIRQ, num_blocks=10)
    # the paper's w2 and w1, label layer, shared head and gradient
    assert (anchor.weight.at(0), enhanced.weight.at(0)) == (2.4, 0.1)
    assert (enhanced.view, enhanced.labeller) == (View("layer", 7), "gumbel_softmax")
    assert anchor.head == enhanced.head and enhanced.gradient == 1.0
    (given,) = parse_objectives([dict(name="given")], num_blocks=10)
    assert (given.view, given.labeller) == (View("labels", name="labels"), "given")


def test_an_objective_of_ones_own():
    (row,) = parse_objectives(
        [
            dict(
                name="mine",
                view="layer 3",
                labeller="random_projection",
                labeller_conf={"seed": 5},
                when={"every": 4},
            )
        ],
        num_blocks=4,
    )
    assert row.view == View("layer", 3) and row.weight.at(7) == 1.0
    assert row.labeller_conf == {"seed": 5} and row.head == "mine"
    assert row.when.every == 4 and row.gradient == 0.0


@pytest.mark.parametrize(
    "view, blocks, layer",
    [("layer", 12, 8), ("layer", 10, 7), ("layer", 17, 12)]
    + [("layer 50%", 12, 6), ("layer 65%", 12, 8), ("layer 1%", 12, 1)]
    + [("layer 12", 12, 12)],
)
def test_layers(view, blocks, layer):
    """A share is that of the nearest layer: 11.9 is 12, not 11."""
    (row,) = parse_objectives([dict(name="enhanced", view=view)], num_blocks=blocks)
    assert row.view.layer == layer


@pytest.mark.parametrize(
    "rows, words",
    [
        ([], "at least one objective"),
        ([dict(name="anchr")], "unknown objective 'anchr'"),
        ([dict(weight=1)], "needs a 'name'"),
        ([dict(name="my one", view="input", labeller="given")], "letters, digits"),
        ([dict(name="anchor", labeller="kmeans")], "unknown labeller 'kmeans'"),
        ([dict(name="anchor", labeller=["kmeans"])], "unknown labeller .'kmeans'"),
        ([dict(name="anchor", labeller={"x": 1})], "unknown labeller .'x': 1"),
        ([dict(name="anchor", view="tape")], "'anchor': unknown view 'tape'"),
        ([dict(name="anchor", view="labels")], "'labels' and labeller 'given' go toge"),
        ([dict(name="anchor", weight="3e-3")], "'anchor': a schedule is a number or"),
        ([dict(name="anchor", wieght=1)], "unknown key 'wieght'"),
        ([dict(name="anchor", gradient=1)], "no gradient flows through labels of view"),
        ([dict(name="enhanced", gradient=-1)], "gradient is a factor of 0 or more"),
        ([dict(name="enhanced", gradient=True)], "gradient is a factor of 0 or more"),
        ([dict(name="enhanced", diversity=True)], "diversity is a factor of 0 or more"),
        (
            [dict(name="enhanced", gradient=float("nan"))],
            "gradient is a factor of 0 or",
        ),
        ([dict(name="enhanced", view="layer 9")], "'layer 9' is not among the encoder"),
        ([dict(name="enhanced", view="layer 0")], "'layer 0' is not among the encoder"),
        ([dict(name="enhanced", when={"until": 3})], "unknown key of 'when' 'until'"),
        ([dict(name="enhanced", view="layer 700%")], "'layer 700%' is not among the"),
        ([dict(name="enhanced", when={"every": 0})], "length from 1 to every"),
        ([dict(name="enhanced", when={"stop": 0})], "stop above start"),
        ([dict(name="enhanced", when={"start": 9, "stop": 9})], "stop above start"),
        ([dict(name="anchor"), dict(name="anchor")], "a name of its own"),
    ],
)
def test_errors(rows, words):
    with pytest.raises(ConfigError, match=words) as error:
        parse_objectives(rows, num_blocks=8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "row, words",
    [
        (
            dict(name="anchor", labeller_conf={"sede": 1}),
            "random_projection: got an un",
        ),
        (
            dict(name="given"),
            "'given': labeller_conf of given: missing .*codebook_size",
        ),
        (
            dict(name="enhanced", labeller_conf={"projection": "pca"}),
            "'enhanced': projection 'pca' is for the input",
        ),
        (
            dict(name="enhanced", labeller_conf={"score_scale": -1}),
            "'enhanced': score_scale is a number of 1e-06 or more, got -1",
        ),
        (
            dict(name="enhanced", labeller_conf={"straight_through": "false"}),
            "'enhanced': straight_through is true or false, got 'false'",
        ),
    ],
)
def test_errors_of_labellers_name_the_objective(row, words):
    (parsed,) = parse_objectives([row], num_blocks=8)
    with pytest.raises(ConfigError, match=words):
        build_objective(parsed, 40)


def test_state_goes_to_the_objective_of_that_name():
    low = dict(name="low", view="layer 1", labeller="residual", labeller_conf=LEVELS)
    high = {**low, "name": "high", "view": "layer 2"}
    state = make_model([low, high]).state_dict()
    make_model([low, high]).load_state_dict(state)
    for other in ([high, low], [high]):
        with pytest.raises(ConfigError, match="called 'high', and 'low' in the checkp"):
            make_model(other).load_state_dict(state)
    older = {key: x for key, x in state.items() if not key.endswith(".called")}
    make_model([low, high]).load_state_dict(older)


def test_codebooks_belong_to_a_view():
    """Those of another layer would be loaded, and be wrong, without a word."""
    row = dict(name="refit", view="layer 1", labeller="residual", labeller_conf=LEVELS)
    state = make_model([row]).state_dict()
    words = (
        "'refit' is fitted to the view 'layer 1' in the checkpoint, now .* 'layer 2'"
    )
    with pytest.raises(ConfigError, match=words):
        make_model([{**row, "view": "layer 2"}]).load_state_dict(state)
    older = {key: x for key, x in state.items() if not key.endswith(".seen")}
    make_model([row]).load_state_dict(older)
    # Running moments adapt to any layer.
    running = dict(name="enhanced", view="layer 1")
    state = make_model([running]).state_dict()
    make_model([{**running, "view": "layer 2"}]).load_state_dict(state)


@pytest.mark.parametrize("name", ["student", "loss", "update", "type", "training"])
def test_names_that_heads_cannot_have(name):
    row = dict(name=name, view="input", labeller="residual", labeller_conf=LEVELS)
    with pytest.raises(
        ConfigError, match=f"cannot be called '{name}'; give it another"
    ):
        make_model([row])
    make_model([{**row, "head": "own"}])
    with pytest.raises(ConfigError, match="cannot be called 'my.head'"):
        make_model([{**row, "head": "my.head"}])


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1.0, [[0, 1.0], [9, -0.1]]])
def test_weights_that_cannot_be(weight):
    with pytest.raises(ConfigError, match="objective 'anchor': .*(finite|at least 0)"):
        parse_objectives([{"name": "anchor", "weight": weight}], num_blocks=3)


@pytest.mark.parametrize(
    "objectives, conf, words",
    [
        ([{**ENHANCED, "when": {"every": 2}}], {}, "none is on in update 1"),
        (
            [{**ANCHOR, "when": {"stop": 9}}, {**ENHANCED, "when": {"start": 10}}],
            {},
            "none is on in update 9",
        ),
        (
            [ANCHOR],
            dict(target_branch_conf=dict(utterances=0)),
            "utterances is a whole number of 1 or more, got 0",
        ),
        (
            [ENHANCED],
            dict(target_branch_conf=dict(checkpoint="false")),
            "checkpoint is true or false, got 'false'",
        ),
        (
            [ANCHOR],
            dict(target_branch_conf=dict(checkpoint=True)),
            "no objective has a view of a layer; leave out",
        ),
        (
            [ANCHOR, {**ENHANCED, "when": {"once": {"anchor": 33}}}],
            {},
            "'enhanced': when: once waits for a perplexity of 33, but 'anchor' has 32 c",
        ),
    ],
)
def test_wrong_numbers(objectives, conf, words):
    with pytest.raises(ConfigError, match=words):
        make_model(objectives, **conf)


def test_losses_are_means_over_the_labelled_frames_of_each_codebook():
    """The second codebook of `two` lacks some labels, and `one` lacks others."""
    rows = [
        {
            "name": name,
            "head": name,
            "view": "input",
            "labeller": "random_projection",
            "labeller_conf": {"codebook_size": 5, "num_codebooks": number},
        }
        for name, number in (("two", 2), ("one", 1))
    ]
    objectives = [build_objective(row, 8) for row in parse_objectives(rows, 4)]
    heads, hidden = Heads(8, objectives), torch.randn(6, 8)
    codes = torch.arange(18).view(3, 6) % 5
    codes[1, :2] = codes[2, 1:] = -1
    books = {"two": codes[:2], "one": codes[2:]}
    labels = {name: [HardLabels(x) for x in mine] for name, mine in books.items()}
    weights = dict.fromkeys(books, 1.0)
    loss, *_ = heads.loss(Hidden(hidden), torch.ones(6), objectives, labels, weights)
    losses = {
        name: [
            torch.nn.functional.cross_entropy(layer(hidden), x, ignore_index=-1)
            for layer, x in zip(heads[name], mine)
        ]
        for name, mine in books.items()
    }
    expected = sum(losses["two"]) / 2 + losses["one"][0]
    assert torch.allclose(loss, expected)
