"""Small models for tests: sizes that cross block boundaries, and weights large enough for every path to matter."""

import dataclasses
import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.transformer import parameter_shapes

BLOCK = 4
FAM = MemoryConfig(block_size=BLOCK, num_segments=2, fam_length=3)
BSWA = dataclasses.replace(FAM, fam_length=0)
CONFIG = TransformerConfig(
    vocab_size=13, emb_dim=16, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=8, mlp_dim=24, memory=FAM
)
KV_HEADS = {"multi_head": 4, "grouped_query": 2, "multi_query": 1}


def vary(**changes: Any) -> TransformerConfig:
    """The small model with other settings; those of the memory are given by their own names."""
    memory_fields = {field.name for field in dataclasses.fields(MemoryConfig)}
    memory = {name: value for name, value in changes.items() if name in memory_fields}
    others = {name: value for name, value in changes.items() if name not in memory_fields}
    return dataclasses.replace(CONFIG, memory=dataclasses.replace(FAM, **memory), **others)


@functools.cache
def params_of(config: TransformerConfig, seed: int = 0) -> Any:
    """Random parameters, norms' scales included; matrices with the variance that keeps activations at 1."""
    generator = np.random.default_rng(seed)

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("scale"):
            return generator.uniform(0.5, 1.5, shape)
        num_inputs = {"kernel": math.prod(shape[1:-1]) if "/out/" in path else shape[-2]}
        if path.endswith(("query/kernel", "key/kernel", "value/kernel")):
            num_inputs["kernel"] = shape[-3]
        return generator.normal(size=shape) * num_inputs.get(path.rsplit("/", 1)[-1], 1) ** -0.5

    flat = {path: jnp.asarray(draw(path, leaf.shape), leaf.dtype) for path, leaf in parameter_shapes(config).items()}
    return unflatten_dict(flat, sep="/")


def random_tokens(batch: int, length: int, seed: int = 1) -> np.ndarray:
    """Random tokens [batch, length]."""
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (batch, length)).astype(np.int32)
