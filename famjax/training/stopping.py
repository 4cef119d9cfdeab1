"""SIGTERM and SIGINT: note the signal, let the loop finish its step, save and exit with 143."""

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent import futures
from types import FrameType, TracebackType
from typing import Any, TypeVar

from famjax.errors import Stopped
from famjax.pods.agreement import AgreedStop, StopRequest

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 0.1


class StopSignal:
    """Notes SIGTERM and SIGINT while it is entered (on the main thread); the handlers before it come back at the end.

    The first signal only sets `requested`, which the loop polls between steps, between the batches of an evaluation
    and, through `run_interruptible`, during compilation. A SIGINT after it raises KeyboardInterrupt, as usual: a user
    who presses Ctrl-C twice does not want to wait. A second SIGTERM changes nothing, since schedulers repeat it.
    """

    def __init__(self) -> None:
        self._received = self._told = ""
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return bool(self.name)

    @property
    def name(self) -> str:
        """Name of the first signal, as "SIGTERM"; "" before one."""
        return self._received or self._told

    def request(self, name: str) -> None:
        """Notes a signal that another process of the job has got."""
        self._told = self._told or name

    def __enter__(self) -> "StopSignal":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            # None: the handler before was not installed from Python and cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = self._received or signal.Signals(number).name


def run_interruptible(function: Callable[[], T], stop: StopRequest, what: str = "compilation") -> T:
    """Runs `function` on another thread and gives up waiting for it when a signal arrives.

    For a call that keeps its thread for minutes and cannot be stopped itself, as the compilation of a step: on the main
    thread it would keep the signal's handler from running until it returned, and a scheduler kills long before.
    jax's contexts belong to a thread, so `function` enters what it needs (a mesh, axis rules) itself.

    Args:
      function: what to run.
      stop: entered by the caller.
      what: names the call, for the message.

    Returns:
      What `function` returns; what it raises is raised here.

    Raises:
      Stopped: a signal has arrived before the end. `function` goes on in a daemon thread, its result is dropped, and if
        the process ends before it does, the process ends at once, with exit code 143.
    """
    outcome: futures.Future[T] = futures.Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001  (raised again, on the thread that waits)
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name=what, daemon=True)
    too_late = stop.requested
    if not too_late:
        thread.start()
    try:
        while not (too_late or outcome.done() or stop.requested):
            futures.wait([outcome], timeout=_POLL_SECONDS)
    finally:
        if thread.is_alive() and not outcome.done():
            # An interpreter that shuts down under a thread that runs native code can crash, and lose the exit code.
            atexit.register(_exit_at_once_beside, thread)
    if outcome.done():
        return outcome.result()
    raise Stopped(f"{stop.name} arrived during {what}.")


def run_together(function: Callable[[], T], agreed: AgreedStop, what: str = "compilation") -> T:
    """`run_interruptible` on every process of a job: all give up where one got a signal, and none goes on alone.

    Raises:
      Stopped: a signal has arrived on this process or on another one.
    """
    try:
        result = run_interruptible(function, agreed.signal, what)
    except Stopped:
        agreed.now()
        raise
    if agreed.is_shared and agreed.now():
        raise Stopped(f"{agreed.name} arrived during {what}.")
    return result


def _exit_at_once_beside(thread: threading.Thread) -> None:
    if thread.is_alive():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(Stopped.exit_code)
