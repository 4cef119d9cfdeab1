"""A folder of Hugging Face safetensors becomes a famjax checkpoint, tensor by tensor.

    OUTPUT/
      checkpoint_0/   parameters in the dtype that they had, model settings; opened like any other checkpoint
      model.gin       the model for a training job: --gin_file=OUTPUT/model.gin
      tokenizer.json, ...  as they were

No device is used, and no parameter is ever whole in memory: a run reads what each of its devices holds.
"""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from numpy.typing import NDArray

from famjax.errors import CheckpointError
from famjax.interop.array_store import ArrayWriter
from famjax.interop.config_values import find_family, read_settings
from famjax.interop.families import Family
from famjax.interop.gin_files import model_file
from famjax.interop.layouts import FAM_PARAMETERS, PARAMS, Slot, shapes_of, slots_of
from famjax.interop.tensor_files import CONFIG_FILE, FAM_FILE, TensorInfo, list_tensors, open_file, read_json
from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.training import checkpoint_files as files
from famjax.training import model_settings

MODEL_FILE = "model.gin"
# What a tokenizer is made of; small files, copied as they are.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)

_STEP = "step"
_TEMPORARY = "checkpoint_0.orbax-checkpoint-tmp"
# Tables that older checkpoints store and that follow from config.json.
_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")
_TABLE, _OUTPUT = "embedding/table", "lm_head.weight"
_NUM_SHOWN = 4

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
      family: of the model.
      config: of the model.
      checkpoint: the checkpoint's folder.
      num_tensors: tensors read.
      num_bytes: of them.
      ignored: names of tensors that are not needed.
    """

    family: Family
    config: TransformerConfig
    checkpoint: Path
    num_tensors: int
    num_bytes: int
    ignored: tuple[str, ...]


def import_checkpoint(source: Path, output: Path, memory: MemoryConfig, progress: Progress | None = None) -> Imported:
    """Writes OUTPUT from a folder of safetensors.

    Args:
      source: with config.json and safetensors, in one file or in several with their index.
      output: a folder without checkpoints; made where it does not exist.
      memory: that the model gets; its FAM must be 0 (a training run inserts FAM), but where the folder has
        fam.safetensors, whose memory it is then.
      progress: called with bytes done and bytes in all.

    Raises:
      CheckpointError: an unknown architecture, a feature that would change the numbers, a missing, extra or mis-shaped
        tensor, a file that is cut short, or an output that is in use.
    """
    where = str(source / CONFIG_FILE)
    hf = read_json(source / CONFIG_FILE)
    family = find_family(hf, where)
    fam = _read_fam(source)
    config = read_settings(family, hf, memory if fam is None else fam.memory, where)
    tensors = list_tensors(source)
    slots = slots_of(family, config)
    ignored = _check_tensors(source, config, tensors, slots)
    dtypes = _dtypes(tensors, slots)
    arrays = {_STEP: jax.ShapeDtypeStruct((), np.int32)}
    for path, array in shapes_of(config).items():
        arrays[f"{PARAMS}/{path}"] = jax.ShapeDtypeStruct(array.shape, dtypes.get(path, array.dtype))
    temporary = _prepare_output(output)
    try:
        writer = ArrayWriter(temporary / files.STATE, arrays)
        num_bytes = _write_state(writer, tensors, slots, arrays, fam, progress)
    except OSError as error:
        raise CheckpointError(f"{temporary} could not be written: {error.strerror or error}.") from error
    _write_item(temporary, files.MODEL, model_settings.to_json(config))
    _write_item(temporary, files.DATA_STATE, {"imported_from": str(source.absolute()), "family": family.name})
    checksums = {f"{files.STATE}/{name}": checksum for name, checksum in writer.checksums.items()}
    files.seal(epath.Path(output.absolute()), 0, checksums)
    checkpoint = output / f"{files.PREFIX}_0"
    temporary.rename(checkpoint)
    (output / MODEL_FILE).write_text(model_file(config, str(source)))
    copy_tokenizer(source, output)
    return Imported(family, config, checkpoint, len(slots), num_bytes, ignored)


def copy_tokenizer(source: Path, output: Path) -> None:
    """Copies what there is of a tokenizer's files."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)


@dataclasses.dataclass(frozen=True)
class _Fam:
    """FAM's own parameters from an export's fam.safetensors, and the memory that they were trained in."""

    memory: MemoryConfig
    arrays: Mapping[str, NDArray[Any]]


