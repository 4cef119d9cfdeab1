"""Tensors of a pretrained checkpoint, wherever they lie, become a famjax checkpoint, one after the other.

    OUTPUT/
      checkpoint_0/   parameters in the dtype that they had, model settings; opened like any other checkpoint
      model.gin       the model, and its vocabulary, for a training job: --gin_file=OUTPUT/model.gin behind all others

No device is used, and no parameter is ever whole in memory: a run reads what each of its devices holds.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from numpy.typing import NDArray

from famjax.errors import CheckpointError
from famjax.interop.array_store import ArrayWriter
from famjax.interop.gin_files import model_file
from famjax.interop.layouts import FAM_PARAMETERS, PARAMS, Slot, is_stacked, shapes_of
from famjax.interop.tokenizer import Tokenizer, copy_files
from famjax.models.config import TransformerConfig
from famjax.plurals import counted
from famjax.training import checkpoint_files as files
from famjax.training import model_settings

MODEL_FILE = "model.gin"

_STEP = "step"
_TEMPORARY = "checkpoint_0.orbax-checkpoint-tmp"
_NUM_SHOWN = 4

Array = NDArray[Any]
# Takes bytes done and bytes in all.
Progress = Callable[[int, int], None]


@runtime_checkable
class Tensor(Protocol):
    """A tensor that is to be read."""

    @property
    def file(self) -> Path:
        """Where it is, for messages."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        ...

    @property
    def dtype(self) -> str:
        """numpy's name: "float32", "bfloat16" or "float16"."""
        ...

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        ...

    def read(self) -> Array:
        """Its values, or a view of the file that holds them."""
        ...


def require_shapes(tensors: Mapping[str, Tensor], slots: Mapping[str, Slot], asking: str) -> None:
    """Raises CheckpointError for the first tensor that does not have its slot's shape.

    Args:
      tensors: by name.
      slots: likewise; of tensors that are there.
      asking: what the slots are from, for the message.
    """
    for name, slot in slots.items():
        if tensors[name].shape != slot.tensor_shape:
            raise CheckpointError(
                f"{tensors[name].file}: {name} has the shape {list(tensors[name].shape)}; {asking} asks for "
                f"{list(slot.tensor_shape)}."
            )


def require_unused(output: Path) -> None:
    """Raises CheckpointError where a folder holds a checkpoint already."""
    if found := files.step_folders(epath.Path(output.absolute())):
        raise CheckpointError(f"{output} holds {found[0].path.name} already; give another --output, or delete it.")


