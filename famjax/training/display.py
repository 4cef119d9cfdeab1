"""What a run shows while it trains: a live bar on a terminal, plain lines elsewhere.

    checkpoint of step 1000 saved
    ━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━  1230/5000  24%  eta 3:21
    loss 1.234  accuracy 0.561  12.3k tokens/s  length 2048

and, where the output is a file, a pipe or a terminal that cannot move its cursor,

    checkpoint of step 1000 saved
    step 1230/5000 loss 1.234 accuracy 0.561 12.3k tokens/s eta 3:21 length 2048

rich draws; it honours NO_COLOR, and whatever Python code prints or logs meanwhile appears above the bar.
"""

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_REDRAWS_PER_SECOND = 4
_WIDEST_BAR = 100


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where the run is. What is None is not known yet and not shown.

    Attributes:
      step: steps made.
      loss: of the last step.
      accuracy: of the last step.
      tokens_per_second: of the whole job.
      steps_per_second: from which the time left is computed.
      length: tokens of an example, where it changes over the run.
      exact_match: of the last step, where examples have answers.
    """

    step: int
    loss: float | None = None
    accuracy: float | None = None
    tokens_per_second: float | None = None
    steps_per_second: float | None = None
    length: int | None = None
    exact_match: float | None = None

    def seconds_left(self, total_steps: int) -> float | None:
        """Until `total_steps`, at the present rate."""
        return (total_steps - self.step) / self.steps_per_second if self.steps_per_second else None

    def parts(self) -> list[str]:
        """The known metrics, ready to be joined: "loss 1.234", "accuracy 0.561", "12.3k tokens/s"."""
        known = [
            ("loss {}", _format_metric(self.loss)),
            ("accuracy {}", _format_metric(self.accuracy)),
            ("exact match {}", _format_metric(self.exact_match)),
            ("{} tokens/s", format_count(self.tokens_per_second)),
        ]
        return [pattern.format(value) for pattern, value in known if value is not None]


@runtime_checkable
class Display(Protocol):
    """What the loop talks to. Used as a context manager: on leaving it the terminal is as it was."""

    def show(self, progress: Progress) -> None:
        """Shows where the run is; called as often as the loop knows more, the display draws at its own rate."""

    def doing(self, activity: str) -> None:
        """Says what the run waits for ("compiling for length 2048"), until the next `show`."""

    def report(self, message: str) -> None:
        """Prints a line that stays: an evaluation, a checkpoint, a new stage."""

    def warn(self, message: str) -> None:
        """Prints a warning that stays."""

    def __enter__(self) -> "Display": ...

    def __exit__(self, *exception: object) -> None: ...


def open_display(total_steps: int, period: int, process_index: int = 0) -> Display:
    """The display for this process and its standard output.

    Args:
      total_steps: of the whole run.
      period: steps between plain lines.
      process_index: of this process; only process 0 shows anything.
    """
    if process_index != 0:
        return SilentDisplay()
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(total_steps, console)
    return PlainDisplay(total_steps, period, console)


class SilentDisplay:
    """Of the processes other than 0."""

    def show(self, progress: Progress) -> None:
        """Shows nothing."""

    def doing(self, activity: str) -> None:
        """Shows nothing."""

    def report(self, message: str) -> None:
        """Shows nothing."""

    def warn(self, message: str) -> None:
        """Shows nothing."""

    def __enter__(self) -> "SilentDisplay":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class PlainDisplay:
    """One line every `period` steps and one for each report, each written at once."""

    def __init__(self, total_steps: int, period: int, console: Console) -> None:
        self._total_steps, self._period, self._console = total_steps, period, console

    def show(self, progress: Progress) -> None:
        """Prints a line, if the step is one of every `period` or the last."""
        if progress.step % self._period and progress.step != self._total_steps:
            return
        parts = [f"step {progress.step}/{self._total_steps}", *progress.parts()]
        seconds_left = progress.seconds_left(self._total_steps)
        if seconds_left is not None:
            parts.append(f"eta {format_duration(seconds_left)}")
        if progress.length is not None:
            parts.append(f"length {progress.length}")
        self.report(" ".join(parts))

    def doing(self, activity: str) -> None:
        """Prints a line."""
        self.report(activity)

    def report(self, message: str) -> None:
        """Prints a line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Prints a line."""
        self.report(f"warning: {message}")

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class LiveDisplay:
    """A bar that stays at the bottom of the terminal; everything else scrolls by above it."""

    def __init__(self, total_steps: int, console: Console) -> None:
        self._total_steps, self._console = total_steps, console
        self._progress = Progress(step=0)
        self._activity: tuple[str, float] | None = None
        self._live = Live(
            get_renderable=self.render,
            console=console,
            refresh_per_second=_REDRAWS_PER_SECOND,
            # Where stderr goes to a file, it must still go there.
            redirect_stderr=sys.stderr.isatty(),
        )
        self._log_streams: list[tuple[logging.StreamHandler, Any]] = []

    def show(self, progress: Progress) -> None:
        """Stores what the next redraw shows."""
        self._progress, self._activity = progress, None

    def doing(self, activity: str) -> None:
        """Shows the activity and how long it has lasted in place of the metrics."""
        self._activity = activity, time.monotonic()

    def report(self, message: str) -> None:
        """Prints a line above the bar."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Prints a yellow line above the bar."""
        self._console.print(Text(f"warning: {message}", style="yellow"), soft_wrap=True)

    def render(self) -> RenderableType:
        """The bar and the line under it, for the terminal's present width."""
        width = min(self._console.width, _WIDEST_BAR)
        lines = Table.grid(expand=False)
        lines.width = width
        lines.add_row(self._bar())
        lines.add_row(self._details())
        return lines

    def _bar(self) -> RenderableType:
        progress = self._progress
        percent = 100 * progress.step // max(self._total_steps, 1)
        # Padded, so that the bar keeps its length as the numbers grow.
        step = str(progress.step).rjust(len(str(self._total_steps)))
        counts = Text(f"  {step}/{self._total_steps}  {percent:3d}%", no_wrap=True)
        seconds_left = progress.seconds_left(self._total_steps)
        if seconds_left:
            counts.append(f"  eta {format_duration(seconds_left)}", style="cyan")
        row = Table.grid(expand=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        row.add_row(ProgressBar(total=max(self._total_steps, 1), completed=progress.step), counts)
        return row

    def _details(self) -> Text:
        if self._activity is not None:
            activity, since = self._activity
            return Text(
                f"{activity} ... {format_duration(time.monotonic() - since)}",
                style="dim",
                no_wrap=True,
                overflow="ellipsis",
            )
        parts = self._progress.parts()
        if self._progress.length is not None:
            parts.append(f"length {self._progress.length}")
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")

    def __enter__(self) -> "LiveDisplay":
        streams = sys.stdout, sys.stderr
        self._live.start()
        self._redirect_logs(*streams)
        return self

    def __exit__(self, *exception: object) -> None:
        for handler, stream in self._log_streams:
            handler.setStream(stream)
        self._log_streams.clear()
        self._live.stop()

    def _redirect_logs(self, stdout: object, stderr: object) -> None:
        """Handlers hold the stream they were made with, which writes past rich into the bar: they get rich's."""
        for handler in _stream_handlers():
            for original, redirected in ((stdout, sys.stdout), (stderr, sys.stderr)):
                if handler.stream is original and redirected is not original:
                    self._log_streams.append((handler, handler.stream))
                    handler.setStream(redirected)


def _stream_handlers() -> Iterator[logging.StreamHandler]:
    """Of every logger; absl keeps its own inside another handler."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in list(logging.root.manager.loggerDict))]
    seen: set[int] = set()
    for logger in loggers:
        for handler in logger.handlers:
            inner = getattr(handler, "python_handler", handler)
            if isinstance(inner, logging.StreamHandler) and id(inner) not in seen:
                seen.add(id(inner))
                yield inner


def format_count(count: float | None) -> str | None:
    """Three digits and a unit: 950, 12.3k, 1.23M; None stays None."""
    if count is None:
        return None
    for bound, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999.6k rounds to four digits and so becomes 1.00M.
        if count >= 0.9995 * bound:
            return f"{_three_digits(count / bound)}{unit}"
    return _three_digits(count)


def _three_digits(value: float) -> str:
    decimals = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f}"


def format_duration(seconds: float) -> str:
    """Minutes and seconds, 3:21; with hours, 1:02:03; with days, 2d 03:04."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}:{minute:02d}"
    if hours:
        return f"{hours}:{minute:02d}:{second:02d}"
    return f"{minute}:{second:02d}"


def _format_metric(value: float | None) -> str | None:
    """Four digits behind the point for what is below 1, so that a loss can be seen to fall: 0.0123, 1.234, 12.34."""
    if value is None:
        return None
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
