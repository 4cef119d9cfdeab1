"""Fixtures imported, and logits of what was imported."""

import dataclasses
import functools
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hf_models import EXPECTED, FIXTURES, LENGTH
from safetensors.numpy import load_file, save_file

from famjax.interop.importing import Imported, import_checkpoint
from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh
from famjax.training.program import abstract_params
from famjax.training.restore import load_params, read_model_config

BLOCK = 8
WITH_IMAGES = "Gemma3ForConditionalGeneration"
# Text, and the rest, as transformers 5 saves it.
IMAGE_NAMES = ("model.language_model.", "model.vision_tower.", "model.multi_modal_projector.")
FULL = MemoryConfig(block_size=BLOCK, num_segments=-(-LENGTH // BLOCK), fam_length=0)


def copy_of(name: str, folder: pathlib.Path) -> pathlib.Path:
    """A fixture's model, to be damaged."""
    copied = folder / name
    shutil.copytree(FIXTURES / name, copied)
    (copied / EXPECTED).unlink()
    return copied


def with_more_tokens(folder: pathlib.Path, num_ids: int = 400) -> pathlib.Path:
    """The llama fixture with more ids."""
    folder = copy_of("llama", folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        file = folder / index[name]
        table = load_file(file)
        save_file(
            {**table, name: np.resize(table[name], (num_ids, table[name].shape[1]))}, file, metadata={"format": "pt"}
        )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": num_ids}))
    return folder


def with_images(folder: pathlib.Path, names: tuple[str, str, str] = IMAGE_NAMES) -> pathlib.Path:
    """The gemma3 fixture as the text half of a model with images, whose names begin so."""
    folder, (text, *others) = copy_of("gemma3", folder), names
    config = json.loads((folder / "config.json").read_text())
    outer = {"architectures": [WITH_IMAGES], "model_type": "gemma3", "dtype": config.pop("dtype"), "vision_config": {}}
    config.pop("architectures")
    (folder / "config.json").write_text(json.dumps({**outer, "text_config": config}))
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.replace("model.", text, 1): tensor for name, tensor in tensors.items()}
    more = {f"{other}weight": np.ones(3, np.float32) for other in others}
    save_file({**tensors, **more}, folder / "model.safetensors")
    return folder


def expected_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [B, T] and transformers' logits [B, T, V] of a fixture."""
    arrays = load_file(FIXTURES / name / EXPECTED)
    return arrays["tokens"].astype(np.int32), arrays["logits"]


def import_fixture(name: str, folder: pathlib.Path, memory: MemoryConfig = FULL) -> Imported:
    """A fixture's checkpoint, in folder / name."""
    return import_checkpoint(FIXTURES / name, folder / name, memory)


def params_in(folder: pathlib.Path, mesh: MeshConfig | None = None) -> tuple[TransformerConfig, Any]:
    """The model of a checkpoint, with float32 activations, and its parameters."""
    config, mesh = read_model_config(folder), mesh or MeshConfig(num_devices=1)
    params = load_params(folder, abstract_params(config, make_mesh(mesh), mesh)[0])
    return dataclasses.replace(config, dtype="float32"), params


@functools.partial(jax.jit, static_argnames="config")
def _logits(config: TransformerConfig, params: Any, tokens: jax.Array) -> jax.Array:
    model = Transformer(config)
    state = initial_state(model, params, tokens.shape[0], with_cache=False)
    return logits(model, params, read(model, params, tokens, state).hidden)


def logits_of(config: TransformerConfig, params: Any, tokens: np.ndarray) -> np.ndarray:
    """famjax's logits [B, T, V] of texts read from the start."""
    return np.asarray(_logits(config, params, jnp.asarray(tokens)))
