"""MODEL_DIR before the first step: can it be written, does a checkpoint fit?"""

import math
import os
import shutil
from typing import Any

import jax
from etils import epath

from famjax.errors import CheckpointError
from famjax.training.checkpoint_files import absolute_path, is_remote

FLAG = "--gin.MODEL_DIR"


def checkpoint_bytes(abstract_state: Any) -> int:
    """Bytes of all arrays of a train state (concrete or abstract), uncompressed: what one checkpoint needs at most."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state))


def prepare_model_dir(model_dir: str | os.PathLike[str], bytes_needed: int) -> epath.Path:
    """Makes MODEL_DIR and finds out, before anything slow, whether checkpoints can be written there.

    Args:
      model_dir: a local folder, made with its parents where it does not exist, or "gs://...".
      bytes_needed: what one checkpoint needs (`checkpoint_bytes`).

    Returns:
      The absolute path.

    Raises:
      CheckpointError: the path is empty; the folder cannot be made or written, or (a local one) has less space than
        one checkpoint needs.
    """
    if not os.fspath(model_dir).strip():
        raise CheckpointError(f"MODEL_DIR is empty. Set {FLAG} to a folder.")
    folder = absolute_path(model_dir)
    probe = folder / f".write_probe_{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("famjax")
        probe.unlink()
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror or error}). Set {FLAG} to another."
        ) from error
    if not is_remote(folder):
        free = shutil.disk_usage(folder).free
        if free < bytes_needed:
            raise CheckpointError(
                f"{folder} has {free:,} bytes free; one checkpoint needs {bytes_needed:,}. Free space, or set {FLAG} "
                "to a folder on another disk."
            )
    return folder
