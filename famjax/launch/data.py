"""Whether a run's files are where its machines see them."""

import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from famjax.data.config import DataConfig, VocabularyConfig
from famjax.data.registry import task_config, task_names, used_tasks
from famjax.data.task_config import Documents, TaskConfig
from famjax.errors import ConfigError
from famjax.inference.job_config import STANDARD_STREAM
from famjax.launch.job import BUCKETS_FOLDER, LaunchedJob, strings
from famjax.launch.quoting import quote

# Fields whose strings are files, or globs of files.
_FILES = ("paths", "validation_paths", "prompts", "document", "text_file")
_VOCABULARY_FILES = ("path", "chat_template")
# Fields that are checkpoints, which are read from gs:// as well.
_CHECKPOINTS = ("checkpoint", "checkpoints", "base")


@dataclasses.dataclass(frozen=True)
class _Place:
    """Something that a run reads: the setting that says where, the path, and whether gs:// is read as well."""

    setting: str
    path: str
    is_checkpoint: bool = False


def check_data(job: LaunchedJob, buckets: tuple[str, ...]) -> None:
    """Refuses files that the run's machines do not see.

    Args:
      job: the run.
      buckets: that the launch names; none: its machines share the disk on which the command is given.

    Raises:
      ConfigError: files on this machine's disk, or that would be read from gs://; it says how to bring them along.
    """
    for place in _places(job.configuration.job):
        if place.path.startswith("gs://") and not place.is_checkpoint:
            mounted = f"set it to {place.path.replace('gs:/', BUCKETS_FOLDER, 1)!r}, where the bucket is mounted."
            copied = "copy them to a disk that the nodes share."
            raise ConfigError(
                f"{place.setting} = {place.path!r}: files are never read from gs://; {mounted if buckets else copied}"
            )
        if buckets and not place.path.startswith(("gs://", f"{BUCKETS_FOLDER}/")):
            source, target, value = _copied(place, buckets[0])
            raise ConfigError(
                f"{place.setting} = {place.path!r} is on a disk of this machine, which the run's machines do not see.\n"
                f"  Copy it to a bucket: gcloud storage cp --recursive {source} {target}\n  Then set it to {value!r}."
            )


def standard_library_tasks(job: Any) -> list[str]:
    """The tasks of a run whose documents are Python's standard library, since nothing says which others."""
    found = (name for name, task in _asked(job) if isinstance(task, Documents) and not task.paths)
    return list(dict.fromkeys(found))


def _copied(place: _Place, bucket: str) -> tuple[str, str, str]:
    """What to copy, where to, and the setting afterwards."""
    parts = PurePosixPath(place.path).parts
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    source = PurePosixPath(*parts[:fixed])
    # Into the bucket itself: below a folder of that name which is there already, gcloud makes another one.
    target = f"gs://{bucket}/{'' if source.name else 'data'}"
    root = "gs:/" if place.is_checkpoint else BUCKETS_FOLDER
    value = PurePosixPath(bucket, source.name or "data", *parts[fixed:])
    return quote(os.path.expanduser(source)), target, f"{root}/{value}"


def _places(job: Any) -> Iterator[_Place]:
    """Everything that a run reads, but for what its own modules and libraries read."""
    for _, task in _asked(job):
        yield from _of(task, _FILES)
    yield from _of(job, _FILES)
    if (restore := getattr(job, "restore", None)) is not None:
        yield from _of(restore, ("path",), is_checkpoint=True)
    else:  # TrainJob.checkpoint is how often they are written.
        yield from _of(job, _CHECKPOINTS, is_checkpoint=True)
    for vocabulary in (getattr(job, "vocabulary", None), *(data.vocabulary for data in _data(job))):
        if isinstance(vocabulary, VocabularyConfig):
            yield from _of(vocabulary, _VOCABULARY_FILES)


def _of(config: Any, fields: Iterable[str], *, is_checkpoint: bool = False) -> Iterator[_Place]:
    for name in fields:
        for path in strings(getattr(config, name, None)):
            if path != STANDARD_STREAM:
                yield _Place(f"{type(config).__name__}.{name}", path, is_checkpoint)


def _data(job: Any) -> list[DataConfig]:
    return [data for name in ("data", "eval_data") if (data := getattr(job, name, None)) is not None]


def _asked(job: Any) -> Iterator[tuple[str, TaskConfig]]:
    """The famjax tasks that a run reads, by name; seqio's say themselves where their files are."""
    asked = [(data.tasks, (data.mixture_or_task_name,)) for data in _data(job)]
    if (configs := getattr(job, "task_configs", None)) is not None:
        asked.append((configs, job.tasks))
    for tasks, names in asked:
        known = {name: task_config(name, tasks) for name in task_names(tasks)}
        yield from ((name, known[name]) for name in used_tasks(names, {k: vars(v).values() for k, v in known.items()}))
