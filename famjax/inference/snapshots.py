"""Contexts on disk: read once, ask many times.

A snapshot is one file: a zip of arrays (numpy's .npz) with a JSON description of the model that they belong to.
"""

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from numpy.typing import NDArray

from famjax.errors import CheckpointError
from famjax.inference.context import Context, Rows
from famjax.training import model_settings
from famjax.training.checkpoint_files import absolute_path

if TYPE_CHECKING:
    from famjax.inference.language_model import LanguageModel

_FORMAT = 1
_DESCRIPTION, _NUM_TOKENS = "description", "num_tokens"


@dataclasses.dataclass(frozen=True)
class _Description:
    """What a snapshot says of the model that it belongs to.

    Attributes:
      format: of the file.
      model: the model's settings.
      parameters: their fingerprint.
      vocabulary: its fingerprint.
      dtypes: of the arrays, by name.
    """

    format: int
    model: Mapping[str, Any]
    parameters: str
    vocabulary: str
    dtypes: Mapping[str, str]


def save_context(model: "LanguageModel", context: Context, path: str | os.PathLike[str]) -> None:
    """Writes a context; a file that is there is replaced when the new one is whole.

    Raises:
      CheckpointError: the file cannot be written.
    """
    target = absolute_path(path)
    description = _Description(
        format=_FORMAT,
        model=model_settings.to_json(model.config),
        parameters=model.fingerprint,
        vocabulary=model.vocabulary.fingerprint,
        dtypes={name: str(leaf.dtype) for name, leaf in _named(context.rows).items()},
    )
    arrays = {name: _as_bits(np.asarray(leaf)) for name, leaf in jax.device_get(_named(context.rows)).items()}
    arrays[_NUM_TOKENS] = context.num_tokens
    arrays[_DESCRIPTION] = np.frombuffer(json.dumps(dataclasses.asdict(description)).encode(), np.uint8)
    unfinished = epath.Path(f"{target}.{os.getpid()}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise CheckpointError(f"{target}: the snapshot cannot be written ({error.strerror or error}).") from error


def load_context(model: "LanguageModel", path: str | os.PathLike[str]) -> Context:
    """Reads a context that `save_context` wrote.

    Raises:
      CheckpointError: there is no such file, it is damaged, or its model has other settings or parameters.
    """
    source = absolute_path(path)
    try:
        with source.open("rb") as file:
            zipfile.ZipFile(file).close()  # numpy would read other files of its own, too
            file.seek(0)
            with np.load(file) as archive:
                arrays = {name: archive[name] for name in archive.files}
        description = _Description(**json.loads(arrays.pop(_DESCRIPTION).tobytes()))
        num_tokens = arrays.pop(_NUM_TOKENS)
    except FileNotFoundError as error:
        raise CheckpointError(f"{source}: there is no such snapshot.") from error
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{source}: no snapshot, or a damaged one ({error}).") from error
    _require_same_model(model, description, str(source))
    return Context(rows=_restored(model, arrays, description, num_tokens, str(source)), num_tokens=num_tokens)


def _require_same_model(model: "LanguageModel", description: _Description, source: str) -> None:
    if description.format != _FORMAT:
        raise CheckpointError(f"{source}: a snapshot of format {description.format}; this famjax reads {_FORMAT}.")
    saved = model_settings.from_json(description.model, source)
    if different := model_settings.differences(saved, model.config, "the snapshot", "this model"):
        raise CheckpointError(f"{source} is a snapshot of another model: {'; '.join(different)}.")
    if description.vocabulary != model.vocabulary.fingerprint:
        raise CheckpointError(f"{source} is a snapshot of a model with another vocabulary.")
    if description.parameters != model.fingerprint:
        raise CheckpointError(
            f"{source} is a snapshot of other parameters than those of {model.checkpoint.path}: open the checkpoint "
            "that it was made with, or read the text again."
        )


def _restored(
    model: "LanguageModel",
    arrays: Mapping[str, NDArray[Any]],
    description: _Description,
    num_tokens: NDArray[np.int64],
    source: str,
) -> Rows:
    template = model.empty_rows(len(num_tokens))
    named = _named(template)
    if wrong := [name for name, leaf in named.items() if name not in arrays or arrays[name].shape != leaf.shape]:
        raise CheckpointError(f"{source}: a damaged snapshot: {', '.join(wrong)}.")
    leaves = [jnp.asarray(arrays[name].view(jnp.dtype(description.dtypes[name]))) for name in named]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _named(rows: Rows) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(rows)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _as_bits(array: NDArray[Any]) -> NDArray[Any]:
    """numpy's files know no bfloat16: its bits are written as whole numbers."""
    return array.view(np.uint16) if array.dtype == jnp.bfloat16 else array
