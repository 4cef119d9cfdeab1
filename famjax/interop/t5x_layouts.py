"""The parameters of a t5x checkpoint by their paths, in both of t5x's layouts; nothing is read but what is asked for.

    checkpoint_1000/
      checkpoint                                flax's msgpack of the train state: arrays, or where they lie
      target.decoder.layers_0.mlp.wo.kernel/    one of them, a zarr array                              (legacy)

    checkpoint_1000/
      state/                                    the train state as an item of orbax                    (Orbax)

Of the train state only "target", the parameters, is looked at.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization
from flax.traverse_util import flatten_dict
from numpy.typing import NDArray

from famjax.errors import CheckpointError
from famjax.interop.array_store import METADATA_FILE, array_paths, open_array
from famjax.training import checkpoint_files as files

Array = NDArray[Any]

DTYPES = ("float32", "bfloat16", "float16")
_LEGACY_FILE = "checkpoint"
_PREFIX = "target/"


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array of a checkpoint, to be read.

    Attributes:
      file: the file or folder that it lies in.
      values: a tensorstore that is open, or the array itself where the msgpack file has it.
    """

    file: Path
    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> str:
        """numpy's name."""
        dtype = self.values.dtype
        return str(dtype.name)

    @property
    def num_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def read(self) -> Array:
        """All of it.

        Raises:
          CheckpointError: a part of it is missing or damaged.
        """
        return self.read_range(0, 0, None)

    def read_range(self, axis: int, begin: int, end: int | None) -> Array:
        """What lies between two indices of an axis; errors as of `read`."""
        index = (*(slice(None),) * axis, slice(begin, end)) if self.shape else ()
        if isinstance(self.values, np.ndarray):
            return self.values[index]
        try:
            return np.asarray(self.values[index].read().result())
        except (ValueError, OSError, KeyError) as error:
            raise CheckpointError(
                f"{self.file} cannot be read: a part of it is missing or damaged ({_first_line(error)}); copy it again."
            ) from error

    def group(self, axis: int) -> int:
        """How many indices of an axis are stored together."""
        if isinstance(self.values, np.ndarray):
            return 1
        return int(self.values.chunk_layout.read_chunk.shape[axis])


@dataclasses.dataclass
class Stack:
    """The layers of an array that has them on one axis, read in the groups in which they are stored.

    Attributes:
      array: of all layers.
      axis: of the layers.
    """

    array: StoredArray
    axis: int
    _first: int = 0
    _group: Array | None = None

    @property
    def num_layers(self) -> int:
        """How many there are."""
        return self.array.shape[self.axis]

    def read(self, layer: int) -> Array:
        """One layer. A group stays in memory until its last layer is read."""
        size = self.array.group(self.axis)
        first = layer - layer % size
        if self._group is None or self._first != first:
            end = min(first + size, self.num_layers)
            self._first, self._group = first, self.array.read_range(self.axis, first, end)
        values = np.take(self._group, layer - first, self.axis)
        if layer - first + 1 == self._group.shape[self.axis]:
            self._group = None
        return values


@dataclasses.dataclass(frozen=True)
class StackedLayer:
    """One layer of a `Stack`, as a tensor by itself."""

    stack: Stack
    layer: int

    @property
    def file(self) -> Path:
        """Where all layers are."""
        return self.stack.array.file

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the layer."""
        shape, axis = self.stack.array.shape, self.stack.axis
        return shape[:axis] + shape[axis + 1 :]

    @property
    def dtype(self) -> str:
        """numpy's name."""
        return self.stack.array.dtype

    @property
    def num_bytes(self) -> int:
        """Of the layer."""
        return self.stack.array.num_bytes // self.stack.num_layers

    def read(self) -> Array:
        """The layer; errors as of `StoredArray.read`."""
        return self.stack.read(self.layer)


@dataclasses.dataclass(frozen=True)
class T5xCheckpoint:
    """What is in a t5x checkpoint.

    Attributes:
      folder: of it.
      layout: "legacy" or "Orbax".
      arrays: the parameters by path ("decoder/layers_0/mlp/wo/kernel").
    """

    folder: Path
    layout: str
    arrays: Mapping[str, StoredArray]


