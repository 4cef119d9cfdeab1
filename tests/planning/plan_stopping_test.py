"""famjax.planning.stopping: SIGTERM while a plan is made."""

import subprocess
import sys

# libtpu takes the handler of SIGTERM in C, where Python does not see it; a compilation runs no Python.
PLANNING = """
import ctypes, os, signal, time
from famjax.planning.stopping import ending_on_sigterm, keep_handlers
with ending_on_sigterm():
    ctypes.CDLL(None).signal(signal.SIGTERM, 1)
    keep_handlers()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_sigterm_ends_a_plan_in_one_line():
    """Guards against libtpu's stack trace, and against an end that waits for the compiler."""
    process = subprocess.run([sys.executable, "-c", PLANNING], capture_output=True, text=True, check=False, timeout=50)
    assert (process.returncode, process.stderr) == (143, "Stopped by SIGTERM; the plan is not finished.\n")


def test_the_handler_is_given_back():
    """Guards against a launch that plans, submits, and cannot be ended afterwards."""
    again = PLANNING.replace("    os.kill", "os.kill").replace("    time", "time")
    process = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True, check=False, timeout=50)
    assert (process.returncode, process.stderr) == (-15, "")
