"""Watches a process of a job: its heartbeat file, its time limits, and the other processes.

A job whose processes wait for each other hangs for ever where one of them dies or hangs. Three threads, none of which
can keep another one waiting, see to it that it ends instead: one writes the heartbeat file, one looks at the time
limits of this process, one exchanges a line with the other processes through jax's coordination service. A process that
gives up writes the stacks of all its threads and exits with a code of `famjax.errors`, whatever its main thread does.
"""

import contextlib
import dataclasses
import faulthandler
import itertools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import jax
from absl import logging
from etils import epath

from famjax.errors import CellsFailed, ConfigError, DataError, FamjaxError, HostsError, NumericsError, Stopped
from famjax.pods import coordination
from famjax.pods.agreement import StopRequest
from famjax.pods.heartbeats import FOLDER, Process, remove_heartbeat, stacks_path, write_heartbeat
from famjax.pods.hosts_config import HostsConfig

TRAINING = "training"
_STARTING, _WAITING, _ENDED = "starting", "waiting for the other processes to end", "ended"
_RUNNING, _FINISHED, _FAILED, _BROKEN = "running", "finished", "failed", "broken"
# Errors that cannot be due to the death of another process.
_OWN_ERRORS = (ConfigError, DataError, NumericsError, KeyboardInterrupt, SystemExit)
_OTHER_CODES: dict[type, int] = {KeyboardInterrupt: 130}
_POLL_SECONDS = 1.0
_LINGER_SECONDS = 3 * _POLL_SECONDS
# For a file system that hangs.
_WRITE_SECONDS = 15.0
# After its limit, a process whose interpreter is stuck, threads included, is ended without one.
_STUCK_SECONDS = 60.0
_numbers = itertools.count()


@dataclasses.dataclass(frozen=True)
class _Line:
    """What a process tells the others, again and again. Processes watch the same runs, in the same order."""

    process: Process
    watch: int
    beat: int
    status: str
    place: str
    stop: str
    code: int = 0
    message: str = ""


class _Now(NamedTuple):
    """Where this process is; replaced as a whole, since other threads read it."""

    phase: str
    step: int | None
    since: float

    @property
    def place(self) -> str:
        return self.phase if self.step is None else f"{self.phase}, after step {self.step}"


