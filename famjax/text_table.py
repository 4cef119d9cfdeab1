"""Tables of plain text, for what a command prints."""

from collections.abc import Iterable, Sequence


def table(rows: Iterable[Sequence[str]], *, left: int = 1) -> list[str]:
    """Lines of columns of the same width, the first `left` to the left and the others to the right, indented."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def cell(column: int, text: str) -> str:
        return text.ljust(widths[column]) if column < left else text.rjust(widths[column])

    return ["  " + "  ".join(cell(column, text) for column, text in enumerate(row)).rstrip() for row in rows]
