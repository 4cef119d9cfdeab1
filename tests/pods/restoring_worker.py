"""A process that restores the train state of `big_job`, and prints its bytes and by how much its memory grew at most.

restoring_worker.py FOLDER
"""

import json
import re
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

import jax  # noqa: E402 (the path comes first)

from famjax.data.config import DataConfig  # noqa: E402 (the path comes first)
from famjax.models.config import MemoryConfig, TransformerConfig  # noqa: E402 (the path comes first)
from famjax.pods.config import MeshConfig  # noqa: E402 (the path comes first)
from famjax.training.checkpoints import Checkpointer  # noqa: E402 (the path comes first)
from famjax.training.config import AdamW, Schedule, TrainJob  # noqa: E402 (the path comes first)
from famjax.training.program import make_program  # noqa: E402 (the path comes first)


def big_job(folder):
    """100 MB of parameters, and twice as much of moments, cut over eight devices."""
    model = TransformerConfig(
        vocab_size=1024,
        emb_dim=512,
        num_layers=6,
        num_heads=8,
        num_kv_heads=8,
        head_dim=64,
        mlp_dim=2048,
        memory=MemoryConfig(block_size=16, num_segments=1, fam_length=4),
    )
    return TrainJob(
        model_dir=str(folder),
        model=model,
        data=DataConfig("documents", {"targets": 64}, batch_size=8),
        optimizer=AdamW(schedule=Schedule(peak=1e-3)),
        total_steps=1,
        mesh=MeshConfig(fsdp_parallelism=None),
    )


def state_bytes(state):
    """Bytes of all its arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def memory_of(name):
    """A line of /proc/self/status, in bytes."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def main(folder):
    """See above."""
    job = big_job(folder)
    program = make_program(job)
    with Checkpointer(folder, job.checkpoint, job.model) as checkpointer:
        before = memory_of("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        state = checkpointer.restore(program.abstract_state).state
        jax.block_until_ready(state)
        grown = memory_of("VmHWM") - before
    sys.stdout.write(json.dumps({"state": state_bytes(state), "grown": grown}))


if __name__ == "__main__":
    main(sys.argv[1])
