"""Tests of the report's pictures."""

import functools
import io
import re

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from famjax.evaluation.report import pictures as pictures_module
from famjax.evaluation.report.contents import collect
from famjax.evaluation.report.drawing import Picture
from famjax.evaluation.report.merging import read_scans
from famjax.evaluation.report.pictures import draw_all
from report_scans import bswa, cell, demo_cells, failed, rolling, write_scan


def draw_scan(folder, cells, trained_lengths=None, metric=None):
    """Draws the pictures of a scan of these cells."""
    scans = read_scans([str(write_scan(folder / "scan", cells))])
    options = {"title": "", "trained_lengths": trained_lengths, "metric": metric, "threshold": 0.8}
    return draw_all(collect(scans, **options))


@pytest.fixture
def rendered(tmp_path):
    """Draws the pictures, to the last pixel."""
    return functools.partial(draw_scan, tmp_path)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Gives the pictures and the axes of each, as they are before they are rendered, which takes time."""
    axes = []

    def kept(figure, *, kind, task, subject="", alt, dark=None):
        axes.append([each for each in figure.axes if each.get_label() != "<colorbar>"])
        return Picture(kind, task, subject, alt, svg="", png=b"", width=1, height=1)

    monkeypatch.setattr(pictures_module, "finish", kept)

    def draw(cells, **options):
        axes.clear()
        return draw_scan(tmp_path, cells, **options), list(axes)

    return draw


def test_every_kind_of_picture(drawn):
    """Guards against a picture that is left out, or drawn of something that has no such picture."""
    pictures, _ = drawn(demo_cells())
    assert [(picture.kind, picture.subject, picture.task) for picture in pictures] == [
        ("accuracy", "", "passkey"),
        ("heatmap", "FAM", "passkey"),
        ("heatmap", "BSWA", "passkey"),
        ("steps", "FAM", "passkey"),
        ("accuracy", "", "books"),
        ("positions", "", "books"),
    ]
    assert [picture.kind for picture in drawn([cell(depth=0.5)])[0]] == ["accuracy"]
    assert drawn([cell(length=None, seed=None)])[0] == ()


def test_curves(drawn):
    """Guards against an axis that is not logarithmic, missing models, intervals or shading, and values cut off."""
    cells = [maker(right, length=length) for maker, right in ((cell, 16), (bswa, 4)) for length in (256, 512, 4096)]
    (picture,), ((axes,),) = drawn(cells, trained_lengths=(100, 512))
    assert axes.get_xscale() == "log"
    assert axes.get_ylim() == (0, 1.02)
    _, names = axes.get_legend_handles_labels()
    assert names == ["lengths in training", "FAM", "BSWA", "threshold 0.8"]
    fam, other = axes.get_lines()[:2]
    assert list(fam.get_ydata()) == [1.0] * 3
    assert list(other.get_ydata()) == [0.25] * 3
    assert (fam.get_color(), fam.get_marker()) != (other.get_color(), other.get_marker())
    assert np.asarray(fam.get_xdata()) == pytest.approx([256, 512, 4096], rel=0.05)
    (bars,) = [
        lines for lines in axes.collections if lines.get_color()[0][:3] == pytest.approx((0, 0x72 / 255, 0xB2 / 255))
    ]
    (_, low), (_, high) = bars.get_segments()[0]
    assert (low, high) == pytest.approx((0.806, 1.0), abs=1e-3)
    (shade,) = axes.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (100, 512)
    left, right = axes.get_xlim()
    assert left <= 100
    assert right > 4096
    assert picture.alt == (
        "exact match on passkey against length. FAM: 1.00 at 256, 1.00 at 4,096; BSWA: 0.25 at 256, 0.25 at 4,096."
    )


def test_a_loss_lies_within_the_axis(drawn):
    """Guards against a picture of losses that seems empty because its axis ends at 1, as that of a fraction."""
    _, ((axes,), _) = drawn([rolling(2.0, length=512), rolling(1.5)], metric="loss")
    assert axes.get_ylim()[0] < 1.5
    assert axes.get_ylim()[1] > 2.0
    assert axes.get_ylabel() == "loss (lower is better)"


@pytest.mark.parametrize(("count", "rotation"), [(8, 0), (9, 35)])
def test_few_lengths_stand_level(drawn, count, rotation):
    """Guards against labels that are turned without need, or that meet."""
    _, ((axes,),) = drawn([cell(8, length=2**power) for power in range(count)])
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {rotation}


def test_heatmaps(drawn):
    """Guards against lengths and depths that change places, and against a failure that looks like a value."""
    rights = {(256, 0.0): 16, (256, 1.0): 8, (512, 0.0): 4}
    cells = [cell(right, length=length, depth=depth) for (length, depth), right in rights.items()]
    (_, picture), (_, (axes,)) = drawn([*cells, failed("RuntimeError: x", length=512, depth=1.0)])
    mesh = axes.collections[0]
    values = np.ma.filled(mesh.get_array().reshape(2, 2), np.nan)
    np.testing.assert_array_equal(values, [[1.0, 0.25], [0.5, np.nan]])  # rows are depths
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0.0, 1.0)
    assert axes.yaxis_inverted()  # the beginning of the text is above
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0 %", "100 %"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["256", "512"]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0.5, 0.5): "1.00", (1.5, 0.5): "0.25", (0.5, 1.5): "0.50", (1.5, 1.5): "failed"}
    assert "by length and depth" in picture.alt


def test_values_in_many_cells_are_not_written(drawn):
    """Guards against digits that run into one another."""
    cells = [cell(8, length=2**power, depth=depth / 20) for power in range(4, 12) for depth in range(21)]
    _, (_, (axes,)) = drawn(cells)
    assert not axes.texts


def test_values_can_be_read_on_their_cells(drawn):
    """Guards against grey on grey: the contrast of each value with its cell is 4.5 or more (WCAG, AA)."""
    cells = [cell(right, length=256 * 2**depth, depth=depth / 8) for right in range(17) for depth in (right % 9,)]
    _, (_, (axes,)) = drawn(list({(one["length"], one["depth"]): one for one in cells}.values()))
    mesh = axes.collections[0]
    ratios = []
    for text in axes.texts:
        if text.get_text():
            ground = luminance(mesh.cmap(mesh.norm(float(text.get_text())))[:3])
            ink = luminance([int(text.get_color()[at : at + 2], 16) / 255 for at in (1, 3, 5)])
            ratios.append((max(ground, ink) + 0.05) / (min(ground, ink) + 0.05))
    assert len(ratios) > 5
    assert min(ratios) >= 4.5


def luminance(color):
    """Relative luminance, after WCAG 2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def test_training_steps(drawn):
    """Guards against steps and lengths that change places."""
    cells = [
        cell(right, length=length, step=step, checkpoint=f"runs/fam/checkpoint_{step}")
        for step, right in ((50, 4), (100, 16))
        for length in (256, 512)
    ]
    (_, picture), (_, (axes,)) = drawn(cells)
    assert axes.get_legend_handles_labels()[1] == ["256 tokens", "512 tokens"]
    for line in axes.get_lines():
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([50, 100], [0.25, 1.0])
    assert "length 256: 0.25 at step 50, 1.00 at step 100" in picture.alt


