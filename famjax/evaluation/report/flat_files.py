"""The report as files for other programs and for version control: CSV and Markdown."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from famjax.evaluation.report.cells import Cell, Estimate
from famjax.evaluation.report.contents import Contents, TaskResults
from famjax.evaluation.report.formatting import with_interval
from famjax.evaluation.report.summary import explanation, sentence
from famjax.evaluation.report.tables import (
    FAILED_NOTE,
    PointTable,
    TextTable,
    cut_table,
    depth_table,
    failure_table,
    length_table,
    model_table,
    score_table,
    step_table,
    summary_table,
)
from famjax.evaluation.report.variants import Variant

_POINT = ("task", "output_type", "length", "depth", "seed", "examples")
_AMOUNTS = ("prompt_tokens", "generated_tokens", "cut_examples", "cut_tokens")


def csv_text(contents: Contents) -> str:
    """One row a cell; every metric has a column for its mean, standard error, interval and number of examples."""
    memory = list(dict.fromkeys(name for variant in contents.variants for name, _ in variant.memory))
    metrics = list(dict.fromkeys(name for _, cell in contents.cells for name in cell.metrics))
    rows = [_csv_row(variant, cell, memory, metrics) for variant, cell in contents.cells]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def markdown_text(contents: Contents, pictures: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """The summary and a table for each task and metric, with 95 % intervals.

    Args:
      contents: what is shown.
      pictures: of each task, (alternative text, path) of its pictures.
    """
    lines = [f"# {_escaped(contents.title)}", ""]
    lines += [f"- {_escaped(sentence(contents, task))}" for task in contents.tasks]
    if contents.tasks:
        lines += ["", *_text_table(summary_table(contents)), "", _escaped(explanation(contents))]
    without_lengths = [task for task in contents.tasks if not task.lengths]
    for task in contents.tasks:
        if task.lengths:
            lines += ["", *_task_section(contents, task, pictures.get(task.name, ()))]
    if without_lengths:
        lines += ["", "## Tasks without lengths", "", *_point_table(score_table(contents, without_lengths))]
    for heading, table in (
        ("Failed cells", failure_table(contents)),
        ("Prompts that were cut", cut_table(contents)),
        ("Models", model_table(contents)),
    ):
        if table.rows:
            lines += ["", f"## {heading}", "", *_text_table(table)]
    return "\n".join(lines) + "\n"


def _task_section(contents: Contents, task: TaskResults, pictures: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield f"## {_escaped(task.name)}"
    for metric in task.metrics:
        table = length_table(contents, task, metric)
        intervals = ", with 95 % confidence intervals" * task.has_intervals
        yield from ("", f"{_escaped(table.caption)}{intervals}:", "", *_point_table(table))
    for variant in task.by_variant:
        if len(task.depths) > 1:
            table = depth_table(task, variant)
            yield from ("", f"{_escaped(table.caption)}:", "", *_point_table(table))
        if len(task.steps(variant)) > 1:
            table = step_table(task, variant)
            yield from ("", f"{_escaped(table.caption)}:", "", *_point_table(table))
    for text, path in pictures:
        yield from ("", f"![{_escaped(text)}]({path})")


def _point_table(table: PointTable) -> Iterator[str]:
    yield _line((table.corner, *(_escaped(column) for column in table.columns)))
    yield _line(("---", *("---:" for _ in table.columns)))
    for label, points in table.rows:
        yield _line((_escaped(label), *(with_interval(point) for point in points)))
    if table.has_failures:
        yield from ("", FAILED_NOTE)


def _text_table(table: TextTable) -> Iterator[str]:
    yield _line(_escaped(column) for column in table.columns)
    yield _line("---" for _ in table.columns)
    for row, texts in enumerate(table.rows):
        cells = (_escaped(text) for text in texts)
        yield _line(f"**{cell}**" if (row, column) in table.marked else cell for column, cell in enumerate(cells))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    for character in "\\`*[]<>|":
        text = text.replace(character, f"\\{character}")
    return ", ".join(part.strip() for part in text.splitlines() if part.strip())


def _csv_row(variant: Variant, cell: Cell, memory: Sequence[str], metrics: Sequence[str]) -> dict[str, object]:
    settings = dict(cell.memory)
    main = cell.metrics.get(cell.metric)
    return {
        "label": variant.label,
        "model": cell.model,
        "checkpoint": cell.checkpoint,
        "step": cell.step,
        "parameters": cell.parameters,
        **{name: settings.get(name) for name in memory},
        **{name: getattr(cell, name) for name in _POINT},
        "status": "done" if cell.is_done else "failed",
        "metric": cell.metric,
        **_csv_estimate("value", main),
        **{name: getattr(cell, name) if cell.is_done else None for name in _AMOUNTS},
        **{key: value for name in metrics for key, value in _csv_estimate(name, cell.metrics.get(name)).items()},
        "error": cell.error,
    }


def _csv_estimate(name: str, estimate: Estimate | None) -> dict[str, object]:
    """The value under its name, the rest under names that begin with it; "value" has its own."""
    prefix = "" if name == "value" else f"{name}_"
    fields = (
        dict.fromkeys(("value", "stderr", "low", "high", "n"))
        if estimate is None
        else {field: getattr(estimate, field) for field in ("value", "stderr", "low", "high", "n")}
    )
    numbers = {key: "NaN" if isinstance(value, float) and math.isnan(value) else value for key, value in fields.items()}
    return {
        name: numbers["value"],
        f"{prefix}stderr": numbers["stderr"],
        f"{prefix}ci95_low": numbers["low"],
        f"{prefix}ci95_high": numbers["high"],
        f"{prefix}n": numbers["n"],
    }
