"""What the command lines of this package share: mistakes told in a line, the memory's flags, lines of progress."""

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence

from famjax.errors import FamjaxError
from famjax.models.config import MemoryConfig
from famjax.platforms import leave_absent_tpus

GIGABYTE = 1e9
_SECONDS_BETWEEN_LINES = 5.0
_BLOCK_SIZE, _NUM_SEGMENTS = 1024, 3


class ProgressLines:
    """Prints a line now and then."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Takes the bytes that are done, and those in all."""
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        rate = done / (now - self._began)
        sys.stderr.write(
            f"{done / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB ({done / total:.0%}), {rate / GIGABYTE:.2f} GB/s, "
            f"eta {(total - done) / rate:.0f} s\n"
        )


def run_command(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> int:
    """Calls the flag `command` with all flags; returns the exit code. A user's mistake is told without a traceback."""
    flags = parser.parse_args(arguments)
    leave_absent_tpus()
    try:
        flags.command(flags)
        sys.stdout.flush()
    except FamjaxError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:  # Of "| head": nobody reads on, and the interpreter shall not try to tell it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def positive_int(text: str) -> int:
    """A flag's whole number from 1 on; ValueError, which argparse tells by this function's name."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def positive_float(text: str) -> float:
    """A flag's number above 0, finite; ValueError, as `positive_int`."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def add_memory_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the memory that an imported checkpoint is read with."""
    parser.add_argument(
        "--block_size",
        type=positive_int,
        help=f"C of the memory that it is read with where a job sets none; default: {_BLOCK_SIZE}",
    )
    parser.add_argument("--num_segments", type=int, help=f"M likewise; default: {_NUM_SEGMENTS}")


def memory_of(flags: argparse.Namespace) -> MemoryConfig:
    """What `add_memory_flags` gave. A checkpoint that is imported has no FAM; a training run inserts it."""
    return MemoryConfig(
        block_size=_BLOCK_SIZE if flags.block_size is None else flags.block_size,
        num_segments=_NUM_SEGMENTS if flags.num_segments is None else flags.num_segments,
        fam_length=0,
    )
