"""A famjax checkpoint becomes a folder that transformers loads; FAM goes into a file of its own, which it leaves alone.

What FAM adds, transformers cannot compute: the exported model is the decoder without memory.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from famjax.errors import CheckpointError, ConfigError
from famjax.interop.array_store import open_array
from famjax.interop.config_values import find_family, write_settings
from famjax.interop.families import FAMILIES, Family
from famjax.interop.layouts import FAM_PARAMETERS, PARAMS, shapes_of, slots_of
from famjax.interop.tensor_files import CONFIG_FILE, FAM_FILE, TensorWriter, read_json, save_tensors
from famjax.interop.text_halves import text_config
from famjax.interop.tokenizer import copy_files, tokenizer_files
from famjax.models.config import TransformerConfig
from famjax.training import checkpoint_files as files
from famjax.training.restore import find_checkpoint, read_model_config, require_whole

Array = NDArray[Any]
# Takes a parameter's path and, where it is stacked, the layer; gives the values.
ReadParameter = Callable[[str, int | None], Array]

_OF_AN_EXPORT = (CONFIG_FILE, "model*.safetensors*", FAM_FILE)
_FINAL_NORM = "final_norm/scale"
# Of config.json: what is the model's, and not of any folder that it resembles.
_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What an export made.

    Attributes:
      family: as which the model was written.
      files: of tensors.
      num_tensors: in them.
      has_fam: whether there is a FAM in a file of its own.
      folded: the factor of the logits that is now part of the last norm's scale; 1.0 where there was none.
    """

    family: Family
    files: tuple[Path, ...]
    num_tensors: int
    has_fam: bool
    folded: float


def export_checkpoint(
    checkpoint: str,
    output: Path,
    *,
    family: str | None = None,
    like: Path | None = None,
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
) -> Exported:
    """Writes a folder for transformers from a checkpoint.

    Args:
      checkpoint: a MODEL_DIR (its latest whole checkpoint) or one checkpoint folder.
      output: a folder without a model; made where it does not exist.
      family: the name of a family of the table; None: that of `like`, or the first that can express the model.
      like: the folder that the model was imported from: its tokenizer and its special tokens are kept.
      dtype: of the weights, "float32", "bfloat16" or "float16"; None: as they are in the checkpoint.
      shard_bytes: of a file of tensors at most.

    Raises:
      CheckpointError: there is no such checkpoint, it does not hold its base, or the output is in use or cannot be
        written.
      ConfigError: no family, or not this one, can express the model.
    """
    folder = find_checkpoint(checkpoint, setting="--checkpoint")
    require_whole(folder, "--checkpoint")
    state = Path(folder.path / files.STATE)

    def read_parameter(path: str, layer: int | None) -> Array:
        store = open_array(state, f"{PARAMS}/{path}")
        return np.asarray((store if layer is None else store[layer]).read().result())

    return export_parameters(
        read_parameter,
        read_model_config(folder),
        output,
        family=family,
        like=like,
        dtype=dtype,
        shard_bytes=shard_bytes,
    )


def export_parameters(
    read_parameter: ReadParameter,
    config: TransformerConfig,
    output: Path,
    *,
    family: str | None = None,
    like: Path | None = None,
    dtype: str | None = None,
    shard_bytes: int = 5_000_000_000,
) -> Exported:
    """Writes a folder for transformers from parameters wherever they are; see `export_checkpoint`.

    Args:
      read_parameter: gives a parameter, or a layer's part of a stacked one.
      config: the model.
      output: as there.
      family: as there.
      like: as there.
      dtype: as there; None: as they are read.
      shard_bytes: as there.
    """
    like_config = {} if like is None else text_config(read_json(like / CONFIG_FILE), str(like / CONFIG_FILE))
    if family is None and like is not None:
        family = find_family(like_config, str(like / CONFIG_FILE)).name
    config, factor = _with_plain_logits(config)
    chosen, hf = _choose_family(config, family)
    _prepare(output)
    slots = slots_of(chosen, config)
    writer, dtypes = TensorWriter(output, shard_bytes), set()
    for name, slot in slots.items():
        part = read_parameter(slot.path, slot.layer)
        if slot.path == _FINAL_NORM and factor != 1.0:
            offset = 1.0 if config.unit_offset_norms else 0.0
            part = ((part.astype(np.float64) + offset) * factor - offset).astype(np.float32)
        tensor = slot.to_tensor(part)
        writer.add(name, tensor if dtype is None else tensor.astype(np.dtype(dtype)))
        dtypes.add(np.dtype(dtype or part.dtype).name)
    written = writer.finish()
    has_fam = write_fam(read_parameter, config, output)
    hf["torch_dtype"] = dtypes.pop() if len(dtypes) == 1 else "float32"
    hf |= {key: like_config[key] for key in _TOKEN_KEYS if key in like_config}
    if like is not None:
        copy_files(tokenizer_files(like), output)
    try:
        (output / CONFIG_FILE).write_text(json.dumps(hf, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(f"{output} could not be written: {error.strerror or error}.") from error
    return Exported(chosen, tuple(written), len(slots), has_fam, factor)


def _with_plain_logits(config: TransformerConfig) -> tuple[TransformerConfig, float]:
    """The same function with logits that are not scaled, where the last norm is scaled by the factor returned."""
    if config.logit_scale is not None:
        factor = config.logit_scale
    else:
        factor = config.emb_dim**-0.5 if config.tie_embeddings else 1.0
    return dataclasses.replace(config, logit_scale=1.0), factor


def _choose_family(config: TransformerConfig, name: str | None) -> tuple[Family, dict[str, Any]]:
    names = [family.name for family in FAMILIES]
    if name is not None and name not in names:
        raise ConfigError(f"--family={name} is not known; allowed: {', '.join(names)}.")
    for family in FAMILIES:
        if name in (None, family.name):
            hf = write_settings(family, config)
            if hf is not None:
                return family, hf
    tried = ", ".join(names) if name is None else name
    raise ConfigError(f"transformers cannot compute this model as {tried}; its settings: {_special_settings(config)}.")


def _special_settings(config: TransformerConfig) -> str:
    """The settings that are not at their defaults."""
    values = ((field, getattr(config, field.name)) for field in dataclasses.fields(config))
    return ", ".join(f"{field.name} = {value!r}" for field, value in values if value != field.default)


def _prepare(output: Path) -> None:
    """Makes the folder. What is there of another export, whole or stopped, transformers would load in its place."""
    found = [path.name for pattern in _OF_AN_EXPORT for path in sorted(output.glob(pattern))]
    if found:
        raise CheckpointError(f"{output} holds a model already ({found[0]}); give another --output, or delete it.")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written to: {error.strerror or error}.") from error


def write_fam(read_parameter: ReadParameter, config: TransformerConfig, output: Path) -> bool:
    """Writes FAM's own parameters, with the memory that they belong to; False where there are none."""
    own = [path for path in shapes_of(config) if path in FAM_PARAMETERS]
    arrays: Mapping[str, Array] = {path: np.ascontiguousarray(read_parameter(path, None)) for path in own}
    if arrays:
        save_tensors(output / FAM_FILE, arrays, {"memory": json.dumps(dataclasses.asdict(config.memory))})
    return bool(arrays)
