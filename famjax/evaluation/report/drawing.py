"""How the pictures look, and how one becomes an SVG that follows the reader's light or dark theme, and a PNG."""

import dataclasses
import functools
import io
import re
from collections.abc import Mapping
from typing import Any

# Read by everybody: an ordering of Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), the pale ones darkened.
# Each is (on light paper, on dark paper).
SERIES = (
    ("#0072b2", "#58a6e8"),
    ("#d55e00", "#ff9248"),
    ("#009e73", "#2fcf9f"),
    ("#b3509b", "#e59bd0"),
    ("#a67c00", "#e3b82f"),
    ("#4f5b66", "#b4bec8"),
)
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (5, 1.4, 1.2, 1.4)))

PAPER, INK, MUTED, GRID, SHADE = "#ffffff", "#1f2329", "#57606b", "#d9dee4", "#e9edf2"
_DARK = {PAPER: "#14181d", INK: "#e8ebef", MUTED: "#a5afba", GRID: "#343b44", SHADE: "#262d36"}
# Text on coloured cells, whose colours are the same in both themes.
ON_DARK_CELL, ON_LIGHT_CELL = "#fdfdfd", "#0d0d0d"

KINDS = ("accuracy", "heatmap", "positions", "steps")

_MOST_LEVEL_TICKS = 8  # more labels than these are turned, so that they do not meet
_PNG_DPI = 200


@dataclasses.dataclass(frozen=True)
class Picture:
    """A finished picture.

    Attributes:
      kind: one of KINDS.
      task: what it is about.
      subject: the model, where it shows one.
      alt: what it shows, in words.
      svg: for the page; light and dark by the reader's theme.
      png: for everywhere else; light.
      width, height: in CSS pixels.
    """

    kind: str
    task: str
    subject: str
    alt: str
    svg: str
    png: bytes
    width: int
    height: int


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches that belongs to no window system."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)


def plain(text: str) -> str:
    """A text of the results that matplotlib can draw: no character that its font lacks, and no hidden label."""
    known = _characters()
    shown = "".join(character if ord(character) in known else "\N{REPLACEMENT CHARACTER}" for character in text)
    return f" {shown}" if shown.startswith("_") else shown


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def style(axes: Any, *, grid: str = "y") -> None:
    """The look that all axes share."""
    axes.set_facecolor(PAPER)
    axes.grid(axis=grid, color=GRID, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axes.minorticks_off()
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def set_title(axes: Any, text: str, remark: str = "") -> None:
    """A title at the left, and a remark at the right."""
    axes.set_title(text, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_title(remark, loc="right", fontsize=8.5, color=MUTED)


def set_length_ticks(axes: Any, lengths: tuple[int, ...]) -> None:
    """One tick for each length, on a logarithmic axis."""
    axes.set_xscale("log", base=2)
    turned: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(
        lengths, [f"{length:,}" for length in lengths], **(turned if len(lengths) > _MOST_LEVEL_TICKS else {})
    )
    axes.minorticks_off()
    axes.set_xlim(lengths[0] / 1.25, lengths[-1] * 1.25)


def add_legend(figure: Any, axes: Any) -> None:
    """A legend below the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    inches = 0.75 + 0.07 * max(map(len, labels), default=0)  # of one entry
    columns = max(1, min(len(labels), int(figure.get_figwidth() / inches)))
    legend = figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=9, handlelength=3
    )
    for text in legend.get_texts():
        text.set_color(INK)


def finish(
    figure: Any, *, kind: str, task: str, subject: str = "", alt: str, dark: Mapping[str, str] | None = None
) -> Picture:
    """Writes the figure in both formats; the same figure gives the same bytes.

    Args:
      figure: what is drawn.
      kind: see Picture; so are task, subject and alt.
      task: see Picture.
      subject: see Picture.
      alt: see Picture.
      dark: further colours of light paper, with what they are on dark paper.
    """
    import matplotlib as mpl
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar in the name of a model begins no formula
    svg, png = io.StringIO(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "famjax", "svg.fonttype": "path"}):
        figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    width, height = figure.get_size_inches()
    themed = _themed(svg.getvalue(), {**_DARK, **dict(SERIES), **(dark or {})})
    return Picture(kind, task, subject, alt, themed, png.getvalue(), round(96 * width), round(96 * height))


def _themed(svg: str, dark: Mapping[str, str]) -> str:
    """The SVG with its colours as variables that have other values where the reader prefers dark."""
    svg = svg[svg.index("<svg") :]  # neither the XML declaration nor the document type, which names a web address
    used = sorted({color for color in re.findall(r"#[0-9a-f]{6}\b", svg) if color in dark})
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--{found[0][1:]})" if found[0] in dark else found[0], svg)
    light_rule, dark_rule = (
        ":root{" + "".join(f"--{color[1:]}:{value}" + ";" for color, value in values) + "}"
        for values in ([(color, color) for color in used], [(color, dark[color]) for color in used])
    )
    rules = f"<style>{light_rule}@media(prefers-color-scheme:dark){{{dark_rule}}}</style>"
    opening = svg.index(">") + 1
    return svg[:opening] + rules + svg[opening:]
