"""Where a value comes from, and how the flag that changes it is written."""

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Origin:
    """The place that bound a value.

    Attributes:
      text: "--gin.NAME" for a flag, "path:line" for a file.
      is_flag: whether it is a flag.
    """

    text: str
    is_flag: bool

    def __str__(self) -> str:
        return self.text


def flag_origin(name: str) -> Origin:
    """Returns the origin of `--gin.NAME=value`."""
    return Origin(f"--gin.{name}", is_flag=True)


def file_origin(path: Path, line: int) -> Origin:
    """Returns the origin of a line in a gin file; the path is relative where it lies below the working directory."""
    absolute, here = path.resolve(), Path.cwd()
    shown = absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
    return Origin(f"{shown}:{line}", is_flag=False)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Returns " Did you mean X?" for the candidate that looks most like the name, or nothing where none does."""
    by_lower = {candidate.lower(): candidate for candidate in sorted(candidates)}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return suggestion([by_lower[found[0]]]) if found else ""


def suggestion(names: Iterable[str]) -> str:
    """Returns " Did you mean X or Y?", to follow a sentence, or nothing where there are no names."""
    listed = " or ".join(names)
    return f" Did you mean {listed}?" if listed else ""


def quoted_for_shell(name: str, value: str) -> str:
    """Returns a flag whose string survives the shell: `--gin.NAME="'value'"`."""
    return f"""--gin.{name}="'{value}'\""""
