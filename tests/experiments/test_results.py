"""Error rates over seeds and speakers."""

from types import SimpleNamespace

import numpy as np
import pytest

from espnet2_birq.evaluation.wer.experiments import find_sets, scored_set
from espnet2_birq.experiments import plots, report
from espnet2_birq.experiments.results import (
    Errors,
    Result,
    own_decodings,
    read_errors,
    resample,
)
from espnet2_birq.experiments.spec import System
from espnet2_birq.experiments.training_log import TrainingLog


def make(errors, tokens, speakers=None):
    names = [str(number) for number in range(len(tokens))]
    clusters = np.arange(len(tokens)) if speakers is None else speakers
    return Errors(names, np.array(errors), np.array(tokens), clusters)


def test_rate_is_the_mean_over_seeds():
    tokens = [10, 30]
    score = resample([make([1, 3], tokens), make([3, 5], tokens)])
    assert score["percent"] == pytest.approx(100 * 6 / 40)
    assert score["low"] <= score["percent"] <= score["high"]


def test_interval_of_a_difference_against_a_slow_bootstrap():
    generator = np.random.default_rng(1)
    tokens = generator.integers(5, 30, size=40)
    speakers = np.arange(40) // 5
    own, other = (
        [make(generator.binomial(tokens, rate), tokens, speakers) for _ in range(3)]
        for rate in (0.3, 0.45)
    )
    score = resample(own, other, draws=20000)
    draws = []
    for _ in range(20000):
        seeds = generator.choice(3, size=3)
        drawn = generator.choice(8, size=8)
        utterances = np.concatenate([np.flatnonzero(speakers == one) for one in drawn])
        wrong = sum((own[s].errors - other[s].errors)[utterances].sum() for s in seeds)
        draws.append(100 * wrong / 3 / tokens[utterances].sum())
    assert score["low"] == pytest.approx(np.percentile(draws, 2.5), abs=0.3)
    assert score["high"] == pytest.approx(np.percentile(draws, 97.5), abs=0.3)
    assert score["high"] < 0


def test_same_system_differs_by_nothing():
    one = [make([1, 2], [3, 4])]
    assert resample(one, one) == dict(percent=0, low=0, high=0)


def test_draws_without_a_token_are_left_out():
    """They have no error rate; with them, the interval was from NaN to NaN."""
    score = resample([make([1, 0, 0, 0, 0], [3, 0, 0, 0, 0])])
    wanted = pytest.approx(100 / 3)
    assert (score["percent"], score["low"], score["high"]) == (wanted, wanted, wanted)


def test_one_seed_and_one_cluster_have_no_interval():
    score = resample([make([1], [4])])
    assert score == dict(percent=25, low=None, high=None)
    assert report._interval(score) == "25.0 [-]"
    assert report._interval(score, "+.2f") == "+25.00 [-]"
    several = resample([make([1], [4]), make([3], [4])])  # of seeds alone
    assert several == dict(percent=50, low=25, high=75)


def test_tables_of_probes_name_what_is_resampled():
    cer = dict(percent=50.0, low=40.0, high=60.0, resampled="6 speakers")
    alone = dict(percent=50.0, low=None, high=None, resampled="1 utterance")
    probe = dict(cer=dict(test=cer, one=alone), layer_weights=[1.0])
    spec = SimpleNamespace(tests=["test", "one"], systems=[System("a", "A", None)])
    found = {"a": {0: Result(None, {}, probe)}}
    text = report._probe_table(SimpleNamespace(spec=spec), found)
    assert "| A | 50.0 [40.0, 60.0] | 50.0 [-] | 1.00 |" in text
    assert (
        "Resampled for the intervals: 6 speakers of test, 1 utterance of one." in text
    )


