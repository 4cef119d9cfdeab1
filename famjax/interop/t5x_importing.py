"""A t5x decoder's parameters become a famjax checkpoint (`famjax/interop/writing.py`), by a path mapping.

t5x keeps no settings of the model in its checkpoints. What the arrays' shapes tell is read from them; the rest is in
the mapping, is given, or is famjax's default.
"""

import dataclasses
import itertools
import json
import operator
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famjax.configuration.value_types import TypeMismatch, convert
from famjax.errors import CheckpointError, ConfigError
from famjax.interop.layouts import FAM_PARAMETERS, Slot, is_stacked, shapes_of
from famjax.interop.t5x_layouts import T5xCheckpoint, open_checkpoint
from famjax.interop.t5x_mapping import Found, PathMapping, find_parameters
from famjax.interop.writing import Progress, require_shapes, require_unused, shown, write_checkpoint
from famjax.models.config import FamStart, MemoryConfig, RopeScaling, TransformerConfig

Array = NDArray[Any]

# Settings that are a parameter's being there.
_PARTS = {
    "attention_bias": "layers/attention/query/bias",
    "attention_out_bias": "layers/attention/out/bias",
    "mlp_bias": "layers/mlp/up/bias",
    "query_key_norm": "layers/attention/query_norm/scale",
    "post_norms": "layers/attention_post_norm/scale",
}
_TABLE, _UP = "embedding/table", "layers/mlp/up/kernel"
_QUERY, _KEY = "layers/attention/query/kernel", "layers/attention/key/kernel"
_OUTPUT = "output/kernel"
# Not to be set: the memory has flags of its own, and adapters are of famjax's own finetunings.
_OTHERS = ("memory", "lora")
# They change how a model is trained, not what it computes.
_OF_TRAINING = ("dropout_rate", "residual_init_scale", "remat_policy", "dtype", *_OTHERS)


@dataclasses.dataclass(frozen=True)
class T5xImport:
    """What an import made.

    Attributes:
      source: the t5x checkpoint.
      config: of the model.
      checkpoint: famjax's.
      num_tensors: tensors read, those of each layer counted by themselves.
      num_bytes: of them.
      unseen: settings of the pretrained function that no array tells, with where each is from.
    """

    source: T5xCheckpoint
    config: TransformerConfig
    checkpoint: Path
    num_tensors: int
    num_bytes: int
    unseen: Mapping[str, str]


def import_t5x(
    source: Path,
    output: Path,
    memory: MemoryConfig,
    mapping: PathMapping,
    given: Mapping[str, Any],
    progress: Progress | None = None,
) -> T5xImport:
    """Writes a checkpoint and its gin file from a t5x checkpoint's parameters.

    Args:
      source: a t5x MODEL_DIR or one checkpoint in it, in the legacy layout or in Orbax's.
      output: a folder without checkpoints; made where it does not exist.
      memory: that the model gets; its FAM is 0 (a training run inserts FAM) where the checkpoint has none.
      mapping: which array is which parameter.
      given: fields of `TransformerConfig`, which go before what the arrays and the mapping tell.
      progress: called with bytes done and bytes in all.

    Raises:
      CheckpointError: an array is missing, left over, mis-shaped, damaged, or something that famjax's model has not;
        or the output is in use.
      ConfigError: the mapping or a setting is wrong, or one is missing.
    """
    require_unused(output)
    checkpoint = open_checkpoint(source)
    found = find_parameters(mapping, checkpoint)
    settings = {**_check_fields(mapping.settings, f"{mapping.file} (--mapping)"), **_check_fields(given, "--set")}
    fam = _read_fam(found)
    found = {name: part for name, part in found.items() if part.path not in FAM_PARAMETERS}
    seen = _seen(found, settings, checkpoint.folder)
    config = TransformerConfig(**{**seen, **settings}, memory=_with_fam(memory, fam))
    _require_fam_shape(fam, config, checkpoint.folder)
    slots = _slots(mapping, config, found)
    _require_all(checkpoint.folder, mapping, config, found)
    tensors = {name: part.tensor for name, part in found.items()}
    require_shapes(tensors, slots, "the model")
    origin = {"imported_from": str(checkpoint.folder.absolute()), "mapping": str(mapping.file)}
    made = write_checkpoint(output, config, tensors, slots, origin, fam=fam, progress=progress)
    num_bytes = sum(tensor.num_bytes for tensor in tensors.values()) + sum(array.nbytes for array in fam.values())
    return T5xImport(
        checkpoint, config, made, len(tensors) + len(fam), num_bytes, _unseen(config, seen, mapping.settings, given)
    )


