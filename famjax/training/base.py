"""The base of a finetuning: the parameters that its checkpoints refer to instead of holding them.

A finetuning over a frozen base (LoRA, or the FAM prompt alone) changes a small part of the parameters. Its checkpoints
hold this part, its optimizer, and in the item "base" where the rest is and what it must be, bit by bit.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath

from famjax.errors import CheckpointError
from famjax.training import checkpoint_files as files
from famjax.training.checkpoint_arrays import PARAMS, Tree, by_path, other_shapes, read_params
from famjax.training.fingerprint import params_fingerprint


@dataclasses.dataclass(frozen=True)
class BaseReference:
    """Where a checkpoint's base is, and how to know it.

    Attributes:
      path: the base's checkpoint folder.
      dtype: that the base's parameters were used in.
      fingerprint: of these parameters, in this dtype (`famjax.training.fingerprint`).
    """

    path: str
    dtype: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Base:
    """A base that was found and is the right one.

    Attributes:
      params: its parameters: the tree that was asked for.
      reference: to where it is now.
    """

    params: Tree
    reference: BaseReference


def refer_to(path: str, params: Tree, dtype: str) -> BaseReference:
    """Refers to a checkpoint folder whose parameters, as they are used, are `params`."""
    return BaseReference(path=path, dtype=dtype, fingerprint=params_fingerprint(params))


def read_reference(folder: files.StepFolder) -> BaseReference | None:
    """What a checkpoint says of its base; None: it is whole by itself.

    Raises:
      CheckpointError: it has been written by another version of famjax.
    """
    if not (folder.path / files.BASE).is_dir():
        return None
    try:
        return BaseReference(**files.read_json(folder.path, files.BASE))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder.path}: its reference to a base cannot be read ({error}).") from error


def load_base(
    reference: BaseReference,
    abstract: Tree,
    owner: str,
    moved_to: str | os.PathLike[str] | None,
    setting: str,
    report: Callable[[str], None] = logging.warning,
) -> Base:
    """Reads a base, and makes sure that it is the one referred to.

    Args:
      reference: what a checkpoint says of it.
      abstract: the parameters that the base gives: jax.ShapeDtypeStruct leaves with shardings, in a nested dict.
      owner: the checkpoint, for messages.
      moved_to: a MODEL_DIR or a checkpoint folder where the base is now; None: where it was.
      setting: the flag that says so, for messages.
      report: called with one line for each damaged checkpoint that is passed over.

    Raises:
      CheckpointError: there is no base, it is damaged, or another one.
    """
    folder = _find(reference, owner, moved_to, setting, report)
    wanted = {f"{PARAMS}/{name}": leaf for name, leaf in by_path(abstract).items()}
    stored = files.stored_arrays(folder.path)
    if missing := [name for name in wanted if name not in stored]:
        raise _another(folder, reference, owner, setting, f"it lacks {files.shortened(missing)}")
    if different := other_shapes(stored, wanted):
        raise _another(folder, reference, owner, setting, files.shortened(different))
    dtype = jnp.dtype(reference.dtype)
    kept = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding), abstract)
    params = read_params(folder, kept)
    if params_fingerprint(params) != reference.fingerprint:
        raise _another(folder, reference, owner, setting, "its parameters have other values")
    return Base(
        params=jax.tree.map(lambda array, leaf: array.astype(leaf.dtype), params, abstract),
        reference=dataclasses.replace(reference, path=str(folder.path)),
    )


def _find(
    reference: BaseReference, owner: str, moved_to: Any, setting: str, report: Callable[[str], None]
) -> files.StepFolder:
    """The base's folder. Of a MODEL_DIR it is the checkpoint of the same step: training may have gone on since."""
    place = files.absolute_path(reference.path if moved_to is None else moved_to)
    of_same_step = place / epath.Path(reference.path).name
    try:
        return files.first_undamaged(
            files.candidates(of_same_step if of_same_step.is_dir() else place, setting), report
        )
    except CheckpointError as error:
        raise CheckpointError(
            f"{owner} is a finetuning of {reference.path}, and does not hold it. {error}\n  Set {setting} to where the "
            "base is now."
        ) from error


def _another(
    folder: files.StepFolder, reference: BaseReference, owner: str, setting: str, cause: str
) -> CheckpointError:
    return CheckpointError(
        f"{folder.path} is not the base that {owner} was trained on: {cause}.\n  That was {reference.path}; set "
        f"{setting} to where it is now."
    )
