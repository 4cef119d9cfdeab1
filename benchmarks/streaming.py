"""Reading and answering far into a text: the same speed and memory at 1,000,000 tokens as at 10,000.

Targets: at the far place the speed of prefill and of decoding is 0.95 of that at the near one or more, and the peak of
resident memory 1.02 times or less; decoding a block with FAM takes 1.1 times as long as without, or less.

One text is read to both places. There, in turns, a piece is read on (prefill) and a block's worth of an answer is
decoded, so that a slow minute of the machine hits both alike; the ratio is the median over rounds. The peaks are those
of the whole process, after the same work at each place.

    python benchmarks/streaming.py [--near=10000] [--far=1000000] [--rounds=9] [--piece=16384] [--block_size=256 ...]
"""

import argparse
import dataclasses
import functools
import resource
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import linen as nn
from jobs import Sizes, add_size_flags, sizes_from
from measuring import in_turns, median_ratio, print_figures
from numpy.typing import NDArray

from famjax.data.vocabularies import Bytes
from famjax.inference.config import MemoryOverrides, SamplingConfig
from famjax.inference.context import Context
from famjax.inference.language_model import LanguageModel
from famjax.models.transformer import Transformer, init_params
from famjax.pods.config import MeshConfig
from famjax.training.checkpoint_files import StepFolder

SPEED_TARGET, MEMORY_TARGET, FAM_TARGET = 0.95, 1.02, 1.1
DEFAULTS = Sizes(block_size=256, num_segments=1, fam_length=16, emb_dim=128, num_layers=2, batch_size=1)
_PIECE_OF_STREAM = 4096
_WARM_UP_ROUNDS = 16


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--near", type=int, default=10_000, help="tokens of the short context; default: 10000")
    parser.add_argument("--far", type=int, default=1_000_000, help="tokens of the long context; default: 1000000")
    parser.add_argument("--rounds", type=int, default=9, help="of each measurement; default: 9")
    parser.add_argument("--piece", type=int, default=16_384, help="tokens of a prefill measurement; default: 16384")
    add_size_flags(parser, DEFAULTS)
    flags = parser.parse_args(arguments)
    model = make_model(sizes_from(flags))
    streaming = measure_streaming(model, flags.near, flags.far, flags.rounds, flags.piece)
    met = (
        streaming["prefill_ratio"] >= SPEED_TARGET
        and streaming["decode_ratio"] >= SPEED_TARGET
        and streaming["peak_ratio"] <= MEMORY_TARGET
    )
    is_constant = print_figures("streaming", {**dataclasses.asdict(sizes_from(flags)), **streaming}, met=met)
    fam = measure_fam(model, flags.rounds)
    is_amortised = print_figures("decode_fam", fam, met=fam["ratio"] <= FAM_TARGET)
    return 0 if is_constant and is_amortised else 1


def make_model(sizes: Sizes) -> LanguageModel:
    """A model with random parameters."""
    config = sizes.job.model
    params = nn.meta.unbox(jax.jit(init_params, static_argnums=0)(Transformer(config), jax.random.key(0)))
    return LanguageModel(
        config=config,
        params=params,
        vocabulary=Bytes(),
        checkpoint=StepFolder(epath.Path("not-read"), 0),
        trained=config,
        mesh=MeshConfig(num_devices=1),
        batch_size=sizes.batch_size,
        chunk_blocks=8,
    )


def random_stream(num_tokens: int) -> Iterator[NDArray[np.int32]]:
    """Random ids, so many altogether, a few thousand at a time."""
    random = np.random.default_rng(0)
    for first in range(0, num_tokens, _PIECE_OF_STREAM):
        yield random.integers(3, 259, min(_PIECE_OF_STREAM, num_tokens - first), dtype=np.int32)


def measure_streaming(model: LanguageModel, near: int, far: int, rounds: int, piece: int) -> dict[str, Any]:
    """Tokens per second at both places, their ratios, and the peaks of resident memory."""
    work = functools.partial(_functions, model, piece)
    near_context = model.read(model.start(), [random_stream(near)])
    # Compiles, and reads and answers at the near place until the process holds the memory that this work needs.
    in_turns(work(near_context, "near"), _WARM_UP_ROUNDS)
    near_peak = _peak_bytes()
    far_context = model.read(near_context, [random_stream(far - near)])
    in_turns(work(far_context, "far"), 2)
    far_peak = _peak_bytes()
    seconds = in_turns({**work(near_context, "near"), **work(far_context, "far")}, rounds)
    tokens = {"prefill": piece, "decode": model.config.memory.block_size}
    speeds = {
        f"{kind}_{place}_tokens_per_second": count / float(np.median(seconds[f"{kind}_{place}"]))
        for kind, count in tokens.items()
        for place in ("near", "far")
    }
    return {
        "contexts": [int(context.num_tokens[0]) - 1 for context in (near_context, far_context)],
        **speeds,
        "prefill_ratio": median_ratio(seconds["prefill_near"], seconds["prefill_far"]),
        "decode_ratio": median_ratio(seconds["decode_near"], seconds["decode_far"]),
        "peak_bytes": [near_peak, far_peak],
        "peak_ratio": far_peak / near_peak,
        "targets": {"speed": SPEED_TARGET, "peak": MEMORY_TARGET},
    }


def _functions(model: LanguageModel, piece: int, context: Context, place: str) -> dict[str, Any]:
    """Prefill of a piece, and decoding of a block, from a context."""
    tokens = next(random_stream(piece)) if piece <= _PIECE_OF_STREAM else np.concatenate(list(random_stream(piece)))
    return {
        f"prefill_{place}": lambda: model.read(context, [tokens]).rows,
        f"decode_{place}": functools.partial(_decode_block, model, context),
    }


def _decode_block(model: LanguageModel, context: Context) -> Any:
    sampling = SamplingConfig(max_new_tokens=model.config.memory.block_size, stop_at_eos=False)
    return model.generate(context, sampling)[0].rows


def measure_fam(model: LanguageModel, rounds: int) -> dict[str, Any]:
    """Seconds of decoding a block's worth of tokens, one row, with FAM and without, and their ratio."""
    models = {"fam": model, "bswa": model.with_memory(MemoryOverrides(with_fam=False))}
    functions = {}
    for name, each in models.items():
        context = each.read(each.start(), [random_stream(3 * model.config.memory.block_size + 7)])
        functions[name] = functools.partial(_decode_block, each, context)
    in_turns(functions, 1)
    seconds = in_turns(functions, rounds)
    return {
        "block_size": model.config.memory.block_size,
        "fam_length": model.config.memory.fam_length,
        "seconds": {name: float(np.median(times)) for name, times in seconds.items()},
        "ratio": median_ratio(seconds["fam"], seconds["bswa"]),
        "target": FAM_TARGET,
    }


def _peak_bytes() -> int:
    """The most memory that this process has been resident in so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
