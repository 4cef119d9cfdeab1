"""FAM's step time over BSWA's, against the ratio of their FLOPs. Target: at most 1.10 times that ratio.

Both models have the same widths, block size C and segments M; BSWA has F = 0. Their train steps, the trainer's own, are
run in turns in one process.

    python benchmarks/step_time.py [--rounds=20] [--emb_dim=256] ...
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from jobs import Sizes, add_size_flags, make_stepper, sizes_from
from measuring import in_turns, median_ratio, print_figures

from famjax.training.flops import train_step_flops

TARGET = 1.10


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where the target is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each model; default: 20")
    add_size_flags(parser, Sizes())
    flags = parser.parse_args(arguments)
    figures = measure(sizes_from(flags), flags.rounds)
    return 0 if print_figures("step_time", figures, met=figures["quotient"] <= TARGET) else 1


def measure(sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Seconds of a step of each model, the ratio of both, that of their FLOPs, and the quotient of the ratios."""
    fam, bswa = sizes, dataclasses.replace(sizes, fam_length=0)
    steps = {"fam": make_stepper(fam.job), "bswa": make_stepper(bswa.job)}
    in_turns(steps, rounds=2)  # Warm-up.
    seconds = in_turns(steps, rounds)
    flops = {
        name: train_step_flops(size.job.model, size.batch_size, size.length)
        for name, size in {"fam": fam, "bswa": bswa}.items()
    }
    time_ratio = median_ratio(seconds["fam"], seconds["bswa"])
    flops_ratio = flops["fam"] / flops["bswa"]
    return {
        **dataclasses.asdict(sizes),
        "rounds": rounds,
        "fam_seconds": statistics.median(seconds["fam"]),
        "bswa_seconds": statistics.median(seconds["bswa"]),
        "time_ratio": time_ratio,
        "flops_ratio": flops_ratio,
        "quotient": time_ratio / flops_ratio,
        "target": TARGET,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
