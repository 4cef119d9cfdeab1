"""MODEL_DIR before the first step: can it be written, does a checkpoint fit?"""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath

from famjax.errors import CheckpointError
from famjax.locking import lock
from famjax.training.checkpoint_files import absolute_path, is_remote, make_writable

FLAG = "--gin.MODEL_DIR"


def checkpoint_bytes(abstract_state: Any) -> int:
    """Bytes of all arrays of a train state (concrete or abstract), uncompressed: what one checkpoint needs at most."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_state))


def find_model_dir(model_dir: str | os.PathLike[str], flag: str = FLAG) -> epath.Path:
    """The absolute path of MODEL_DIR, which need not exist; CheckpointError where it is empty."""
    if not os.fspath(model_dir).strip():
        raise CheckpointError(f"MODEL_DIR is empty. Set {flag} to a folder.")
    return absolute_path(model_dir)


def prepare_model_dir(model_dir: str | os.PathLike[str], bytes_needed: int, flag: str = FLAG) -> epath.Path:
    """Makes MODEL_DIR and finds out, before anything slow, whether checkpoints can be written there.

    Args:
      model_dir: a local folder, made with its parents where it does not exist, or "gs://...".
      bytes_needed: what one checkpoint needs (`checkpoint_bytes`).
      flag: that sets it, for the message.

    Returns:
      The absolute path.

    Raises:
      CheckpointError: the path is empty; the folder cannot be made or written, or (a local one) has less space than
        one checkpoint needs.
    """
    folder = find_model_dir(model_dir, flag)
    try:
        make_writable(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror or error}). Set {flag} to another."
        ) from error
    if not is_remote(folder):
        free = shutil.disk_usage(folder).free
        if free < bytes_needed:
            raise CheckpointError(
                f"{folder} has {free:,} bytes free; one checkpoint needs {bytes_needed:,}. Free space, or set {flag} "
                "to a folder on another disk."
            )
    return folder


@contextlib.contextmanager
def hold(model_dir: epath.Path) -> Iterator[None]:
    """Keeps a second run out of MODEL_DIR while this one writes there; a bucket ("gs://...") is not guarded.

    The lock is on the folder itself.

    Raises:
      CheckpointError: another process (or another call) holds it.
    """
    if is_remote(model_dir):
        yield
        return
    folder = os.open(model_dir, os.O_RDONLY)
    try:
        if not lock(folder, model_dir):
            raise CheckpointError(
                f"{model_dir}: another run is writing there. Wait for it, stop it, or set {FLAG} to another."
            )
        yield
    finally:
        os.close(folder)
