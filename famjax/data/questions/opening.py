"""From the name of a task to its questions."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from famjax.data import registry
from famjax.data.examples import Reading
from famjax.data.questions.question import Questions
from famjax.data.task_config import TaskConfig
from famjax.data.tasks import open_examples
from famjax.data.vocabularies import Vocabulary
from famjax.errors import ConfigError


def open_questions(
    name: str,
    *,
    split: str,
    length: int,
    depth: float | None,
    seed: int,
    vocabulary: Vocabulary,
    tasks: Mapping[str, TaskConfig],
) -> Questions:
    """Opens a task that asks.

    Args:
      name: of the task.
      split: "train" or "validation".
      length: tokens of prompt and budget together, at most; as near to it as the task's text allows.
      depth: where what is asked for lies, 0 (beginning) to 1 (end); None: as the task's settings say.
      seed: of everything drawn.
      vocabulary: of the tokens.
      tasks: settings of further tasks by name (`DataConfig.tasks`).

    Raises:
      ConfigError: no such task, or one that asks nothing; a depth for a task that has none; too short a length.
      DataError: files cannot be read as the settings say.
    """
    task_config = functools.partial(registry.task_config, tasks=tasks)
    config = task_config(name)
    if depth is not None:
        config = _at_depth(name, config, depth)
    reading = Reading(
        name=name,
        split=split,
        shuffle=True,
        seed=seed,
        shortest=length,
        longest=length,
        vocabulary=vocabulary,
        task_config=task_config,
    )
    examples = open_examples(config, reading)
    if not isinstance(examples, Questions):
        raise ConfigError(f"The task {name!r} ({type(config).__name__}) asks no questions.")
    return examples


def has_depth(config: TaskConfig) -> bool:
    """Whether a task takes a depth."""
    return any(field.name == "depth" for field in dataclasses.fields(config))


def _at_depth(name: str, config: TaskConfig, depth: float) -> TaskConfig:
    if not has_depth(config):
        raise ConfigError(f"The task {name!r} ({type(config).__name__}) takes no depth, but {depth} is asked for.")
    changes: dict[str, Any] = {"depth": depth}
    return dataclasses.replace(config, **changes)
