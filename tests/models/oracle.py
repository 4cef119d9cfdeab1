"""The model once more, naively: numpy, float64, one example, Python loops over layers, blocks and positions.

Written from the specification and not from famjax.models, which it is the measure of. It shares no code with it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from famjax.models.config import TransformerConfig


def layer_params(params: Any, layer: int) -> Any:
    """Cuts one layer out of the stacked parameters."""
    return {
        name: layer_params(value, layer) if isinstance(value, dict) else np.asarray(value[layer], np.float64)
        for name, value in params.items()
    }


def layers_of(config: TransformerConfig, params: Any) -> list[Any]:
    """Every layer's parameters, and what is its own among the settings."""
    layers = []
    for index in range(config.num_layers):
        is_local = config.layer_pattern[index % len(config.layer_pattern)] == "local"
        layers.append({**layer_params(params["layers"], index), "is_local": is_local})
    return layers


def norm(config: TransformerConfig, scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    """RMSNorm of one vector."""
    return x / math.sqrt(np.mean(x * x) + config.norm_epsilon) * (1 + scale if config.unit_offset_norms else scale)


def affine(projection: Any, x: np.ndarray) -> np.ndarray:
    """The kernel's product with one vector, and the bias where there is one."""
    return np.tensordot(x, projection["kernel"], axes=x.ndim) + projection.get("bias", 0)


def branch(config: TransformerConfig, layer: Any, name: str, update: np.ndarray) -> np.ndarray:
    """What attention or the MLP adds to the residual stream."""
    return norm(config, layer[f"{name}_post_norm"]["scale"], update) if config.post_norms else update


def capped(values: np.ndarray, cap: float | None) -> np.ndarray:
    """A soft cap."""
    return values if cap is None else cap * np.tanh(values / cap)


def feed_forward(config: TransformerConfig, layer: Any, x: np.ndarray) -> np.ndarray:
    """The gated MLP of one vector, with its norms and its residual."""
    normed, mlp = norm(config, layer["mlp_norm"]["scale"], x), layer["mlp"]
    gate = affine(mlp["gate"], normed)
    if config.mlp_activation == "silu":
        gate = gate / (1 + np.exp(-gate))
    else:
        gate = 0.5 * gate * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return x + branch(config, layer, "mlp", affine(mlp["down"], gate * affine(mlp["up"], normed)))


def frequency(config: TransformerConfig, is_local: bool, pair: int) -> float:
    """Radians from one position to the next."""
    if is_local and config.local_rope_base is not None:
        return config.local_rope_base ** (-2 * pair / config.head_dim)
    plain, scaling = config.rope_base ** (-2 * pair / config.head_dim), config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    wavelength = 2 * math.pi / plain
    if wavelength > scaling.original_length / scaling.low_frequency_factor:
        return plain / scaling.factor
    if wavelength < scaling.original_length / scaling.high_frequency_factor:
        return plain
    smooth = (scaling.original_length / wavelength - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    return (1 - smooth) * plain / scaling.factor + smooth * plain


def turn(config: TransformerConfig, is_local: bool, heads: np.ndarray, position: float) -> np.ndarray:
    """RoPE of one position's heads."""
    half = config.head_dim // 2
    turned = np.empty_like(heads)
    for i in range(half):
        angle = position * frequency(config, is_local, i)
        first, second = heads[:, i], heads[:, i + half]
        turned[:, i] = first * math.cos(angle) - second * math.sin(angle)
        turned[:, i + half] = second * math.cos(angle) + first * math.sin(angle)
    return turned


def project(config: TransformerConfig, layer: Any, x: np.ndarray, position: float) -> tuple[np.ndarray, ...]:
    """Query, key and value of one vector at one position."""
    normed, attention = norm(config, layer["attention_norm"]["scale"], x), layer["attention"]
    query, key, value = (affine(attention[name], normed) for name in ("query", "key", "value"))
    if config.query_key_norm:
        query = np.array([norm(config, attention["query_norm"]["scale"], head) for head in query])
        key = np.array([norm(config, attention["key_norm"]["scale"], head) for head in key])
    is_local = layer["is_local"]
    return turn(config, is_local, query, position), turn(config, is_local, key, position), value


def attend(
    config: TransformerConfig, layer: Any, query: np.ndarray, seen: Sequence[tuple[np.ndarray, ...]]
) -> np.ndarray:
    """What attention adds to the residual stream of one query, of the keys and values that it sees."""
    scale = 1 / math.sqrt(config.head_dim) if config.query_scale is None else config.query_scale
    group = config.num_heads // config.num_kv_heads
    mixed = np.zeros((config.num_heads, config.head_dim))
    for head in range(config.num_heads):
        scores = np.array([query[head] @ key[head // group] for key, _ in seen]) * scale
        scores = capped(scores, config.attention_soft_cap)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        for weight, (_, value) in zip(weights, seen, strict=True):
            mixed[head] += weight * value[head // group]
    return branch(config, layer, "attention", affine(layer["attention"]["out"], mixed))


def fam_positions(config: TransformerConfig, block: int, offset: int) -> list[float]:
    """Positions of the FAM that enters a block."""
    memory = config.memory
    rows, begin = memory.fam_length, block * memory.block_size + offset
    if memory.fam_position == "block_end":
        return [begin - rows + i for i in range(rows)]
    if memory.fam_position == "between_blocks":
        return [begin - 1 + i / (rows + 1) for i in range(1, rows + 1)]
    return [0.0] * rows


def initial_fam(config: TransformerConfig, params: Any) -> list[np.ndarray]:
    """The prompt carried up the stack, attending to itself only."""
    layers = layers_of(config, params)
    if config.memory.fam_start == "prefix":
        return [layer["fam_prefix"] for layer in layers]
    activations = [np.asarray(row, np.float64) for row in params["fam_prompt"]]
    initial = []
    for layer in layers:
        initial.append(np.array(activations))
        projected = [project(config, layer, row, i - config.memory.fam_length) for i, row in enumerate(activations)]
        seen = [(key, value) for _, key, value in projected]
        attended = [
            row + attend(config, layer, query, seen) for row, (query, _, _) in zip(activations, projected, strict=True)
        ]
        activations = [feed_forward(config, layer, row) for row in attended]
    return initial


def read_block(
    config: TransformerConfig, layer: Any, fam: np.ndarray, initial: bool, block: int, offset: int, past: Any, x: Any
) -> tuple[list[np.ndarray], np.ndarray, Any]:
    """One layer, one block (maybe unfinished): returns its outputs, the next FAM and the block's keys and values."""
    memory = config.memory
    positions = fam_positions(config, block, offset)
    projected_fam = [project(config, layer, row, position) for row, position in zip(fam, positions, strict=True)]
    own_fam = [(key, value) for _, key, value in projected_fam]
    window = past[max(len(past) - memory.num_segments * memory.block_size, 0) :]
    outputs, own = [], []
    for slot, token in enumerate(x):
        query, key, value = project(config, layer, token, block * memory.block_size + slot + offset)
        own.append((key, value))
        seen = window + own
        if layer["is_local"]:
            assert config.local_window is not None
            seen = seen[-config.local_window :]
        attended = token + attend(config, layer, query, own_fam + seen)
        outputs.append(feed_forward(config, layer, attended))
    next_fam = fam
    if len(x) == memory.block_size and memory.fam_length:
        rows = []
        for row, (query, _, _) in zip(fam, projected_fam, strict=True):
            residual = np.zeros_like(row) if initial else row
            rows.append(feed_forward(config, layer, residual + attend(config, layer, query, own_fam + own)))
        next_fam = np.array(rows)
    return outputs, next_fam, own


def read(
    config: TransformerConfig, params: Any, tokens: Any, offset: int = 0, fam: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one text from the start.

    Args:
      config: the model.
      params: its parameters.
      tokens: [T].
      offset: of the positions.
      fam: [L, F, D] restored from an earlier state (not initial: its residual is used); None starts from the prompt.

    Returns:
      Logits [T, V] and the final FAM [L, F, D].
    """
    memory = config.memory
    layers = layers_of(config, params)
    table = np.asarray(params["embedding"]["table"], np.float64)
    is_initial = fam is None
    if memory.fam_length:
        fams = [np.array(row) for row in (initial_fam(config, params) if is_initial else np.asarray(fam, np.float64))]
    else:
        fams = [np.zeros((0, config.emb_dim))] * config.num_layers
    pasts: list[Any] = [[] for _ in layers]
    logits = []
    for block in range(-(-len(tokens) // memory.block_size)):
        x = [
            table[t] * config.embedding_scale
            for t in tokens[block * memory.block_size : (block + 1) * memory.block_size]
        ]
        for index, layer in enumerate(layers):
            x, fams[index], own = read_block(
                config, layer, fams[index], is_initial and block == 0, block, offset, pasts[index], x
            )
            pasts[index] = pasts[index] + own
        for row in x:
            normed = norm(config, np.asarray(params["final_norm"]["scale"], np.float64), row)
            if config.tie_embeddings:
                scale = 1 / math.sqrt(config.emb_dim) if config.logit_scale is None else config.logit_scale
                values = table @ normed * scale
            else:
                scale = 1 if config.logit_scale is None else config.logit_scale
                values = normed @ np.asarray(params["output"]["kernel"], np.float64) * scale
            logits.append(capped(values, config.logit_soft_cap))
    return np.array(logits), np.array(fams)


def banded_attention(config: TransformerConfig, params: Any, tokens: Any) -> np.ndarray:
    """TransformerBSWA in the plainest way: one causal T x T mask, banded by blocks. Returns logits [T, V]."""
    memory = config.memory
    layers = layers_of(config, params)
    table = np.asarray(params["embedding"]["table"], np.float64)
    block = np.arange(len(tokens)) // memory.block_size
    position = np.arange(len(tokens))
    mask = (position[None, :] <= position[:, None]) & (block[None, :] >= block[:, None] - memory.num_segments)
    x = [table[t] for t in tokens]
    for layer in layers:
        projected = [project(config, layer, row, i) for i, row in enumerate(x)]
        attended = []
        for i, row in enumerate(x):
            seen = [(key, value) for j, (_, key, value) in enumerate(projected) if mask[i, j]]
            attended.append(row + attend(config, layer, projected[i][0], seen))
        x = [feed_forward(config, layer, row) for row in attended]
    scale = np.asarray(params["final_norm"]["scale"], np.float64)
    return np.array([table @ norm(config, scale, row) / math.sqrt(config.emb_dim) for row in x])
