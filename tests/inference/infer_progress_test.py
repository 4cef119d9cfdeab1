"""famjax.inference.progress: figures of a run, on the standard error alone."""

import re
import sys

import pytest
from rich.console import Console

from famjax.inference import progress as module
from famjax.inference.progress import Progress, open_progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    times = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: times[0])
    return times


def test_rates_leave_out_compilation_and_an_earlier_run(clock):
    """Guards against rates and a time left that count the seconds of a compilation, or prompts answered before."""
    compiled = [7.0]
    progress = Progress(live=False, compiling=lambda: compiled[0])
    progress.start(total=50, done=10)
    assert progress.line() == "10/50 prompts"
    clock[0], compiled[0] = 130.0, 17.0
    progress.done, progress.read, progress.generated = 20, 24_000, 500
    assert progress.line() == "20/50 prompts, read 1.20k tokens/s, generated 25.0 tokens/s, eta 1:00"
    progress.done = 50
    assert "eta" not in progress.line()


def test_lines_come_now_and_then(clock, capsys):
    """Guards against a log with a line for every token, and against results on the same stream."""
    progress = Progress(live=False, compiling=lambda: 0.0)
    with progress:
        progress.start(total=2, done=0)
        for _ in range(100):
            clock[0] += 0.3
            progress.read += 9
            progress.show()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(",")[0] for line in captured.err.splitlines()] == ["0/2 prompts"] * 2


def test_the_bar_fits(clock):
    """Guards against a bar of two lines, which scrolls the terminal with every redraw, or that hides the figures."""
    progress = Progress(live=True, compiling=lambda: 0.0)
    progress._total, progress.done, progress.read, progress.generated = 5000, 4999, 10**9, 10**6
    clock[0] += 3.0
    for width in (40, 80, 200):
        console = Console(width=width, force_terminal=True, color_system=None)
        progress._console = console
        with console.capture() as capture:
            console.print(progress.render())
        (line,) = capture.get().splitlines()
        assert "4999/5000" in line
        assert len(line) <= width
        assert "eta" in line or width < 80


@pytest.mark.parametrize(("to_standard_output", "is_live"), [(True, False), (False, True)])
def test_a_bar_where_nothing_else_is_printed(monkeypatch, to_standard_output, is_live):
    """Guards against results printed into the bar, where both go to one terminal."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    progress = open_progress(lambda: 0.0, to_standard_output)
    assert (progress._live is not None) == is_live


def test_no_terminal(capsys):
    """Guards against escape sequences in a log file."""
    with open_progress(lambda: 0.0, to_standard_output=False) as progress:
        progress.start(total=1, done=0)
        progress.done = 1
        progress.report(progress.line())
    assert re.fullmatch(r"1/1 prompts\n", capsys.readouterr().err)
