"""Checkpoints of finetunings over a frozen base, made without training: what they trained is random."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from famjax.models.lora_config import LoraConfig
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import RestoreConfig, TrainJob
from famjax.training.finetuning import begin_from_base
from famjax.training.finetuning_config import Finetuning
from famjax.training.parameter_paths import path_name
from famjax.training.program import make_program
from famjax.training.restore import initialize_from
from tiny_job import MODEL, make_job

LORA = LoraConfig(rank=2, alpha=4.0)
ADAPTED: dict[str, Any] = {"model": dataclasses.replace(MODEL, lora=LORA)}
MEMORY_ONLY: dict[str, Any] = {"finetuning": Finetuning(memory_only=True)}
PREFIX_ONLY: dict[str, Any] = {
    **MEMORY_ONLY,
    "model": dataclasses.replace(MODEL, memory=dataclasses.replace(MODEL.memory, fam_start="prefix")),
}


def write_base(folder: pathlib.Path, name: str = "base", seed: int = 0) -> str:
    """Saves a tiny model of bytes after step 7; returns its MODEL_DIR."""
    job = make_job(folder, name, random_seed=seed)
    with Checkpointer(job.model_dir, job.checkpoint, job.model) as checkpointer:
        checkpointer.save(7, make_program(job).init(), {"vocabulary": "bytes"}, force=True)
    return job.model_dir


def write_finetuning(folder: pathlib.Path, name: str, base: str, seed: int = 1, **changes: Any) -> TrainJob:
    """Saves a finetuning of a base after step 3, and returns its job; `changes` (ADAPTED, MEMORY_ONLY) say of what."""
    job = make_job(folder, name, **{"restore": RestoreConfig(base), **changes})
    program = make_program(job)
    state = program.init()
    start = initialize_from(job.restore, state.params, state.opt_state)
    random = np.random.default_rng(seed)

    def trained(path: jax.tree_util.KeyPath, leaf: jax.Array, is_base: bool) -> jax.Array:
        if is_base:
            return leaf
        size = 1.0 if path_name(path).rpartition("/")[2] in ("fam_prompt", "fam_prefix") else 0.3
        return jax.device_put(jnp.asarray(random.normal(size=leaf.shape) * size, leaf.dtype), leaf.sharding)

    params = jax.tree_util.tree_map_with_path(trained, start.params, program.of_base)
    with Checkpointer(job.model_dir, job.checkpoint, job.model) as checkpointer:
        checkpointer.refer_to(begin_from_base(program, start))
        checkpointer.save(
            3, program.saved_part(dataclasses.replace(state, params=params)), {"vocabulary": "bytes"}, force=True
        )
    return job
