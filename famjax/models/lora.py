"""Adapters of low rank, added to the matrices that they stand beside: a model without them that computes the same."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from famjax.models.lora_config import LoraConfig


def merge_adapters(lora: LoraConfig, params: Mapping[str, Any]) -> Any:
    """Adds (alpha / rank) A B to each adapted matrix, and leaves the adapters out.

    Args:
      lora: the adapters' settings.
      params: parameters with adapters, unboxed, those of the layers stacked on a first axis.

    Returns:
      Parameters of the same model with `TransformerConfig.lora` = None.
    """
    flat = flatten_dict(params, sep="/")
    merged = {path: leaf for path, leaf in flat.items() if not path.endswith(("/lora_a", "/lora_b"))}
    for path, matrix in merged.items():
        if lora.adapts(path):
            place = path.removesuffix("kernel")
            product = _product(flat[f"{place}lora_a"], flat[f"{place}lora_b"], matrix.shape)
            merged[path] = matrix + lora.scale * product
    return unflatten_dict(merged, sep="/")


def _product(a: jax.Array, b: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A B of every layer, in the shape of the stacked matrices; in float32 also where products are faster in less."""
    layers, rank = shape[0], a.shape[-1]
    product = jnp.einsum(
        "Lir,Lro->Lio", a.reshape(layers, -1, rank), b.reshape(layers, rank, -1), precision=jax.lax.Precision.HIGHEST
    )
    return product.reshape(shape)
