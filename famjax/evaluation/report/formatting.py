"""Numbers and names as a reader sees them, the same in every form of the report."""

import math
import re
from collections.abc import Iterable

from famjax.evaluation.report.cells import Cell, Estimate
from famjax.evaluation.report.contents import Point
from famjax.plurals import counted

_EXACT = (0.0, 1.0)


def number(value: float, half_width: float = math.nan) -> str:
    """Two digits after the point, or as many as its interval is exact to; what is not quite 1 or 0 does not look it."""
    if not math.isfinite(value):
        return {math.inf: "infinite", -math.inf: "-infinite"}.get(value, "NaN")
    digits = next((digits for digits, bound in ((2, 0.005), (3, 0.0005)) if not half_width < bound), 4)
    while digits < 6 and value not in _EXACT and float(f"{value:.{digits}f}") in _EXACT:
        digits += 1
    return f"{value:.{digits}f}"


def mean(estimate: Estimate) -> str:
    """The value alone."""
    return number(estimate.value, _half_width(estimate))


def interval(estimate: Estimate) -> str:
    """The 95 % interval, "[0.72, 0.99]"; empty where there is none."""
    if not estimate.has_interval:
        return ""
    half_width = _half_width(estimate)
    return f"[{number(estimate.low, half_width)}, {number(estimate.high, half_width)}]"


def with_interval(point: Point | None) -> str:
    """The value with its interval, "0.94 [0.72, 0.99]"; a dagger where some of its cells failed."""
    if point is None:
        return ""
    if point.estimate is None:
        return "failed" if point.failed else ""
    dagger = " †" if point.failed else ""
    return f"{mean(point.estimate)} {interval(point.estimate)}".rstrip() + dagger


def words(name: str) -> str:
    """A metric's or setting's name in words; what lm-evaluation-harness kept of an answer in parentheses."""
    base, _, kept_by = name.partition(",")
    return base.replace("_", " ") + (f" ({kept_by})" if kept_by not in {"", "none"} else "")


def listed(items: Iterable[str]) -> str:
    """Items as in a sentence: "a, b and c"."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def cut_text(cells: Iterable[Cell]) -> str:
    """How much of the prompts had no room: "12 of 64 prompts were cut by 3,100 tokens"."""
    cells = list(cells)
    cut, tokens = sum(cell.cut_examples for cell in cells), sum(cell.cut_tokens for cell in cells)
    total = sum(cell.examples for cell in cells)
    return f"{cut:,} of {counted(total, 'prompt')} {'was' if cut == 1 else 'were'} cut by {counted(tokens, 'token')}"


def safe_name(text: str, taken: set[str]) -> str:
    """A file name's stem that every file system takes, not among those taken; adds it to them."""
    stem = re.sub(r"[^A-Za-z0-9_.]+", "-", text.replace("=", "")).strip("-.")[:100] or "picture"
    name, copy = stem, 2
    while name.lower() in taken:
        name, copy = f"{stem}-{copy}", copy + 1
    taken.add(name.lower())
    return name


def _half_width(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / 2 if estimate.has_interval else math.nan
