"""The pictures of attention maps, as PNGs: one map in full, all layers and heads small, and FAM over the blocks."""

import dataclasses
import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famjax.data.vocabularies import Vocabulary
from famjax.evaluation.report.drawing import INK, MUTED, PAPER, SHADE, new_figure, plain, style
from famjax.inference.attention_reading import NO_TOKEN, AttentionMap, BlockAttention, FamHistory
from famjax.models.config import MemoryConfig

_COLORMAP = "magma"  # even to the eye, and in order for all kinds of colour vision
_DPI = 150
_MOST_LABELS = 64  # tokens of an axis that still get their text written beside it
_MOST_CELLS = 1024  # of an axis; more are pooled, so that a single bright key is not lost between two pixels
_SMALL_SIDE, _SMALL_FAM, _SMALL_INCHES = 128, 12, 1.35  # cells of a block and of FAM in the overview; its maps' size
_MOST_LINES = 8  # layers that get a name each; more get a colour bar
_CELL, _SIDE, _NARROW = 0.125, 5.6, 0.62  # inches: a labelled token, a block without labels, the least of a panel
_LEAST_WIDTH = 6.0  # of a picture, inches: there is a title
_SHOWN = {" ": "\N{OPEN BOX}", "\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}

Matrix = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Source:
    """What a picture is of, for its title.

    Attributes:
      checkpoint: which one.
      text: the text's name.
    """

    checkpoint: str
    text: str


def draw_map(seen: AttentionMap, vocabulary: Vocabulary, source: Source) -> bytes:
    """One map: the tokens' rows, and FAM's below, against [memory segments | FAM | block].

    What a query may not look at is grey. The colour scale is logarithmic, and the same for all maps of a model.
    """
    from matplotlib import style as styles

    with styles.context("default"):
        columns = _columns(seen)
        widths = [column.width for column in columns]
        heights = [_side(len(seen.tokens)), *([_fam_side(seen)] if len(seen.fam_probabilities) else [])]
        figure = new_figure(max(sum(widths) + 2.0, _LEAST_WIDTH), sum(heights) + 1.8)
        ratios = {"width_ratios": widths, "height_ratios": heights}
        grid = figure.subplots(len(heights), len(widths), squeeze=False, gridspec_kw=ratios)
        figure.get_layout_engine().set(wspace=0.0, hspace=0.0, w_pad=0.035, h_pad=0.035)
        norm = _make_norm(seen)
        for column, axes in zip(columns, grid[0], strict=True):
            image = _draw_panel(axes, column.of_tokens, norm, column.first, seen.first_position)
            axes.set_title(f"{column.name}\n{_share(column.of_tokens)}", fontsize=9.5, color=INK)
            for begin in range(seen.block_size, column.of_tokens.shape[1], seen.block_size):
                axes.axvline(column.first + begin - 0.5, color=PAPER, linewidth=0.6)
        for column, axes in zip(columns, grid[1] if len(heights) > 1 else (), strict=False):
            _draw_fam_rows(axes, column, norm)
        _label_axes(grid, columns, seen, vocabulary)
        _add_colorbar(figure, image, grid)
        remark = "" if len(heights) > 1 or not seen.fam_length else " (not full: FAM is not updated)"
        title = f"Layer {seen.layer}, head {seen.head}, block {seen.block}{remark}"
        _set_heading(figure, title, _memory_of(seen), source)
        return _png(figure)


def draw_overview(seen: BlockAttention, layers: Sequence[int], heads: Sequence[int], source: Source) -> bytes:
    """The maps of one block, small: a row for each layer, a column for each head."""
    from matplotlib import style as styles

    with styles.context("default"):
        first = seen.map(layers[0], heads[0])
        width = _SMALL_INCHES * sum(_small_widths(_columns(first))) / _SMALL_SIDE
        figure = new_figure(max(width * len(heads) + 1.6, _LEAST_WIDTH), _SMALL_INCHES * len(layers) + 1.3)
        grid = figure.subplots(len(layers), len(heads), squeeze=False)
        figure.get_layout_engine().set(wspace=0.0, hspace=0.0, w_pad=0.03, h_pad=0.03)
        for row, layer in zip(grid, layers, strict=True):
            for axes, head in zip(row, heads, strict=True):
                image = _draw_small(axes, seen.map(layer, head))
                if layer == layers[0]:
                    axes.set_title(f"head {head}", fontsize=9, color=INK)
            row[0].set_ylabel(f"layer {layer}", fontsize=9, color=INK)
        _add_colorbar(figure, image, grid)
        _set_heading(
            figure,
            _overview_title(first),
            _memory_of(first),
            source,
        )
        return _png(figure)


def draw_history(history: FamHistory, memory: MemoryConfig, source: Source) -> bytes:
    """FAM's norm, update, departure and share of the tokens' attention over the blocks, a line for each layer."""
    from matplotlib import style as styles
    from matplotlib.ticker import LogLocator, NullLocator

    with styles.context("default"):
        figure = new_figure(10.5, 6.6)
        panels = {
            "norm (root mean square)": history.norm,
            "share of the tokens' attention that goes to FAM": history.attention,
            "update (relative mean square, log scale)": history.update,
            "departure from the first block's FAM (relative mean square)": history.departure,
        }
        grid = figure.subplots(2, 2, sharex=True)
        for axes, (title, values) in zip(grid.flat, panels.items(), strict=True):
            _draw_curves(axes, values)
            axes.set_title(title, loc="left", fontsize=10, color=INK)
            if values is history.update:
                axes.set_yscale("log")
                axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                axes.yaxis.set_minor_locator(NullLocator())
            else:
                axes.set_ylim(bottom=0)
        for axes in grid[1]:
            axes.set_xlabel(f"block of {memory.block_size} tokens", color=INK)
        _name_layers(figure, grid, history.norm.shape[1])
        _set_heading(figure, "FAM over the blocks", _describe(memory), source)
        return _png(figure)


@dataclasses.dataclass(frozen=True)
class _Column:
    """A group of keys, which is a column of panels.

    Attributes:
      name: over the column.
      of_tokens: probabilities of the tokens [n, keys]; NaN where a token may not look.
      of_fam: probabilities of FAM [F, keys]; None: FAM does not look there.
      first: the number of the first key.
      tokens: ids of the keys; None of FAM.
      width: inches.
    """

    name: str
    of_tokens: Matrix
    of_fam: Matrix | None
    first: int
    tokens: NDArray[np.int32] | None
    width: float


def _columns(seen: AttentionMap) -> list[_Column]:
    """From the left; what the model lacks, and segments before the beginning of the text, are left out."""
    of_tokens = np.where(seen.visible, seen.probabilities, np.nan)
    fam_length, position = seen.fam_length, seen.first_position
    columns = []
    num_segment_tokens = int((seen.segment_tokens != NO_TOKEN).sum())
    if num_segment_tokens:
        keys = slice(seen.segment_keys.stop - num_segment_tokens, seen.segment_keys.stop)
        tokens, side = seen.segment_tokens[keys], _side(num_segment_tokens, 1.3)
        columns.append(
            _Column("memory segments", of_tokens[:, keys], None, position - num_segment_tokens, tokens, side)
        )
    if fam_length:
        of_fam = seen.fam_probabilities[:, :fam_length]
        columns.append(_Column("FAM", of_tokens[:, seen.fam_keys], of_fam, 0, None, _fam_side(seen)))
    of_fam = seen.fam_probabilities[:, fam_length:]
    side = _side(len(seen.tokens))
    columns.append(_Column("block", of_tokens[:, seen.block_keys], of_fam, position, seen.tokens, side))
    return columns


def _side(num_tokens: int, most: float = 1.0) -> float:
    """Inches of an axis of tokens."""
    if num_tokens <= _MOST_LABELS:
        return max(_CELL * num_tokens, 2 * _NARROW)
    return _SIDE * most


def _fam_side(seen: AttentionMap) -> float:
    """Inches of an axis of FAM: wide enough to be seen, even where it is 8 of 3000 keys."""
    share = seen.fam_length / max(len(seen.tokens), 1)
    return float(np.clip(_side(len(seen.tokens)) * share, _NARROW, _SIDE / 2))


def _make_norm(seen: AttentionMap) -> Any:
    """Logarithmic, from a power of ten well below even attention to 1: the same for all maps of a model."""
    from matplotlib.colors import LogNorm

    num_keys = (seen.num_segments + 1) * seen.block_size + seen.fam_length
    return LogNorm(10.0 ** math.floor(math.log10(0.1 / num_keys)), 1.0, clip=True)


def _draw_panel(axes: Any, values: Matrix, norm: Any, first_key: int = 0, first_query: int = 0) -> Any:
    """An image whose coordinates are the numbers of keys and queries."""
    import matplotlib as mpl

    queries, keys = values.shape
    image = axes.imshow(
        _resized(values, min(queries, _MOST_CELLS), min(keys, _MOST_CELLS)),
        norm=norm,
        cmap=mpl.colormaps[_COLORMAP].with_extremes(bad=SHADE),
        interpolation="nearest",
        aspect="auto",
        extent=(first_key - 0.5, first_key + keys - 0.5, first_query + queries - 0.5, first_query - 0.5),
    )
    axes.spines[:].set(color=MUTED, linewidth=0.6)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=8, length=2.5)
    return image