def _read_fam(found: Mapping[str, Found]) -> dict[str, Array]:
    """FAM's own parameters by path, of famjax's model trained in t5x: the prompt [F, D] or the prefix [L, F, D]."""
    fam = {}
    for path in FAM_PARAMETERS:
        parts = sorted((part for part in found.values() if part.path == path), key=lambda part: part.layer or 0)
        arrays = [part.tensor.read().astype(np.float32) for part in parts]
        if arrays:
            fam[path] = np.stack(arrays) if is_stacked(path) else arrays[0]
    return fam


def _with_fam(memory: MemoryConfig, fam: Mapping[str, Array]) -> MemoryConfig:
    """The memory with a FAM as long as the checkpoint's, if it has one."""
    for path, array in fam.items():
        start: FamStart = "prefix" if is_stacked(path) else "prompt"
        return dataclasses.replace(memory, fam_length=array.shape[-2], fam_start=start)
    return memory


def _require_fam_shape(fam: Mapping[str, Array], config: TransformerConfig, folder: Path) -> None:
    shapes = shapes_of(config)
    for path, array in fam.items():
        if path not in shapes or array.shape != shapes[path].shape:
            raise CheckpointError(
                f"{folder}: {path} would have the shape {list(array.shape)}, beside a model of width {config.emb_dim} "
                f"with {config.num_layers} layers; check --mapping."
            )


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Settings from "NAME=VALUE", the value in JSON or a word."""
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set={text}: needs NAME=VALUE, as --set=num_heads=12.")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _check_fields(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of `TransformerConfig` with the types that they have there."""
    hints = typing.get_type_hints(TransformerConfig)
    fields = [field.name for field in dataclasses.fields(TransformerConfig) if field.name not in _OTHERS]
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise ConfigError(f"{where}: {name} is no setting of the model; allowed: {', '.join(fields)}.")
        try:
            built = RopeScaling(**value) if name == "rope_scaling" and isinstance(value, Mapping) else value
            checked[name] = convert(built, hints[name])
        except TypeMismatch as error:
            raise ConfigError(f"{where}: {name} = {value!r}; it must be {error.expected}.") from error
        except TypeError as error:
            raise ConfigError(f"{where}: {name} = {value!r}; RopeScaling does not take it ({error}).") from error
    return checked


