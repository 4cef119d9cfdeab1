"""Checkpoints as t5x writes them, in both of its layouts, made with the layouts' own libraries and without t5x."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import serialization
from flax.traverse_util import unflatten_dict

Arrays = Mapping[str, np.ndarray]

VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, MLP = 32, 12, 3, 4, 2, 6, 20


def make_arrays(seed: int = 0, *, tied: bool = True) -> dict[str, np.ndarray]:
    """Random parameters of t5x/examples/decoder_only, layer by layer, with the heads of a kernel in one axis."""
    random = np.random.default_rng(seed)

    def kernel(inputs: int, outputs: int) -> np.ndarray:
        return random.normal(size=(inputs, outputs), scale=inputs**-0.5).astype(np.float32)

    def scale() -> np.ndarray:
        return random.uniform(0.5, 1.5, WIDTH).astype(np.float32)

    arrays = {
        "decoder/token_embedder/embedding": random.normal(size=(VOCAB, WIDTH)).astype(np.float32),
        "decoder/decoder_norm/scale": scale(),
    }
    if not tied:
        arrays["decoder/logits_dense/kernel"] = kernel(WIDTH, VOCAB)
    for layer in range(LAYERS):
        place = f"decoder/layers_{layer}"
        arrays |= {
            f"{place}/pre_self_attention_layer_norm/scale": scale(),
            f"{place}/self_attention/query/kernel": kernel(WIDTH, HEADS * HEAD),
            f"{place}/self_attention/key/kernel": kernel(WIDTH, KV_HEADS * HEAD),
            f"{place}/self_attention/value/kernel": kernel(WIDTH, KV_HEADS * HEAD),
            f"{place}/self_attention/out/kernel": kernel(HEADS * HEAD, WIDTH),
            f"{place}/pre_mlp_layer_norm/scale": scale(),
            f"{place}/mlp/wi_0/kernel": kernel(WIDTH, MLP),
            f"{place}/mlp/wi_1/kernel": kernel(WIDTH, MLP),
            f"{place}/mlp/wo/kernel": kernel(MLP, WIDTH),
        }
    return arrays


def scanned(arrays: Arrays, axis: int = 1) -> dict[str, np.ndarray]:
    """The same with all layers in one array, on an axis, as `scan_layers` makes them."""
    prefix = "decoder/layers_0/"
    together = {name: value for name, value in arrays.items() if "/layers_" not in name}
    for name in arrays:
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            parts = [arrays[f"decoder/layers_{layer}/{rest}"] for layer in range(LAYERS)]
            together[f"decoder/layers/{rest}"] = np.stack(parts, axis)
    return together


def write_legacy(arrays: Arrays, model_dir: pathlib.Path, step: int = 7, *, bucket: bool = False) -> pathlib.Path:
    """A checkpoint in the legacy layout: matrices in zarr folders, vectors in the msgpack file."""
    folder = model_dir / f"checkpoint_{step}"
    folder.mkdir(parents=True)
    target: dict[str, Any] = {}
    for name, value in arrays.items():
        place = f"target.{name.replace('/', '.')}"
        if value.ndim < 2:
            target[name] = value
            continue
        kvstore = {"driver": "file", "path": f"{folder / place}/"}
        # Two chunks along every axis, and compressed, as t5x does it.
        metadata = {"compressor": {"id": "gzip"}, "chunks": [max(1, -(-size // 2)) for size in value.shape]}
        spec = {"driver": "zarr", "kvstore": kvstore, "metadata": metadata}
        ts.open(spec, create=True, dtype=value.dtype.name, shape=value.shape).result().write(value).result()
        kept = {"driver": "gcs", "bucket": "t5x-dummy-bucket"} if bucket else {"driver": "file"}
        target[name] = {"driver": "zarr", "dtype": value.dtype.name, "kvstore": {**kept, "path": place}}
    state = {"step": np.int32(step), "param_states": {"decoder": {}}}
    optimizer = {"target": unflatten_dict(target, sep="/"), "state": state}
    (folder / "checkpoint").write_bytes(serialization.to_bytes({"version": 3, "optimizer": optimizer}))
    return folder


def write_orbax(arrays: Arrays, model_dir: pathlib.Path, step: int = 7) -> pathlib.Path:
    """A checkpoint in the layout that t5x writes with orbax."""
    folder = model_dir / f"checkpoint_{step}"
    folder.mkdir(parents=True)
    state = {"step": np.int32(step), "param_states": {"decoder": {"v": np.zeros(3, np.float32)}}}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True)) as checkpointer:
        item = {"target": unflatten_dict(dict(arrays), sep="/"), "state": state}
        checkpointer.save(folder / "state", args=ocp.args.PyTreeSave(item))
    return folder


def write_mapping(path: pathlib.Path, mapping: Mapping[str, Any], **changes: Any) -> pathlib.Path:
    """A mapping file."""
    path.write_text(json.dumps({**mapping, **changes}))
    return path


def decoder_logits(arrays: Arrays, tokens: np.ndarray, base: float = 10000.0) -> np.ndarray:
    """Logits [T, V] of one text in float64 by t5x's decoder with RoPE in the place of its position biases.

    Written from t5x's names and its formulas: RMS norms, unscaled scores, gelu(wi_0 x) * wi_1 x, tied logits / sqrt(D).
    """
    values = {name: value.astype(np.float64) for name, value in arrays.items()}

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * values[f"decoder/{name}/scale"]

    def rotate(x: np.ndarray) -> np.ndarray:
        angles = np.arange(len(x))[:, None] * base ** (-np.arange(HEAD // 2) / (HEAD // 2))
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = values["decoder/token_embedder/embedding"][tokens]
    causal = np.tril(np.ones((len(tokens), len(tokens)), bool))
    for layer in range(LAYERS):
        place = f"layers_{layer}"
        y = norm(x, f"{place}/pre_self_attention_layer_norm")
        q, k, v = (
            (y @ values[f"decoder/{place}/self_attention/{name}/kernel"]).reshape(len(tokens), -1, HEAD)
            for name in ("query", "key", "value")
        )
        q, k = rotate(q), np.repeat(rotate(k), HEADS // KV_HEADS, axis=1)
        scores = np.where(causal, np.einsum("thd,shd->hts", q, k), -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hts,shd->thd", weights, np.repeat(v, HEADS // KV_HEADS, axis=1))
        x = x + mixed.reshape(len(tokens), -1) @ values[f"decoder/{place}/self_attention/out/kernel"]
        y, mlp = norm(x, f"{place}/pre_mlp_layer_norm"), f"decoder/{place}/mlp"
        hidden = gelu(y @ values[f"{mlp}/wi_0/kernel"]) * (y @ values[f"{mlp}/wi_1/kernel"])
        x = x + hidden @ values[f"{mlp}/wo/kernel"]
    x = norm(x, "decoder_norm")
    if "decoder/logits_dense/kernel" in values:
        return x @ values["decoder/logits_dense/kernel"]
    return x @ values["decoder/token_embedder/embedding"].T / np.sqrt(WIDTH)