def test_positions(drawn):
    """Guards against loss and accuracy that change places."""
    _, (_, (loss, accuracy)) = drawn([rolling(2.0)])
    assert (list(loss.get_lines()[0].get_xdata()), list(loss.get_lines()[0].get_ydata())) == ([256, 768], [2.5, 1.5])
    assert list(accuracy.get_lines()[0].get_ydata()) == [0.25, 0.5]


def test_a_value_that_is_not_finite(rendered):
    """Guards against a traceback, or an empty axis, for a model that has diverged."""
    nan = {"loss": {"value": "NaN", "stderr": "NaN", "ci95": ["NaN", "NaN"], "n": 4}}
    cells = [rolling(2.0, length=512), rolling(metric="loss", metrics=nan)]
    assert [picture.kind for picture in rendered(cells, metric="loss")] == ["accuracy", "positions"]
    assert [picture.kind for picture in rendered([cells[1]], metric="loss")] == ["accuracy", "positions"]


def test_colours_follow_the_theme(rendered):
    """Guards against dark text on dark paper: every colour of the light theme is a variable with another value."""
    (picture,) = rendered([cell(), cell(length=512)])
    style, body = re.search(r"<style>:root\{(.*)</style>(.*)", picture.svg, re.DOTALL).groups()
    assert "prefers-color-scheme:dark" in style
    names = set(re.findall(r"var\(--([0-9a-f]{6})\)", body))
    assert {"ffffff", "1f2329"} < names
    for name in names:
        (light, dark) = re.findall(rf"--{name}:(#[0-9a-f]+);", style)
        assert light == f"#{name}" != dark
    assert not re.search(r"(fill|stroke): #(?!0d0d0d|fdfdfd)", body.replace("stroke: #000000", ""))


def test_pictures_show_the_results(rendered):
    """Guards against a picture that does not change with the results, and against one that changes without them."""
    first, again, other = (rendered([cell(right), cell(length=512)])[0] for right in (16, 16, 8))
    assert (first.png, first.svg) == (again.png, again.svg)
    assert first.png != other.png
    pixels = image.imread(io.BytesIO(first.png), format="png")
    assert pixels.shape[:2] == (920, 1840)
    assert pixels.std() > 0.05


@pytest.mark.parametrize("name", [r"a$\frac$", r"\alpha$x_{$", "_hidden", "模型 🙂", "line\nbreak\x00\t"])
def test_names_that_matplotlib_reads_in_its_own_way(rendered, name, monkeypatch):
    """Guards against a formula, a traceback, a warning or a line without a legend for the names that users choose."""
    labels = []
    legend = Figure.legend

    def kept(figure, handles, texts, **options):
        labels.extend(texts)
        return legend(figure, handles, texts, **options)

    monkeypatch.setattr(Figure, "legend", kept)
    (picture,) = rendered([cell(model=name, task=name)])
    assert picture.png
    assert len(labels) == 2