class Watch:
    """The watch over this process, while it is entered. The code of the run says what it is doing.

    On leaving it a process that has finished (or stopped by a signal) waits until all have, and one that failed tells
    the others, which then end with its exit code.
    """

    def __init__(
        self,
        config: HostsConfig,
        folder: epath.Path,
        stop: StopRequest,
        *,
        exit_process: Callable[[int], Any] = os._exit,
    ) -> None:
        """Starts nothing yet.

        Args:
          config: time limits.
          folder: of the job; heartbeat and stacks go below it.
          stop: signals that this process notes; those of the others are handed to it.
          exit_process: ends the process, with an exit code.
        """
        self._config, self._folder, self._stop, self._exit = config, folder, stop, exit_process
        self._process = Process(jax.process_index(), jax.process_count())
        self._now = _Now(_STARTING, None, time.monotonic())
        self._number = next(_numbers)
        self._status, self._code, self._message, self._beats = _RUNNING, 0, "", 0
        self._has_beaten = self._was_there = False
        self._closed, self._all_done, self._all_broken = threading.Event(), threading.Event(), threading.Event()
        self._ending = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._heard: dict[int, tuple[int, float]] = {}

    @contextlib.contextmanager
    def doing(self, phase: str) -> Iterator[None]:
        """Names what goes on within it; its time limit begins anew, and again where the phase around it goes on."""
        before = self._now.phase
        self._enter(phase)
        try:
            yield
        finally:
            self._enter(before)

    def step_finished(self, step: int) -> None:
        """A step, a cell or another part of the phase is done: its time limit begins anew."""
        self._now = _Now(self._now.phase, step, time.monotonic())

    def went_on(self) -> None:
        """Something of the phase is done, no step: its time limit begins anew."""
        self._enter(self._now.phase)

    def __enter__(self) -> "Watch":
        self._was_there = self._folder.exists()
        self._beat()
        self._start(self._beat, self._config.heartbeat_seconds, "heartbeat")
        self._start(self._patrol, min(_POLL_SECONDS, self._config.heartbeat_seconds), "limits")
        if coordination.is_connected():
            self._start(self._exchange, _POLL_SECONDS, "hosts")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if coordination.is_connected() and not self._closed.is_set():
                self._part(error)
        finally:
            self._closed.set()
            faulthandler.cancel_dump_traceback_later()
            for thread in self._threads:
                thread.join(timeout=_WRITE_SECONDS)
            self._enter(_ENDED)
            self._beat()
            if error is not None:
                self._leave_nothing()

    def _leave_nothing(self) -> None:
        """Removes heartbeats that are all there is in the job's folder: the job was refused before it began."""
        with contextlib.suppress(OSError):
            if [path.name for path in self._folder.iterdir()] == [FOLDER]:
                remove_heartbeat(self._folder, self._process)
                if not self._was_there:
                    os.rmdir(self._folder)

    def _enter(self, phase: str) -> None:
        self._now = _Now(phase, self._now.step, time.monotonic())

    def _start(self, work: Callable[[], None], every: float, name: str) -> None:
        def run() -> None:
            while not self._closed.wait(every):
                work()

        self._threads.append(threading.Thread(target=run, name=f"famjax-{name}", daemon=True))
        self._threads[-1].start()

    def _beat(self) -> None:
        """Writes the heartbeat file; a full disk, or a bucket that is away for a while, does not end the job.

        Whether the folder can be written at all is the run's to find out, and to tell.
        """
        try:
            write_heartbeat(self._folder, self._process, *self._now[:2])
            self._has_beaten = True
        except OSError as error:
            if self._has_beaten:
                logging.warning("%s: the heartbeat file cannot be written (%s).", self._folder / FOLDER, error)

    def _patrol(self) -> None:
        """Ends the process where its phase takes longer than it may."""
        now = self._now
        name = "step_seconds" if now.phase == TRAINING else "phase_seconds"
        limit: float | None = getattr(self._config, name)
        if limit is None or self._status != _RUNNING:
            faulthandler.cancel_dump_traceback_later()
            return
        # Without the interpreter, should it be stuck: armed anew as long as this thread runs.
        faulthandler.dump_traceback_later(limit + _STUCK_SECONDS, exit=True, file=2)
        if time.monotonic() - now.since > limit:
            what = "no step has finished" if now.phase == TRAINING else "nothing has come to an end"
            self._give_up(
                HostsError.exit_code,
                f"{what} for {limit:g} s ({now.place}). If it may take longer, raise --gin.HostsConfig.{name}.",
            )

    def _exchange(self) -> None:
        """Tells the others where this process is, and ends it where one of them has failed or is lost."""
        now = time.monotonic()
        try:
            self._tell()
            told = {index: _parse(text) for index, text in coordination.told().items() if index != self._process.index}
        except jax.errors.JaxRuntimeError as error:
            logging.info("Process 0 does not answer: %s", error)
            return  # jax's client ends the process where it is gone for good.
        for index, line in told.items():
            self._hear(index, line, now)
        others = self._process.count - 1
        if sum(self._has_finished(line) for line in told.values()) == others:
            self._all_done.set()
        if sum(line.status == _BROKEN for line in told.values()) == others:
            self._all_broken.set()

    def _hear(self, index: int, line: _Line, now: float) -> None:
        """Does what a line of another process asks for, which may be nothing but to know that it is alive."""
        if line.status == _FAILED:
            self._give_up(line.code, f"{line.process} has ended ({line.place}): {line.message}")
        if line.stop and line.watch == self._number:
            self._stop.request(line.stop)
        beat, heard = self._heard.get(index, (-1, now))
        self._heard[index] = line.beat, now if line.beat != beat else heard
        silent = now - self._heard[index][1]
        if silent > self._config.lost_seconds and not self._has_finished(line):
            self._give_up(
                HostsError.exit_code,
                f"{line.process} has not been heard of for {silent:.0f} s; it was at: {line.place}. "
                "The same command on all hosts goes on from the last checkpoint.",
            )

    def _has_finished(self, line: _Line) -> bool:
        return line.watch > self._number or (line.watch == self._number and line.status == _FINISHED)

    def _tell(self) -> None:
        self._beats += 1
        line = _Line(
            process=self._process,
            watch=self._number,
            beat=self._beats,
            status=self._status,
            place=self._now.place,
            stop=self._stop.name,
            code=self._code,
            message=self._message,
        )
        coordination.tell(json.dumps(dataclasses.asdict(line)))

    def _part(self, error: BaseException | None) -> None:
        """Leaves the job in good order; see the class."""
        if error is None or isinstance(error, Stopped | CellsFailed):
            self._enter(_WAITING)
            self._status = _FINISHED
            self._all_done.wait()
            _within(_LINGER_SECONDS, self._tell)  # The others wait to hear it, and may not have.
            return
        if not isinstance(error, _OWN_ERRORS):
            # The death of another process looks like an error here. It is told by name as soon as it is known.
            self._status = _BROKEN
            self._all_broken.wait(self._config.lost_seconds + 2 * _LINGER_SECONDS)
        with self._ending:
            code = error.exit_code if isinstance(error, FamjaxError) else _OTHER_CODES.get(type(error), 1)
            self._tell_of_failure(code, (str(error).splitlines() or [type(error).__name__])[0])

    def _give_up(self, code: int, message: str) -> None:
        """Ends the process from a thread beside the one that does the work."""
        with self._ending:
            if self._closed.is_set():
                return
            try:
                if code == HostsError.exit_code:
                    message += f"\n  The stacks of all threads: {self._write_stacks(message)}"
                self._tell_of_failure(code, message.splitlines()[0])
                sys.stderr.write(f"{self._process}: {message}\n")
                sys.stderr.flush()
            finally:  # Whatever else fails, a full disk or a closed terminal: nobody is left who would end it.
                self._closed.set()
                self._exit(code)

    def _tell_of_failure(self, code: int, message: str) -> None:
        """Tells the others, in so far as they can be reached; process 0 stays until they know."""
        self._status, self._code, self._message = _FAILED, code, message
        if not coordination.is_connected():
            return

        def tell() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self._tell()

        _within(_LINGER_SECONDS, tell)
        if self._process.index == 0:
            time.sleep(_LINGER_SECONDS)

    def _write_stacks(self, message: str) -> str:
        """Writes what every thread is doing; returns where."""
        path = stacks_path(self._folder, self._process.index)
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            text = f"{self._process}, pid {self._process.pid}: {message}\n\n{file.read()}"

        def write() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

        if _within(_WRITE_SECONDS, write):
            return str(path)
        sys.stderr.write(text)
        return "above"


def _parse(text: str) -> _Line:
    values = json.loads(text)
    return _Line(**{**values, "process": Process(**values["process"])})


def _within(seconds: float, work: Callable[[], Any]) -> bool:
    """Whether something comes to an end in time, without an OSError; goes on without it where it does not."""
    done = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError):
            work()
            done.set()

    threading.Thread(target=run, daemon=True).start()
    return done.wait(seconds)
