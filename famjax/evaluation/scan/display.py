"""What a scan shows while it runs: a live bar on a terminal, plain lines elsewhere.

    FAM 460  C=64 M=0 F=8  passkey_documents  length 4096  depth 0.5: exact_match 0.938 (0.72 to 0.99) 1.2 s
    ━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━━━━━  12/100  34%  eta 3:21
    FAM 460  C=64 M=0 F=8  passkey_documents  length 8192  depth 0.5  12.3k tokens/s

The share that is done, and the time left, are those of the work: of the cells' FLOPs, not of their number.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from famjax.training.display import Display, LiveDisplay, PlainDisplay, format_count, format_duration


@dataclasses.dataclass
class ScanProgress:
    """Where a scan is.

    Attributes:
      cells: this process has to evaluate.
      cost: of all of them.
      finished: how many are.
      finished_cost: of these.
      tokens: read and said for these.
      seconds: that these took, compilation and waiting for new checkpoints left out.
    """

    cells: int = 0
    cost: int = 0
    finished: int = 0
    finished_cost: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def finish(self, cost: int, tokens: int, seconds: float) -> None:
        """Counts a cell."""
        self.finished += 1
        self.finished_cost += cost
        self.tokens += tokens
        self.seconds += seconds

    @property
    def share(self) -> float:
        """Of the work that is done, 0 to 1."""
        return self.finished_cost / self.cost if self.cost else 1.0

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before the first cell."""
        if not (self.finished_cost and self.seconds):
            return None
        return (self.cost - self.finished_cost) * self.seconds / self.finished_cost

    @property
    def tokens_per_second(self) -> float | None:
        """Of this process; None before the first cell."""
        return self.tokens / self.seconds if self.seconds else None

    def __str__(self) -> str:
        parts = [f"{self.finished}/{self.cells}"]
        if self.seconds_left is not None:
            parts.append(f"eta {format_duration(self.seconds_left)}")
        return " ".join(parts)


@runtime_checkable
class ScanDisplay(Display, Protocol):
    """What a scan talks to, besides what a training does."""

    def working(self, cell: str) -> None:
        """Shows which cell is under way."""

    def finished(self, message: str) -> None:
        """Prints a finished cell."""

    def failed(self, message: str) -> None:
        """Prints a failed cell."""

    def waiting(self, what: str, seconds_left: Callable[[], float]) -> None:
        """Shows what the scan waits for, and for how long at most."""

    def __enter__(self) -> "ScanDisplay": ...


class PlainScanDisplay(PlainDisplay):
    """A line for each cell, with where the scan is."""

    def __init__(self, progress: ScanProgress, console: Console) -> None:
        super().__init__(0, 1, console)
        self._scan = progress
        self._is_waiting = False

    def __enter__(self) -> "PlainScanDisplay":
        return self

    def finished(self, message: str) -> None:
        """Prints a finished cell."""
        self.report(f"{self._scan} {message}")

    def failed(self, message: str) -> None:
        """Prints a failed cell."""
        self.finished(f"failed: {message}")

    def waiting(self, what: str, seconds_left: Callable[[], float]) -> None:
        """Says once what the scan waits for."""
        if not self._is_waiting:
            self.report(f"{what}; ends in {format_duration(max(0.0, seconds_left()))} at the latest")
        self._is_waiting = True

    def working(self, cell: str) -> None:
        """Prints nothing: the cell's line comes when it is finished."""
        del cell
        self._is_waiting = False


class LiveScanDisplay(LiveDisplay):
    """A bar that stays at the bottom; finished cells scroll by above it."""

    def __init__(self, progress: ScanProgress, console: Console) -> None:
        # Before the base class, which draws once.
        self._scan = progress
        self._cell, self._since = "", time.monotonic()
        self._waits: tuple[str, Callable[[], float]] | None = None
        super().__init__(0, console)

    def __enter__(self) -> "LiveScanDisplay":
        super().__enter__()
        return self

    def finished(self, message: str) -> None:
        """Prints a finished cell above the bar."""
        self.report(message)

    def failed(self, message: str) -> None:
        """Prints a failed cell, in red."""
        self._console.print(Text(f"failed: {message}", style="red"), soft_wrap=True)

    def waiting(self, what: str, seconds_left: Callable[[], float]) -> None:
        """Shows what the scan waits for, in place of the cell."""
        self._waits = what, seconds_left

    def working(self, cell: str) -> None:
        """Shows which cell is under way."""
        self._cell, self._since, self._waits = cell, time.monotonic(), None

    def _bar(self) -> RenderableType:
        scan = self._scan
        finished = str(scan.finished).rjust(len(str(scan.cells)))
        counts = Text(f"  {finished}/{scan.cells}  {int(100 * scan.share):3d}%", no_wrap=True)
        if scan.seconds_left:
            counts.append(f"  eta {format_duration(scan.seconds_left)}", style="cyan")
        row = Table.grid(expand=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        row.add_row(ProgressBar(total=1.0, completed=scan.share), counts)
        return row

    def _details(self) -> Text:
        if self._waits is not None:
            what, seconds_left = self._waits
            text = f"{what}; ends in {format_duration(max(0.0, seconds_left()))} at the latest"
            return Text(text, style="dim", no_wrap=True, overflow="ellipsis")
        parts = [self._cell, f"for {format_duration(time.monotonic() - self._since)}"] if self._cell else []
        if self._scan.tokens_per_second:
            parts.append(f"{format_count(self._scan.tokens_per_second)} tokens/s")
        return Text("  ".join(parts), no_wrap=True, overflow="ellipsis")


def open_scan_display(progress: ScanProgress) -> ScanDisplay:
    """The display for this process's standard output."""
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveScanDisplay(progress, console)
    return PlainScanDisplay(progress, console)
