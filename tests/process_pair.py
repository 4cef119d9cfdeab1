"""Two processes of one job with four devices each, on this machine: started, waited for, killed."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
_SECONDS = 400


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Pair:
    """Two processes that run the same command, each with its place in the job.

    Attributes:
      processes: the two.
      outputs: files with what each has written.
    """

    def __init__(self, command: Sequence[str], folder: Path, name: str) -> None:
        """Starts them.

        Args:
          command: what follows `python`; "{index}" and "{port}" are filled in.
          folder: where they run, and write their outputs.
          name: of the outputs.
        """
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
        port = free_port()
        self.outputs = [folder / f"{name}_{index}.txt" for index in range(2)]
        self.processes = []
        for index, output in enumerate(self.outputs):
            with output.open("w") as file:
                arguments = [word.format(index=index, port=port) for word in command]
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *arguments],
                        cwd=folder,
                        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags},
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def text(self, index: int | None = None) -> str:
        """What one process has written, or both."""
        if index is None:
            return "\n".join(f"--- process {number}\n{self.text(number)}" for number in range(2))
        return self.outputs[index].read_text()

    def step(self) -> int:
        """The last step that process 0 has shown; -1 before the first."""
        return max((int(step) for step in re.findall(r"^step (\d+)/", self.text(0), re.MULTILINE)), default=-1)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Polls every few milliseconds; neither process may end before."""
        deadline = time.monotonic() + _SECONDS
        while not condition():
            assert all(process.poll() is None for process in self.processes), self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.005)

    def codes(self, timeout: float = _SECONDS) -> list[int]:
        """Waits for the end of both; their exit codes."""
        deadline = time.monotonic() + timeout
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running:\n{self.text()}") from None

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