def open_checkpoint(source: Path) -> T5xCheckpoint:
    """Opens a checkpoint; arrays that the msgpack file itself holds are read, others are not.

    Args:
      source: a t5x MODEL_DIR (its latest checkpoint) or one checkpoint folder in it, on this machine.

    Raises:
      CheckpointError: it is no t5x checkpoint, or a file of it is missing, damaged or cut short.
    """
    folder = _checkpoint_folder(source)
    if _is_legacy(folder):
        layout, arrays = "legacy", _legacy_arrays(folder)
    else:
        layout, arrays = "Orbax", _orbax_arrays(folder / files.STATE)
    if not arrays:
        raise CheckpointError(f"{folder} holds no parameters ('target').")
    return T5xCheckpoint(folder, layout, arrays)


def _is_legacy(folder: Path) -> bool:
    return (folder / _LEGACY_FILE).is_file()


def _is_checkpoint(folder: Path) -> bool:
    return _is_legacy(folder) or (folder / files.STATE / METADATA_FILE).is_file()


def _checkpoint_folder(source: Path) -> Path:
    """The folder of the checkpoint that a path means."""
    if _is_checkpoint(source):
        return source
    for step in files.step_folders(epath.Path(source.absolute())):
        if _is_checkpoint(folder := source / step.path.name):
            return folder
        raise CheckpointError(
            f"{folder} is no t5x checkpoint: it has neither the file {_LEGACY_FILE} (legacy layout) nor "
            f"{files.STATE}/{METADATA_FILE} (Orbax)."
        )
    names = sorted(path.name for path in source.iterdir())[:6] if source.is_dir() else []
    what = f"It has: {', '.join(names)}." if names else "There is nothing."
    raise CheckpointError(f"{source} is neither a t5x MODEL_DIR with checkpoint_<step> nor one of these. {what}")


def _legacy_arrays(folder: Path) -> dict[str, StoredArray]:
    file = folder / _LEGACY_FILE
    try:
        state = serialization.msgpack_restore(file.read_bytes())
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or cut short ({_first_line(error)}); copy it again.") from error
    state = state.get("optimizer", state) if isinstance(state, dict) else {}
    target = state.get("target")
    if not isinstance(target, dict):
        raise CheckpointError(f"{file} holds no train state of t5x with parameters ('target').")
    leaves = flatten_dict(target, sep="/", is_leaf=lambda _, value: _is_description(value))
    return {name: _legacy_array(folder, name, leaf) for name, leaf in leaves.items()}


def _is_description(value: object) -> bool:
    """Whether a value tells where an array lies, in tensorstore's way."""
    return isinstance(value, dict) and {"driver", "kvstore"} <= set(value)


def _legacy_array(folder: Path, name: str, leaf: Any) -> StoredArray:
    if isinstance(leaf, np.ndarray):
        return StoredArray(folder / _LEGACY_FILE, leaf)
    if not _is_description(leaf):
        raise CheckpointError(f"{folder / _LEGACY_FILE}: {name} is {type(leaf).__name__}, not an array.")
    # Wherever it was written (a bucket, say), it lies beside the file now.
    place = str(leaf["kvstore"].get("path") or leaf.get("path")).strip("/")
    if leaf["driver"] != "zarr" or Path(place).name != place:
        raise CheckpointError(
            f"{folder / _LEGACY_FILE}: {name} lies in {place!r} ({leaf['driver']}), which is not read."
        )
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{(folder / place).absolute()}/"},
        "fill_missing_data_reads": False,  # Otherwise what is missing would be read as zeros.
    }
    try:
        return StoredArray(folder / place, ts.open(spec, open=True, read=True).result())
    except (ValueError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{folder / place}, which holds {name}, is missing or damaged ({_first_line(error)})."
        ) from error


def _orbax_arrays(state: Path) -> dict[str, StoredArray]:
    arrays = {}
    try:
        for path in array_paths(state):
            if path.startswith(_PREFIX):
                arrays[path.removeprefix(_PREFIX)] = StoredArray(state, open_array(state, path))
    except (ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{state} is damaged or cut short ({_first_line(error)}); copy it again.") from error
    return arrays


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
