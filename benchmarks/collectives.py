"""What the compiled train step moves between 8 devices for a layer. Target: 1.1 times the least that its table needs.

The step is compiled for 8 (forced host) devices and never run. Its collectives are read from the program, at two
depths, so that what a layer adds is known; bytes are those that a device sends where each collective runs over a ring
(`famjax.pods.collectives`). The least is counted by hand, in `minimum_bytes`.

    python benchmarks/collectives.py [--tables data_parallel ...] [--layers 2 4]
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jobs import Sizes, add_size_flags, sizes_from
from measuring import print_figures

from famjax.configuration.loading import load
from famjax.pods.collectives import collectives_of, total_bytes
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import num_batch_shards
from famjax.training.config import TrainJob
from famjax.training.program import Program, make_program

TARGET = 1.1
TABLES = ("data_parallel", "fully_sharded", "tensor_parallel", "fully_sharded_tensor_parallel")
DEFAULTS = Sizes(block_size=256, fam_length=16, emb_dim=512, length=2048, batch_size=16, vocab_size=1024)
_FLOAT32 = 4
# Nothing runs: without LLVM's optimisations, which come behind all that is read here, the programs compile faster.
_XLA_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; returns 0 where every table meets the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="of gin/sharding; default: all")
    parser.add_argument("--layers", type=int, nargs=2, default=(2, 4), help="the two depths; default: 2 4")
    add_size_flags(parser, DEFAULTS)
    flags = parser.parse_args(arguments)
    sizes, all_met = sizes_from(flags), True
    for table in flags.tables:
        figures = measure(table, sizes, flags.layers)
        all_met &= print_figures("collectives", figures, met=figures["ratio"] <= TARGET)
    return 0 if all_met else 1


def measure(table: str, sizes: Sizes, layers: Sequence[int]) -> dict[str, Any]:
    """Bytes that a layer adds to what a device sends in a step, by kind and axes, and their sum over the least."""
    programs = [step_program(table, dataclasses.replace(sizes, num_layers=number)) for number in layers]
    few, many = (_bytes_of(program) for program in programs)
    added = layers[1] - layers[0]
    by_kind = {kind: (many[kind] - few.get(kind, 0)) / added for kind in many}
    program = programs[0]
    least = minimum_bytes(program)
    return {
        "table": table,
        "mesh": dict(program.mesh.shape),
        "bytes_a_layer": {f"{kind} over {' x '.join(axes)}": value for (kind, axes), value in by_kind.items() if value},
        "minimum_bytes_a_layer": least,
        "ratio": sum(by_kind.values()) / least,
        "target": TARGET,
    }


def minimum_bytes(program: Program) -> float:
    """The least that a device must send for a layer in a step, over a ring.

    - A parameter that is cut over fsdp is gathered for the forward and for the backward pass, and its gradient is
      summed into parts: 3 (f - 1) / f of its bytes. The parts are summed over the data axis: 2 (d - 1) / d of theirs.
    - The gradient of any other parameter is summed over all d x f devices with different rows: 2 (d f - 1) / (d f).
    - Over the model axis the activations of every row, FAM's included, are summed behind attention and behind the MLP
      in the forward pass, and before both in the backward pass: 4 sums of 2 (m - 1) / m of their bytes. A parameter
      that is cut over it counts with its part.
    """
    mesh, job = program.mesh, program.job
    layer = program.abstract_state.params["layers"]
    parameters = sum(_parameter_bytes(leaf, mesh) for leaf in jax.tree.leaves(layer)) / job.model.num_layers
    memory, model = job.model.memory, mesh.shape["model"]
    blocks = -(-job.data.length // memory.block_size)
    rows = job.data.batch_size / num_batch_shards(mesh) * (job.data.length + blocks * memory.fam_length)
    return float(parameters + 4 * _all_reduce(model) * rows * job.model.emb_dim * _FLOAT32)


def _parameter_bytes(leaf: Any, mesh: Mesh) -> float:
    spec: PartitionSpec = leaf.sharding.spec
    names = {name for places in spec if places for name in ((places,) if isinstance(places, str) else places)}
    size = leaf.size * _FLOAT32 / (mesh.shape["model"] if "model" in names else 1)
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    if "fsdp" not in names:
        return _all_reduce(data * fsdp) * size
    return 3 * (fsdp - 1) / fsdp * size + _all_reduce(data) * size / fsdp


def _all_reduce(devices: int) -> float:
    return 2 * (devices - 1) / devices


def step_program(table: str, sizes: Sizes) -> Program:
    """The programs of a job of this size under a ready table."""
    return make_program(dataclasses.replace(sizes.job, mesh=mesh_of(table)))


def mesh_of(table: str) -> MeshConfig:
    """The mesh settings of a ready table."""
    files = ["runs/pretrain.gin", "models/tiny.gin", "memory/fam.gin", f"sharding/{table}.gin"]
    flags = [
        ("MODEL_DIR", "'not-written'"),
        ("MIXTURE_OR_TASK_NAME", "'documents'"),
        ("TASK_FEATURE_LENGTHS", "{'targets': 2048}"),
        ("TRAIN_STEPS", "1"),
    ]
    job = load(TrainJob, files, flags).job
    mesh: MeshConfig = job.mesh
    return mesh


def _bytes_of(program: Program) -> dict[tuple[str, tuple[str, ...]], int]:
    step = program.compile_step(program.job.data.length)
    assert isinstance(step, jax.stages.Compiled)
    return total_bytes(collectives_of(step.as_text() or "", program.mesh))


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = " ".join(_XLA_FLAGS)
    jax.config.update("jax_platforms", "cpu")
    sys.exit(main(sys.argv[1:]))
