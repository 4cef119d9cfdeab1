"""SIGTERM and SIGINT: noted, not fatal, and heard even while a step is being compiled."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from famjax.errors import Stopped
from famjax.training.stopping import StopSignal, run_interruptible


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_handlers_come_back(number):
    """A signal that ends the process in the middle of a step, or a handler that outlives the training."""
    before = [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)]
    with StopSignal() as stop:
        assert not stop.requested
        assert stop.name == ""
        signal.raise_signal(number)
        assert stop.requested
        assert stop.name == number.name
    assert [signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)] == before


def test_the_second_sigint_interrupts():
    """Ctrl-C twice that has to wait for the save; or a repeated SIGTERM that cuts the save short."""
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_inside_restores_the_handlers():
    """Handlers left behind by a run that failed."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="inside"), StopSignal():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_interruptible_returns_and_raises_what_the_function_does():
    """A compilation's result or error that is lost on its thread, or a call that runs on the main thread."""
    with StopSignal() as stop:
        assert run_interruptible(lambda: threading.current_thread() is threading.main_thread(), stop) is False
        with pytest.raises(ZeroDivisionError):
            run_interruptible(lambda: 1 // 0, stop)


def test_run_interruptible_stops_waiting():
    """A SIGTERM that is heard only when the compilation ends."""
    release = threading.Event()
    threads = []

    def compile_long():
        threads.append(threading.current_thread())
        os.kill(os.getpid(), signal.SIGTERM)
        release.wait(60)

    start = time.monotonic()
    with StopSignal() as stop, pytest.raises(Stopped, match="SIGTERM arrived during compilation") as error:
        run_interruptible(compile_long, stop)
    assert time.monotonic() - start < 10
    assert error.value.exit_code == 143
    assert threads[0].is_alive()
    release.set()
    threads[0].join()


def test_run_interruptible_does_not_begin_after_a_signal():
    """A minute of compilation begun although the run is to stop."""
    called = []
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            run_interruptible(lambda: called.append(1), stop)
    assert not called


COMPILES = """
import sys
import jax
import jax.numpy as jnp
from famjax.errors import Stopped
from famjax.training.stopping import StopSignal, run_interruptible

def long_program(x):
    for index in range(6000):
        x = jnp.sin(x) @ jnp.cos(x + index) if index % 3 else jnp.sort(x, axis=index % 2)
    return x

lowered = jax.jit(long_program).lower(jnp.ones((8, 8)))
try:
    with StopSignal() as stop:
        print("compiling", flush=True)
        run_interruptible(lowered.compile, stop)
        print("compiled", flush=True)
except Stopped as error:
    print("saved", flush=True)
    sys.exit(error.exit_code)
"""


def test_sigterm_while_xla_compiles(tmp_path):
    """A process that hangs or crashes as it exits beside a thread that is still inside the compiler."""
    script = tmp_path / "compiles.py"
    script.write_text(COMPILES)
    root = str(pathlib.Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "compiling\n"
        time.sleep(0.3)
        sent = time.monotonic()
        process.terminate()
        rest = process.stdout.read()
        process.wait()
    assert rest == "saved\n"
    assert process.returncode == 143
    assert time.monotonic() - sent < 5