def _resized(values: Matrix, rows: int, columns: int) -> Matrix:
    """The matrix with so many rows and columns: fewer hold the largest of theirs (no NaN where one is a number)."""
    for axis, wanted in enumerate((rows, columns)):
        begins = np.arange(wanted) * values.shape[axis] // wanted
        if wanted < values.shape[axis]:
            values = np.fmax.reduceat(values, begins, axis=axis)
        else:
            values = np.take(values, begins, axis=axis)
    return values


def _pooled(count: int) -> str:
    """A remark where several tokens share a cell of the image."""
    return f" (of {math.ceil(count / _MOST_CELLS)} in a cell, the largest weight)" if count > _MOST_CELLS else ""


def _share(probabilities: Matrix) -> str:
    """How much of the attention goes to these keys."""
    return f"{100 * np.nansum(probabilities) / len(probabilities):.3g} %"


def _draw_fam_rows(axes: Any, column: _Column, norm: Any) -> None:
    """The panel of FAM's queries; a remark where FAM does not look."""
    if column.of_fam is None:
        axes.axis("off")
        text = "FAM looks at itself and at the block,\nnot at the segments"
        axes.text(0.99, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=9, color=INK)
        return
    _draw_panel(axes, column.of_fam, norm, column.first)
    axes.set_title(_share(column.of_fam), fontsize=9.5, color=INK, pad=3)


