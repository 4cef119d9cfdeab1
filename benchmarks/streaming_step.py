"""What document streaming costs: time of a step over that of independent examples of the same shape, and padding.

The train steps, the trainer's own, are run in turns in one process. Targets: at most 1.03 times as long (`ratio`); less
than 0.05 of the slots of an epoch of the standard library's sources are padding, with blocks of 256 (`padding`).

    python benchmarks/streaming_step.py [--rounds=20] [--emb_dim=256] ...
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jobs import Sizes, add_size_flags, make_stepper, random_batch, sizes_from
from measuring import in_turns, median_ratio, print_figures

from famjax.data.config import DataConfig
from famjax.data.corpus import open_corpus
from famjax.data.document_rows import BlockShape, StreamCounts, counts_of
from famjax.data.feeding import open_document_batches, open_vocabulary
from famjax.data.task_config import Documents
from famjax.pods.mesh import put_batch
from famjax.training.program import make_program
from famjax.training.streaming_config import Streaming

TARGET, PADDING_TARGET = 1.03, 0.05


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where both targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each kind; default: 20")
    parser.add_argument("--paths", nargs="*", default=(), help="globs of documents; default: the standard library")
    add_size_flags(parser, Sizes())
    flags = parser.parse_args(arguments)
    sizes = sizes_from(flags)
    figures = measure(sizes, flags.rounds)
    met = [print_figures("streaming_step", figures, met=figures["ratio"] <= TARGET)]
    figures = measure_padding(sizes, tuple(flags.paths))
    met.append(print_figures("streaming_padding", figures, met=figures["padding"] < PADDING_TARGET))
    return 0 if all(met) else 1


def measure(sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Seconds of a step of each kind, and their ratio."""
    steps = {"streaming": make_streaming_stepper(sizes), "independent": make_stepper(sizes.job)}
    in_turns(steps, rounds=2)  # Warm-up.
    seconds = in_turns(steps, rounds)
    return {
        **dataclasses.asdict(sizes),
        "rounds": rounds,
        "streaming_seconds": statistics.median(seconds["streaming"]),
        "independent_seconds": statistics.median(seconds["independent"]),
        "ratio": median_ratio(seconds["streaming"], seconds["independent"]),
        "target": TARGET,
    }


def make_streaming_stepper(sizes: Sizes) -> Callable[[], Any]:
    """A function that makes one train step after the other; a document begins in the middle of the first row."""
    data = dataclasses.replace(sizes.job.data, mixture_or_task_name="documents")
    program = make_program(dataclasses.replace(sizes.job, data=data, streaming=Streaming(enabled=True)))
    step, state = program.compile_step(sizes.length), program.init()
    blocks = (sizes.batch_size, sizes.length // sizes.block_size)
    begins = np.zeros(blocks, np.bool_)
    begins[0, blocks[1] // 2] = True
    batch: dict[str, jax.Array] = random_batch(program, sizes.length)
    del batch["lengths"]
    batch |= put_batch({"begins": begins, "block_lengths": np.full(blocks, sizes.block_size, np.int32)}, program.mesh)

    def make_step() -> Any:
        nonlocal state
        state, metrics = step(state, batch)
        return state, metrics

    return make_step


def measure_padding(sizes: Sizes, paths: tuple[str, ...]) -> dict[str, Any]:
    """The share of padding in as many tokens as all files have."""
    tasks = {"text": Documents(paths=paths, validation_fraction=0.0)}
    data = DataConfig("text", {"targets": sizes.length}, sizes.batch_size, tasks=tasks)
    epoch = open_corpus(tasks["text"], "train", open_vocabulary(data)).encoded.tokens.size
    counts = StreamCounts()
    batches = open_document_batches(data, BlockShape(sizes.length // sizes.block_size, sizes.block_size))
    while counts.tokens < epoch:
        next(batches)
        counts = counts_of(batches.state())
    batches.close()
    return {
        "block_size": sizes.block_size,
        "documents": counts.documents,
        "tokens": counts.tokens,
        "padding": counts.padding,
        "target": PADDING_TARGET,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
