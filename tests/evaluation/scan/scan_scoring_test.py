"""Metrics of a cell, their standard errors and their intervals."""

import math

import numpy as np
import pytest

from famjax.data.questions.question import Question
from famjax.evaluation.scan import scoring
from famjax.evaluation.scan.scoring import DocumentScores, PositionSums


def question(references, choices=()):
    """A question with these right answers."""
    return Question(np.zeros(3, np.int32), references, max_new_tokens=4, choices=choices)


def test_shares():
    """Guards against an interval of a normal distribution, which has no width where all answers are right."""
    whole = scoring.estimate_mean([1.0] * 16)
    assert (whole.value, whole.stderr, whole.n) == (1.0, 0.0, 16)
    # Wilson's interval, from its formula: n / (n + z^2) at one end.
    assert whole.ci95 == pytest.approx((16 / (16 + 1.959964**2), 1.0))
    some = scoring.estimate_mean([1.0, 0.0, 0.0, 0.0])
    assert some.stderr == pytest.approx(0.25)  # sqrt(3/16 * 4/3 / 4)
    low, high = some.ci95
    assert 0 < low < 0.25 < high < 1
    # The ends are the shares whose own distance to what was seen is 1.96 of their standard deviations.
    for end in some.ci95:
        assert abs(end - 0.25) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 4), rel=1e-5)


@pytest.mark.parametrize("n", [6, 24, 192])
def test_the_ends_are_exact(n):
    """Guards against the interval of no right answer at all, shown as [0.000000, 0.14] for what rounding left."""
    assert scoring.wilson_interval(0.0, n)[0] == 0.0
    assert scoring.wilson_interval(1.0, n)[1] == 1.0


def test_means():
    """Guards against Wilson's interval where scores are no shares, and against a standard error of the population."""
    estimate = scoring.estimate_mean([0.2, 0.4, 0.9])
    stderr = np.std([0.2, 0.4, 0.9], ddof=1) / math.sqrt(3)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.stderr == pytest.approx(stderr)
    assert estimate.ci95 == pytest.approx((0.5 - 1.959964 * stderr, 0.5 + 1.959964 * stderr))


def test_one_example_does_not_tell_its_spread():
    """Guards against a division by zero, and against a standard error of 0."""
    assert math.isnan(scoring.estimate_mean([0.5]).stderr)
    one = scoring.estimate_mean([1.0])
    assert math.isnan(one.stderr)
    assert 0 < one.ci95[0] < one.ci95[1] == 1.0
    assert math.isnan(scoring.estimate_documents([DocumentScores(10, 5.0, 3)])["loss"].stderr)


def test_answers():
    """Guards against one drawn answer that counts for all."""
    scores = scoring.score_answers(("exact_match", "string_match_all"), question(("12", "one")), ["12", "12 one"])
    assert scores == {"exact_match": 0.5, "string_match_all": 0.75}


def test_choices():
    """Guards against the most probable choice for its length that is counted as the most probable, or the other way."""
    asked = question(("a long answer",), ("no", "a long answer"))
    assert scoring.score_choices(asked, [-2.0, -3.0]) == {"acc": 0.0, "acc_norm": 1.0}
    assert scoring.score_choices(asked, [-4.0, -3.0]) == {"acc": 1.0, "acc_norm": 1.0}
    # By bytes, as the harness counts, not by characters.
    assert scoring.score_choices(question(("ß",), ("ß", "ab")), [-1.0, -1.5]) == {"acc": 1.0, "acc_norm": 1.0}


def test_documents():
    """Guards against a mean over documents where the mean over tokens is meant."""
    found = scoring.estimate_documents([DocumentScores(100, 100.0, 50), DocumentScores(300, 600.0, 30)])
    assert found["loss"].value == pytest.approx(700 / 400)
    assert found["token_accuracy"].value == pytest.approx(80 / 400)
    assert found["perplexity"].value == pytest.approx(math.exp(1.75))
    assert found["perplexity"].ci95 == pytest.approx(tuple(map(math.exp, found["loss"].ci95)))
    # Ratio estimator: residuals 100 - 175 and 600 - 525, mean document 200 tokens.
    assert found["loss"].stderr == pytest.approx(math.sqrt(2 * 75**2) / math.sqrt(2) / 200)
    assert found["loss"].n == 2
    same = scoring.estimate_documents([DocumentScores(100, 100.0, 50), DocumentScores(10, 10.0, 5)])
    assert same["loss"].stderr == pytest.approx(0.0)
    assert scoring.estimate_documents([DocumentScores(1, 1e6, 0)])["perplexity"].value == math.inf


def test_positions():
    """Guards against tokens of one part that are counted in another; the second document ends early."""
    sums = PositionSums(10, 3)
    sums.add(np.full(10, -2.0, np.float32), np.ones(10, np.bool_))
    sums.add(np.full(4, -1.0, np.float32), np.zeros(4, np.bool_))
    assert sums.to_json() == [
        {"begin": 0, "end": 4, "loss": 1.5, "accuracy": 0.5, "tokens": 8},
        {"begin": 4, "end": 7, "loss": 2.0, "accuracy": 1.0, "tokens": 3},
        {"begin": 7, "end": 10, "loss": 2.0, "accuracy": 1.0, "tokens": 3},
    ]
    short = PositionSums(100, 4)
    short.add(np.full(20, -1.0, np.float32), np.zeros(20, np.bool_))
    assert [part["begin"] for part in short.to_json()] == [0], "parts without a token are left out"


def test_digits():
    """Guards against results that differ in the last bits from machine to machine."""
    values = scoring.to_json({"loss": scoring.estimate_mean([1 / 3, 2 / 3 + 1e-12])})["loss"]
    assert values["value"] == 0.5
    assert values["n"] == 2
    assert len(repr(values["stderr"])) <= 10
    assert math.isnan(scoring.round_digits(math.nan))
