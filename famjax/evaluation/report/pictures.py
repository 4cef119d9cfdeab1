"""The report's pictures."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from famjax.evaluation.report.contents import Contents, Point, TaskResults
from famjax.evaluation.report.drawing import (
    DASHES,
    GRID,
    INK,
    MARKERS,
    MUTED,
    ON_DARK_CELL,
    ON_LIGHT_CELL,
    PAPER,
    SERIES,
    SHADE,
    Picture,
    add_legend,
    finish,
    new_figure,
    plain,
    set_length_ticks,
    set_title,
    style,
)
from famjax.evaluation.report.formatting import mean, number, words
from famjax.evaluation.report.pooling import lower_is_better
from famjax.evaluation.report.tables import averaged_over
from famjax.evaluation.report.variants import Variant

_MOST_WRITTEN = 160  # cells of a heatmap that still get their values written in them
_COLORMAP = "cividis"  # made for all kinds of colour vision (Nunez, Anderton and Renslow, 2018)


def draw_all(contents: Contents) -> tuple[Picture, ...]:
    """Every picture, in the order of the report; the same whatever the user's own settings of matplotlib are."""
    from matplotlib import style as styles

    with styles.context("default"):
        return tuple(picture for task in contents.tasks for picture in _pictures_of(contents, task))


def _pictures_of(contents: Contents, task: TaskResults) -> Iterator[Picture]:
    if task.lengths:
        yield draw_curves(contents, task)
    if len(task.depths) > 1:
        for variant in task.by_variant:
            yield draw_heatmap(task, variant)
    if any(task.by_position(variant) for variant in task.by_variant):
        yield draw_positions(task)
    for variant in task.by_variant:
        if len(task.steps(variant)) > 1:
            yield draw_steps(task, variant)


def draw_curves(contents: Contents, task: TaskResults) -> Picture:
    """The metric against the length, one line a model, with 95 % intervals; the lengths of the training shaded."""
    figure = new_figure(9.2, 4.6)
    axes = figure.subplots()
    style(axes)
    set_length_ticks(axes, task.lengths)
    if contents.trained_lengths is not None:
        _shade(axes, contents.trained_lengths)
    drawn = []
    for index, variant in enumerate(task.by_variant):
        curve = _known(task.curve(variant, task.metric))
        if curve:
            factor = 2 ** (min(0.05, 0.24 / len(task.by_variant)) * (index - (len(task.by_variant) - 1) / 2))
            _draw_line(axes, {length * factor: point for length, point in curve.items()}, plain(variant.label), index)
            drawn.append(_in_words(variant.label, curve))
    _set_metric_axis(axes, task, contents.threshold)
    axes.set_xlabel("length of the text (tokens, log scale)")
    set_title(axes, plain(task.name), _remark(task))
    add_legend(figure, axes)
    alt = f"{words(task.metric)} on {task.name} against length{averaged_over(task)}. {'; '.join(drawn)}."
    return finish(figure, kind="accuracy", task=task.name, alt=alt)


def draw_heatmap(task: TaskResults, variant: Variant) -> Picture:
    """The metric of one model by length and depth; a cell that failed is hatched."""
    lengths, depths = task.lengths, task.depths
    points = task.by_depth(variant, task.metric)
    values = [[_value(points.get((length, depth))) for length in lengths] for depth in depths]
    title = f"{plain(variant.label)}\n{plain(f'{task.name}, {words(task.metric)}')}"
    widest = max(map(len, title.splitlines()))
    figure = new_figure(1.7 + max(0.62 * len(lengths), 0.1 * widest), 1.5 + 0.42 * len(depths))
    axes = figure.subplots()
    lowest, highest = _bounds(task)
    colormap = _colormap(task.metric)
    edges = {"edgecolors": PAPER, "linewidth": 1.5}
    mesh = axes.pcolormesh(values, cmap=colormap, vmin=lowest, vmax=highest, **edges)
    for row, depth in enumerate(depths):
        for column, length in enumerate(lengths):
            _fill_cell(axes, (column, row), points.get((length, depth)), mesh, len(lengths) * len(depths))
    style(axes, grid="both")
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_xticks([column + 0.5 for column in range(len(lengths))], [f"{length:,}" for length in lengths])
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="x", rotation=35)
    for label in axes.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks([row + 0.5 for row in range(len(depths))], [f"{100 * depth:.4g} %" for depth in depths])
    axes.spines[:].set_visible(False)
    axes.set_xlabel("length of the text (tokens)")
    axes.set_ylabel("depth")
    set_title(axes, title)
    _add_colorbar(figure, axes, mesh)
    alt = (
        f"{words(task.metric)} of {variant.label} on {task.name} by length and depth (0 %: at the beginning). "
        f"{_in_words('Mean over depths', _known(task.curve(variant, task.metric)))}."
    )
    return finish(figure, kind="heatmap", task=task.name, subject=variant.label, alt=alt)


