"""Tests of famjax.evaluation.report.pooling."""

import math

import numpy as np
import pytest

from famjax.evaluation.report.cells import Estimate
from famjax.evaluation.report.pooling import is_share, lower_is_better, pool
from famjax.evaluation.scan.scoring import estimate_mean


def estimated(scores):
    """As a scan's results say it, with 8 digits."""
    found = estimate_mean(scores).to_json()
    return Estimate(found["value"], found["stderr"], *found["ci95"], found["n"])


def test_shares_are_pooled_as_one_sample():
    """Guards against a mean of means, and against an interval that is not that of all the examples together."""
    cells = [[1.0] * 3, [1.0, 0.0, 0.0], [0.0] * 7 + [1.0] * 5]
    found = pool("exact_match", [estimated(scores) for scores in cells])
    expected = estimated([score for scores in cells for score in scores])
    assert found.n == expected.n == 18
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert found.stderr == pytest.approx(expected.stderr)


def test_all_right_is_not_certain():
    """Guards against an interval of no width where every example of every cell is right."""
    found = pool("exact_match", [estimated([1.0] * 8)] * 2)
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(16 / (16 + 1.96**2), abs=1e-3)


def test_other_scores_are_pooled_by_their_standard_errors():
    """Guards against Wilson's interval for scores between 0 and 1, which it is too wide for."""
    scores = np.random.default_rng(0).uniform(0.4, 0.6, (2, 50))
    found = pool("token_f1", [estimated(list(row)) for row in scores])
    assert found.value == pytest.approx(scores.mean())
    assert found.stderr == pytest.approx(np.sqrt(np.sum(np.std(scores, axis=1, ddof=1) ** 2 / 50)) / 2)
    assert (found.low, found.high) == pytest.approx(
        (found.value - 1.96 * found.stderr, found.value + 1.96 * found.stderr)
    )


def test_the_interval_of_a_fraction_ends_at_its_bounds():
    """Guards against an accuracy above 1, and against a loss that is cut off at 1."""
    estimates = [Estimate(0.98, 0.05, 0.882, 1.078, 4), Estimate(0.99, 0.05, 0.892, 1.088, 4)]
    assert pool("rouge_l", estimates).high == 1.0
    assert pool("loss", estimates).high > 1.0


def test_perplexities_are_averaged_as_losses():
    """Guards against an arithmetic mean of perplexities, which one hard cell would dominate."""
    cells = [Estimate(math.exp(loss), 0.1 * math.exp(loss), math.nan, math.nan, 10) for loss in (1.0, 3.0)]
    for name in ("perplexity", "word_perplexity,none"):
        found = pool(name, cells)
        assert found.value == pytest.approx(math.exp(2.0))
        assert math.log(found.high / found.value) == pytest.approx(1.96 * 0.1 / math.sqrt(2), rel=1e-3)


def test_a_cell_alone_keeps_its_interval():
    """Guards against a second opinion on what a scan has measured."""
    one = Estimate(0.5, 0.1, 0.123, 0.9, 7)
    assert pool("exact_match", [one]) is one


def test_what_is_not_finite_stays_so():
    """Guards against a traceback, or a plausible number, for a diverged model."""
    infinite = Estimate(math.inf, math.nan, math.nan, math.nan, 4)
    assert pool("loss", [infinite, Estimate(1.0, 0.1, 0.8, 1.2, 4)]).value == math.inf
    assert pool("perplexity", [infinite, infinite]).value == math.inf
    assert pool("perplexity", [Estimate(1e300, 1e302, 0.0, math.inf, 4)] * 2).high == math.inf
    assert math.isnan(pool("exact_match", [Estimate(math.nan, math.nan, math.nan, math.nan, 4)] * 2).value)
    assert math.isnan(pool("perplexity", [Estimate(0.0, 0.0, 0.0, 0.0, 4)] * 2).value)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 0.0, 1.0], True),
        ([0.0, 0.0], True),
        ([1.0], True),
        ([0.5], False),
        ([0.5, 0.5], False),
        ([1.0, 0.5, 0.0, 0.5], False),
    ],
)
def test_scores_of_0_and_1_are_told_from_others(scores, expected):
    """Guards against the wrong kind of interval."""
    assert is_share(estimated(scores)) is expected


def test_names_of_the_harness():
    """Guards against a word perplexity whose largest value is called the best."""
    assert lower_is_better("word_perplexity,none")
    assert not lower_is_better("acc,none")
