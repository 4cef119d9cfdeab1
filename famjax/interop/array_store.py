"""The arrays of a checkpoint on disk, written and read part by part, so that none is ever whole in memory.

What is written is what orbax reads: a folder of zarr arrays for each parameter, and a file that names them. orbax
itself saves whole arrays only.
"""

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

Array = NDArray[Any]

# Of one chunk of an array, which is one file; devices and hosts read those that they need.
_CHUNK_BYTES = 64 << 20
_METADATA_FILE = "_METADATA"
_DICT_KEY = 2  # orbax's number for a key of a dict.


class ArrayWriter:
    """Writes arrays into a new folder, in parts that may come in any order."""

    def __init__(self, folder: Path, arrays: Mapping[str, jax.ShapeDtypeStruct], bytes_in_flight: int) -> None:
        """Makes the arrays.

        Args:
          folder: of the arrays; made here.
          arrays: shape and dtype of each by its path ("params/layers/mlp/up/kernel").
          bytes_in_flight: parts that are being written may take so much memory, or be one part.
        """
        folder.mkdir(parents=True)
        self._folder, self._limit = folder, bytes_in_flight
        self._under_way: collections.deque[tuple[Any, int]] = collections.deque()
        self._bytes = 0
        self._stores = {path: _create(folder, path, array) for path, array in arrays.items()}
        (folder / _METADATA_FILE).write_text(json.dumps(_metadata(arrays)))

    def write(self, path: str, part: tuple[slice | int, ...], values: Array) -> None:
        """Starts to write a part; `values` must not change any more.

        Args:
          path: of the array.
          part: where in the array, by its first dimensions.
          values: of the part's shape.
        """
        while self._under_way and self._bytes + values.nbytes > self._limit:
            self._wait_for_one()
        future = self._stores[path][part].write(values, can_reference_source_data_indefinitely=True)
        self._under_way.append((future, values.nbytes))
        self._bytes += values.nbytes

    def finish(self) -> None:
        """Returns when everything is written."""
        while self._under_way:
            self._wait_for_one()

    def _wait_for_one(self) -> None:
        future, size = self._under_way.popleft()
        future.result()
        self._bytes -= size


def chunk_shape(path: str, shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The chunks of an array: of one layer each, where it is stacked, and halved along the longest side while large."""
    chunk = [1, *shape[1:]] if "/layers/" in path else list(shape)
    while int(np.prod(chunk)) * itemsize > _CHUNK_BYTES and max(chunk) > 1:
        longest = chunk.index(max(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


def open_array(folder: Path, path: str) -> Any:
    """An array of a checkpoint's train state, written by orbax or by `ArrayWriter`; index it, then `.read().result()`.

    Args:
      folder: the checkpoint's item ("checkpoint_100/state").
      path: of the array ("params/embedding/table").
    """
    metadata = json.loads((folder / _METADATA_FILE).read_text())
    name = path.replace("/", ".") + "/"
    if metadata.get("use_ocdbt"):
        kvstore: dict[str, Any] = {"driver": "ocdbt", "base": f"file://{folder}/", "path": name}
    else:
        kvstore = {"driver": "file", "path": f"{folder}/{name}"}
    driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
    return ts.open({"driver": driver, "kvstore": kvstore}, open=True, read=True).result()


def _create(folder: Path, path: str, array: jax.ShapeDtypeStruct) -> Any:
    dtype = np.dtype(array.dtype)
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder}/{path.replace('/', '.')}/"},
        "metadata": {"compressor": None, "chunks": list(chunk_shape(path, array.shape, dtype.itemsize))},
        # orbax takes a chunk that is not there for a loss, not for zeros.
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, create=True, dtype=ts.dtype(dtype.name), shape=array.shape).result()


def _metadata(arrays: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    """What orbax's PyTreeCheckpointHandler keeps beside the arrays."""
    tree = {}
    for path, array in arrays.items():
        keys = tuple(path.split("/"))
        tree[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": _DICT_KEY} for key in keys],
            "value_metadata": {
                "value_type": "jax.Array",
                "skip_deserialize": False,
                "write_shape": list(array.shape),
            },
        }
    return {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
