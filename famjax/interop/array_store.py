"""The arrays of a checkpoint on disk, written and read part by part, so that none is ever whole in memory.

What is written is what orbax reads: a folder of zarr arrays for each parameter, and a file that names them. orbax
itself saves whole arrays only.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

Array = NDArray[Any]
# Path of an array, and the layer of a part of it; None: all of it.
Part = tuple[str, int | None]

# Of one chunk of an array, which is one file; devices and hosts read those that they need.
_CHUNK_BYTES = 64 << 20
# Of one call that writes. Linux is slower with more: it then looks for larger pages for its cache.
_PIECE_BYTES = 256 << 10
_WRITERS = 4
_CHUNKS_UNDER_WAY = 8
# The bits of the exponent in a number of each dtype.
_EXPONENTS: dict[str, np.unsignedinteger[Any]] = {
    "float32": np.uint32(0x7F800000),
    "bfloat16": np.uint16(0x7F80),
    "float16": np.uint16(0x7C00),
}
METADATA_FILE = "_METADATA"
_OCDBT_FILE = "manifest.ocdbt"
_DICT_KEY = 2  # orbax's number for a key of a dict.
_NO_ARRAYS = ("None", "Dict", "List", "Tuple", "string")  # orbax's names for leaves without an array.


class ArrayWriter:
    """Writes arrays into a new folder, in parts that may come in any order: whole arrays, or layers of stacked ones.

    A chunk is a file of its numbers, not compressed (weights hardly are), so that a part is written as it lies in
    memory.

    Attributes:
      checksums: [bytes, CRC-32] of each chunk's file, by its name below the folder; complete after `finish`.
      not_finite: the parts (path, layer) that hold NaN or an infinity; complete after `finish`.
    """

    def __init__(self, folder: Path, arrays: Mapping[str, jax.ShapeDtypeStruct]) -> None:
        """Makes the arrays.

        Args:
          folder: of the arrays; made here.
          arrays: shape and dtype of each by its path ("params/layers/mlp/up/kernel").
        """
        folder.mkdir(parents=True)
        self._folder, self._arrays = folder, dict(arrays)
        self._pool = concurrent.futures.ThreadPoolExecutor(_WRITERS)
        self._under_way: collections.deque[tuple[Part, concurrent.futures.Future[_Chunk]]] = collections.deque()
        self.checksums: dict[str, list[int]] = {}
        self.not_finite: set[Part] = set()
        for path, array in arrays.items():
            _create(folder, path, array)
        (folder / METADATA_FILE).write_text(json.dumps(_metadata(arrays)))

    def write(self, path: str, layer: int | None, values: Array) -> None:
        """Starts to write a part; `values` must not change any more.

        Args:
          path: of the array.
          layer: which part of a stacked array; None: all of an array.
          values: of the part, in the array's dtype.

        Raises:
          OSError: a part before could not be written.
        """
        array = self._arrays[path]
        chunk = chunk_shape(path, array.shape, np.dtype(array.dtype).itemsize)
        whole = values if layer is None else values[None]
        for index in itertools.product(
            *(range(-(-size // step)) for size, step in zip(whole.shape, chunk, strict=True))
        ):
            block = np.asarray(
                whole[tuple(slice(i * step, (i + 1) * step) for i, step in zip(index, chunk, strict=True))]
            )
            place = index if layer is None else (layer, *index[1:])
            name = f"{_name(path)}/{'.'.join(map(str, place)) or '0'}"
            while len(self._under_way) >= _CHUNKS_UNDER_WAY:
                self._wait_for_one()
            written = self._pool.submit(_write_chunk, self._folder, name, block, chunk, _order(path))
            self._under_way.append(((path, layer), written))

    def finish(self) -> None:
        """Returns when everything is written; OSError where something could not be."""
        while self._under_way:
            self._wait_for_one()
        self._pool.shutdown()

    def _wait_for_one(self) -> None:
        part, written = self._under_way.popleft()
        chunk = written.result()
        self.checksums[chunk.name] = chunk.checksum
        if not chunk.is_finite:
            self.not_finite.add(part)


def chunk_shape(path: str, shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The chunks of an array: of one layer where it is stacked, and cut where their numbers lie farthest apart."""
    stacked = "/layers/" in path
    chunk = [1, *shape[1:]] if stacked else list(shape)
    if chunk:
        axis = -1 if _order(path) == "F" else int(stacked)
        while math.prod(chunk) * itemsize > _CHUNK_BYTES and chunk[axis] > 1:
            chunk[axis] = -(-chunk[axis] // 2)
    return tuple(chunk)


def _order(path: str) -> str:
    """A kernel comes as the transpose of what lies in its file: stored so, it is copied, and not turned."""
    return "F" if path.endswith("/kernel") else "C"


def _name(path: str) -> str:
    """The folder of an array."""
    return path.replace("/", ".")


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """A chunk that was written; see `ArrayWriter`."""

    name: str
    checksum: list[int]
    is_finite: bool


def _write_chunk(folder: Path, name: str, block: Array, chunk: tuple[int, ...], order: str) -> _Chunk:
    if block.shape != chunk:  # The last chunk of an array is as large as the others.
        block = np.pad(block, [(0, step - size) for size, step in zip(block.shape, chunk, strict=True)])
    lying = np.ascontiguousarray(block.T if order == "F" else block)
    values = lying.reshape(-1).view(np.uint8)
    checksum, is_finite = 0, True
    with (folder / name).open("wb") as file:
        for begin in range(0, values.nbytes, _PIECE_BYTES):
            piece = values[
                begin : begin + _PIECE_BYTES
            ]  # It is in the processor's cache for all but the first of these.
            checksum = zlib.crc32(piece.data, checksum)
            is_finite = is_finite and _is_finite(piece.view(lying.dtype))
            file.write(piece.data)
    return _Chunk(name, [values.nbytes, checksum], is_finite)


def _is_finite(values: Array) -> bool:
    """Whether no number is NaN or infinite: has an exponent of ones alone; for bfloat16 ten times as fast as numpy."""
    exponent = _EXPONENTS.get(values.dtype.name)
    if exponent is None:
        return True
    return bool(np.max(values.view(exponent.dtype) & exponent) != exponent)


def array_paths(folder: Path) -> list[str]:
    """The paths of a checkpoint's arrays, as orbax or `ArrayWriter` has written them.

    Args:
      folder: the checkpoint's item ("checkpoint_100/state").

    Raises:
      ValueError: what names the arrays is damaged.
    """
    tree = json.loads((folder / METADATA_FILE).read_text())["tree_metadata"]
    return ["/".join(str(key["key"]) for key in entry["key_metadata"]) for entry in tree.values() if _is_array(entry)]


def open_array(folder: Path, path: str) -> Any:
    """An array of a checkpoint's train state, written by orbax or by `ArrayWriter`; index it, then `.read().result()`.

    Args:
      folder: the checkpoint's item ("checkpoint_100/state").
      path: of the array ("params/embedding/table").
    """
    folder = folder.absolute()
    metadata = json.loads((folder / METADATA_FILE).read_text())
    name = f"{_name(path)}/"
    if metadata.get("use_ocdbt", (folder / _OCDBT_FILE).exists()):  # Older releases of orbax do not say it.
        kvstore: dict[str, Any] = {"driver": "ocdbt", "base": f"file://{folder}/", "path": name}
    else:
        kvstore = {"driver": "file", "path": f"{folder}/{name}"}
    spec = {
        "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
        "kvstore": kvstore,
        "fill_missing_data_reads": False,  # Otherwise what is missing would be read as zeros.
    }
    return ts.open(spec, open=True, read=True).result()


def _is_array(entry: Mapping[str, Any]) -> bool:
    value = entry["value_metadata"]
    return not value.get("skip_deserialize", False) and value["value_type"] not in _NO_ARRAYS


def _create(folder: Path, path: str, array: jax.ShapeDtypeStruct) -> None:
    dtype = np.dtype(array.dtype)
    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": f"{folder}/{_name(path)}/"},
        "metadata": {
            "compressor": None,
            "chunks": list(chunk_shape(path, array.shape, dtype.itemsize)),
            "order": _order(path),
        },
    }
    ts.open(spec, create=True, dtype=ts.dtype(dtype.name), shape=array.shape).result()


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
