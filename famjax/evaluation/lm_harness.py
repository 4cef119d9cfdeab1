"""lm-evaluation-harness with famjax models: the command `famjax-lm-eval`, and a harness task as a cell of a scan."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from famjax.errors import ConfigError, DataError, FamjaxError
from famjax.platforms import leave_absent_tpus

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

    from famjax.inference.language_model import LanguageModel

MODEL_NAME = "famjax"
# Resamples for the standard errors that have no formula, as of perplexities.
_BOOTSTRAP_ITERATIONS = 1000
# The harness's own switch: else it forks this process, whose JAX threads hold locks.
_NO_FORK = "DISABLE_MULTIPROC"


@dataclasses.dataclass(frozen=True)
class HarnessMetric:
    """One metric of a task.

    Attributes:
      value: over all examples, as the harness aggregates it.
      stderr: its standard error as the harness estimates it; None where it does not.
      n: examples.
      scores: of each example; empty where the value is not their mean (perplexities).
    """

    value: float
    stderr: float | None
    n: int
    scores: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class HarnessSample:
    """One example as the harness scored it.

    Attributes:
      index: of the document in its split.
      target: what is right: a text, the number of the right choice, or several of them.
      responses: answers, (log-likelihood, is greedy) of each choice, or the document's log-likelihood.
      scores: by metric.
    """

    index: int
    target: Any
    responses: tuple[Any, ...]
    scores: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class HarnessResult:
    """A task of the harness, evaluated.

    Attributes:
      task: its name.
      output_type: "generate_until", "multiple_choice", "loglikelihood" or "loglikelihood_rolling".
      primary: name of the task's first metric.
      metrics: by name; after a comma the name of the answer's filter, where it has one.
      samples: the examples, in order.
      prompt_tokens: read, a prompt that several continuations share once.
      generated_tokens: of all answers.
    """

    task: str
    output_type: str
    primary: str
    metrics: Mapping[str, HarnessMetric]
    samples: tuple[HarnessSample, ...]
    prompt_tokens: int
    generated_tokens: int


def register() -> None:
    """Makes "famjax" a model of the installed lm-eval.

    Raises:
      ConfigError: lm-eval is not installed.
    """
    _require_lm_eval()
    import lm_eval.models  # noqa: F401  (the harness adds its own models only to an empty registry)
    from lm_eval.api.registry import model_registry

    if MODEL_NAME not in model_registry:
        model_registry.register(MODEL_NAME, target="famjax.evaluation.lm_harness_model:FamjaxLM")


def require_harness_task(task: str, include_path: str | None = None) -> None:
    """Finds out whether there is such a task, without its data.

    Args:
      task: as in `evaluate_harness_task`.
      include_path: a folder with further tasks.

    Raises:
      ConfigError: lm-eval is not installed, there is no such folder, or no such task.
    """
    _require_lm_eval()
    if task not in _task_manager(include_path).task_index and not os.path.isfile(task):
        where = f", nor in {include_path}" if include_path else "; include_path names a folder with further ones"
        raise ConfigError(f"{task!r} is no task of lm-eval{where} (lm_eval ls tasks lists them).")


def evaluate_harness_task(
    model: "LanguageModel",
    task: str,
    *,
    include_path: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    num_fewshot: int | None = None,
) -> HarnessResult:
    """Runs one task of the harness, as `lm_eval --tasks` would.

    Args:
      model: reads in batches of its own size.
      task: the name of one task (no group or tag), or the path of its YAML file.
      include_path: a folder with further tasks.
      limit: so many examples, the first ones; None: all.
      seed: of the examples shown (few-shot) and of drawn answers.
      num_fewshot: examples shown before each question; None: as the task says. A task that says 0 stays at 0.

    Raises:
      ConfigError: lm-eval is not installed, there is no such task, or it asks for what famjax does not do.
      DataError: the task's data cannot be read.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit = {limit}; allowed: 1 or more, or None for all examples.")
    require_harness_task(task, include_path)
    from lm_eval import simple_evaluate

    from famjax.evaluation.lm_harness_model import FamjaxLM

    manager = _task_manager(include_path)
    loaded = _load_task(manager, task)
    lm = FamjaxLM(model, seed)
    with _without_forks():
        results = simple_evaluate(
            model=lm,
            tasks=[loaded],
            task_manager=manager,
            num_fewshot=num_fewshot,
            limit=limit,
            bootstrap_iters=_BOOTSTRAP_ITERATIONS,
            log_samples=True,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=None,
            fewshot_random_seed=seed,
        )
    return _result(loaded, results, lm.num_prompt_tokens, lm.num_generated_tokens)