def _label_axes(grid: Any, columns: Sequence[_Column], seen: AttentionMap, vocabulary: Vocabulary) -> None:
    """Texts of the tokens, or numbers, at the left and at the bottom."""
    for index, column in enumerate(columns):
        for axes in grid[:, index]:
            is_lowest = axes is grid[-1, index] or column.of_fam is None
            axes.tick_params(labelbottom=is_lowest, bottom=is_lowest, labelleft=index == 0, left=index == 0)
            _label(axes.xaxis, column.first, column.of_tokens.shape[1], column.tokens, vocabulary)
        lowest = grid[0, index] if column.of_fam is None else grid[-1, index]
        has_texts = column.of_tokens.shape[1] <= _MOST_LABELS
        noun = "row" if column.tokens is None else "token" if has_texts else "position"
        lowest.set_xlabel(f"{noun}{_pooled(column.of_tokens.shape[1])}", color=MUTED, fontsize=8)
    _label(grid[0, 0].yaxis, seen.first_position, len(seen.tokens), seen.tokens, vocabulary)
    grid[0, 0].set_ylabel(f"the block's tokens{_pooled(len(seen.tokens))} look at", color=INK, fontsize=9.5)
    if len(grid) > 1:
        _label(grid[1, 0].yaxis, 0, seen.fam_length, None, vocabulary)
        grid[1, 0].set_ylabel("FAM looks at", color=INK, fontsize=9.5)


def _label(axis: Any, first: int, count: int, tokens: NDArray[np.int32] | None, vocabulary: Vocabulary) -> None:
    from matplotlib.ticker import MaxNLocator

    numbers = range(first, first + count)
    if tokens is not None and count <= _MOST_LABELS:
        texts = [_shown(vocabulary, int(token)) for token in tokens]
        axis.set_ticks(list(numbers), texts, fontsize=6.5)
        if axis.axis_name == "x" and max(map(len, texts)) > 1:
            axis.set_tick_params(rotation=90)
    else:
        axis.set_major_locator(MaxNLocator(6 if tokens is not None else 4, integer=True))


def _shown(vocabulary: Vocabulary, token: int) -> str:
    """A token's text, its blanks made visible; the id of a token without one."""
    if token == vocabulary.bos_id:
        return "<bos>"
    text = plain("".join(_SHOWN.get(character, character) for character in vocabulary.decode([token])))
    return f"<{token}>" if not text or "\N{REPLACEMENT CHARACTER}" in text else text


