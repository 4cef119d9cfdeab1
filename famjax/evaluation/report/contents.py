"""What a report shows, whatever its form: the merged cells, ordered by task and model."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from famjax.errors import DataError
from famjax.evaluation.report.cells import Cell, Estimate, Part
from famjax.evaluation.report.merging import Scan, merge
from famjax.evaluation.report.pooling import lower_is_better, pool
from famjax.evaluation.report.variants import Variant, key_of, variants_of


@dataclasses.dataclass(frozen=True)
class Point:
    """What is known of one or several cells of a variant.

    Attributes:
      estimate: of the metric, over the cells that finished; None where none did.
      done, failed: numbers of cells.
    """

    estimate: Estimate | None
    done: int
    failed: int


@dataclasses.dataclass(frozen=True)
class Reach:
    """How long a text may be.

    Attributes:
      held: the longest length at and below which the metric reaches the threshold; None: not even the shortest.
      sure: the same of the lower end of its confidence interval.
      longest: the longest length with a result.
    """

    held: int | None
    sure: int | None
    longest: int


@dataclasses.dataclass(frozen=True)
class TaskResults:
    """The results of one task.

    Attributes:
      name, output_type: the task.
      metrics: their names, the one that is shown first.
      by_variant: the cells of each variant, of every training step.
    """

    name: str
    output_type: str
    metrics: tuple[str, ...]
    by_variant: Mapping[Variant, tuple[Cell, ...]]

    @property
    def metric(self) -> str:
        """The one that is shown first."""
        return self.metrics[0]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that are shown where only one training step is: each variant's latest."""
        return tuple(cell for variant in self.by_variant for cell in self.latest(variant))

    @property
    def has_intervals(self) -> bool:
        """Whether the metric has a confidence interval anywhere: of one document there is none."""
        return any(cell.metrics[self.metric].has_interval for cell in self.cells if self.metric in cell.metrics)

    @property
    def lengths(self) -> tuple[int, ...]:
        """In order; none where the task has no length."""
        return tuple(sorted({cell.length for cell in self.cells if cell.length is not None}))

    @property
    def depths(self) -> tuple[float, ...]:
        """In order; none where the task has no depth."""
        return tuple(sorted({cell.depth for cell in self.cells if cell.depth is not None}))

    @property
    def is_rolling(self) -> bool:
        """Whether whole documents are scored, not answers."""
        return self.output_type == "loglikelihood_rolling"

    def is_fraction(self, metric: str) -> bool:
        """Whether every value of the metric lies in [0, 1] and more is better."""
        values = [cell.metrics[metric].value for cell in self.cells if metric in cell.metrics]
        return not lower_is_better(metric) and all(0 <= value <= 1 for value in values if math.isfinite(value))

    def latest(self, variant: Variant) -> tuple[Cell, ...]:
        """The cells of the variant's latest step with results of this task, and those that name no step."""
        cells = self.by_variant[variant]
        steps = [cell.step for cell in cells if cell.is_done] or [cell.step for cell in cells]
        last = max((step for step in steps if step is not None), default=None)
        return tuple(cell for cell in cells if cell.step in (last, None))

    def steps(self, variant: Variant) -> tuple[int, ...]:
        """The training steps with results of this task, in order."""
        return tuple(sorted({cell.step for cell in self.by_variant[variant] if cell.is_done and cell.step is not None}))

    def curve(self, variant: Variant, metric: str) -> dict[int, Point]:
        """The metric by length, over all depths and seeds."""
        cells = [cell for cell in self.latest(variant) if cell.length is not None]
        return _points(cells, metric, lambda cell: cell.length)

    def overall(self, variant: Variant, metric: str) -> Point:
        """The metric over all lengths, depths and seeds: of a task that has none of them, its score."""
        return _points(self.latest(variant), metric, lambda cell: cell.task)[self.name]

    def by_depth(self, variant: Variant, metric: str) -> dict[tuple[int, float], Point]:
        """The metric by length and depth, over all seeds."""
        cells = [cell for cell in self.latest(variant) if None not in (cell.length, cell.depth)]
        return _points(cells, metric, lambda cell: (cell.length, cell.depth))

    def by_step(self, variant: Variant, metric: str) -> dict[int, dict[int, Point]]:
        """For each length, the metric by training step."""
        cells = [cell for cell in self.by_variant[variant] if None not in (cell.length, cell.step)]
        points = _points(cells, metric, lambda cell: (cell.length, cell.step))
        lengths = sorted({length for length, _ in points})
        return {
            length: {step: points[point, step] for point, step in sorted(points) if point == length}
            for length in lengths
        }

    def by_position(self, variant: Variant) -> tuple[Part, ...]:
        """Loss and accuracy by position in the longest documents with such results, over all seeds."""
        lengths = [cell.length or 0 for cell in self.latest(variant) if cell.by_position]
        cells = [cell for cell in self.latest(variant) if (cell.length or 0) == max(lengths, default=0)]
        parts: dict[tuple[int, int], list[Part]] = {}
        for part in (part for cell in cells for part in cell.by_position if part.tokens > 0):
            parts.setdefault((part.begin, part.end), []).append(part)
        return tuple(_mean_part(same) for _, same in sorted(parts.items()))


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that a report shows.

    Attributes:
      title: of the report.
      trained_lengths: shortest and longest example of the training, if they are known.
      threshold: of `reach`.
      scans: where the cells come from.
      variants: in the order in which they first appear.
      cells: every cell once, with its variant.
      tasks: in the order in which they first appear.
      left_out: tasks that lack the metric that was asked for, with their metrics.
    """

    title: str
    trained_lengths: tuple[int, int] | None
    threshold: float
    scans: tuple[Scan, ...]
    variants: tuple[Variant, ...]
    cells: tuple[tuple[Variant, Cell], ...]
    tasks: tuple[TaskResults, ...]
    left_out: Mapping[str, tuple[str, ...]]

    @property
    def failed(self) -> tuple[tuple[Variant, Cell], ...]:
        """The cells without results."""
        return tuple((variant, cell) for variant, cell in self.cells if not cell.is_done)

    def was_trained(self, length: int) -> bool:
        """Whether the training had examples of this length."""
        return self.trained_lengths is not None and self.trained_lengths[0] <= length <= self.trained_lengths[1]


def collect(
    scans: Sequence[Scan],
    *,
    title: str,
    trained_lengths: tuple[int, int] | None,
    metric: str | None,
    threshold: float,
) -> Contents:
    """Merges the scans and orders their cells.

    Raises:
      DataError: two scans disagree, or no cell has the metric.
    """
    scanned = merge(scans)
    variants = variants_of(scanned)
    cells = tuple((variants[key_of(one)], one[1]) for one in scanned)
    tasks, left_out = _tasks(cells, metric)
    names = list(dict.fromkeys(cell.task for _, cell in cells))
    return Contents(
        title=title or f"Evaluation on {', '.join(names) if len(names) <= 3 else f'{len(names)} tasks'}",
        trained_lengths=trained_lengths,
        threshold=threshold,
        scans=tuple(scans),
        variants=tuple(variants.values()),
        cells=cells,
        tasks=tasks,
        left_out=left_out,
    )


def reach(curve: Mapping[int, Point], threshold: float) -> Reach | None:
    """Up to which length the values of a curve are the threshold or more; None where nothing is known."""
    lengths = sorted(length for length, point in curve.items() if point.estimate is not None)
    if not lengths:
        return None
    held = _last_before_fall(curve, lambda estimate: estimate.value >= threshold)
    sure = _last_before_fall(curve, lambda estimate: estimate.low >= threshold)
    return Reach(held, sure, lengths[-1])


def _last_before_fall(curve: Mapping[int, Point], holds: Callable[[Estimate], bool]) -> int | None:
    last = None
    for length in sorted(curve):
        estimate = curve[length].estimate
        if estimate is None or not holds(estimate):
            break
        last = length
    return last


def _points(cells: Sequence[Cell], metric: str, key: Callable[[Cell], Any]) -> dict[Any, Point]:
    """Pools the cells with the same key."""
    grouped: dict[Any, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(key(cell), []).append(cell)
    points = {}
    for name, members in grouped.items():
        estimates = [cell.metrics[metric] for cell in members if metric in cell.metrics]
        failed = sum(not cell.is_done for cell in members)
        points[name] = Point(pool(metric, estimates) if estimates else None, len(estimates), failed)
    return points


def _mean_part(parts: Sequence[Part]) -> Part:
    """The mean over the tokens of parts with the same positions."""
    tokens = sum(part.tokens for part in parts)
    loss, accuracy = (
        sum(getattr(part, name) * part.tokens for part in parts) / tokens for name in ("loss", "accuracy")
    )
    return Part(parts[0].begin, parts[0].end, loss, accuracy, tokens)


def _tasks(
    cells: Sequence[tuple[Variant, Cell]], metric: str | None
) -> tuple[tuple[TaskResults, ...], dict[str, tuple[str, ...]]]:
    """The tasks with the metric that was asked for first, and those that lack it."""
    grouped: dict[str, dict[Variant, list[Cell]]] = {}
    for variant, cell in cells:
        grouped.setdefault(cell.task, {}).setdefault(variant, []).append(cell)
    tasks, left_out = [], {}
    for name, by_variant in grouped.items():
        members = [cell for own in by_variant.values() for cell in own]
        metrics = _metrics(members)
        if metric is not None and metric not in metrics:
            left_out[name] = metrics
            continue
        ordered = tuple(dict.fromkeys([*([metric] if metric else []), *metrics]))
        output_type = next((cell.output_type for cell in members if cell.output_type), "")
        if ordered:
            variants = {variant: tuple(own) for variant, own in by_variant.items()}
            tasks.append(TaskResults(name, output_type, ordered, variants))
    if not tasks and metric is not None:
        found = dict.fromkeys(name for names in left_out.values() for name in names)
        raise DataError(f"No cell has the metric {metric!r} (--gin.ReportJob.metric); there are {', '.join(found)}.")
    return tuple(tasks), left_out


def _metrics(cells: Sequence[Cell]) -> tuple[str, ...]:
    """The names of a task's metrics, its first one first."""
    done = [cell for cell in cells if cell.is_done]
    return tuple(dict.fromkeys([*(cell.metric for cell in done), *(name for cell in done for name in cell.metrics)]))
