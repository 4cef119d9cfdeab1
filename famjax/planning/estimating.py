"""What a train step takes of GPUs, by formulas alone: no compiler of theirs is at hand.

Exact are parameters, optimizer state, passed FAM and the batch, by their shapes and shardings. Gradients are counted
once for what is trained, twice with microbatches (a sum and a summand). The rest, with n tokens of a device and a
microbatch, b bytes an activation, and H, K, I and V as one device has them:

    kept of each layer      D n b with remat 'full'; (2 D + (2 H + 2 K) h + 2 I) n b with 'dots' and
                            'dots_without_batch'; (6 D + (2 H + 2 K) h + 4 I) n b with 'none'
    of one layer at work    what 'none' keeps, once more
    attention of one block  3 arrays of 4 bytes, rows x H x C x (M C + F + C)
    logits                  3 arrays of 4 bytes, chunk_size x V
    gathered                2 arrays of 4 bytes, the larger of V x D and one layer, where parameters are cut over fsdp:
                            what is gathered, and its gradient

Real programs take more or less, by how they are fused and scheduled.
"""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jaxlib

from famjax.configuration.job_checks import check_batch
from famjax.planning.compiling import ProgramPlan, train_arrays
from famjax.planning.memory import Memory
from famjax.planning.plan import Plan, layout_of
from famjax.planning.work import work_of
from famjax.pods.gpus import GpuSlice
from famjax.pods.mesh import BATCH_AXES, absent_devices, num_batch_shards
from famjax.training.config import TrainJob
from famjax.training.program import make_program

_ACTIVATION_BYTES = {"float32": 4, "bfloat16": 2}


def estimate(job: TrainJob, gpus: GpuSlice, length: int) -> Plan:
    """The plan of a train step for batches [B, length].

    Raises:
      ConfigError: the job cannot be laid out on so many devices, or its batch does not divide over them.
    """
    program = make_program(job, absent_devices(gpus.chips, gpus.chips_per_host))
    check_batch(job, num_batch_shards(program.mesh))
    arrays = train_arrays(program, length)
    gradients = arrays.gradients * (2 if job.num_microbatches > 1 else 1)
    memory = Memory(
        **{**dataclasses.asdict(arrays), "gradients": gradients},
        temporaries=activation_bytes(job, program.mesh.shape, length),
        padding=0,
        program=0,
        available=gpus.gpu.hbm_bytes,
    )
    return Plan(
        layout=layout_of(program, gpus, 1, {"jax": jax.__version__, "jaxlib": jaxlib.__version__}),
        programs=(ProgramPlan(f"train step, T = {length:,}", memory, (), 0.0),),
        work=work_of(job, length, gpus.peak_flops, program.trained),
        estimated=True,
    )


def activation_bytes(job: TrainJob, mesh: Mapping[str, int], length: int) -> int:
    """Bytes of one device for activations, attention, logits and gathered parameters; see the module.

    Args:
      job: the training.
      mesh: devices along each mesh axis.
      length: tokens of a row [T].
    """
    model, memory = job.model, job.model.memory
    shards, parts = math.prod(mesh[axis] for axis in BATCH_AXES), mesh["model"]
    rows = -(-job.data.batch_size // (shards * job.num_microbatches))
    tokens, size = rows * length, _ACTIVATION_BYTES[model.dtype]
    heads, kv_heads = -(-model.num_heads // parts), -(-model.num_kv_heads // parts)
    width, mlp = model.emb_dim, -(-model.mlp_dim // parts)
    projected = (2 * heads + 2 * kv_heads) * model.head_dim
    everything = 6 * width + projected + 4 * mlp
    kept = {"full": width, "none": everything}.get(model.remat_policy, 2 * width + projected + 2 * mlp)
    keys = memory.num_segments * memory.block_size + memory.fam_length + memory.block_size
    attention = 3 * 4 * rows * heads * min(memory.block_size, length) * keys
    logits = 3 * 4 * min(job.loss.chunk_size, tokens) * -(-model.vocab_size // parts)
    of_layer = width * (projected + 3 * mlp)
    gathered = 2 * 4 * max(-(-model.vocab_size // parts) * width, of_layer) if mesh["fsdp"] > 1 else 0
    return (model.num_layers * kept + everything) * tokens * size + attention + logits + gathered
