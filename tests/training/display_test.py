import io
import logging
import sys

import pytest
from rich.console import Console
from rich.text import Text

from famjax.training import display
from famjax.training.display import (
    LiveDisplay,
    PlainDisplay,
    Progress,
    SilentDisplay,
    format_count,
    format_duration,
    open_display,
)

PROGRESS = Progress(120, loss=1.2344, accuracy=0.56, tokens_per_second=12_345.0, steps_per_second=4.0, length=512)


@pytest.fixture
def terminal(monkeypatch):
    """Makes stdout a terminal whose bytes can be read; the developer's own settings are gone."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def make():
        # Called by the test: between the phases of a test pytest sets stdout anew.
        stream = io.StringIO()
        stream.isatty = lambda: True
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return make


def live(total_steps, width, stream):
    """A display that draws once when told."""
    console = Console(file=stream, force_terminal=True, width=width, height=24)
    return LiveDisplay(total_steps, console), console


def drawn(live_display, console):
    """The lines of the bar, without colours."""
    with console.capture() as capture:
        console.print(live_display.render())
    return [Text.from_ansi(line).plain for line in capture.get().splitlines()]


def test_plain_lines():
    """Guards against a line that tools reading the output do not know, and against lines of other steps."""
    stream = io.StringIO()
    with PlainDisplay(1010, 40, Console(file=stream)) as plain:
        for step in (119, 120, 121, 1010):
            plain.show(Progress(step, 1.2344, 0.56, 12_345.0, 4.4))
        plain.report("checkpoint of step 1000 saved")
        plain.warn("3 records skipped")
    assert stream.getvalue().splitlines() == [
        "step 120/1010 loss 1.234 accuracy 0.560 12.3k tokens/s eta 3:22",
        "step 1010/1010 loss 1.234 accuracy 0.560 12.3k tokens/s eta 0:00",
        "checkpoint of step 1000 saved",
        "warning: 3 records skipped",
    ]


def test_what_is_unknown_is_left_out():
    """Guards against "None" in the first line, before any rate is known."""
    stream = io.StringIO()
    PlainDisplay(1000, 1, Console(file=stream)).show(Progress(1, loss=float("nan"), length=2048))
    assert stream.getvalue() == "step 1/1000 loss nan length 2048\n"


def test_each_plain_line_is_written_at_once():
    """Guards against a job whose log stays empty until a buffer is full."""
    flushed = []
    stream = io.StringIO()
    stream.flush = lambda: flushed.append(stream.getvalue())
    PlainDisplay(1000, 1, Console(file=stream)).report("one line")
    assert flushed == ["one line\n"]


@pytest.mark.parametrize("width", [80, 40, 24])
def test_the_bar_fits_the_terminal(width):
    """Guards against a bar that wraps in a narrow terminal, which leaves a copy of itself at every redraw."""
    bar, console = live(1_000_000, width, io.StringIO())
    bar.show(Progress(999_999, 1.2344, 0.56, 12_345.0, 0.00001, 131_072))
    lines = drawn(bar, console)
    assert len(lines) == 2
    assert max(map(len, lines)) <= width
    assert "999999/1000000" in lines[0]
    assert "loss 1.234" in lines[1]


def test_the_bar_shows_everything_at_80_columns():
    """Guards against a metric cut off at the usual width, and a bar whose length changes with the numbers beside it."""
    bar, console = live(1000, 80, io.StringIO())
    bar.show(PROGRESS)
    first, second = drawn(bar, console)
    assert first.endswith("120/1000   12%  eta 3:40")
    assert second.rstrip() == "loss 1.234  accuracy 0.560  12.3k tokens/s  length 512"
    length = first.index(" ")
    assert length > 40
    bar.show(Progress(7, steps_per_second=4.4))
    assert drawn(bar, console)[0].index(" ") == length


def test_an_activity_is_shown_until_the_next_step(monkeypatch):
    """Guards against a bar that stands still, unexplained, through a compilation."""
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    bar, console = live(1000, 80, io.StringIO())
    bar.show(PROGRESS)
    bar.doing("compiling for length 512")
    now[0] += 75
    assert drawn(bar, console)[1].rstrip() == "compiling for length 512 ... 1:15"
    bar.show(PROGRESS)
    assert "loss 1.234" in drawn(bar, console)[1]


def test_reports_and_logs_appear_above_the_bar(terminal):
    """Guards against lines written into the bar: each must stand in a row of its own, without the bar's characters."""
    screen = terminal()
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("famjax.display_test")
    logger.addHandler(handler)
    try:
        with open_display(1000, 10) as bar:
            bar.show(PROGRESS)
            bar.report("checkpoint of step 100 saved [best]")
            bar.warn("3 records skipped")
            logger.warning("a logged line")
            print("a printed line")  # noqa: T201 (what other people's code does)
    finally:
        logger.removeHandler(handler)
    assert handler.stream is screen
    rows = [Text.from_ansi(row.rpartition("\x1b[2K")[2]).plain.rstrip() for row in screen.getvalue().split("\n")]
    for line in (
        "checkpoint of step 100 saved [best]",
        "warning: 3 records skipped",
        "a logged line",
        "a printed line",
    ):
        assert line in rows
    assert rows[-2].startswith("loss 1.234")


def test_a_long_report_keeps_its_text(terminal):
    """Guards against a path broken by line breaks of our own, which cannot be copied."""
    screen = terminal()
    path = "/a/folder/" + "x" * 100 + "/file"
    with open_display(1000, 10) as bar:
        bar.report(path)
    assert path in screen.getvalue()


@pytest.mark.parametrize("no_color", [False, True])
def test_no_color_is_respected(terminal, monkeypatch, no_color):
    """Guards against colours where the user has asked for none (and against a test that could not see them)."""
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    screen = terminal()
    with open_display(1000, 10) as bar:
        bar.show(PROGRESS)
        bar.warn("3 records skipped")
    colours = [f"\x1b[{code}" for code in ("33m", "36m", "38;")]
    assert any(colour in screen.getvalue() for colour in colours) != no_color


def test_the_display_fits_where_it_writes(terminal, monkeypatch):
    """Guards against control characters in a log file, on a dumb terminal, or lines from every process of a pod."""
    terminal()
    assert isinstance(open_display(10, 1), LiveDisplay)
    assert isinstance(open_display(10, 1, process_index=1), SilentDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_display(10, 1), PlainDisplay)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(open_display(10, 1), PlainDisplay)


def test_other_processes_are_silent(capsys):
    """Guards against a pod whose every process prints."""
    with open_display(10, 1, process_index=1) as silent:
        silent.show(PROGRESS)
        silent.doing("compiling")
        silent.report("a report")
        silent.warn("a warning")
    assert capsys.readouterr() == ("", "")


def test_numbers_are_short():
    """Guards against four digits after rounding, and against durations that lose their hours."""
    counts = {
        0.0: "0.00",
        9.996: "10.0",
        950.4: "950",
        999.6: "1.00k",
        12_345.0: "12.3k",
        999_600.0: "1.00M",
        2.5e9: "2.50G",
    }
    assert {count: format_count(count) for count in counts} == counts
    assert format_count(None) is None
    durations = {0.0: "0:00", 59.6: "1:00", 201.0: "3:21", 3723.0: "1:02:03", 183840.0: "2d 03:04"}
    assert {seconds: format_duration(seconds) for seconds in durations} == durations
