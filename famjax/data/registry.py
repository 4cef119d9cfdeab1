"""The names of famjax tasks. Imports nothing heavy.

A built-in task is a factory of settings, so that whoever configures (gin) can put its own factory in the place of the
bare dataclass: `configure(gin.external_configurable)` makes `PassKey.depth = 0.5` hold for the task "passkey". Further
names come with `DataConfig.tasks`.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping

from famjax.data.task_config import AssociativeRecall, Documents, Mixture, PassKey, PassKeyDocuments, TaskConfig
from famjax.errors import ConfigError

BUILT_IN: Mapping[str, type[TaskConfig]] = {
    "documents": Documents,
    "passkey": PassKey,
    "passkey_documents": PassKeyDocuments,
    "associative_recall": AssociativeRecall,
    "documents_and_passkeys": Mixture,
}

_factories: dict[str, Callable[[], TaskConfig]] = dict(BUILT_IN)


def configure(wrap: Callable[[type[TaskConfig]], Callable[[], TaskConfig]]) -> None:
    """Makes every built-in task from `wrap(its dataclass)` from now on."""
    for name, kind in BUILT_IN.items():
        _factories[name] = wrap(kind)


def task_names(tasks: Mapping[str, TaskConfig]) -> list[str]:
    """Every famjax task's name, those of `DataConfig.tasks` included, sorted."""
    return sorted({*_factories, *tasks})


def is_task(name: str, tasks: Mapping[str, TaskConfig]) -> bool:
    """Whether `name` is a famjax task."""
    return name in tasks or name in _factories


def task_config(name: str, tasks: Mapping[str, TaskConfig]) -> TaskConfig:
    """The settings of a famjax task.

    Args:
      name: of the task.
      tasks: `DataConfig.tasks`.

    Raises:
      ConfigError: there is no such famjax task.
    """
    if name in tasks:
        return tasks[name]
    if name in _factories:
        return _factories[name]()
    raise ConfigError(unknown_task_message(name, task_names(tasks)))


def unknown_task_message(name: str, known: Iterable[str], hint: str = "") -> str:
    """Says that `name` is no task, what comes nearest, and which flag sets it."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    offer = f"did you mean {', '.join(nearest)}?" if nearest else f"known: {', '.join(known[:12])}."
    return f"There is no task {name!r}: {offer}{hint} (--gin.MIXTURE_OR_TASK_NAME)"
