"""A process of a scan whose cells are made up: `scan_worker.py FOLDER OUTPUT SHARD [CELLS]`.

With CELLS it kills itself in the middle of the line of the ledger that follows so many cells.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path
from unittest import mock

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from famjax.evaluation.scan import running  # noqa: E402 (the path comes first)
from scan_folders import fake_entry, make_scan  # noqa: E402 (the path comes first)

real_write = os.write


def die_while_writing(file, line):
    """Writes the beginning of a line."""
    real_write(file, line[:40])
    os.kill(os.getpid(), signal.SIGKILL)


class Evaluator:
    """See above."""

    cells_left = int(sys.argv[4]) if len(sys.argv) > 4 else None

    def __init__(self, job, output_dir):
        self.restored = 0

    def evaluate(self, cell, asked):
        if self.cells_left is not None:
            self.cells_left -= 1
            if self.cells_left < 0:
                mock.patch.object(os, "write", die_while_writing).start()
        return fake_entry(cell)


if __name__ == "__main__":
    folder, output, shard = sys.argv[1:4]
    job = make_scan(Path(folder), output_dir=str(Path(folder) / output))
    with mock.patch.multiple(running, Evaluator=Evaluator, write_report=mock.DEFAULT):
        running.scan(dataclasses.replace(job, shard=shard or None))
