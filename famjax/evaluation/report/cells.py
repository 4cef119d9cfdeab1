"""What one line of a scan's results says: a cell of its grid, read and checked."""

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any

from famjax.errors import DataError

# What a cell measured: the same cell must say the same in every scan. All other fields say which cell it is.
MEASURED = ("examples", "metrics", "prompt_tokens", "generated_tokens", "cut_examples", "cut_tokens", "by_position")

Memory = tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The mean of a metric over examples.

    Attributes:
      value: the mean.
      stderr: its standard error; NaN where one example does not tell.
      low, high: its 95 % confidence interval; NaN where there is none.
      n: examples.
    """

    value: float
    stderr: float
    low: float
    high: float
    n: int

    @property
    def has_interval(self) -> bool:
        """Whether both ends of the interval are numbers."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclasses.dataclass(frozen=True)
class Part:
    """Loss and accuracy in one part of the documents of a rolling task.

    Attributes:
      begin, end: positions, in tokens; end is the first one after it.
      loss: nats a token.
      accuracy: share of the tokens that were the most probable one.
      tokens: that the means are over.
    """

    begin: int
    end: int
    loss: float
    accuracy: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """One model with one memory at one point of the grid.

    Attributes:
      model: the checkpoint's name in the grid.
      checkpoint: its folder.
      step: its training step.
      memory: its settings, as (name, value) pairs.
      parameters: their number; None where the checkpoint could not be opened.
      task, output_type, length, depth, seed: the point of the grid; None where the task has no such thing.
      metric: the task's first one; empty in a failed cell that does not say.
      metrics: by name; none in a failed cell.
      examples, prompt_tokens, generated_tokens: how much was evaluated.
      cut_examples, cut_tokens: prompts that had no room for everything, and what was left out of them.
      by_position: of a rolling task.
      error: why it failed; empty in a finished cell.
      place: "file, line n".
      raw: the JSON object.
    """

    model: str
    checkpoint: str
    step: int | None
    memory: Memory
    parameters: int | None
    task: str
    output_type: str
    length: int | None
    depth: float | None
    seed: int | None
    metric: str
    metrics: Mapping[str, Estimate]
    examples: int
    prompt_tokens: int
    generated_tokens: int
    cut_examples: int
    cut_tokens: int
    by_position: tuple[Part, ...]
    error: str
    place: str
    raw: Mapping[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether it has metrics."""
        return not self.error

    @property
    def identity(self) -> tuple[Any, ...]:
        """Which cell it is, whatever it measured."""
        point = (self.task, self.output_type, self.length, self.depth, self.seed)
        return (self.model, self.checkpoint, self.step, self.memory, *point)


def parse_cell(line: str, place: str) -> Cell:
    """Reads one line of a results.jsonl.

    Args:
      line: a JSON object.
      place: where the line is, for messages.

    Raises:
      DataError: it is not JSON, or a field is missing or is of another type.
    """
    try:
        raw = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON ({error}); is it the results.jsonl of a scan?") from error
    fields = _Fields(raw, place)
    status = fields.get("status", str)
    if status not in ("done", "failed"):
        raise fields.wrong("status", "'done' or 'failed'")
    return _finished(fields) if status == "done" else _failed(fields)


def _finished(fields: "_Fields") -> Cell:
    metrics = {name: _estimate(fields.inner("metrics", name)) for name in fields.get("metrics", dict)}
    metric = fields.get("metric", str)
    if metric not in metrics:
        raise fields.wrong("metric", f"one of its metrics, {', '.join(metrics) or 'of which it has none'}")
    parts = fields.get("by_position", list, []) or []
    return Cell(
        **_point(fields),
        metric=metric,
        metrics=types.MappingProxyType(metrics),
        **{name: fields.get(name, int) for name in MEASURED if name.endswith(("tokens", "examples"))},
        by_position=tuple(_part(fields.inner("by_position", index)) for index in range(len(parts))),
        error="",
    )


def _failed(fields: "_Fields") -> Cell:
    return Cell(
        **_point(fields),
        metric=fields.get("metric", str, ""),
        metrics=types.MappingProxyType({}),
        examples=fields.get("examples", int, 0),
        prompt_tokens=0,
        generated_tokens=0,
        cut_examples=0,
        cut_tokens=0,
        by_position=(),
        error=fields.get("error", str) or "no reason is given",
    )


def _point(fields: "_Fields") -> dict[str, Any]:
    """What finished and failed cells both say; what a checkpoint tells may be unknown in a failed one."""
    known = fields.raw["status"] == "done"
    missing: Any = _REQUIRED if known else None
    memory = fields.get("memory", dict, missing) or {}
    return {
        "model": fields.get("model", str),
        "checkpoint": fields.get("checkpoint", str, _REQUIRED if known else "") or "",
        "step": fields.get("step", int, missing),
        "memory": tuple((name, _hashable(value)) for name, value in memory.items()),
        "parameters": fields.get("parameters", int, missing),
        "task": fields.get("task", str),
        "output_type": fields.get("output_type", str, _REQUIRED if known else "") or "",
        "length": fields.get("length", int, None),
        "depth": fields.number("depth", None),
        "seed": fields.get("seed", int, None),
        "place": fields.place,
        "raw": fields.raw,
    }


def _hashable(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _estimate(fields: "_Fields") -> Estimate:
    ends = fields.get("ci95", list, None)
    if ends is not None and len(ends) != 2:
        raise fields.wrong("ci95", "two numbers")
    interval = _Fields(dict(zip(("low", "high"), ends or (), strict=False)), fields.place, f"{fields.path}ci95.")
    low, high = (interval.number(name, math.nan) for name in ("low", "high"))
    n = fields.get("n", int)
    if n < 1:
        raise fields.wrong("n", "1 or more")
    return Estimate(fields.number("value"), fields.number("stderr", math.nan), low, high, n)


def _part(fields: "_Fields") -> Part:
    begin, end, tokens = (fields.get(name, int) for name in ("begin", "end", "tokens"))
    return Part(begin, end, fields.number("loss"), fields.number("accuracy"), tokens)


_REQUIRED = object()
_WORDS = {str: "a string", int: "a whole number", dict: "an object", list: "a list"}


class _Fields:
    """The fields of a JSON object, held against the types that they must have."""

    def __init__(self, raw: Any, place: str, path: str = "") -> None:
        if not isinstance(raw, dict):
            raise DataError(f"{place}: {path.rstrip('.') or 'the line'} is not a JSON object, as scans write them.")
        self.raw, self.place, self.path = raw, place, path

    def get(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The value; the default where it is missing or null, if there is one."""
        value = self.raw.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(name, _WORDS[kind])
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> Any:
        """A float; one that is not finite stands there as a string."""
        value = self.raw.get(name)
        if value is None and default is not _REQUIRED:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if value in ("NaN", "Infinity", "-Infinity"):
            return float(value)
        raise self.wrong(name, "a number")

    def inner(self, name: str, key: Any) -> "_Fields":
        """The fields of an object within."""
        return _Fields(self.raw[name][key], self.place, f"{self.path}{name}[{key!r}].")

    def wrong(self, name: str, expected: str) -> DataError:
        """The error for one field."""
        problem = (
            f"= {self.raw[name]!r}; expected {expected}" if name in self.raw else f"is missing; expected {expected}"
        )
        return DataError(f"{self.place}: not a cell of a scan: {self.path}{name} {problem}.")
