"""Compilation of inference's steps as the run around it wishes: told to who waits, given up where a signal comes."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import TypeVar

from famjax.pods.agreement import StopRequest
from famjax.training.stopping import run_interruptible

T = TypeVar("T")

COMPILING = "compiling the steps that read and answer"


@dataclasses.dataclass(frozen=True)
class _Run:
    announce: Callable[[], None]
    stop: StopRequest | None


_RUN: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("run", default=None)


@contextlib.contextmanager
def compiling_within(announce: Callable[[], None], stop: StopRequest | None = None) -> Iterator[None]:
    """Says how steps are compiled that are called within, on this thread.

    Args:
      announce: called before the first step of a model's programs is compiled: the others follow it closely.
      stop: a signal that ends a compilation; None: they are finished, whatever arrives.
    """
    token = _RUN.set(_Run(announce, stop))
    try:
        yield
    finally:
        _RUN.reset(token)


def compile_step(compile_it: Callable[[], T], *, is_first: bool) -> T:
    """Compiles as `compiling_within` says; outside of it, silently and to the end.

    Args:
      compile_it: enters the jax contexts that it needs itself, since it may be called on another thread.
      is_first: of its programs.

    Raises:
      Stopped: a signal has arrived.
    """
    run = _RUN.get()
    if run is None:
        return compile_it()
    if is_first:
        run.announce()
    return compile_it() if run.stop is None else run_interruptible(compile_it, run.stop)
