"""A checkpoint of a model that was never trained, and whose answers differ all the same."""

import dataclasses
from pathlib import Path

import jax

from famjax.data.vocabularies import Bytes
from famjax.training.checkpoints import Checkpointer
from famjax.training.program import make_program
from tiny_job import make_job


def save_talkative_checkpoint(folder: Path) -> str:
    """Saves step 7 of a run and returns its MODEL_DIR.

    Parameters are drawn wider than for training, so that answers to two prompts differ; all is ASCII that it says.
    """
    job = make_job(folder, "run")
    state = make_program(job).init()
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    wide = [leaf + 0.3 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    first_not_ascii = Bytes.OFFSET + 128
    ascii_only = [leaf.at[first_not_ascii:].set(0) if len(leaf) >= Bytes.vocab_size else leaf for leaf in wide]
    state = dataclasses.replace(state, params=jax.tree.unflatten(tree, ascii_only))
    with Checkpointer(job.model_dir, job.checkpoint, job.model) as checkpointer:
        checkpointer.save(7, state, {"vocabulary": "bytes"}, force=True)
    return job.model_dir
