"""The data alone. Targets: 20 times the tokens/s that training uses; memory flat from batch 200 to batch 2,000.

The data is that of a recipe, by default the demo's, at the lengths of its last stage; the training step is the same
recipe's, measured afterwards in the same process. Tokens are those of the batches, padding included, on both sides.
Memory is the process's own: the pages of the encoded documents' file, which the system may drop, are not counted.

    python benchmarks/input_pipeline.py [--recipe=recipes/demo_fam.gin] [--batches 200 2000] [--steps=20]
"""

import argparse
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import in_turns, print_figures

from famjax.configuration.loading import load
from famjax.data.batches import BatchIterator
from famjax.data.feeding import open_batches
from famjax.training.config import TrainJob
from famjax.training.feed import device_batch
from famjax.training.program import make_program

SPEED_TARGET = 20.0
GROWTH_TARGET = 1.05


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where both targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/demo_fam.gin", help="default: recipes/demo_fam.gin")
    parser.add_argument("--batches", type=int, nargs=2, default=(200, 2000), help="default: 200 2000")
    parser.add_argument("--steps", type=int, default=20, help="training steps measured; default: 20")
    flags = parser.parse_args(arguments)
    job = load(TrainJob, [flags.recipe], [("MODEL_DIR", "'not-written'")]).job
    figures = {"recipe": flags.recipe, **measure(job, flags.batches, flags.steps)}
    met = figures["ratio"] >= SPEED_TARGET and figures["memory_growth"] <= GROWTH_TARGET
    return 0 if print_figures("input_pipeline", figures, met=met) else 1


def measure(job: TrainJob, batches: Sequence[int], steps: int) -> dict[str, Any]:
    """Tokens/s of the data alone and of training, their ratio, and bytes of memory after so many batches.

    Args:
      job: whose data and train step.
      batches: after how many batches memory is read; the second is also where the data's clock stops.
      steps: train steps measured.
    """
    stages = job.curriculum.parsed
    lengths = (stages[-1].min_length, stages[-1].max_length) if stages else None
    data = open_batches(job.data, lengths)
    length = next(data)["tokens"].shape[1]
    start = time.perf_counter()
    take(data, batches[0])
    memory = [private_bytes()]
    take(data, batches[1] - batches[0])
    seconds = time.perf_counter() - start
    memory.append(private_bytes())
    tokens = job.data.batch_size * length
    data_rate = batches[1] * tokens / seconds
    training_rate = tokens / seconds_per_step(job, data, length, steps)
    data.close()
    return {
        "length": length,
        "batch_size": job.data.batch_size,
        "data_tokens_per_second": data_rate,
        "training_tokens_per_second": training_rate,
        "ratio": data_rate / training_rate,
        "target": SPEED_TARGET,
        "batches": list(batches),
        "memory_bytes": memory,
        "memory_growth": memory[1] / memory[0],
        "memory_growth_target": GROWTH_TARGET,
    }


def take(data: BatchIterator, count: int) -> None:
    """Reads batches and drops them."""
    for _ in range(count):
        next(data)


def seconds_per_step(job: TrainJob, data: BatchIterator, length: int, steps: int) -> float:
    """Median seconds of a train step on one batch of the data."""
    program = make_program(job)
    step, state = program.compile_step(length), program.init()
    batch = device_batch(next(data), program.mesh)

    def make_step() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return state, metrics

    in_turns({"step": make_step}, rounds=2)  # Warm-up.
    return statistics.median(in_turns({"step": make_step}, steps)["step"])


def private_bytes() -> int:
    """Memory of this process that is in use and belongs to no file (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    if match is None:
        raise RuntimeError("/proc/self/status has no RssAnon; this benchmark needs Linux 4.5 or later.")
    return int(match[1]) * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
