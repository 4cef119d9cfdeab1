"""The time of a full train step over that of a LoRA step of the same model. Target: at least 1.25.

Both have the same sizes and see the same batch; LoRA has adapters on all matrices of the layers, and trains these and
the FAM prompt. What is saved are products of weights, so the width is one at which these are most of a step. The
train steps, the trainer's own, are run in turns in one process.

    python benchmarks/lora_step.py [--rounds=20] [--rank=16] [--emb_dim=256] ...
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jobs import Sizes, add_size_flags, make_stepper, sizes_from
from measuring import in_turns, median_ratio, print_figures

from famjax.models.lora_config import LoraConfig
from famjax.training.config import RestoreConfig, TrainJob
from famjax.training.model_dir import checkpoint_bytes
from famjax.training.program import make_program

TARGET = 1.25


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where the target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each kind; default: 20")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters; default: 16")
    add_size_flags(parser, Sizes(emb_dim=1024, num_layers=2, length=1024))
    flags = parser.parse_args(arguments)
    figures = measure(sizes_from(flags), flags.rank, flags.rounds)
    return 0 if print_figures("lora_step", figures, met=figures["ratio"] >= TARGET) else 1


def measure(sizes: Sizes, rank: int, rounds: int) -> dict[str, Any]:
    """Seconds of a step of each kind, their ratio, and the bytes of each kind's optimizer state and checkpoint."""
    jobs = {"full": sizes.job, "lora": with_lora(sizes.job, rank)}
    steps = {name: make_stepper(job) for name, job in jobs.items()}
    in_turns(steps, rounds=2)  # Warm-up.
    seconds = in_turns(steps, rounds)
    return {
        **dataclasses.asdict(sizes),
        "rank": rank,
        "rounds": rounds,
        **{f"{name}_seconds": statistics.median(times) for name, times in seconds.items()},
        **{f"{name}_{what}": count for name, job in jobs.items() for what, count in held_bytes(job).items()},
        "ratio": median_ratio(seconds["full"], seconds["lora"]),
        "target": TARGET,
    }


def with_lora(job: TrainJob, rank: int) -> TrainJob:
    """The job as a LoRA finetuning of the same model; its base is named but never opened."""
    model = dataclasses.replace(job.model, lora=LoraConfig(rank=rank))
    return dataclasses.replace(job, model=model, restore=RestoreConfig(path="not-read"))


def held_bytes(job: TrainJob) -> dict[str, int]:
    """Bytes of the optimizer's state, and of all that a checkpoint holds."""
    program = make_program(job)
    saved = program.saved_part(program.abstract_state)
    return {
        "optimizer_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(saved.opt_state)),
        "checkpoint_bytes": checkpoint_bytes(saved),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
