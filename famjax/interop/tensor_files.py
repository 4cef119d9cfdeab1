"""A folder of safetensors: what is in it, read tensor by tensor, and written in files of a bounded size."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  (makes "bfloat16" a name that numpy, and through it safetensors, knows)
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from famjax.errors import CheckpointError

CONFIG_FILE = "config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FAM_FILE = "fam.safetensors"

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_OTHER_FORMATS = ("*.bin", "*.pth", "*.pt", "*.gguf", "*.h5", "*.msgpack", "consolidated*.safetensors")


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies, without its values.

    Attributes:
      file: the safetensors file.
      shape: of the tensor.
      dtype: numpy's name: "float32", "bfloat16" or "float16"; or safetensors' own, which `require_floats` refuses.
      offset: of its first byte in the file.
      num_bytes: of its values.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    offset: int
    num_bytes: int

    def read(self) -> NDArray[Any]:
        """The tensor as a part of the file, mapped into memory: nothing is read but what is looked at."""
        if not self.num_bytes:
            return np.zeros(self.shape, self.dtype)
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
      CheckpointError: it is missing, or is no such file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.{_what_is_in(path.parent)}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object.")
    return value


def list_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every tensor of a folder's model by name, file by file, in the order in which they lie there.

    Only the files' headers are read; they also tell a file that was cut short.

    Raises:
      CheckpointError: there is no model, a file is missing or cut short, or the index and the files disagree.
    """
    is_single, is_indexed = (folder / SINGLE_FILE).exists(), (folder / INDEX_FILE).exists()
    if is_single and is_indexed:
        raise CheckpointError(
            f"{folder} has {SINGLE_FILE} and {INDEX_FILE}, which may be two models: transformers takes the single "
            "file. Delete the one that is not meant."
        )
    index = _read_index(folder / INDEX_FILE) if is_indexed else {}
    if not is_single and not is_indexed:
        if shards := sorted(folder.glob("model-*.safetensors")):
            raise CheckpointError(
                f"{folder} has {shards[0].name}, and {INDEX_FILE} is missing; download or copy it too."
            )
        raise CheckpointError(f"{folder} has neither {SINGLE_FILE} nor {INDEX_FILE}.{_what_is_in(folder)}")
    tensors: dict[str, TensorInfo] = {}
    for name in dict.fromkeys(index.values()) if is_indexed else [SINGLE_FILE]:
        tensors |= _tensors_of(folder / name)
    for name, file in index.items():
        if name not in tensors or tensors[name].file.name != file:
            raise CheckpointError(f"{folder / file} lacks the tensor {name}, which {INDEX_FILE} says it has.")
    return tensors


def require_floats(tensors: Mapping[str, TensorInfo]) -> None:
    """Raises CheckpointError for the first tensor, by name, whose values are no floats that can be read."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES.values():
            raise CheckpointError(
                f"{tensor.file}: {name} has the dtype {tensor.dtype}; known: {', '.join(_DTYPES)}. Quantized weights "
                "are not read."
            )


def _read_index(path: Path) -> dict[str, str]:
    """The file of each tensor, by an index."""
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError(f"{path} has no weight_map.")
    for name, file in index.items():
        if not isinstance(file, str) or not file:
            raise CheckpointError(f"{path}: the file of {name} is {file!r}; it must be a file's name.")
        if Path(file).name != file:
            raise CheckpointError(f"{path}: the file of {name} is {file!r}; only files beside the index are read.")
    return index


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory while it is open; `get_tensor` and `get_slice` give numpy arrays.

    Raises:
      CheckpointError: it is missing or is no whole safetensors file.
    """
    try:
        file = safe_open(path, framework="np")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.{_what_is_in(path.parent)}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); download or copy it again.") from error
    with file as opened:
        yield opened


class TensorWriter:
    """Writes a model's tensors into files of at most a size, and the index where there are several.

    The files are written under temporary names and renamed by `finish`, when their number is known.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        """Prepares to write.

        Args:
          folder: an existing folder.
          shard_bytes: a file is closed before it would become larger, unless it holds one tensor alone.
        """
        self._folder, self._limit = folder, shard_bytes
        self._pending: dict[str, NDArray[Any]] = {}
        self._pending_bytes = self._total_bytes = 0
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: NDArray[Any]) -> None:
        """Adds a tensor; it is kept until its file is full."""
        if self._pending and self._pending_bytes + tensor.nbytes > self._limit:
            self._flush()
        self._pending[name] = np.ascontiguousarray(tensor)
        self._pending_bytes += tensor.nbytes
        self._total_bytes += tensor.nbytes

    def finish(self) -> list[Path]:
        """Writes what is left, gives the files their names, and writes the index; returns the files of tensors.

        Raises:
          CheckpointError: the folder cannot be written to.
        """
        self._flush()
        try:
            return self._name_files()
        except OSError as error:
            raise CheckpointError(f"{self._folder} could not be written: {error.strerror or error}.") from error

    def _name_files(self) -> list[Path]:
        count = len(self._shards)
        names = [SINGLE_FILE if count == 1 else _shard_name(number, count) for number in range(count)]
        for number, name in enumerate(names):
            os.replace(self._partial(number), self._folder / name)
        if count > 1:
            weight_map = {tensor: name for name, shard in zip(names, self._shards, strict=True) for tensor in shard}
            index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
            (self._folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
        return [self._folder / name for name in names]

    def _flush(self) -> None:
        if not self._pending:
            return
        save_tensors(self._partial(len(self._shards)), self._pending)
        self._shards.append(list(self._pending))
        self._pending, self._pending_bytes = {}, 0

    def _partial(self, number: int) -> Path:
        return self._folder / f"{SINGLE_FILE}.{number}.partial"


def save_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Writes one file. The metadata name the format as transformers expects it.

    Raises:
      CheckpointError: the disk is full or may not be written to.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt", **(metadata or {})})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} could not be written: {error}.") from error


def _tensors_of(path: Path) -> dict[str, TensorInfo]:
    tensors = {}
    with open_file(path) as file:
        places = _places(path)
        for name in file.offset_keys():
            view = file.get_slice(name)
            dtype = view.get_dtype()
            tensors[name] = TensorInfo(path, tuple(view.get_shape()), _DTYPES.get(dtype, dtype), *places[name])
    return tensors


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Each tensor's offset and size in a file, by its header: its length in 8 bytes, then JSON, then the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (8 + length + begin, end - begin) for name, (begin, end) in spans.items()}


def _shard_name(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _what_is_in(folder: Path) -> str:
    """A sentence on a folder that lacks something."""
    if not folder.is_dir():
        return f" There is no folder {folder}."
    others = sorted({path.name for pattern in _OTHER_FORMATS for path in folder.glob(pattern)})
    if others:
        return f" It has {others[0]}, a format that is not read; save the model as safetensors with transformers first."
    names = sorted(path.name for path in folder.iterdir())
    return f" It has: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}." if names else " It is empty."
