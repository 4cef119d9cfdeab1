"""What a scan shows: the time left by the work that is left, on a terminal and elsewhere."""

import io

from rich.console import Console
from rich.text import Text

from famjax.evaluation.scan.display import LiveScanDisplay, PlainScanDisplay, ScanProgress, open_scan_display


def progress():
    """One cheap cell of two is done."""
    state = ScanProgress(cells=2, cost=1000)
    state.finish(cost=100, tokens=5000, seconds=10.0)
    return state


def drawn(display, console):
    """The lines of the bar, without colours."""
    with console.capture() as capture:
        console.print(display.render())
    return [Text.from_ansi(line).plain for line in capture.get().splitlines()]


def test_time_left_is_that_of_the_work():
    """Guards against an hour that is told as a minute, because short texts come first."""
    state = progress()
    assert state.seconds_left == 90.0
    assert state.share == 0.1
    assert state.tokens_per_second == 500.0
    assert str(state) == "1/2 eta 1:30"
    empty = ScanProgress(cells=2, cost=1000)
    assert (empty.seconds_left, empty.tokens_per_second, empty.share) == (None, None, 0.0)
    assert ScanProgress().share == 1.0


def test_plain_lines():
    """Guards against a log that lacks a cell, or that fills with waiting."""
    stream = io.StringIO()
    with PlainScanDisplay(progress(), Console(file=stream)) as display:
        display.working("cell 2")
        display.finished("cell 1: exact_match 1.000")
        display.failed("cell 2: DataError: no")
        for _ in range(3):
            display.waiting("waiting for runs/fam", lambda: 61.0)
        display.working("cell 3")
        display.waiting("waiting for runs/fam", lambda: -1.0)
    assert stream.getvalue().splitlines() == [
        "1/2 eta 1:30 cell 1: exact_match 1.000",
        "1/2 eta 1:30 failed: cell 2: DataError: no",
        "waiting for runs/fam; ends in 1:01 at the latest",
        "waiting for runs/fam; ends in 0:00 at the latest",
    ]


def test_live_bar():
    """Guards against a bar that counts cells, that wraps, or that does not say what is under way."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24)
    display = LiveScanDisplay(progress(), console)
    display.working("FAM 12  C=64 M=1 F=8  passkey  length 1024  depth 0.5")
    bar, details = drawn(display, console)
    assert bar.endswith("1/2   10%  eta 1:30")
    assert len(bar) == 80
    assert details.startswith("FAM 12  C=64 M=1 F=8  passkey  length 1024  depth 0.5  for 0:00  500 tokens/s")
    display.waiting("waiting for runs/fam", lambda: 61.0)
    assert drawn(display, console)[1].rstrip() == "waiting for runs/fam; ends in 1:01 at the latest"


def test_failed_cells_stand_out():
    """Guards against a failure that scrolls by unseen."""
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, width=80, height=24, color_system="standard", legacy_windows=False
    )
    LiveScanDisplay(progress(), console).failed("cell [2]: no")
    assert "\x1b[31m" in stream.getvalue()
    assert "failed: cell [2]: no" in Text.from_ansi(stream.getvalue()).plain


def test_where_the_output_is_no_terminal(capsys):
    """Guards against escape sequences in a job's log."""
    assert isinstance(open_scan_display(progress()), PlainScanDisplay)
