"""The names of famjax tasks. Imports nothing heavy.

`DataConfig.tasks` has settings by name, and comes first: gin/tasks.gin fills it in, so that `PassKey.depth = 0.5` holds
for the task "passkey". Python code that sets none finds the built-in tasks, with the same settings.
"""

import difflib
from collections.abc import Iterable, Mapping

from famjax.data.instructions_config import Instructions
from famjax.data.questions import babilong_config, long_documents_config, reading_config, ruler_config
from famjax.data.task_config import AssociativeRecall, Documents, Mixture, PassKey, PassKeyDocuments, TaskConfig
from famjax.errors import ConfigError

BUILT_IN: Mapping[str, TaskConfig] = {
    "documents": Documents(),
    "passkey": PassKey(),
    "passkey_documents": PassKeyDocuments(),
    "associative_recall": AssociativeRecall(),
    "documents_and_passkeys": Mixture(),
    "instructions": Instructions(),
    **ruler_config.BUILT_IN_TASKS,
    **babilong_config.BUILT_IN_TASKS,
    **reading_config.BUILT_IN_TASKS,
    **long_documents_config.BUILT_IN_TASKS,
}


def task_names(tasks: Mapping[str, TaskConfig]) -> list[str]:
    """Every famjax task's name, those of `DataConfig.tasks` included, sorted."""
    return sorted({*BUILT_IN, *tasks})


def is_task(name: str, tasks: Mapping[str, TaskConfig]) -> bool:
    """Whether `name` is a famjax task."""
    return name in tasks or name in BUILT_IN


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
    if name in BUILT_IN:
        return BUILT_IN[name]
    raise ConfigError(unknown_task_message(name, task_names(tasks)))


def used_tasks(asked: Iterable[str], settings: Mapping[str, Iterable[object]]) -> list[str]:
    """The tasks that are asked, and those that their settings name: a mixture's, or the one a text is taken from.

    Args:
      asked: names; those of no famjax task are left out.
      settings: the values of each task's settings, by its name.
    """
    used: dict[str, None] = {}
    to_do = list(asked)
    while to_do:
        name = to_do.pop()
        if name in settings and name not in used:
            used[name] = None
            for value in settings[name]:
                to_do += [value] if isinstance(value, str) else list(value) if isinstance(value, Mapping) else []
    return list(used)


def streamed_task(name: str, tasks: Mapping[str, TaskConfig]) -> Documents | Instructions:
    """The settings of a task that can be streamed: a corpus of documents, or of records.

    Args:
      name: of the task.
      tasks: `DataConfig.tasks`.

    Raises:
      ConfigError: it is another kind of task, or none of famjax's (seqio's examples are no whole documents).
    """
    config = task_config(name, tasks) if is_task(name, tasks) else None
    if isinstance(config, Documents | Instructions):
        return config
    kind = "is no famjax task" if config is None else f"is of type {type(config).__name__}"
    kinds = Documents | Instructions
    known = ", ".join(task for task in task_names(tasks) if isinstance(task_config(task, tasks), kinds))
    raise ConfigError(
        f"Streaming.enabled = True reads whole documents, and the task {name!r} {kind}; allowed: tasks of type "
        f"Documents or Instructions, as {known} (--gin.MIXTURE_OR_TASK_NAME), or --gin.STREAM_DOCUMENTS=False."
    )


def unknown_task_message(name: str, known: Iterable[str], hint: str = "") -> str:
    """Says that `name` is no task, what comes nearest, and which flag sets it."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    offer = f"did you mean {', '.join(nearest)}?" if nearest else f"known: {', '.join(known[:12])}."
    return f"There is no task {name!r}: {offer}{hint} (--gin.MIXTURE_OR_TASK_NAME; of a scan, --gin.SCAN_TASKS)"
