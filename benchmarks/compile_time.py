"""Compile time of the train step. Target: at most 1.3 times, for 32 layers over 4 and for 64 blocks over 4.

Every compilation is a cold one (tracing, lowering, compiling; no cache), and the two that are compared take turns.

    python benchmarks/compile_time.py [--rounds=3] [--layers 4 32] [--blocks 4 64]
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jobs import Sizes, add_size_flags, sizes_from
from measuring import in_turns, median_ratio, print_figures

from famjax.training.program import make_program

TARGET = 1.3
DEFAULTS = Sizes(block_size=16, num_segments=1, fam_length=4, emb_dim=32, num_layers=4, length=64, batch_size=1)


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where both targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="compilations of each size; default: 3")
    parser.add_argument("--layers", type=int, nargs=2, default=(4, 32), help="default: 4 32")
    parser.add_argument("--blocks", type=int, nargs=2, default=(4, 64), help="default: 4 64 (--length does not count)")
    add_size_flags(parser, DEFAULTS)
    flags = parser.parse_args(arguments)
    jax.config.update("jax_enable_compilation_cache", False)
    sizes = sizes_from(flags)
    by_layers = {layers: dataclasses.replace(sizes, num_layers=layers) for layers in flags.layers}
    by_blocks = {blocks: dataclasses.replace(sizes, length=blocks * sizes.block_size) for blocks in flags.blocks}
    compile_step(sizes)()  # What the first compilation in a process loads is no compile time.
    all_met = True
    for name, pair in (("layers", by_layers), ("blocks", by_blocks)):
        figures = measure(name, pair, flags.rounds)
        all_met &= print_figures("compile_time", figures, met=figures["ratio"] <= TARGET)
    return 0 if all_met else 1


def measure(name: str, pair: dict[int, Sizes], rounds: int) -> dict[str, Any]:
    """Seconds to compile each of two sizes, and the ratio of the second to the first."""
    functions = {str(number): compile_step(sizes) for number, sizes in pair.items()}
    seconds = in_turns(functions, rounds, before=jax.clear_caches)
    small, large = map(str, pair)
    return {
        "over": name,
        "sizes": list(pair),
        "rounds": rounds,
        "seconds": [statistics.median(seconds[small]), statistics.median(seconds[large])],
        "ratio": median_ratio(seconds[large], seconds[small]),
        "target": TARGET,
    }


def compile_step(sizes: Sizes) -> Callable[[], None]:
    """A function that traces, lowers and compiles the train step."""
    program = make_program(sizes.job)

    def compile_it() -> None:
        program.compile_step(sizes.length)

    return compile_it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