def draw_positions(task: TaskResults) -> Picture:
    """Loss and accuracy by position in the longest documents, one line a model."""
    figure = new_figure(9.2, 3.9)
    panels = figure.subplots(1, 2)
    drawn = []
    for index, variant in enumerate(task.by_variant):
        parts = task.by_position(variant)
        if parts:
            middles = [(part.begin + part.end) / 2 for part in parts]
            look = _look(index)
            for axes, name in zip(panels, ("loss", "accuracy"), strict=True):
                axes.plot(middles, [getattr(part, name) for part in parts], label=plain(variant.label), **look)
            drawn.append(f"{variant.label}: loss {parts[0].loss:.3f} at the beginning, {parts[-1].loss:.3f} at the end")
    for axes, name in zip(panels, ("loss (nats a token)", "accuracy"), strict=True):
        style(axes)
        axes.xaxis.set_major_formatter(lambda position, _: f"{position:,.0f}")
        axes.set_xlabel("position in the document (tokens)")
        set_title(axes, name)
    add_legend(figure, panels[0])
    alt = f"Loss and accuracy on {task.name} by position. {'; '.join(drawn)}."
    return finish(figure, kind="positions", task=task.name, alt=alt)


def draw_steps(task: TaskResults, variant: Variant) -> Picture:
    """The metric against the training step, one line a length."""
    figure = new_figure(9.2, 4.4)
    axes = figure.subplots()
    style(axes)
    by_length = task.by_step(variant, task.metric)
    colors = _ordered_colors(len(by_length))
    drawn = []
    for index, (length, points) in enumerate(by_length.items()):
        curve = _known(points)
        _draw_line(axes, curve, f"{length:,} tokens", index, color=colors[index][0])
        drawn.append(_in_words(f"length {length:,}", curve, "step"))
    _set_metric_axis(axes, task, None)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    axes.set_xlabel("training step")
    set_title(axes, plain(f"{variant.label}: {task.name}"), _remark(task))
    add_legend(figure, axes)
    alt = (
        f"{words(task.metric)} of {variant.label} on {task.name} by training step{averaged_over(task)}. "
        f"{'; '.join(drawn)}."
    )
    return finish(figure, kind="steps", task=task.name, subject=variant.label, alt=alt, dark=dict(colors))


def _remark(task: TaskResults) -> str:
    """What the bars are, where there are any, and what a value is the mean over."""
    return ("95 % intervals" * task.has_intervals + averaged_over(task, "")).removeprefix(", ")


def _draw_line(axes: Any, curve: Mapping[Any, Point], label: str, index: int, color: str | None = None) -> None:
    """A line through the values, with the intervals as bars; it is broken where a value is not finite."""
    look = _look(index) | ({"color": color, "linestyle": "-"} if color else {})
    estimates = [point.estimate for point in curve.values() if point.estimate is not None]
    values = [estimate.value for estimate in estimates]
    places = list(curve)
    axes.plot(places, values, label=label, clip_on=False, zorder=3, **look)
    bars = [(place, estimate) for place, estimate in zip(places, estimates, strict=True) if estimate.has_interval]
    if bars:
        axes.vlines(
            [place for place, _ in bars],
            [estimate.low for _, estimate in bars],
            [estimate.high for _, estimate in bars],
            color=look["color"],
            linewidth=1.3,
            alpha=0.65,
            zorder=2,
        )


