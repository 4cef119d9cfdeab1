"""Confidence intervals of averages over several cells."""

import math
from collections.abc import Sequence

from famjax.evaluation.report.cells import Estimate
from famjax.evaluation.scan.scoring import normal_estimate, wilson_interval

_LOWER_IS_BETTER = frozenset({"loss", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"})


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value is a better one; lm-evaluation-harness's names end with a filter, after a comma."""
    return metric.partition(",")[0] in _LOWER_IS_BETTER


def pool(metric: str, estimates: Sequence[Estimate]) -> Estimate:
    """The mean over all examples of several cells, each weighted by its examples.

    Its interval is Wilson's where every example scored 0 or 1, else mean -+ 1.96 standard errors, as of independent
    cells. Perplexities are averaged as the losses that they are the exponentials of. One cell keeps its own interval.
    """
    if len(estimates) == 1:
        return estimates[0]
    if metric.partition(",")[0].endswith("perplexity"):
        return _exponential(pool("loss", [_logarithm(estimate) for estimate in estimates]))
    n = sum(estimate.n for estimate in estimates)
    if not lower_is_better(metric) and all(is_share(estimate) for estimate in estimates):
        value = sum(round(estimate.n * estimate.value) for estimate in estimates) / n
        stderr = math.sqrt(value * (1 - value) / (n - 1))
        return Estimate(value, stderr, *wilson_interval(value, n), n)
    value = sum(estimate.n * estimate.value for estimate in estimates) / n
    stderr = math.sqrt(sum((estimate.n * estimate.stderr) ** 2 for estimate in estimates)) / n
    low, high = normal_estimate(value, stderr, n).ci95
    if not lower_is_better(metric) and all(0 <= estimate.value <= 1 for estimate in estimates):
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(value, stderr, low, high, n)


def is_share(estimate: Estimate) -> bool:
    """Whether every example scored 0 or 1, which their number, mean and standard error tell.

    Of scores in [0, 1], those have the largest variance that a mean m allows, m (1 - m).
    """
    n, value = estimate.n, estimate.value
    if not math.isfinite(value) or abs(n * value - round(n * value)) > 1e-6 * n:
        return False
    if n == 1 or value in (0.0, 1.0):
        return value in (0.0, 1.0)
    return math.isclose(estimate.stderr**2 * (n - 1), value * (1 - value), rel_tol=1e-4)


def _logarithm(estimate: Estimate) -> Estimate:
    value, stderr = (
        (math.log(estimate.value), estimate.stderr / estimate.value) if estimate.value > 0 else (math.nan, math.nan)
    )
    return Estimate(value, stderr, math.nan, math.nan, estimate.n)


def _exponential(estimate: Estimate) -> Estimate:
    value, low, high = (_exp(number) for number in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, estimate.stderr * value, low, high, estimate.n)


def _exp(number: float) -> float:
    return math.inf if number > 700 else math.exp(number)  # beyond it, math.exp raises