def _small_widths(columns: Sequence[_Column]) -> list[int]:
    """Cells of each column in the overview."""
    widths = {"memory segments": 3 * _SMALL_SIDE // 4, "FAM": _SMALL_FAM, "block": _SMALL_SIDE}
    return [widths[column.name] for column in columns]


def _draw_small(axes: Any, seen: AttentionMap) -> Any:
    """One map of the overview: an image of all panels, FAM's made wide enough to be seen."""
    columns = _columns(seen)
    widths = _small_widths(columns)
    upper = [_resized(column.of_tokens, _SMALL_SIDE, width) for column, width in zip(columns, widths, strict=True)]
    rows = [np.concatenate(upper, axis=1)]
    if len(seen.fam_probabilities):
        lower = [
            np.full((_SMALL_FAM, width), np.nan, np.float32)
            if column.of_fam is None
            else _resized(column.of_fam, _SMALL_FAM, width)
            for column, width in zip(columns, widths, strict=True)
        ]
        rows.append(np.concatenate(lower, axis=1))
        axes.axhline(_SMALL_SIDE - 0.5, color=PAPER, linewidth=1)
    for border in np.cumsum(widths)[:-1]:
        axes.axvline(border - 0.5, color=PAPER, linewidth=1)
    image = _draw_panel(axes, np.concatenate(rows), _make_norm(seen))
    axes.set(xticks=[], yticks=[])
    return image


def _overview_title(seen: AttentionMap) -> str:
    names = " | ".join(column.name for column in _columns(seen))
    lowest = "; the lowest rows are FAM's" if len(seen.fam_probabilities) else ""
    pooled = "; a cell shows the largest weight that falls in it" if len(seen.tokens) > _SMALL_SIDE else ""
    return f"Block {seen.block} looks at [{names}]{lowest}{pooled}"


def _draw_curves(axes: Any, values: Matrix) -> None:
    style(axes)
    colors = _layer_colors(values.shape[1])
    marker = "o" if len(values) <= 40 else None
    for layer, (curve, color) in enumerate(zip(values.T, colors, strict=True)):
        axes.plot(
            np.arange(len(curve)),
            curve,
            color=color,
            linewidth=1.4,
            marker=marker,
            markersize=3,
            label=f"layer {layer}",
        )


def _layer_colors(num_layers: int) -> list[Any]:
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](0.9 * layer / max(num_layers - 1, 1)) for layer in range(num_layers)]


def _name_layers(figure: Any, grid: Any, num_layers: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    if num_layers <= _MOST_LINES:
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=num_layers, frameon=False, fontsize=9)
        return
    scale = ScalarMappable(Normalize(-0.5, num_layers - 0.5), ListedColormap(_layer_colors(num_layers)))
    figure.colorbar(scale, ax=list(grid.flat), label="layer", pad=0.02, aspect=40).outline.set_visible(False)


def _add_colorbar(figure: Any, image: Any, grid: Any) -> None:
    bar = figure.colorbar(image, ax=list(grid.flat), pad=0.015, aspect=40, fraction=0.03)
    bar.outline.set_visible(False)
    bar.minorticks_off()
    bar.ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8)
    exponents = range(round(math.log10(image.norm.vmin)), 1)
    ticks = [10.0**exponent for exponent in exponents]
    bar.set_ticks(ticks, labels=[f"{100 * tick:g} %" for tick in ticks])
    bar.set_label("attention weight (log scale)", color=INK, fontsize=9)


def _memory_of(seen: AttentionMap) -> str:
    return _describe(MemoryConfig(seen.block_size, seen.num_segments, seen.fam_length))


def _describe(memory: MemoryConfig) -> str:
    fam = f"F={memory.fam_length}" if memory.fam_length else "no FAM"
    return f"{fam}, C={memory.block_size}, M={memory.num_segments}"


def _set_heading(figure: Any, title: str, memory: str, source: Source) -> None:
    details = plain(f"{source.checkpoint} ({memory}), {source.text}")
    letters = int(10 * figure.get_figwidth())
    lines = [line for text in (title, details) for line in textwrap.wrap(text, letters)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11, color=INK)


def _png(figure: Any) -> bytes:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in a text begins no formula
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()
