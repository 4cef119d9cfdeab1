"""What a run of many prompts shows while it answers, on the standard error: results may go to the standard output.

    ━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━  123/500  read 51.2k tokens/s  generated 830 tokens/s  eta 3:21

and, where that is no terminal, or where results are printed to the same one, a line now and then:

    123/500 prompts, read 51.2k tokens/s, generated 830 tokens/s, eta 3:21
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from famjax.training.display import format_count, format_duration

_REDRAWS_PER_SECOND = 4
_SECONDS_BETWEEN_LINES = 10.0
_WIDEST_BAR = 40


class Progress:
    """Counts of a run, and how they are shown. Used as a context manager.

    Rates are means over the time since the run began, without the time that was spent compiling.

    Attributes:
      done: prompts answered, those of an earlier run included.
      read: tokens read.
      generated: tokens generated.
    """

    def __init__(self, live: bool, compiling: Callable[[], float]) -> None:
        """Shows nothing yet; `open_progress` decides.

        Args:
          live: draw a bar; otherwise print lines.
          compiling: seconds spent compiling so far.
        """
        self.done, self.read, self.generated = 0, 0, 0
        self._total, self._first = 0, 0
        self._console = Console(stderr=True)
        self._compiling, self._compiled_before = compiling, compiling()
        self._began = self._last_line = time.monotonic()
        self._live = (
            Live(
                get_renderable=self.render,
                console=self._console,
                refresh_per_second=_REDRAWS_PER_SECOND,
                # Results that go to a file or a pipe must go there.
                redirect_stdout=False,
                transient=True,
            )
            if live
            else None
        )

    def start(self, total: int, done: int) -> None:
        """Says how many prompts there are, and how many an earlier run has answered."""
        self._total, self._first, self.done = total, done, done
        self._began = self._last_line = time.monotonic()
        self._compiled_before = self._compiling()
        if self._live is not None:
            self._live.start()

    def show(self) -> None:
        """Called whenever a count has changed; draws at its own rate."""
        if self._live is None and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.report(self.line())

    def report(self, message: str) -> None:
        """Prints a line that stays."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """Where the run is, in words."""
        return ", ".join([f"{self.done}/{self._total} prompts", *self._rates()])

    def render(self) -> RenderableType:
        """The bar with its figures."""
        row = Table.grid(padding=(0, 2, 0, 0))
        bar = ProgressBar(total=max(self._total, 1), completed=self.done, width=_bar_width(self._console.width))
        figures = Text("  ".join([f"{self.done}/{self._total}", *self._rates()]), no_wrap=True, overflow="ellipsis")
        row.add_row(bar, figures)
        return row

    def _rates(self) -> list[str]:
        seconds = time.monotonic() - self._began - (self._compiling() - self._compiled_before)
        if seconds <= 0 or not self.read:
            return []
        rates = [f"read {format_count(self.read / seconds)} tokens/s"]
        if self.generated:
            rates.append(f"generated {format_count(self.generated / seconds)} tokens/s")
        answered, left = self.done - self._first, self._total - self.done
        if answered and left:
            rates.append(f"eta {format_duration(left * seconds / answered)}")
        return rates

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def _bar_width(width: int) -> int:
    return max(min(_WIDEST_BAR, width - 80), 10)


def open_progress(compiling: Callable[[], float], to_standard_output: bool) -> Progress:
    """The progress for this process's terminal, if it has one.

    Args:
      compiling: seconds spent compiling so far.
      to_standard_output: results are written there.
    """
    console = Console(stderr=True)
    shared = to_standard_output and sys.stdout.isatty()
    return Progress(console.is_terminal and not console.is_dumb_terminal and not shared, compiling)