def _read_fam(source: Path) -> _Fam | None:
    path = source / FAM_FILE
    if not path.exists():
        return None
    with open_file(path) as file:
        stored = (file.metadata() or {}).get("memory")
        names = set(file.keys())
        if stored is None or not names <= set(FAM_PARAMETERS):
            raise CheckpointError(
                f"{path} is no file of famjax's export: it needs the metadata 'memory' and FAM alone."
            )
        arrays = {name: file.get_tensor(name) for name in names}
    return _Fam(MemoryConfig(**json.loads(stored)), arrays)


def _check_tensors(
    source: Path, config: TransformerConfig, tensors: Mapping[str, TensorInfo], slots: Mapping[str, Slot]
) -> tuple[str, ...]:
    """Raises CheckpointError unless the tensors are those of the model; returns those that are not needed."""
    if missing := [name for name in slots if name not in tensors]:
        raise CheckpointError(f"{source} lacks {_shown(missing)}, which its {CONFIG_FILE} asks for.")
    extra = [name for name in tensors if name not in slots]
    ignored = [name for name in extra if _IGNORED.fullmatch(name)]
    if config.tie_embeddings and _OUTPUT in extra:
        _require_tied(source, tensors, slots)
        ignored.append(_OUTPUT)
    if unknown := [name for name in extra if name not in ignored]:
        raise CheckpointError(f"{source} has {_shown(unknown)}, which its {CONFIG_FILE} has no place for.")
    for name, slot in slots.items():
        if tensors[name].shape != slot.tensor_shape:
            raise CheckpointError(
                f"{tensors[name].file}: {name} has the shape {list(tensors[name].shape)}; {CONFIG_FILE} asks for "
                f"{list(slot.tensor_shape)}."
            )
    return tuple(ignored)


def _require_tied(source: Path, tensors: Mapping[str, TensorInfo], slots: Mapping[str, Slot]) -> None:
    """A tied model that stores its output matrix as well: it must be the embedding table."""
    table = next(name for name, slot in slots.items() if slot.path == _TABLE)
    same = tensors[_OUTPUT].shape == tensors[table].shape and all(
        np.array_equal(ours, theirs) for ours, theirs in zip(tensors[table].map(), tensors[_OUTPUT].map(), strict=True)
    )
    if not same:
        raise CheckpointError(
            f"{source}: {CONFIG_FILE} says tie_word_embeddings, and {_OUTPUT} is not {table}; if the model was trained "
            "so, set tie_word_embeddings to false there."
        )


def _dtypes(tensors: Mapping[str, TensorInfo], slots: Mapping[str, Slot]) -> dict[str, np.dtype[Any]]:
    """The dtype of each parameter: that of its tensors, or float32 where they differ among each other."""
    found: dict[str, set[str]] = {}
    for name, slot in slots.items():
        found.setdefault(slot.path, set()).add(tensors[name].dtype)
    return {path: np.dtype(names.pop() if len(names) == 1 else "float32") for path, names in found.items()}


def _write_state(
    writer: ArrayWriter,
    tensors: Mapping[str, TensorInfo],
    slots: Mapping[str, Slot],
    arrays: Mapping[str, jax.ShapeDtypeStruct],
    fam: _Fam | None,
    progress: Progress | None,
) -> int:
    """Writes the parameters and a step of 0; returns the tensors' bytes."""
    writer.write(_STEP, None, np.zeros((), np.int32))
    num_bytes = _copy(tensors, slots, arrays, writer, progress)
    if fam is not None:
        for path, values in fam.arrays.items():
            layers = [(None, values)] if not path.startswith("layers/") else list(enumerate(values))
            for layer, part in layers:
                writer.write(f"{PARAMS}/{path}", layer, part)
    writer.finish()
    return num_bytes


def _copy(
    tensors: Mapping[str, TensorInfo],
    slots: Mapping[str, Slot],
    arrays: Mapping[str, jax.ShapeDtypeStruct],
    writer: ArrayWriter,
    progress: Progress | None,
) -> int:
    """Copies every tensor, file by file as they lie there; returns their bytes."""
    total = sum(tensors[name].num_bytes for name in slots)
    done = 0
    for name, info in tensors.items():
        if name in slots:
            slot = slots[name]
            path = f"{PARAMS}/{slot.path}"
            values = slot.to_parameter(info.map()).astype(arrays[path].dtype, copy=False)
            writer.write(path, slot.layer, values)
            done += info.num_bytes
            if progress is not None:
                progress(done, total)
    return total


def _prepare_output(output: Path) -> Path:
    """Makes the folder of a checkpoint under way."""
    if found := files.step_folders(epath.Path(output.absolute())):
        raise CheckpointError(f"{output} holds {found[0].path.name} already; give another --output, or delete it.")
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


def _shown(names: list[str]) -> str:
    more = len(names) - _NUM_SHOWN
    return ", ".join(names[:_NUM_SHOWN]) + (f" and {more} more tensors" if more > 0 else "")
