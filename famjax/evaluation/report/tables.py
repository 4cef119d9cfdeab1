"""The report's tables, before they are Markdown, HTML or lines of a terminal."""

import dataclasses
from collections.abc import Sequence

from famjax.evaluation.report.cells import Cell
from famjax.evaluation.report.contents import Contents, Point, TaskResults
from famjax.evaluation.report.formatting import cut_text, listed, words
from famjax.evaluation.report.pooling import lower_is_better
from famjax.evaluation.report.summary import answers, best
from famjax.evaluation.report.variants import Variant
from famjax.plurals import counted


@dataclasses.dataclass(frozen=True)
class PointTable:
    """Values of a metric.

    Attributes:
      caption: what the table shows.
      corner: what the first column holds.
      columns: their headings.
      rows: the label and the points of each.
      is_share: a share of right answers: the values lie in [0, 1] and more is better.
    """

    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Point | None, ...]], ...]
    is_share: bool

    @property
    def has_failures(self) -> bool:
        """Whether a value lacks cells, or there is none, because they failed."""
        return any(point is not None and point.failed for _, points in self.rows for point in points)


@dataclasses.dataclass(frozen=True)
class TextTable:
    """Text in rows.

    Attributes:
      columns: their headings.
      rows: a text for each column.
      marked: (row, column) of what stands out.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[tuple[int, int]] = frozenset()


FAILED_NOTE = "† some of its cells failed: the mean is over the others."


def summary_table(contents: Contents) -> TextTable:
    """How far each model holds up on each task; the best is marked."""
    rows: list[list[str]] = [[variant.label] for variant in contents.variants]
    marked = set()
    for column, task in enumerate(contents.tasks, 1):
        found = answers(contents, task)
        for row, variant in enumerate(contents.variants):
            answer = found.get(variant)
            rows[row].append(f"{answer.headline}\n{answer.detail}" if answer else "")
            if variant in best(found):
                marked.add((row, column))
    headings = (f"{task.name}\n{words(task.metric)}" for task in contents.tasks)
    return TextTable(("model", *headings), tuple(map(tuple, rows)), frozenset(marked))


def length_table(contents: Contents, task: TaskResults, metric: str) -> PointTable:
    """One row for each model, one column for each length."""
    rows = []
    for variant in task.by_variant:
        curve = task.curve(variant, metric)
        rows.append((variant.label, tuple(curve.get(length) for length in task.lengths)))
    headings = tuple(f"{length:,}" + "\ntrained" * contents.was_trained(length) for length in task.lengths)
    caption = f"{task.name}: {words(metric)} by length in tokens{averaged_over(task)}"
    return PointTable(caption, "model", headings, tuple(rows), _is_share(task, metric))


def depth_table(task: TaskResults, variant: Variant) -> PointTable:
    """One row for each depth, one column for each length, of the metric that is shown first."""
    points = task.by_depth(variant, task.metric)
    rows = tuple(
        (f"{100 * depth:.4g} %", tuple(points.get((length, depth)) for length in task.lengths)) for depth in task.depths
    )
    caption = f"{variant.label}, {task.name}: {words(task.metric)} by depth and length in tokens"
    headings = tuple(f"{length:,}" for length in task.lengths)
    return PointTable(caption, "depth", headings, rows, _is_share(task, task.metric))


def score_table(contents: Contents, tasks: Sequence[TaskResults]) -> PointTable:
    """Of tasks without lengths: one row for each task and metric, one column for each model."""
    rows = [
        (
            f"{task.name}: {words(metric)}{' (lower is better)' if lower_is_better(metric) else ''}",
            tuple(
                task.overall(variant, metric) if variant in task.by_variant else None for variant in contents.variants
            ),
        )
        for task in tasks
        for metric in task.metrics
    ]
    is_share = all(_is_share(task, metric) for task in tasks for metric in task.metrics)
    columns = tuple(variant.label for variant in contents.variants)
    return PointTable("Tasks without lengths", "task and metric", columns, tuple(rows), is_share)


def step_table(task: TaskResults, variant: Variant) -> PointTable:
    """One row for each training step, one column for each length."""
    by_length = task.by_step(variant, task.metric)
    steps = sorted({step for points in by_length.values() for step in points})
    rows = tuple((f"{step:,}", tuple(points.get(step) for points in by_length.values())) for step in steps)
    caption = f"{variant.label}, {task.name}: {words(task.metric)} by training step and length{averaged_over(task)}"
    headings = tuple(f"{length:,}" for length in by_length)
    return PointTable(caption, "step", headings, rows, _is_share(task, task.metric))


def averaged_over(task: TaskResults, suffix: str = " (their examples pooled)") -> str:
    """What a value is the mean over, besides examples: ", mean over 5 depths and 2 seeds (their examples pooled)"."""
    numbers = [(len({getattr(cell, noun) for cell in task.cells}), noun) for noun in ("depth", "seed")]
    over = [counted(number, noun) for number, noun in numbers if number > 1]
    return f", mean over {listed(over)}{suffix}" if over else ""


def failure_table(contents: Contents) -> TextTable:
    """The cells without results, those of one model with the same error together."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for variant, cell in contents.failed:
        groups.setdefault((variant.label, cell.task, cell.error), []).append(cell)
    rows = tuple((label, task, _where(cells), error) for (label, task, error), cells in groups.items())
    return TextTable(("model", "task", "cells", "error"), rows)


def cut_table(contents: Contents) -> TextTable:
    """Prompts that had no room for everything; models with the same cuts together."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for task in contents.tasks:
        for variant in task.by_variant:
            cells = task.latest(variant)
            for length in dict.fromkeys(cell.length for cell in cells if cell.cut_examples):
                where = "" if length is None else f"{length:,}"
                text = cut_text([cell for cell in cells if cell.length == length and cell.is_done])
                groups.setdefault((task.name, where, text), []).append(variant.label)
    models = {task.name: [variant.label for variant in task.by_variant] for task in contents.tasks}
    rows = tuple(
        (task, where, text, "every model" if len(labels) > 1 and labels == models[task] else "; ".join(labels))
        for (task, where, text), labels in groups.items()
    )
    return TextTable(("task", "length", "cut", "models"), rows)


def model_table(contents: Contents) -> TextTable:
    """The settings of each model."""
    names = list(dict.fromkeys(name for variant in contents.variants for name, _ in variant.memory))
    rows = []
    for variant in contents.variants:
        memory = dict(variant.memory)
        values = [str(memory[name]) if memory.get(name) is not None else "" for name in names]
        parameters = "" if variant.parameters is None else f"{variant.parameters:,}"
        steps = ", ".join(f"{step:,}" for step in variant.steps)
        rows.append((variant.label, variant.checkpoint, steps, parameters, *values))
    return TextTable(("model", "checkpoint", "steps", "parameters", *map(words, names)), tuple(rows))


def _is_share(task: TaskResults, metric: str) -> bool:
    return task.is_fraction(metric) and not task.is_rolling


def _where(cells: Sequence[Cell]) -> str:
    """Which cells of a task: "2 cells: length 8,192; depth 0.25, 0.5; seed 0; step 5,000"."""
    names = ("length", "depth", "seed", "step")
    values = {name: sorted({getattr(cell, name) for cell in cells} - {None}) for name in names}
    parts = [f"{name} {', '.join(f'{value:,}' for value in found)}" for name, found in values.items() if found]
    return f"{counted(len(cells), 'cell')}: {'; '.join(parts) or 'the whole task'}"