def _seen(found: Mapping[str, Found], settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings that the arrays' shapes tell, and that they are there."""
    shapes = {part.path: part.shape for part in found.values()}
    dims = {_TABLE: (2,), _UP: (2,), _QUERY: (2, 3), _KEY: (2, 3)}
    if missing := [path for path in dims if path not in shapes]:
        raise CheckpointError(f"{folder} has nothing for {', '.join(missing)}, by the patterns of --mapping.")
    for path, allowed in dims.items():
        if len(shapes[path]) not in allowed:
            raise CheckpointError(f"{folder}: {path} would have the shape {list(shapes[path])}; check --mapping.")
    num_heads, num_kv_heads, head_dim = _heads(shapes[_QUERY], shapes[_KEY], settings.get("num_heads"), folder)
    layers = [part.layer for part in found.values() if part.layer is not None]
    return {
        "vocab_size": shapes[_TABLE][0],
        "emb_dim": shapes[_TABLE][1],
        "num_layers": 1 + max(layers),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "mlp_dim": shapes[_UP][1],
        "tie_embeddings": _OUTPUT not in shapes,
        **{name: path in shapes for name, path in _PARTS.items()},
    }


def _heads(query: tuple[int, ...], key: tuple[int, ...], given: int | None, folder: Path) -> tuple[int, int, int]:
    """Query heads, key heads and a head's width, of kernels [D, H, h] or [D, H h]; of the latter with H given."""
    if len(query) == 3:
        num_heads, head_dim = query[1:]
    elif not given:
        raise ConfigError(
            f"{folder} has queries of {query[1]} numbers, all heads in one; say how many heads: --set=num_heads=NUMBER."
        )
    elif query[1] % given:
        raise ConfigError(f"{folder} has queries of {query[1]} numbers, which are not {given} heads (num_heads).")
    else:
        num_heads, head_dim = given, query[1] // given
    if len(key) == 3:
        return num_heads, key[1], head_dim
    if key[1] % head_dim:
        raise ConfigError(
            f"{folder} has keys of {key[1]} numbers, which are not heads of {head_dim} (num_heads = {num_heads})."
        )
    return num_heads, key[1] // head_dim, head_dim


def _unseen(
    config: TransformerConfig, seen: Mapping[str, Any], of_mapping: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, str]:
    sources = {}
    for field in dataclasses.fields(config):
        if field.name not in _OF_TRAINING and (field.name not in seen or field.name in given):
            by_hand = "--set" if field.name in given else "the mapping" if field.name in of_mapping else "default"
            sources[field.name] = by_hand
    return sources


def _slots(mapping: PathMapping, config: TransformerConfig, found: Mapping[str, Found]) -> dict[str, Slot]:
    shapes, slots = shapes_of(config), {}
    for name, part in found.items():
        if part.path not in shapes:
            known = ", ".join(path for path in shapes if path not in FAM_PARAMETERS)
            raise ConfigError(
                f"{mapping.file} (--mapping) makes {name} {part.path}, which the model has not; it has {known}."
            )
        stored = part.tensor.shape
        if part.axes is not None and len(part.axes) != len(stored):
            raise ConfigError(
                f"{mapping.file} (--mapping) gives {len(part.axes)} axes to {name}, which has the shape {list(stored)}."
            )
        whole = shapes[part.path].shape
        shape = whole[1:] if is_stacked(part.path) else whole
        expected = stored if _is_joined(part.shape, shape) else _as_stored(shape, part.axes)
        slots[name] = Slot(part.path, part.layer, shape, expected, part.axes)
    return slots


def _is_joined(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes differ at most in neighbours that are one axis in one of them: [D, H h] and [D, H, h]."""
    bounds, others = (set(itertools.accumulate((1, *shape), operator.mul)) for shape in (one, other))
    return max(bounds) == max(others) and (bounds <= others or others <= bounds)


def _as_stored(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> tuple[int, ...]:
    """A parameter's shape, for a message, in the order of the array's axes where that can be said."""
    if axes is None or len(axes) != len(shape):
        return shape
    return tuple(shape[axes.index(axis)] for axis in range(len(axes)))


def _require_all(folder: Path, mapping: PathMapping, config: TransformerConfig, found: Mapping[str, Found]) -> None:
    there = {(part.path, part.layer) for part in found.values()}
    missing = []
    for path in shapes_of(config):
        if path not in FAM_PARAMETERS:
            layers = range(config.num_layers) if is_stacked(path) else [None]
            missing += [_named(path, layer) for layer in layers if (path, layer) not in there]
    if missing:
        raise CheckpointError(
            f"{folder} has nothing for {shown(missing)}, by the patterns of {mapping.file} (--mapping)."
        )


def _named(path: str, layer: int | None) -> str:
    return path if layer is None else f"{path} of layer {layer}"