def _result(task: "Task", results: Mapping[str, Any], prompt_tokens: int, generated_tokens: int) -> HarnessResult:
    from lm_eval.api.metrics import mean

    name = task.task_name
    logged = results["samples"][name]
    metrics = {}
    for key, value in results["results"][name].items():
        metric, comma, kept_by = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        per_example = [sample[metric] for sample in logged if sample["filter"] == kept_by and metric in sample]
        stderr = results["results"][name][f"{metric}_stderr,{kept_by}"]
        metrics[_short(metric, kept_by)] = HarnessMetric(
            value=float(value),
            stderr=None if stderr == "N/A" else float(stderr),
            n=len(per_example),
            scores=tuple(map(float, per_example)) if task.aggregation().get(metric, mean) is mean else (),
        )
    return HarnessResult(
        task=name,
        output_type=task.OUTPUT_TYPE,
        primary=_primary(task, list(metrics)),
        metrics=metrics,
        samples=_samples(logged),
        prompt_tokens=prompt_tokens,
        generated_tokens=generated_tokens,
    )


def _primary(task: "Task", names: list[str]) -> str:
    """The metric that the task names first; the results have them in another order."""
    order = {metric: place for place, metric in enumerate(task.aggregation())}
    return min(names, key=lambda name: order.get(name.partition(",")[0], len(order)))


def _samples(logged: list[dict[str, Any]]) -> tuple[HarnessSample, ...]:
    """One for each document, with the scores of every filter."""
    responses = {sample["doc_id"]: sample for sample in reversed(logged)}
    scores: dict[int, dict[str, Any]] = {index: {} for index in sorted(responses)}
    for sample in logged:
        for metric in sample["metrics"]:
            score = sample[metric]
            # The harness gives some as numpy's numbers, which json does not take.
            score = score.item() if isinstance(score, np.generic) else score
            scores[sample["doc_id"]][_short(metric, sample["filter"])] = score
    return tuple(
        HarnessSample(
            index=index,
            target=responses[index]["target"],
            responses=tuple(response for repeats in responses[index]["resps"] for response in repeats),
            scores=scores[index],
        )
        for index in scores
    )


def _short(metric: str, kept_by: str) -> str:
    return metric if kept_by == "none" else f"{metric},{kept_by}"


@functools.lru_cache(maxsize=4)
def _task_manager(include_path: str | None) -> "TaskManager":
    """The index of all tasks; reading it takes seconds."""
    from lm_eval.tasks import TaskManager

    if include_path is not None and not os.path.isdir(include_path):
        raise ConfigError(f"include_path = {include_path!r}: there is no such folder.")
    return TaskManager(include_path=include_path)


def _load_task(manager: "TaskManager", task: str) -> "Task":
    """The task, its data set opened."""
    from datasets.exceptions import DatasetsError

    try:
        loaded = manager.load([task])["tasks"]
    except ImportError as error:
        raise ConfigError(f"The task {task!r} needs a package that is not installed: {error}.") from error
    except (OSError, DatasetsError) as error:
        raise DataError(f"The data of the task {task!r} cannot be read: {str(error).splitlines()[0]}") from error
    if len(loaded) > 1:
        raise ConfigError(f"{task!r} is a group; name its tasks, one a cell: {', '.join(loaded)}.")
    (only,) = loaded.values()
    if getattr(only, "MULTIMODAL", False) or getattr(only, "UNSAFE_CODE", False):
        raise ConfigError(
            f"The task {task!r} shows pictures or sound, or runs code that a model wrote; famjax does not."
        )
    return only


@contextlib.contextmanager
def _without_forks() -> Iterator[None]:
    before = os.environ.get(_NO_FORK)
    os.environ[_NO_FORK] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NO_FORK]
        else:
            os.environ[_NO_FORK] = before


def _require_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm-eval is not installed: pip install 'famjax[lm_eval]'.")


def main() -> int:
    """Runs lm-eval's own command line, its arguments those of this process, with "famjax" among the models.

    A user's mistake in what famjax reads is told in one line on stderr, without a traceback.

    Returns:
      The exit code.
    """
    leave_absent_tpus()
    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        os.environ.setdefault(_NO_FORK, "1")
        cli_evaluate()
    except FamjaxError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def run() -> None:
    """The console command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
