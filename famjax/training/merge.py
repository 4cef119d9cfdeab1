"""Makes one whole checkpoint of a finetuning's and its base: `merge(job)` is `--run_mode=merge`."""

import dataclasses
import sys

import jax
import jax.numpy as jnp

from famjax.errors import CheckpointError
from famjax.models.lora import merge_adapters
from famjax.pods.mesh import make_mesh
from famjax.training import checkpoint_files as files
from famjax.training.base import read_reference
from famjax.training.checkpoints import Checkpointer
from famjax.training.config import CheckpointConfig
from famjax.training.merge_config import MergeJob
from famjax.training.model_dir import checkpoint_bytes, prepare_model_dir
from famjax.training.program import abstract_params
from famjax.training.restore import find_checkpoint, load_params, read_model_config

_FLAG = "--gin.CHECKPOINT_PATH"


def merge(job: MergeJob) -> str:
    """Adds adapters to the matrices that they stand beside, takes the rest as it is, and writes one whole checkpoint.

    It holds parameters, the model's settings and the vocabulary's name, and no optimizer: a run can start from it
    (INITIAL_CHECKPOINT_PATH) but not resume.

    Returns:
      The folder that was written.

    Raises:
      CheckpointError: the checkpoint is whole already, its base is gone or another one, or the output cannot be written
        or has a checkpoint of this step.
    """
    folder = find_checkpoint(job.checkpoint, setting=_FLAG)
    if read_reference(folder) is None:
        raise CheckpointError(f"{folder.path} ({_FLAG}) holds all its parameters: there is nothing to merge.")
    config = read_model_config(folder)
    abstract, _ = abstract_params(config, make_mesh(job.mesh), job.mesh)
    output_dir = prepare_model_dir(job.output_dir, checkpoint_bytes(abstract), flag="--gin.OUTPUT_DIR")
    params = load_params(folder, abstract, base=job.base)
    if config.lora is not None:
        lora = config.lora
        params = jax.jit(lambda arrays: merge_adapters(lora, arrays))(params)
    state = {"step": jnp.int32(folder.step), "params": params}
    vocabulary = files.read_json(folder.path, files.DATA_STATE).get("vocabulary")
    whole = dataclasses.replace(config, lora=None)
    with Checkpointer(output_dir, CheckpointConfig(keep=None), whole) as checkpointer:
        if not checkpointer.save(folder.step, state, {"vocabulary": vocabulary}, force=True):
            raise CheckpointError(
                f"{output_dir} has a checkpoint of step {folder.step} already. Set --gin.OUTPUT_DIR to another folder."
            )
    written = str(output_dir / f"{files.PREFIX}_{folder.step}")
    sys.stdout.write(f"{written}: {folder.path} with its base, one whole checkpoint\n")
    return written
