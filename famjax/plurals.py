"""Counts in messages and reports."""


def counted(quantity: int, noun: str) -> str:
    """A number of things: "1 cell", "1,200 cells"."""
    return f"{quantity:,} {noun}{'' if quantity == 1 else 's'}"