def _look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the line with this number; none of them alone tells two lines apart."""
    return {
        "color": SERIES[index % len(SERIES)][0],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[(index // len(SERIES)) % len(DASHES)],
        "markersize": 5.5,
        "linewidth": 2,
    }


def _set_metric_axis(axes: Any, task: TaskResults, threshold: float | None) -> None:
    direction = " (lower is better)" if lower_is_better(task.metric) else ""
    axes.set_ylabel(plain(f"{words(task.metric)}{direction}"))
    if task.is_fraction(task.metric) and not task.is_rolling:
        axes.set_ylim(0, 1.02)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        if threshold is not None:
            axes.axhline(
                threshold, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1, label=f"threshold {threshold:g}"
            )


def _shade(axes: Any, trained_lengths: tuple[int, int]) -> None:
    shortest, longest = trained_lengths
    left, right = axes.get_xlim()
    # A single length has no width of its own.
    span = (shortest / 1.05, longest * 1.05) if shortest == longest else (shortest, longest)
    axes.set_xlim(min(left, shortest), right)
    axes.axvspan(*span, facecolor=SHADE, edgecolor="none", label="lengths in training", zorder=0)


def _fill_cell(axes: Any, corner: tuple[int, int], point: Point | None, mesh: Any, num_cells: int) -> None:
    """Writes the value into a cell of a heatmap, or hatches the cell where there is none because it failed."""
    from matplotlib.patches import Rectangle

    column, row = corner
    text, color = "", INK
    if point is not None and point.estimate is not None:
        text = number(point.estimate.value)
        red, green, blue, _ = mesh.cmap(mesh.norm(point.estimate.value))
        color = ON_LIGHT_CELL if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else ON_DARK_CELL
    elif point is not None and point.failed:
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=SHADE, edgecolor=GRID, hatch="////", linewidth=0))
        text = "failed"
    if num_cells <= _MOST_WRITTEN:
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=8.5, color=color)


def _add_colorbar(figure: Any, axes: Any, mesh: Any) -> None:
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=14)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5)


def _bounds(task: TaskResults) -> tuple[float, float]:
    """The ends of the colour scale, the same for every model: 0 and 1 for shares, else the extremes."""
    if task.is_fraction(task.metric):
        return 0.0, 1.0
    values = [cell.metrics[task.metric].value for cell in task.cells if task.metric in cell.metrics]
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


def _colormap(metric: str) -> Any:
    """Bright is better."""
    import matplotlib as mpl

    return mpl.colormaps[_COLORMAP + ("_r" if lower_is_better(metric) else "")]


def _ordered_colors(count: int) -> list[tuple[str, str]]:
    """Colours whose order can be seen, each with what it is on dark paper."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    colormap = mpl.colormaps["viridis"]
    shares = [index / max(count - 1, 1) for index in range(count)]
    return [(to_hex(colormap(0.82 * share)), to_hex(colormap(0.35 + 0.65 * share))) for share in shares]


def _known(curve: Mapping[int, Point]) -> dict[int, Point]:
    """The points with an estimate, in order."""
    return {place: curve[place] for place in sorted(curve) if curve[place].estimate is not None}


def _value(point: Point | None) -> float:
    return float("nan") if point is None or point.estimate is None else point.estimate.value


def _in_words(label: str, curve: Mapping[int, Point], noun: str = "") -> str:
    """The first and the last value of a curve, for those who cannot see it."""
    places = list(curve)
    if not places:
        return f"{label}: no values"
    ends = places[:1] if len(places) == 1 else [places[0], places[-1]]
    texts = (f"{mean(curve[place].estimate)} at {noun} {place:,}".replace("  ", " ") for place in ends)  # type: ignore[arg-type]
    return f"{label}: {', '.join(texts)}"
