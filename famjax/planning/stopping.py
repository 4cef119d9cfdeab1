"""SIGTERM while a plan is made: there is nothing to save, and the compiler runs no Python for minutes."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from famjax.errors import Stopped


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Within it SIGTERM ends the process at once, with one line and exit code 143. For the main thread."""
    arrived, write_end = os.pipe()
    os.set_blocking(write_end, False)
    watcher = threading.Thread(target=_end_on_sigterm, args=(arrived,), name="famjax-sigterm", daemon=True)
    watcher.start()
    # Python's own handler runs when the main thread is back from the compiler; its number is in the pipe at once.
    handler, wakeup = signal.signal(signal.SIGTERM, _wait_for_the_watcher), signal.set_wakeup_fd(write_end)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler or signal.SIG_DFL)
        os.close(write_end)
        watcher.join()
        os.close(arrived)


def keep_handlers() -> None:
    """Puts Python's handler of SIGTERM back: libtpu, as it is loaded, takes its place to print a stack trace."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)


def _wait_for_the_watcher(number: int, frame: Any) -> None:
    del number, frame


def _end_on_sigterm(arrived: int) -> None:
    while number := os.read(arrived, 1):
        if number[0] == signal.SIGTERM:
            sys.stderr.write("Stopped by SIGTERM; the plan is not finished.\n")
            sys.stderr.flush()
            os._exit(Stopped.exit_code)
