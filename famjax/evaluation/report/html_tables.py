"""The report's tables as HTML."""

import math
from collections.abc import Iterable

from famjax.evaluation.report.cells import Cell, Estimate
from famjax.evaluation.report.contents import Contents, Point
from famjax.evaluation.report.formatting import interval, mean, words
from famjax.evaluation.report.markup import Html, element, joined
from famjax.evaluation.report.tables import FAILED_NOTE, PointTable, TextTable
from famjax.evaluation.report.variants import Variant

_LONG = ("error", "cells", "checkpoint", "cut", "models")  # columns whose texts may be broken into lines
_CELL_COLUMNS = ("model", "task", "length", "depth", "seed", "step", "metric", "value", "95 % interval", "n", "status")


def points_html(table: PointTable) -> Html:
    """A table of values with their intervals; the better a share, the stronger its ground."""
    headings = (element("th", _lines(text), scope="col", class_="number") for text in table.columns)
    head = element("tr", element("th", _lines(table.corner), scope="col"), headings)
    rows = (
        element("tr", element("th", label, scope="row"), (_point(point, table.is_share) for point in points))
        for label, points in table.rows
    )
    note = element("p", FAILED_NOTE, class_="note") if table.has_failures else ""
    return joined([_frame(table.caption, head, rows, class_="sortable"), note])


def text_html(table: TextTable, caption: str) -> Html:
    """A table of texts; the second line of a text is smaller."""
    head = element("tr", (element("th", _lines(column), scope="col") for column in table.columns))
    rows = (
        element(
            "tr",
            (
                element("th", text, scope="row")
                if column == 0
                else element("td", _lines(text) if "\n" in text else text, class_=_text_class(table, row, column))
                for column, text in enumerate(texts)
            ),
        )
        for row, texts in enumerate(table.rows)
    )
    return _frame(caption, head, rows, caption_class="hidden")


def cells_html(contents: Contents) -> Html:
    """Every cell; a script makes it possible to sort and to filter them."""
    head = element("tr", (element("th", _lines(name), scope="col") for name in _CELL_COLUMNS))
    rows = (_cell_row(variant, cell) for variant, cell in contents.cells)
    table = _frame("All cells, of every training step", head, rows, class_="every sortable", frame="scroll cells")
    return element("div", element("div", class_="filters"), table, class_="every-cell")


def _frame(
    caption: str,
    head: Html,
    rows: Iterable[Html],
    *,
    class_: str | None = None,
    caption_class: str | None = None,
    frame: str = "scroll",
) -> Html:
    """A table that scrolls by itself where it is too wide, with the keyboard too."""
    parts = (
        element("caption", element("span", caption), class_=caption_class),
        element("thead", head),
        element("tbody", rows),
    )
    return element(
        "div", element("table", parts, class_=class_), class_=frame, tabindex=0, role="region", aria_label=caption
    )


def _point(point: Point | None, is_share: bool) -> Html:
    if point is None or (point.estimate is None and not point.failed):
        return element("td", class_="number")
    estimate = point.estimate
    if estimate is None:
        return element("td", "failed", class_="number failed")
    shade = f" v{max(0, min(10, round(10 * estimate.value)))}" if is_share and math.isfinite(estimate.value) else ""
    texts = (mean(estimate), " †" if point.failed else "", " ", element("span", interval(estimate), class_="under"))
    return element("td", texts, class_=f"number{shade}", data_sort=_sort_key(estimate), title=f"n = {estimate.n:,}")


def _cell_row(variant: Variant, cell: Cell) -> Html:
    estimate = cell.metrics.get(cell.metric)
    point = tuple(_number(value) for value in (cell.length, cell.depth, cell.seed, cell.step))
    status = element("td", "done") if cell.is_done else element("td", "failed", class_="failed", title=cell.error)
    return element(
        "tr",
        element("th", variant.label, scope="row"),
        element("td", cell.task),
        point,
        element("td", words(cell.metric)),
        element(
            "td",
            mean(estimate) if estimate else "",
            class_="number",
            data_sort=_sort_key(estimate) if estimate else None,
        ),
        element("td", interval(estimate) if estimate else "", class_="number"),
        _number(estimate.n if estimate else None),
        status,
    )


def _number(value: float | None) -> Html:
    return element("td", "" if value is None else f"{value:,}", class_="number", data_sort=value)


def _sort_key(estimate: Estimate) -> float | None:
    return estimate.value if math.isfinite(estimate.value) else None


def _text_class(table: TextTable, row: int, column: int) -> str | None:
    classes = [
        name
        for name, holds in (("best", (row, column) in table.marked), ("long", table.columns[column] in _LONG))
        if holds
    ]
    return " ".join(classes) or None


def _lines(text: str) -> list[Html]:
    first, _, second = text.partition("\n")
    headline = element("span", first, class_="headline")
    return [headline, element("span", second, class_="under")] if second else [headline]
