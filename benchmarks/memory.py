"""Memory of the compiled train step. Targets: 2.1 times for twice the length; no buffer of T x V elements.

The step is compiled for abstract arrays and never run, so that nothing is allocated. The first line compares the
temporary memory (the compiler's own analysis) at T and 2 T, with rematerialisation. The second looks for the largest
array in the optimised program of a model with a large vocabulary: the logits of all tokens have T x V elements.

    python benchmarks/memory.py [--length=2048] [--vocabulary=262144] [--vocabulary_length=8192]
"""

import argparse
import dataclasses
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jobs import Sizes, add_size_flags, sizes_from
from measuring import print_figures

from famjax.training.program import make_program

TARGET = 2.1
DEFAULTS = Sizes(block_size=128, fam_length=8, emb_dim=128, length=2048, batch_size=2, remat_policy="full")
_SHAPE = re.compile(r"\b(?:pred|[a-z]+\d+\w*)\[(\d+(?:,\d+)*)\]")


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where both targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=262_144, help="V of the second line; default: 262144")
    parser.add_argument("--vocabulary_length", type=int, default=8192, help="T of the second line; default: 8192")
    add_size_flags(parser, DEFAULTS)
    flags = parser.parse_args(arguments)
    sizes = sizes_from(flags)
    growth = measure_growth(sizes)
    grows_linearly = print_figures("memory_growth", growth, met=growth["ratio"] <= TARGET)
    wide = dataclasses.replace(sizes, vocab_size=flags.vocabulary, length=flags.vocabulary_length)
    largest = measure_largest(wide)
    no_logits = print_figures("memory_vocabulary", largest, met=largest["largest_elements"] < largest["limit_elements"])
    return 0 if grows_linearly and no_logits else 1


def measure_growth(sizes: Sizes) -> dict[str, Any]:
    """Bytes of temporary memory at T and 2 T, and their ratio."""
    lengths = [sizes.length, 2 * sizes.length]
    temporary = [temporary_bytes(compile_step(dataclasses.replace(sizes, length=length))) for length in lengths]
    return {
        **dataclasses.asdict(sizes),
        "lengths": lengths,
        "temporary_bytes": temporary,
        "ratio": temporary[1] / temporary[0],
        "target": TARGET,
    }


def measure_largest(sizes: Sizes) -> dict[str, Any]:
    """The largest array of the optimised program, and the T x V elements that none may have."""
    compiled = compile_step(sizes)
    largest = max(shapes_in(compiled.as_text() or ""), key=math.prod)
    return {
        **dataclasses.asdict(sizes),
        "largest_shape": list(largest),
        "largest_elements": math.prod(largest),
        "limit_elements": sizes.length * sizes.vocab_size,
        "temporary_bytes": temporary_bytes(compiled),
    }


def compile_step(sizes: Sizes) -> jax.stages.Compiled:
    """The train step, compiled for abstract arrays."""
    step = make_program(sizes.job).compile_step(sizes.length)
    assert isinstance(step, jax.stages.Compiled)
    return step


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that the program needs beside its arguments and results."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise RuntimeError("This backend's compiler has no memory analysis.")
    return int(analysis.temp_size_in_bytes)


def shapes_in(text: str) -> list[tuple[int, ...]]:
    """The shape of every array in a program's text, f32[16,256] and the like."""
    return [tuple(map(int, shape.split(","))) for shape in set(_SHAPE.findall(text))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
