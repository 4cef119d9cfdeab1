"""A folder of Hugging Face safetensors becomes a famjax checkpoint (`famjax/interop/writing.py`), tensor by tensor."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famjax.errors import CheckpointError, ConfigError
from famjax.interop.config_values import find_family, read_settings
from famjax.interop.families import Family
from famjax.interop.layouts import FAM_PARAMETERS, Slot, shapes_of, slots_of
from famjax.interop.tensor_files import (
    CONFIG_FILE,
    FAM_FILE,
    TensorInfo,
    list_tensors,
    open_file,
    read_json,
    require_floats,
)
from famjax.interop.text_halves import TextHalf, find_text_half, text_config, text_names
from famjax.interop.tokenizer import FileVocabulary, read_tokenizer
from famjax.interop.writing import Progress, require_shapes, require_unused, shown, write_checkpoint
from famjax.models.config import MemoryConfig, TransformerConfig

# Tables that older checkpoints store and that follow from config.json.
_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")
# In the origin of a text model that was imported by itself: the architecture that it is a half of.
HALF_OF = "half_of"

_TABLE, _OUTPUT = "embedding/table", "lm_head.weight"


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
      vocabulary: the tokenizer's, beside the checkpoint; None where the folder has no tokenizer.
      left_out: texts of the tokenizer's added tokens that the vocabulary leaves out: the model has no rows for them.
    """

    family: Family
    config: TransformerConfig
    checkpoint: Path
    num_tensors: int
    num_bytes: int
    ignored: tuple[str, ...]
    vocabulary: FileVocabulary | None
    left_out: tuple[str, ...]


def import_checkpoint(source: Path, output: Path, memory: MemoryConfig, progress: Progress | None = None) -> Imported:
    """Writes a checkpoint from a folder of safetensors, its gin file, and the tokenizer's files as they were.

    Args:
      source: with config.json and safetensors, in one file or in several with their index.
      output: a folder without checkpoints; made where it does not exist.
      memory: that the model gets; its FAM must be 0 (a training run inserts FAM), but where the folder has
        fam.safetensors, whose memory it is then.
      progress: called with bytes done and bytes in all.

    Raises:
      CheckpointError: an unknown architecture, a feature that would change the numbers, a missing, extra or mis-shaped
        tensor, a file that is cut short, or an output that is in use.
      DataError: the tokenizer cannot be read, or has more tokens than the model, and not only added ones.
    """
    if output.resolve() == source.resolve():
        raise CheckpointError(f"--output={output} is the folder that is imported; give another one.")
    require_unused(output)
    where = str(source / CONFIG_FILE)
    whole = read_json(source / CONFIG_FILE)
    hf = text_config(whole, where)
    family = find_family(hf, where)
    fam = _read_fam(source)
    config = read_settings(family, hf, memory if fam is None else fam.memory, where)
    if fam is not None:
        _require_fam(source / FAM_FILE, config, fam.arrays)
    half = find_text_half(whole)
    tensors, left_out = _text_tensors(half, list_tensors(source))
    slots = slots_of(family, config)
    ignored = _check_tensors(source, config, tensors, slots)
    origin = {"imported_from": str(source.absolute()), "family": family.name}
    if half is not None:
        origin[HALF_OF] = half.architecture
    tokenizer = read_tokenizer(source, config.vocab_size)
    checkpoint = write_checkpoint(
        output,
        config,
        tensors,
        slots,
        origin,
        fam=None if fam is None else fam.arrays,
        tokenizer=tokenizer,
        progress=progress,
    )
    num_bytes = sum(tensors[name].num_bytes for name in slots)
    return Imported(
        family,
        config,
        checkpoint,
        num_tensors=len(slots),
        num_bytes=num_bytes,
        ignored=(*ignored, *left_out),
        vocabulary=None if tokenizer is None else tokenizer.copied_to(output),
        left_out=() if tokenizer is None else tokenizer.left_out,
    )


def memory_in(source: Path) -> MemoryConfig | None:
    """The memory that an export was trained with, by its fam.safetensors; None where the folder has no such file.

    Raises:
      CheckpointError: the file cannot be read, or is none of an export's.
    """
    fam = _read_fam(source)
    return None if fam is None else fam.memory


def _text_tensors(
    half: TextHalf | None, tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, TensorInfo], tuple[str, ...]]:
    """The text model's tensors by their names in its family, and the names of those that are left out."""
    names, left_out = text_names(half, list(tensors))
    return {ours: tensors[theirs] for theirs, ours in names.items()}, left_out


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
    return _Fam(_memory_of(stored, path), arrays)


def _memory_of(text: str, path: Path) -> MemoryConfig:
    """The memory that a file's metadata describe."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata 'memory' are not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: its metadata 'memory' hold no JSON object.")
    if unknown := sorted(values.keys() - {field.name for field in dataclasses.fields(MemoryConfig)}):
        raise CheckpointError(f"{path}: its memory has {', '.join(unknown)}, which this famjax does not know.")
    try:
        return MemoryConfig(**values)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: its memory is none: {error}") from error


def _require_fam(path: Path, config: TransformerConfig, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises CheckpointError unless the arrays are those that the memory asks for."""
    wanted = {name: array.shape for name, array in shapes_of(config).items() if name in FAM_PARAMETERS}
    have = {name: array.shape for name, array in arrays.items()}
    for name in sorted(wanted.keys() | have.keys()):
        if wanted.get(name) != have.get(name):
            there = f"has {name} of the shape {list(have[name])}" if name in have else f"lacks {name}"
            asked = f"the shape {list(wanted[name])}" if name in wanted else "none"
            raise CheckpointError(f"{path} {there}; its memory in the model of {CONFIG_FILE} asks for {asked}.")


def _check_tensors(
    source: Path, config: TransformerConfig, tensors: Mapping[str, TensorInfo], slots: Mapping[str, Slot]
) -> tuple[str, ...]:
    """Raises CheckpointError unless the tensors are those of the model; returns those that are not needed."""
    require_floats({name: tensor for name, tensor in tensors.items() if not _IGNORED.fullmatch(name)})
    if missing := [name for name in slots if name not in tensors]:
        raise CheckpointError(f"{source} lacks {shown(missing)}, which its {CONFIG_FILE} asks for.")
    extra = [name for name in tensors if name not in slots]
    ignored = [name for name in extra if _IGNORED.fullmatch(name)]
    if config.tie_embeddings and _OUTPUT in extra:
        _require_tied(source, tensors, slots)
        ignored.append(_OUTPUT)
    if unknown := [name for name in extra if name not in ignored]:
        raise CheckpointError(f"{source} has {shown(unknown)}, which its {CONFIG_FILE} has no place for.")
    require_shapes(tensors, slots, CONFIG_FILE)
    return tuple(ignored)


def _require_tied(source: Path, tensors: Mapping[str, TensorInfo], slots: Mapping[str, Slot]) -> None:
    """A tied model that stores its output matrix as well: it must be the embedding table."""
    table = next(name for name, slot in slots.items() if slot.path == _TABLE)
    ours, theirs = tensors[table], tensors[_OUTPUT]
    same = ours.shape == theirs.shape and all(map(np.array_equal, ours.read(), theirs.read()))
    if not same:
        raise CheckpointError(
            f"{source}: {CONFIG_FILE} says tie_word_embeddings, and {_OUTPUT} is not {table}; if the model was trained "
            "so, set tie_word_embeddings to false there."
        )
