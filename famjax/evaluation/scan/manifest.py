"""grid.json in a scan's folder: the grid that the processes of a scan agree on.

The first process writes it. Which checkpoints a glob or a MODEL_DIR meant is decided then, so that a process that
starts later, or again, works on the same cells.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from famjax.errors import ConfigError, DataError
from famjax.evaluation.scan.checkpoints import GridCheckpoint, fingerprint, followed
from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.grid import Cell, make_cells, task_settings
from famjax.evaluation.scan.ledger import write_atomically
from famjax.locking import lock

NAME, LOCK_NAME = "grid.json", ".grid.lock"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What grid.json says.

    Attributes:
      settings: of the grid, as JSON.
      checkpoints: in order.
      keys: of all cells.
    """

    settings: dict[str, Any]
    checkpoints: tuple[GridCheckpoint, ...]
    keys: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid of cells.

    Attributes:
      checkpoints: in order.
      cells: in order.
      is_known: grid.json says the same.
    """

    checkpoints: tuple[GridCheckpoint, ...]
    cells: list[Cell]
    is_known: bool


def agree(
    output_dir: Path,
    job: ScanJob,
    vocabulary: str,
    find: Callable[[], list[GridCheckpoint]],
) -> list[Cell]:
    """The cells of the scan in a folder, the same for every process of it.

    Args:
      output_dir: the scan's folder, which exists.
      job: the scan.
      vocabulary: its fingerprint.
      find: looks for the checkpoints; called only where grid.json does not tell.

    Raises:
      ConfigError: the folder has the results of another grid, which is not part of this one.
    """
    with locked(output_dir):
        grid = plan(output_dir, job, vocabulary, find)
        if not grid.is_known:
            _write(output_dir, grid_settings(job, vocabulary), grid.checkpoints, grid.cells)
        return grid.cells


def plan(output_dir: Path, job: ScanJob, vocabulary: str, find: Callable[[], list[GridCheckpoint]]) -> Grid:
    """What `agree` agrees on; nothing is written."""
    known, settings = read(output_dir), grid_settings(job, vocabulary)
    if known is not None and known.settings == settings:
        _require_same_files(output_dir, known.checkpoints)
        return Grid(known.checkpoints, make_cells(job, known.checkpoints, vocabulary), is_known=True)
    checkpoints = find()
    if known is not None and known.settings.get("every") == job.every:
        checkpoints = _with_earlier(checkpoints, known.checkpoints)
    cells = make_cells(job, checkpoints, vocabulary)
    if known is not None and not known.keys <= {cell.key for cell in cells}:
        raise ConfigError(_other_grid(output_dir, known.settings, settings))
    return Grid(tuple(checkpoints), cells, is_known=False)


def add_checkpoints(output_dir: Path, job: ScanJob, vocabulary: str, new: Iterable[GridCheckpoint]) -> list[Cell]:
    """Adds checkpoints that have appeared to the grid; returns the cells of all, those that others found included."""
    order = {name: index for index, name in enumerate(followed(job.checkpoints))}
    with locked(output_dir):
        known = read(output_dir)
        before = () if known is None else known.checkpoints
        # The first to be seen by any process stays.
        merged = {(checkpoint.name, checkpoint.step): checkpoint for checkpoint in [*new, *before]}
        checkpoints = sorted(merged.values(), key=lambda checkpoint: (order[checkpoint.name], checkpoint.step))
        cells = make_cells(job, checkpoints, vocabulary)
        if len(checkpoints) > len(before):
            _write(output_dir, grid_settings(job, vocabulary), checkpoints, cells)
        return cells


def read(output_dir: Path) -> Manifest | None:
    """What grid.json says; None where there is none.

    Raises:
      DataError: it is not one of a scan.
    """
    path = output_dir / NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        checkpoints = tuple(GridCheckpoint.from_json(entry, str(path)) for entry in values["checkpoints"])
        return Manifest(values["settings"], checkpoints, frozenset(values["cells"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the grid of a scan ({error!r}). Delete it; what is evaluated stays.") from error


def grid_settings(job: ScanJob, vocabulary: str) -> dict[str, Any]:
    """All that decides the cells and their results, as JSON."""
    values = {
        "checkpoints": job.checkpoints,
        "every": job.every,
        "watch": job.watch is not None,
        "memories": [dataclasses.asdict(memory) for memory in job.memories],
        "tasks": {task: task_settings(task, job.task_configs) for task in job.tasks},
        "lengths": {task: job.lengths_of(task) for task in job.tasks},
        "depths": {task: job.depths_of(task) for task in job.tasks},
        "seeds": job.seeds,
        "examples": job.examples,
        "max_tokens_per_cell": job.max_tokens_per_cell,
        "split": job.split,
        "sampling": dataclasses.asdict(job.sampling),
        "position_buckets": job.position_buckets,
        "harness_tasks": job.harness_tasks,
        "harness_include_path": job.harness_include_path,
        "vocabulary": vocabulary,
    }
    settings: dict[str, Any] = json.loads(json.dumps(values, default=repr))
    return settings


def _write(
    output_dir: Path, settings: dict[str, Any], checkpoints: Iterable[GridCheckpoint], cells: list[Cell]
) -> None:
    values = {
        "settings": settings,
        "checkpoints": [checkpoint.to_json() for checkpoint in checkpoints],
        "cells": [cell.key for cell in cells],
    }
    write_atomically(output_dir / NAME, json.dumps(values, indent=1) + "\n")


def _with_earlier(found: list[GridCheckpoint], known: Iterable[GridCheckpoint]) -> list[GridCheckpoint]:
    """What is found, and what was found in the same MODEL_DIRs before: in the order of the runs, then by step."""
    runs = {checkpoint.run: index for index, checkpoint in reversed(list(enumerate(found)))}
    merged = {(checkpoint.run, checkpoint.step): checkpoint for checkpoint in known if checkpoint.run in runs}
    merged |= {(checkpoint.run, checkpoint.step): checkpoint for checkpoint in found}
    return sorted(merged.values(), key=lambda checkpoint: (runs[checkpoint.run], checkpoint.step))


def _require_same_files(output_dir: Path, checkpoints: Iterable[GridCheckpoint]) -> None:
    """Refuses to mix the results of a checkpoint with those of another one in its place; a deleted one fails later."""
    for checkpoint in checkpoints:
        if checkpoint.exists and fingerprint(checkpoint.folder.path) != checkpoint.fingerprint:
            raise ConfigError(
                f"{checkpoint.path} is not the checkpoint that the scan in {output_dir} began with: it was trained or "
                f"converted anew. Set --gin.SCAN_OUTPUT_DIR to another, or delete {output_dir / NAME}."
            )


def _other_grid(output_dir: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    differences = [
        f"{name}: there {json.dumps(there.get(name))}, here {json.dumps(value)}"
        for name, value in here.items()
        if there.get(name) != value
    ]
    return (
        f"{output_dir} has the results of another grid, which is not part of this one: {'; '.join(differences)}.\n"
        f"  Set --gin.SCAN_OUTPUT_DIR to another, or delete {output_dir / NAME}: cells that both have stay evaluated."
    )


@contextlib.contextmanager
def locked(output_dir: Path) -> Iterator[None]:
    """One process at a time."""
    file = os.open(output_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lock(file, output_dir, wait=True)
        yield
    finally:
        os.close(file)
