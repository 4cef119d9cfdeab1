"""Putting what a finetuning trained on a base that is on the devices already: nothing of the base is read again."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from famjax.errors import CheckpointError
from famjax.models.config import TransformerConfig
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh
from famjax.training import checkpoint_files as files
from famjax.training.base import read_reference
from famjax.training.checkpoint_arrays import by_path, with_arrays
from famjax.training.fingerprint import params_fingerprint
from famjax.training.program import abstract_params
from famjax.training.restore import find_checkpoint, load_own, read_model_config, split_by_holder


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A base with what a finetuning trained.

    Attributes:
      checkpoint: the finetuning's.
      config: the model's settings, as the finetuning had them.
      params: parameters; those of the base are the arrays that were there, where their dtype is the finetuning's.
    """

    checkpoint: files.StepFolder
    config: TransformerConfig
    params: Any


def adapt(params: Any, holder: str, checkpoint: str | os.PathLike[str], mesh: MeshConfig, setting: str) -> Adapted:
    """Reads what a finetuning trained, and puts it on its base.

    Args:
      params: of an open model, on the devices: the base, or the base with what another finetuning trained.
      holder: where they are from, for messages.
      checkpoint: of the finetuning: a MODEL_DIR (its latest whole checkpoint) or one checkpoint folder.
      mesh: the device mesh of the open model.
      setting: what set `checkpoint`, for messages.

    Raises:
      CheckpointError: there is no such checkpoint, it holds all its parameters, or its base is another one.
    """
    folder = find_checkpoint(checkpoint, setting=setting)
    reference = read_reference(folder)
    if reference is None:
        raise CheckpointError(
            f"{folder.path} ({setting}) holds all its parameters: it is no finetuning over a frozen base. Open it "
            "by itself."
        )
    config = read_model_config(folder)
    abstract, _ = abstract_params(config, make_mesh(mesh), mesh)
    own, rest = split_by_holder(folder, abstract)
    here = by_path(params)
    same_shapes = all(name in here and here[name].shape == leaf.shape for name, leaf in rest.items())
    base = {name: _as_used(here[name], reference.dtype) for name in rest} if same_shapes else {}
    if not same_shapes or params_fingerprint(unflatten_dict(base, sep="/")) != reference.fingerprint:
        raise CheckpointError(
            f"{folder.path} ({setting}) is a finetuning of {reference.path}; {holder}, which is open, is not (or not "
            f"in {reference.dtype}) the same base."
        )
    base = {name: array.astype(rest[name].dtype) for name, array in base.items()}
    return Adapted(folder, config, with_arrays(abstract, {**base, **by_path(load_own(folder, own))}))


def _as_used(array: jax.Array, dtype: str) -> jax.Array:
    return array if array.dtype == jnp.dtype(dtype) else array.astype(dtype)