def test_tables_of_error_rates_are_by_seed():
    """Rates are in the order of the seeds; differences are of common seeds."""
    keys = [("1h", "test", kind) for kind in ("wer", "cer")]
    rates = {"a": {0: 4, 1: 1}, "b": {1: 2, 2: 3}}
    found = {
        name: {
            seed: Result(None, {key: make([wrong], [10]) for key in keys}, None)
            for seed, wrong in by_seed.items()
        }
        for name, by_seed in rates.items()
    }
    spec = SimpleNamespace(
        systems=[System(x, x.upper(), None) for x in found],
        finetune_sets=[SimpleNamespace(name="1h")],
        tests=["test"],
        compare=[("a", "b")],
        system=lambda name: System(name, name.upper(), None),
    )
    runner = SimpleNamespace(spec=spec)
    text = report._error_table(runner, found, "1h", "test")
    cells = "25.0 [10.0, 40.0] | 40.0; 10.0"
    assert f"| A | 2 | {cells} | {cells} |" in text
    text = report._comparisons(runner, found)
    assert "| A minus B | 1h | test | 1 | -10.00 [-] | -10.00 [-] |" in text


def test_probes_made_before_speakers_were_known_can_be_compared(tmp_path):
    """Their trn files name the utterance instead of the speaker."""
    found = []
    for name, ids in (("old", ("s-1-s-1", "s-2-s-2")), ("new", ("s-s-1", "s-s-2"))):
        for side in ("ref", "hyp"):
            file = tmp_path / name / "score_wer" / f"{side}.trn"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"a b ({x})\n" for x in ids))
        found.append(read_errors(scored_set(tmp_path / name), "wer"))
    assert resample(found[:1], found[1:])["percent"] == 0


def test_plots_average_over_runs_that_are_there():
    """Another machine's OUT may lack the log of a seed's pretraining."""
    run = SimpleNamespace(updates=10, flops=2e12)
    errors = {("1h", "test", "wer"): make([1, 2], [3, 4])}
    found = {
        "a": {0: Result(run, errors, None), 1: Result(None, errors, None)},
        "lost": {0: Result(None, errors, None)},
        "scratch": {0: Result(None, errors, None)},
    }
    systems = [System(x, x, None if x == "scratch" else {}) for x in found]
    runner = SimpleNamespace(spec=SimpleNamespace(systems=systems))
    points = list(plots._points(runner, found, ("1h", "test", "wer")))
    assert [(x[1], x[2]) for x in points] == [("a", (10, 2)), ("scratch", (0, 0))]


def test_other_utterances_are_not_compared():
    one = make([1], [2])
    with pytest.raises(ValueError, match="different utterances"):
        resample([one], [one._replace(names=["another"])])


def test_decodings_made_by_hand_are_left_out(tmp_path):
    """A beam search of one system is not compared with the others' greedy search."""
    own = "greedy_ctc_valid.cer_ctc.ave"
    for decoding in ("ctc_4gram", own, "inference_asr_model_valid.acc.ave"):
        for name in ("test", "org/valid"):
            (tmp_path / decoding / name / "score_wer").mkdir(parents=True)
    (tmp_path / "tagged" / "other" / "score_wer").mkdir(parents=True)
    found = own_decodings(find_sets(tmp_path))
    assert {(one.decoding, one.name) for one in found} == {
        (own, "test"), (own, "org/valid"), ("tagged", "other")
    }  # fmt: skip


def test_objectives_that_stop_or_start_with_one_seed_only():
    """`own` starts once its condition is met, which is not so with the first seed."""

    def run(*names):
        first, last = ({f"loss_{x}": 2.0 for x in y} for y in (("cold",), names))
        log = TrainingLog([1, 2], [first, last], [first, last], [last], 60, 2)
        return SimpleNamespace(pretraining=SimpleNamespace(log=log, updates=2, flops=1))

    seeds = {0: run("anchor"), 1: run("anchor", "own")}
    table = report._pretraining_table([System("s", "s", {})], {"s": seeds})
    rows = [line.split(" | ")[4:6] for line in table.splitlines()[4:7]]
    assert rows == [["cold", "-"], ["anchor", "2.00"], ["own", "2.00"]]
