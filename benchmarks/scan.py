"""Where the time of a scan of small cells goes. Target: 80 % of it in compiled steps, compilation apart.

Further targets: each checkpoint is restored once, and only the first cell of each memory compiles. The scan is a real
one, of models with initial parameters; its time is that from the first cell's beginning to the last one's line in the
ledger, restoring included, the report not.

    python benchmarks/scan.py [--seeds=5] [--examples=8] [--lengths 512 1024] [--emb_dim=128] ...
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs import Sizes, add_size_flags, sizes_from
from measuring import print_figures

from famjax.evaluation.scan.config import ScanJob
from famjax.evaluation.scan.running import scan
from famjax.inference.config import MemoryOverrides
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import TrainJob
from famjax.training.program import make_program

TARGET = 0.8
STEPS = (1, 2)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
DEFAULTS = Sizes(block_size=128, emb_dim=128, num_layers=4, fam_length=16, batch_size=8)


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=5, help="of each depth and length; default: 5, which makes 100 cells"
    )
    parser.add_argument("--examples", type=int, default=8, help="of each cell; default: 8")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024], help="default: 1024")
    add_size_flags(parser, DEFAULTS)
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(make_scan(Path(folder), flags))
    met = figures["share_in_compiled_steps"] >= TARGET
    met &= figures["restored"] == figures["checkpoints"] and figures["cells_that_compiled"] == figures["memories"]
    return 0 if print_figures("scan", figures, met=met) else 1


def make_scan(folder: Path, flags: argparse.Namespace) -> ScanJob:
    """A scan of two checkpoints, which are written, with two memories."""
    job = dataclasses.replace(sizes_from(flags).job, model_dir=str(folder / "run"))
    write_checkpoints(job)
    return ScanJob(
        checkpoints=job.model_dir,
        tasks=("passkey",),
        lengths=tuple(flags.lengths),
        output_dir=str(folder / "scan"),
        every=1,
        memories=(MemoryOverrides(), MemoryOverrides(num_segments=job.model.memory.num_segments + 1)),
        depths=DEPTHS,
        seeds=tuple(range(flags.seeds)),
        examples=flags.examples,
        batch_size=flags.batch_size,
    )


def write_checkpoints(job: TrainJob) -> None:
    """Saves initial parameters as those of two steps."""
    state = make_program(job).init()
    with Checkpointer(job.model_dir, job.checkpoint, job.model) as checkpointer:
        for step in STEPS:
            checkpointer.save(step, state, {"vocabulary": "bytes"}, force=True)


def measure(job: ScanJob) -> dict[str, Any]:
    """Makes the scan and reads its ledger."""
    scan(job)
    (path,) = (Path(job.output_dir) / "ledger").iterdir()
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    seconds = {
        name: sum(entry[f"seconds_{name}"] for entry in entries) for name in ("running", "compiling", "restoring")
    }
    whole = entries[-1]["time"] - (entries[0]["time"] - entries[0]["seconds"])
    return {
        "cells": len(entries),
        "checkpoints": len(STEPS),
        "memories": len(job.memories),
        "lengths": list(job.lengths),
        "examples": job.examples,
        "seconds": whole,
        **{f"seconds_{name}": value for name, value in seconds.items()},
        "share_in_compiled_steps": seconds["running"] / (whole - seconds["compiling"]),
        "target": TARGET,
        "restored": sum(entry["restored"] for entry in entries),
        "compilations": sum(entry["compilations"] for entry in entries),
        "cells_that_compiled": sum(entry["compilations"] > 0 for entry in entries),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
