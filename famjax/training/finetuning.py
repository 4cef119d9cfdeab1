"""A training run over a frozen base: where it begins, and where it goes on."""

from typing import Any

from flax.traverse_util import unflatten_dict

from famjax.errors import CheckpointError
from famjax.training import checkpoint_files as files
from famjax.training.base import BaseReference, load_base, refer_to
from famjax.training.checkpoint_arrays import Tree, by_path, with_arrays
from famjax.training.program import Program
from famjax.training.restore import FLAG, Initialized


def begin_from_base(program: Program, start: Initialized) -> BaseReference:
    """Refers to the checkpoint that a new run took its base from.

    Raises:
      CheckpointError: the checkpoint lacks a part of what is frozen, which would then be random.
    """
    frozen = _of_base(program, start.params)
    if missing := [path for path in frozen if path not in start.report.taken]:
        raise CheckpointError(
            f"{start.report.path} ({FLAG}) does not give all of the base, which is not trained: "
            f"{files.shortened(missing)}. Set the model as the checkpoint's, and RestoreConfig.parameters = ['.*']."
        )
    return refer_to(start.report.path, unflatten_dict(frozen, sep="/"), program.job.finetuning.base_dtype)


def resume_from_base(program: Program, trained: Tree, reference: BaseReference) -> tuple[Tree, BaseReference]:
    """Puts the base beside the parameters that a checkpoint holds.

    Args:
      program: of the run.
      trained: the parameters that the checkpoint holds, None in place of the others.
      reference: the checkpoint's, to the others.

    Returns:
      All parameters, and the reference to where the base is now.

    Raises:
      CheckpointError: there is no base where RestoreConfig.path says, or another one; or it was kept in another dtype.
    """
    job = program.job
    if reference.dtype != job.finetuning.base_dtype:
        raise CheckpointError(
            f"the checkpoint in {job.model_dir} was trained over a base in {reference.dtype}; set "
            f"--gin.Finetuning.base_dtype=\"'{reference.dtype}'\", or another --gin.MODEL_DIR."
        )
    abstract: Any = program.abstract_state.params
    base = load_base(
        reference, unflatten_dict(_of_base(program, abstract), sep="/"), job.model_dir, job.restore.path, FLAG
    )
    return with_arrays(abstract, {**by_path(trained), **by_path(base.params)}), base.reference


def _of_base(program: Program, params: Tree) -> dict[str, Any]:
    """The base's leaves of all parameters, by path."""
    is_base = by_path(program.of_base)
    return {path: leaf for path, leaf in by_path(params).items() if is_base[path]}
