"""Which checkpoints a scan evaluates: from MODEL_DIRs, checkpoint folders and globs to a list in a fixed order."""

import dataclasses
import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from famjax.errors import CheckpointError, ConfigError
from famjax.models.config import TransformerConfig
from famjax.training import checkpoint_files as files
from famjax.training import model_settings
from famjax.training.restore import read_model_config

SETTING = "--gin.CHECKPOINTS"


@dataclasses.dataclass(frozen=True)
class GridCheckpoint:
    """A checkpoint in a grid.

    Attributes:
      name: of its run in the results.
      path: the folder, as the user wrote it.
      step: the step that it was saved after.
      fingerprint: of its files; another run's checkpoint of the same step has another.
      config: the model that it was trained with.
    """

    name: str
    path: str
    step: int
    fingerprint: str
    config: TransformerConfig

    @property
    def folder(self) -> files.StepFolder:
        """Where it lies."""
        return files.StepFolder(files.absolute_path(self.path), self.step)

    @property
    def run(self) -> tuple[str, str]:
        """The name of its run, and its MODEL_DIR."""
        return self.name, os.path.dirname(self.path)

    @property
    def exists(self) -> bool:
        """Whether it is still there."""
        return bool(self.folder.path.is_dir())

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {**vars(self), "config": model_settings.to_json(self.config)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: str) -> "GridCheckpoint":
        """What `to_json` gave; CheckpointError where the model's settings are none of this version's."""
        return cls(**{**values, "config": model_settings.from_json(values["config"], where)})


def find_checkpoints(checkpoints: str | Iterable[str] | Mapping[str, str], every: int | None) -> list[GridCheckpoint]:
    """The checkpoints of a grid: in the order of the names, then by step.

    Args:
      checkpoints: paths or globs, or these by name (`ScanJob.checkpoints`).
      every: every so manieth of a MODEL_DIR, counted back from its latest; None: its latest.

    Raises:
      CheckpointError: a path or glob that means no checkpoint.
      ConfigError: two runs would have the same name.
    """
    found = [
        _describe(name, path, folder)
        for name, pattern in _named(checkpoints)
        for run, path in _matches(name, pattern)
        for name, path, folder in _chosen(run, path, every)
    ]
    runs: dict[str, str] = {}
    for checkpoint in found:
        run = os.path.dirname(checkpoint.path)
        other = runs.setdefault(checkpoint.name, run)
        if files.absolute_path(other) != files.absolute_path(run):
            raise _same_name(checkpoint.name, other, run)
    return list({(checkpoint.name, checkpoint.step): checkpoint for checkpoint in found}.values())


def find_new(
    runs: Mapping[str, str], known: Iterable[GridCheckpoint], report: Callable[[str], None]
) -> list[GridCheckpoint]:
    """The checkpoints, not known yet, of runs that are being trained: in the order of the runs, then by step.

    A MODEL_DIR need not exist yet, and a checkpoint may be deleted while it is looked at.

    Args:
      runs: what `followed` returned.
      known: found before.
      report: called with one line for each checkpoint that cannot be read.
    """
    seen = {(checkpoint.name, checkpoint.step) for checkpoint in known}
    found = []
    for name, model_dir in runs.items():
        for folder in reversed(files.step_folders(files.absolute_path(model_dir))):
            if (name, folder.step) in seen:
                continue
            try:
                found.append(_describe(name, os.path.join(model_dir, folder.path.name), folder))
            except CheckpointError as error:
                report(str(error))
    return found


def followed(checkpoints: str | Iterable[str] | Mapping[str, str]) -> dict[str, str]:
    """The MODEL_DIR of each run that a scan follows, by the run's name.

    Raises:
      ConfigError: a glob, or a checkpoint folder: there is no run to follow; or two runs of the same name.
    """
    runs: dict[str, str] = {}
    for name, path in _named(checkpoints):
        if glob.has_magic(path) or _is_checkpoint(_base(path)):
            raise ConfigError(
                f"ScanJob.watch needs MODEL_DIRs to follow; ScanJob.checkpoints has {path!r} ({SETTING})."
            )
        run = name or _base(path)
        if run in runs:
            raise _same_name(run, runs[run], path)
        runs[run] = path
    return runs


def _same_name(name: str, one: str, other: str) -> ConfigError:
    return ConfigError(
        f"ScanJob.checkpoints: {one} and {other} are both called {name!r}; give them names, as "
        f"{SETTING}=\"{{'a': {one!r}, 'b': {other!r}}}\"."
    )


def fingerprint(folder: epath.Path) -> str:
    """Tells a checkpoint from another one of the same name: a hash of its files' checksums."""
    try:
        text = (folder / files.CHECKSUMS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder}: {files.CHECKSUMS} cannot be read ({error.strerror or error}).") from error
    return hashlib.sha256(text).hexdigest()[:16]


def _named(checkpoints: str | Iterable[str] | Mapping[str, str]) -> list[tuple[str, str]]:
    """(name, path or glob); the name is "" where the user gives none."""
    if isinstance(checkpoints, str):
        return [("", checkpoints)]
    if isinstance(checkpoints, Mapping):
        return list(checkpoints.items())
    return [("", path) for path in checkpoints]


def _matches(name: str, pattern: str) -> Iterator[tuple[str, str]]:
    """(name of the run, path) of each path that a pattern means."""
    if not glob.has_magic(pattern):
        yield name or _run_of(pattern), pattern
        return
    expanded = os.path.expanduser(pattern)
    paths = [path for path in sorted(glob.glob(expanded, recursive=True)) if _holds_checkpoints(path)]
    if not paths:
        raise CheckpointError(f"{pattern} ({SETTING}) matches no MODEL_DIR and no checkpoint.")
    runs = {_run_of(path) for path in paths}
    for path in paths:
        own = _run_of(path)
        yield (own if not name else name if len(runs) == 1 else f"{name} {own}"), path


def _holds_checkpoints(path: str) -> bool:
    folder = files.absolute_path(path)
    return folder.is_dir() and (_is_checkpoint(folder.name) or bool(files.step_folders(folder)))


def _chosen(run: str, path: str, every: int | None) -> Iterator[tuple[str, str, files.StepFolder]]:
    """(run, path as the user would write it, folder) of each checkpoint that a path means, by step."""
    folders = files.candidates(path, SETTING)
    if _is_checkpoint(_base(path)):
        yield run, path.rstrip("/"), folders[0]
        return
    for folder in reversed(folders[:: every or len(folders)]):
        yield run, os.path.join(path, folder.path.name), folder


def _describe(name: str, path: str, folder: files.StepFolder) -> GridCheckpoint:
    try:
        config = read_model_config(folder, setting=SETTING)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder.path} ({SETTING}): its model settings cannot be read ({error}).") from error
    return GridCheckpoint(name, path, folder.step, fingerprint(folder.path), config)


def _is_checkpoint(name: str) -> bool:
    return re.fullmatch(rf"{files.PREFIX}_\d+", name) is not None


def _run_of(path: str) -> str:
    """The name of a run without a given one: its MODEL_DIR's."""
    base = _base(path)
    return _base(os.path.dirname(path.rstrip("/"))) if _is_checkpoint(base) else base


def _base(path: str) -> str:
    return files.absolute_path(path).name
