"""One cell: its questions, made ahead on a thread, and what a model says to them."""

import collections
import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent import futures
from typing import Any, TypeVar

import numpy as np

from famjax.data.questions.metrics import METRICS
from famjax.data.questions.opening import open_questions
from famjax.data.questions.question import Question, Questions, answer_ids
from famjax.data.vocabularies import Vocabulary, make_vocabulary
from famjax.errors import ConfigError, DataError
from famjax.evaluation.lm_harness import HarnessMetric, evaluate_harness_task, require_harness_task
from famjax.evaluation.scan import scoring
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import Cell, check_points
from famjax.evaluation.scan.scoring import DocumentScores, Estimate, PositionSums
from famjax.inference import requests
from famjax.inference.config import SamplingConfig
from famjax.inference.language_model import LanguageModel

_PROMPT_END = 64  # tokens of a prompt's end that stand beside an answer in the samples
_KNOWN_METRICS = {
    "generate_until": tuple(METRICS),
    "multiple_choice": scoring.CHOICE_METRICS,
    "loglikelihood_rolling": scoring.ROLLING_METRICS,
}
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Asked:
    """The questions of a cell.

    Attributes:
      questions: all of them.
      output_type: what is asked of a model.
      metrics: the primary one first.
    """

    questions: tuple[Question, ...]
    output_type: str
    metrics: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a cell.

    Attributes:
      output_type: what was asked.
      metric: the primary one.
      metrics: by name.
      examples: questions that were asked.
      prompt_tokens, generated_tokens: read and said.
      cut_examples, cut_tokens: prompts that had no room for all of the original, and what they left out.
      by_position: of documents.
      samples: what was said to each question, as JSON.
    """

    output_type: str
    metric: str
    metrics: Mapping[str, Estimate]
    examples: int
    prompt_tokens: int
    generated_tokens: int = 0
    cut_examples: int = 0
    cut_tokens: int = 0
    by_position: tuple[dict[str, Any], ...] = ()
    samples: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields of a result."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del values["samples"]
        if not self.by_position:
            del values["by_position"]
        return {**values, "metrics": scoring.to_json(self.metrics)}


class QuestionMaker:
    """Opens tasks and makes the questions of cells. Used from one thread at a time."""

    def __init__(self, job: ScanJob) -> None:
        self._job = job
        self.vocabulary: Vocabulary = make_vocabulary(job.vocabulary)

    def check(self) -> None:
        """Opens each task at each length and depth, and makes a question.

        Raises:
          ConfigError: no such task, a length shorter than it needs, a depth that it does not have; tasks of
            lm-evaluation-harness, which is not installed.
          DataError: its files cannot be read.
        """
        job = self._job
        check_points(job)
        for task in job.harness_tasks:
            require_harness_task(task, job.harness_include_path)
        for task in job.tasks:
            for length in job.lengths_of(task):
                for depth in job.depths_of(task):
                    questions = self._open(task, length, depth, job.seeds[0])
                    allowed = _KNOWN_METRICS[questions.output_type]
                    if unknown := [name for name in questions.metrics if name not in allowed]:
                        raise ConfigError(
                            f"The task {task!r} ({questions.output_type}) names the metric {unknown[0]!r}; allowed: "
                            f"{', '.join(allowed)}."
                        )
                    if questions.size == 0:
                        raise DataError(f"The task {task!r}, split {job.split!r}, has no questions at length {length}.")
                    questions.question(0)

    def make(self, cell: Cell) -> Asked:
        """Makes the questions of a cell.

        Raises:
          ConfigError, DataError: as `check`.
        """
        assert cell.length is not None
        assert cell.examples is not None
        questions = self._open(cell.task, cell.length, cell.depth, cell.seed)
        count = cell.examples if questions.size is None else min(cell.examples, questions.size)
        return Asked(tuple(map(questions.question, range(count))), questions.output_type, tuple(questions.metrics))

    @functools.lru_cache(maxsize=64)  # noqa: B019 (one maker lives as long as the scan)
    def _open(self, task: str, length: int, depth: float | None, seed: int) -> Questions:
        job = self._job
        return open_questions(
            task,
            split=job.split,
            length=length,
            depth=depth,
            seed=seed,
            vocabulary=self.vocabulary,
            tasks=job.task_configs,
        )


def made_ahead(items: Iterable[T], make: Callable[[T], Any]) -> Generator[tuple[T, futures.Future[Any]], None, None]:
    """Calls `make` for each item on a thread, one ahead of the item that is handed out."""
    pool = futures.ThreadPoolExecutor(1, thread_name_prefix="famjax-questions")
    waiting: collections.deque[tuple[T, futures.Future[Any]]] = collections.deque()
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting


def ask(model: LanguageModel, asked: Asked, cell: Cell, job: ScanJob) -> Outcome:
    """Asks a model all questions of a cell."""
    match asked.output_type:
        case "generate_until":
            return _generate(model, asked, cell, job)
        case "multiple_choice":
            return _choose(model, asked)
        case _:
            return _read_documents(model, asked, cell, job)


def ask_harness(model: LanguageModel, cell: Cell, job: ScanJob) -> Outcome:
    """Has lm-evaluation-harness ask.

    Raises:
      ConfigError: it is not installed, or has no such task.
      DataError: the task's data cannot be had.
    """
    result = evaluate_harness_task(
        model, cell.task, include_path=job.harness_include_path, limit=job.examples, seed=cell.seed
    )

    def estimate(metric: HarnessMetric) -> Estimate:
        if metric.scores:
            return dataclasses.replace(scoring.estimate_mean(metric.scores), value=metric.value)
        stderr = float("nan") if metric.stderr is None else metric.stderr
        return scoring.normal_estimate(metric.value, stderr, metric.n)

    samples = (
        {"doc_id": sample.index, "target": sample.target, "resps": list(sample.responses), **sample.scores}
        for sample in result.samples
    )
    return Outcome(
        output_type=result.output_type,
        metric=result.primary,
        metrics={name: estimate(metric) for name, metric in result.metrics.items()},
        examples=len(result.samples),
        prompt_tokens=result.prompt_tokens,
        generated_tokens=result.generated_tokens,
        samples=tuple(samples),
    )


def _generate(model: LanguageModel, asked: Asked, cell: Cell, job: ScanJob) -> Outcome:
    questions = asked.questions
    samplings = [_sampling(job.sampling, question, cell.seed, index) for index, question in enumerate(questions)]
    scores, samples, generated = [], [], 0
    answers = requests.generate(model, [question.prompt for question in questions], samplings)
    for index, (question, said) in enumerate(zip(questions, answers, strict=True)):
        texts = [answer.text for answer in said]
        generated += sum(len(answer.tokens) for answer in said)
        scores.append(scoring.score_answers(asked.metrics, question, texts))
        reasons = [answer.finish_reason for answer in said]
        sample = {"resps": [texts], "filtered_resps": texts, "finish_reasons": reasons}
        if job.sampling.logprobs:
            sample["logprobs"] = [_rounded(answer.logprobs) for answer in said]
        samples.append(_sample(model.vocabulary, index, question, sample, scores[-1]))
    return _outcome(asked, _means(asked.metrics, scores), samples, generated_tokens=generated)


def _choose(model: LanguageModel, asked: Asked) -> Outcome:
    scores, samples = [], []
    prompts = [question.prompt for question in asked.questions]
    ids = [[answer_ids(choice, model.vocabulary) for choice in question.choices] for question in asked.questions]
    answered = zip(asked.questions, requests.score_continuations(model, prompts, ids), strict=True)
    for index, (question, found) in enumerate(answered):
        logprobs = [float(np.sum(score.logprobs, dtype=np.float64)) for score in found]
        scores.append(scoring.score_choices(question, logprobs))
        said = [
            [scoring.round_digits(logprob), bool(score.greedy.all())]
            for logprob, score in zip(logprobs, found, strict=True)
        ]
        sample = {"choices": list(question.choices), "resps": [said], "filtered_resps": said}
        samples.append(_sample(model.vocabulary, index, question, sample, scores[-1]))
    return _outcome(asked, _means(asked.metrics, scores), samples)


def _read_documents(model: LanguageModel, asked: Asked, cell: Cell, job: ScanJob) -> Outcome:
    assert cell.length is not None
    documents, samples = [], []
    positions = PositionSums(cell.length, job.position_buckets)
    found = requests.score_documents(model, [question.prompt for question in asked.questions])
    for index, score in enumerate(found):
        positions.add(score.logprobs, score.greedy)
        nats = -float(np.sum(score.logprobs, dtype=np.float64))
        documents.append(DocumentScores(len(score.logprobs), nats, int(np.sum(score.greedy))))
        values = {"loss": scoring.round_digits(nats / max(1, len(score.logprobs))), "tokens": len(score.logprobs)}
        samples.append({"doc_id": index, "resps": [[scoring.round_digits(-nats)]], **values})
    found_metrics = scoring.estimate_documents(documents)
    metrics = {name: found_metrics[name] for name in asked.metrics}
    return dataclasses.replace(_outcome(asked, metrics, samples), by_position=tuple(positions.to_json()))


def _outcome(
    asked: Asked, metrics: Mapping[str, Estimate], samples: Iterable[dict[str, Any]], generated_tokens: int = 0
) -> Outcome:
    questions = asked.questions
    return Outcome(
        output_type=asked.output_type,
        metric=asked.metrics[0],
        metrics=metrics,
        examples=len(questions),
        prompt_tokens=sum(len(question.prompt) for question in questions),
        generated_tokens=generated_tokens,
        cut_examples=sum(question.num_cut > 0 for question in questions),
        cut_tokens=sum(question.num_cut for question in questions),
        samples=tuple(samples),
    )


def _means(names: Iterable[str], scores: list[dict[str, float]]) -> dict[str, Estimate]:
    return {name: scoring.estimate_mean([score[name] for score in scores]) for name in names}


def _sampling(sampling: SamplingConfig, question: Question, seed: int, index: int) -> SamplingConfig:
    """How the answer to one question is drawn; every question, and every seed of the grid, draws anew."""
    if sampling.temperature > 0:
        own_seed = zlib.crc32(f"{sampling.seed}/{seed}/{index}".encode()) >> 1
        sampling = dataclasses.replace(sampling, seed=own_seed)
    return dataclasses.replace(
        sampling,
        max_new_tokens=question.max_new_tokens,
        stop_strings=tuple(dict.fromkeys((*question.stop_strings, *sampling.stop_strings))),
    )


def _sample(
    vocabulary: Vocabulary, index: int, question: Question, said: dict[str, Any], scores: dict[str, float]
) -> dict[str, Any]:
    """One line of the samples, with lm-evaluation-harness's names; of the prompt its end only."""
    end = vocabulary.decode(question.prompt[-_PROMPT_END:])
    return {
        "doc_id": index,
        "doc": {"prompt_tokens": len(question.prompt), "prompt_end": end, "cut_tokens": question.num_cut},
        "target": question.references[0] if len(question.references) == 1 else list(question.references),
        **said,
        "filter": "none",
        "metrics": list(scores),
        **{name: scoring.round_digits(score) for name, score in scores.items()},
    }


def _rounded(values: Any) -> list[float]:
    return [scoring.round_digits(float(value)) for value in values]
