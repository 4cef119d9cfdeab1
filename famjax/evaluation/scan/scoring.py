"""From what a model said to the metrics of a cell, with standard errors and 95 % confidence intervals."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famjax.data.questions.metrics import METRICS
from famjax.data.questions.question import Question

_Z = 1.959963984540054  # of a normal distribution, 95 % lie within so many standard deviations
_DIGITS = 8  # beyond these, two machines may differ
CHOICE_METRICS = ("acc", "acc_norm")
ROLLING_METRICS = ("token_accuracy", "perplexity", "loss")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric of a cell.

    Attributes:
      value: over all examples.
      stderr: standard error; NaN where one example does not tell.
      ci95: both ends of the confidence interval.
      n: examples.
    """

    value: float
    stderr: float
    ci95: tuple[float, float]
    n: int

    def to_json(self) -> dict[str, Any]:
        """With no more digits than are worth comparing."""
        ends = [round_digits(end) for end in self.ci95]
        return {"value": round_digits(self.value), "stderr": round_digits(self.stderr), "ci95": ends, "n": self.n}


@dataclasses.dataclass(frozen=True)
class DocumentScores:
    """Sums over the tokens of one document.

    Attributes:
      tokens: their number.
      nats: minus the sum of their log-probabilities.
      correct: how many were the most probable token.
    """

    tokens: int
    nats: float
    correct: int


def estimate_mean(scores: Sequence[float]) -> Estimate:
    """The mean of scores of single examples: Wilson's interval where all are 0 or 1, otherwise mean +- 1.96 stderr."""
    values = np.asarray(scores, np.float64)
    n, mean = len(values), float(np.mean(values))
    stderr = float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    if np.all((values == 0) | (values == 1)):
        return Estimate(mean, stderr, wilson_interval(mean, n), n)
    return normal_estimate(mean, stderr, n)


def normal_estimate(value: float, stderr: float, n: int) -> Estimate:
    """With the interval of a normal distribution, 1.96 standard errors to either side."""
    return Estimate(value, stderr, (value - _Z * stderr, value + _Z * stderr), n)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n trials."""
    z = _Z * _Z / n
    center, half = share + z / 2, _Z * math.sqrt(share * (1 - share) / n + z / (4 * n))
    # At 0 and at 1 an end is exact; what rounding leaves of it would be shown as a tiny number.
    low = 0.0 if share == 0 else max(0.0, (center - half) / (1 + z))
    high = 1.0 if share == 1 else min(1.0, (center + half) / (1 + z))
    return low, high


def score_answers(names: Sequence[str], question: Question, texts: Sequence[str]) -> dict[str, float]:
    """The metrics of one question, each the mean over the answers drawn for it."""
    return {name: float(np.mean([METRICS[name](text, question.references) for text in texts])) for name in names}


def score_choices(question: Question, logprobs: Sequence[float]) -> dict[str, float]:
    """Whether a right choice is the most probable, as it is and for its length in bytes.

    Args:
      question: with its choices.
      logprobs: of each choice, summed over its tokens.
    """
    by_byte = [value / max(1, len(choice.encode())) for value, choice in zip(logprobs, question.choices, strict=True)]
    best = (question.choices[int(np.argmax(logprobs))], question.choices[int(np.argmax(by_byte))])
    return {name: float(choice in question.references) for name, choice in zip(CHOICE_METRICS, best, strict=True)}


def estimate_documents(documents: Sequence[DocumentScores]) -> dict[str, Estimate]:
    """Loss, perplexity and accuracy over all tokens of all documents; their spread is that between documents."""
    tokens = np.array([document.tokens for document in documents], np.float64)
    loss = _estimate_ratio(np.array([document.nats for document in documents], np.float64), tokens)
    accuracy = _estimate_ratio(np.array([document.correct for document in documents], np.float64), tokens)
    perplexity = _exp(loss.value)
    return {
        "token_accuracy": accuracy,
        "perplexity": Estimate(perplexity, perplexity * loss.stderr, (_exp(loss.ci95[0]), _exp(loss.ci95[1])), loss.n),
        "loss": loss,
    }


class PositionSums:
    """Loss and accuracy in equal parts of the length."""

    def __init__(self, length: int, buckets: int) -> None:
        self._length, self._buckets = length, buckets
        self._sums = np.zeros((3, buckets))

    def add(self, logprobs: NDArray[np.float32], greedy: NDArray[np.bool_]) -> None:
        """Adds the tokens of a document, from position 0 on."""
        bucket = np.arange(len(logprobs)) * self._buckets // self._length
        for row, weights in enumerate((-logprobs.astype(np.float64), greedy, np.ones(len(logprobs)))):
            self._sums[row] += np.bincount(bucket, weights, self._buckets)

    def to_json(self) -> list[dict[str, Any]]:
        """The parts that have tokens; `end` is the first position after a part."""
        return [
            {
                "begin": -(-index * self._length // self._buckets),
                "end": -(-(index + 1) * self._length // self._buckets),
                "loss": round_digits(nats / tokens),
                "accuracy": round_digits(correct / tokens),
                "tokens": int(tokens),
            }
            for index, (nats, correct, tokens) in enumerate(self._sums.T)
            if tokens
        ]


def to_json(metrics: Mapping[str, Estimate]) -> dict[str, Any]:
    """Metrics by name as JSON."""
    return {name: estimate.to_json() for name, estimate in metrics.items()}


def round_digits(value: float) -> float:
    """The number with 8 digits."""
    return float(f"{value:.{_DIGITS}g}")


def _estimate_ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> Estimate:
    """The ratio of two sums over documents, with the standard error of a ratio estimator."""
    n, value = len(above), float(above.sum() / below.sum())
    spread = float(np.sqrt(np.sum((above - value * below) ** 2) / (n - 1))) if n > 1 else math.nan
    stderr = spread / math.sqrt(n) / float(below.mean())
    return normal_estimate(value, stderr, n)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
