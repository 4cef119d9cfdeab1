"""Reading some of a checkpoint's arrays, by path, and nothing else."""

from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from famjax.errors import CheckpointError
from famjax.training import checkpoint_files as files
from famjax.training.parameter_paths import path_name

Tree = Any  # A pytree of jax.Array, or of jax.ShapeDtypeStruct with shardings: a nested dict where it holds parameters.

PARAMS = "params"


def read_arrays(folder: files.StepFolder, part: Tree) -> dict[str, jax.Array]:
    """Reads a part of the train state: by path, each array with the dtype and sharding of its leaf in `part`."""
    item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), part)
    restore_args = ocp.checkpoint_utils.construct_restore_args(item)
    together = _reading_together(item)
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=together)
    with ocp.Checkpointer(handler, multiprocessing_options=together) as checkpointer:
        return by_path(
            checkpointer.restore(
                folder.path / files.STATE,
                args=ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True),
            )
        )


def _reading_together(item: Tree) -> ocp.options.MultiprocessingOptions:
    """Which processes read: all, or this one alone, waiting for none, where the arrays are for its devices."""
    processes = {device.process_index for leaf in jax.tree.leaves(item) for device in leaf.sharding.device_set}
    if jax.process_count() == 1 or processes != {jax.process_index()}:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(primary_host=jax.process_index(), active_processes=processes)


def other_shapes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """One "params/fam_prompt: checkpoint [4, 16], this run [1, 16]" for each array whose shape differs."""
    return [
        f"{name}: checkpoint {list(stored[name].shape)}, this run {list(leaf.shape)}"
        for name, leaf in wanted.items()
        if tuple(stored[name].shape) != tuple(leaf.shape)
    ]


def require_shapes(folder: files.StepFolder, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises CheckpointError where a checkpoint's array has another shape than is wanted."""
    if different := other_shapes(stored, wanted):
        raise CheckpointError(
            f"{folder.path} has other shapes: {files.shortened(different)}. Set the model as it was, or take only the "
            "parameters that fit (RestoreConfig.parameters)."
        )


def read_params(folder: files.StepFolder, part: Tree) -> Tree:
    """Reads parameters: the tree `part`, each array with the dtype and sharding of its leaf there."""
    return with_arrays(part, read_arrays(folder, {PARAMS: part}), f"{PARAMS}/")


def with_arrays(tree: Tree, arrays: Mapping[str, Any], prefix: str = "") -> Tree:
    """`tree` with each leaf replaced that `arrays` has, by its path with the prefix before it."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: arrays.get(f"{prefix}{path_name(path)}", leaf), tree)


def by_path(tree: Tree) -> dict[str, Any]:
    """The leaves by path."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
