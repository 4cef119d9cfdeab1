"""Reads the results of scans and puts them together."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from famjax.errors import DataError
from famjax.evaluation.report.cells import MEASURED, Cell, parse_cell

RESULTS_NAME = "results.jsonl"
CONFIG_NAME = "config.gin"

Folder = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class Scan:
    """The results of one scan.

    Attributes:
      name: that the user gave it; empty: it is merged with the others.
      cells: in the order of the grid.
      config: its gin configuration; empty where the folder has none.
      digest: first digits of the SHA-256 of its results.
    """

    name: str
    cells: tuple[Cell, ...]
    config: str
    digest: str


def read_scans(folders: Sequence[Folder] | Mapping[str, Folder]) -> tuple[Scan, ...]:
    """Reads the results of each folder; a folder named twice is read once.

    Raises:
      DataError: a folder has no results, they are empty, or a line is not a cell.
    """
    if isinstance(folders, Mapping):
        return tuple(_read(name, epath.Path(folder).expanduser()) for name, folder in folders.items())
    paths = dict.fromkeys(epath.Path(folder).expanduser() for folder in folders)
    return tuple(_read("", path) for path in paths)


def merge(scans: Sequence[Scan]) -> tuple[tuple[str, Cell], ...]:
    """Every cell once, with the name of its scan. Where it failed in one scan and not in another, the finished one.

    Raises:
      DataError: a cell of two scans has different results.
    """
    merged: dict[tuple[str, tuple[object, ...]], Cell] = {}
    for scan in scans:
        for cell in scan.cells:
            key = (scan.name, cell.identity)
            merged[key] = _one_of(merged[key], cell) if key in merged else cell
    return tuple((name, cell) for (name, _), cell in merged.items())


def _read(name: str, folder: epath.Path) -> Scan:
    path = folder / RESULTS_NAME
    if not path.is_file():
        raise DataError(f"{folder} (ReportJob.results): there is no {RESULTS_NAME}; scan first (--run_mode=scan).")
    try:
        text = path.read_text(encoding="utf-8")
        config = folder / CONFIG_NAME
        config_text = config.read_text(encoding="utf-8") if config.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder} (ReportJob.results): not the results of a scan ({error}).") from error
    lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
    cells = tuple(parse_cell(line, f"{path}, line {number}") for number, line in lines)
    if not cells:
        raise DataError(f"{path} (ReportJob.results) is empty; scan first (--run_mode=scan).")
    return Scan(name, cells, config_text, hashlib.sha256(text.encode()).hexdigest()[:12])


def _one_of(first: Cell, second: Cell) -> Cell:
    """The cell that stands for both."""
    if first.is_done and second.is_done:
        differing = [name for name in MEASURED if first.raw.get(name) != second.raw.get(name)]
        if differing:
            raise DataError(_disagreement(first, second, differing[0]))
    return second if second.is_done and not first.is_done else first


def _disagreement(first: Cell, second: Cell, field: str) -> str:
    point = [
        f"{name} {getattr(first, name)}" for name in ("length", "depth", "seed") if getattr(first, name) is not None
    ]
    memory = ", ".join(f"{name} {value}" for name, value in first.memory)
    one: Any
    other: Any
    one, other = first.raw.get(field), second.raw.get(field)
    if field == "metrics":
        field = next(name for name in {**first.metrics, **second.metrics} if one.get(name) != other.get(name))
        one, other = one.get(field), other.get(field)
        if one and other and one["value"] != other["value"]:
            one, other = one["value"], other["value"]
    return (
        f"Two scans disagree on {first.model} ({first.checkpoint}, {memory}), {', '.join([first.task, *point])}: "
        f"{field} is {one} at {first.place}, {other} at {second.place}.\n"
        "They are of different code or data: report them apart, or compare them by name: "
        "--gin.ReportJob.results=\"{'before': '...', 'after': '...'}\"."
    )