def write_checkpoint(
    output: Path,
    config: TransformerConfig,
    tensors: Mapping[str, Tensor],
    slots: Mapping[str, Slot],
    origin: Mapping[str, str],
    *,
    fam: Mapping[str, Array] | None = None,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes a checkpoint at step 0, and the model's gin file.

    Args:
      output: a folder without checkpoints; made where it does not exist.
      config: of the model.
      tensors: by name, in the order in which they are best read; those without a slot are left.
      slots: the places of the tensors, by their names, which together are the parameters without FAM's own.
      origin: kept in the checkpoint; "imported_from" is told in the gin file too.
      fam: FAM's own parameters by path, where there are any.
      tokenizer: copied beside the gin file, which sets its vocabulary; the checkpoint keeps the fingerprint, so that
        another one is refused. None: the vocabulary is not known.
      progress: called after every tensor.

    Returns:
      The checkpoint's folder.

    Raises:
      CheckpointError: the output is in use or cannot be written, or a tensor cannot be read.
    """
    require_unused(output)
    dtypes = _dtypes(tensors, slots)
    arrays = {_STEP: jax.ShapeDtypeStruct((), np.int32)}
    for path, array in shapes_of(config).items():
        arrays[f"{PARAMS}/{path}"] = jax.ShapeDtypeStruct(array.shape, dtypes.get(path, array.dtype))
    temporary = _make_temporary(output)
    try:
        writer = ArrayWriter(temporary / files.STATE, arrays)
        writer.write(_STEP, None, np.zeros((), np.int32))
        _copy(tensors, slots, arrays, writer, progress)
        _write_fam(writer, fam or {}, arrays)
        writer.finish()
        _warn_of_not_finite(tensors, slots, writer)
    except OSError as error:
        raise CheckpointError(f"{temporary} could not be written: {error.strerror or error}.") from error
    _write_item(temporary, files.MODEL, model_settings.to_json(config))
    known = {} if tokenizer is None else {"vocabulary": tokenizer.fingerprint}
    _write_item(temporary, files.DATA_STATE, {**origin, **known})
    checksums = {f"{files.STATE}/{name}": checksum for name, checksum in writer.checksums.items()}
    files.seal(epath.Path(output.absolute()), 0, checksums)
    checkpoint = output / f"{files.PREFIX}_0"
    vocabulary = None
    if tokenizer is not None:
        copy_files(tokenizer.files, output)
        vocabulary = tokenizer.copied_to(output)
    try:
        (output / MODEL_FILE).write_text(model_file(config, origin["imported_from"], vocabulary), encoding="utf-8")
        temporary.rename(checkpoint)
    except OSError as error:
        raise CheckpointError(f"{output} could not be written: {error.strerror or error}.") from error
    return checkpoint


def shown(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    more = len(names) - _NUM_SHOWN
    return ", ".join(names[:_NUM_SHOWN]) + (f" and {counted(more, 'more tensor')}" if more > 0 else "")


def _dtypes(tensors: Mapping[str, Tensor], slots: Mapping[str, Slot]) -> dict[str, np.dtype[Any]]:
    """The dtype of each parameter: that of its tensors, or float32 where they differ among each other."""
    found: dict[str, set[str]] = {}
    for name, slot in slots.items():
        found.setdefault(slot.path, set()).add(tensors[name].dtype)
    return {path: np.dtype(names.pop() if len(names) == 1 else "float32") for path, names in found.items()}


def _copy(
    tensors: Mapping[str, Tensor],
    slots: Mapping[str, Slot],
    arrays: Mapping[str, jax.ShapeDtypeStruct],
    writer: ArrayWriter,
    progress: Progress | None,
) -> None:
    """Copies every tensor that has a slot, in the tensors' order."""
    total = sum(tensors[name].num_bytes for name in slots)
    done = 0
    for name, tensor in tensors.items():
        if name in slots:
            slot = slots[name]
            path = f"{PARAMS}/{slot.path}"
            values = slot.to_parameter(tensor.read()).astype(arrays[path].dtype, copy=False)
            writer.write(path, slot.layer, values)
            done += tensor.num_bytes
            if progress is not None:
                progress(done, total)


def _warn_of_not_finite(tensors: Mapping[str, Tensor], slots: Mapping[str, Slot], writer: ArrayWriter) -> None:
    names = [
        name
        for name in tensors
        if name in slots and (f"{PARAMS}/{slots[name].path}", slots[name].layer) in writer.not_finite
    ]
    if names:
        logging.warning(
            "NaN or infinite numbers in %s (%s): what the model computes will be NaN. Download or copy it again, or "
            "look at the training that wrote it.",
            shown(names),
            tensors[names[0]].file.parent,
        )


def _write_fam(writer: ArrayWriter, fam: Mapping[str, Array], arrays: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    for path in FAM_PARAMETERS:
        if path in fam:
            values = fam[path].astype(arrays[f"{PARAMS}/{path}"].dtype, copy=False)
            parts = enumerate(values) if is_stacked(path) else [(None, values)]
            for layer, part in parts:
                writer.write(f"{PARAMS}/{path}", layer, part)


def _make_temporary(output: Path) -> Path:
    """Makes the folder of a checkpoint under way."""
    temporary = output / _TEMPORARY
    try:
        if temporary.exists():
            shutil.rmtree(temporary)  # Of an import that was stopped.
        temporary.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written to: {error.strerror or error}.") from error
    return temporary


def _write_item(folder: Path, item: str, values: Mapping[str, Any]) -> None:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
        checkpointer.save(epath.Path((folder / item).absolute()), args=ocp.args.JsonSave(dict(values)))
