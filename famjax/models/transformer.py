"""The model: a pure function (parameters, tokens, state) -> (activations, state), for every length.

Training, prefill, reading in chunks and decoding one token are this same call.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.traverse_util import flatten_dict

from famjax.models.attention import read_mask
from famjax.models.config import RematPolicy, TransformerConfig
from famjax.models.decoder_layer import (
    INTERMEDIATES,
    CallContext,
    DecoderLayer,
    Diagnostics,
    LayerView,
    by_kind,
    kind_flags,
    make_norm,
)
from famjax.models.dims import Leaf, Lengths, Logits, SavedFam, StackedFam, Tokens
from famjax.models.layers import Embedding, Projection, soft_cap
from famjax.models.layout import make_layout, make_text_layout
from famjax.models.memory import (
    Cache,
    LayerState,
    State,
    Texts,
    advance_counters,
    advance_texts,
    empty_cache,
    fam_rotation,
    initial_fam_rotation,
    layer_rotation,
    piece_offsets,
    token_rotation,
)
from famjax.models.sharding import KEPT_AXIS, Axes, Dropout, all_but_gathered, constrain, gather, mesh_axes

_REMAT_POLICIES = {
    "none": all_but_gathered,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_without_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@struct.dataclass
class Output:
    """What a call returns.

    Attributes:
      hidden: activations after the last norm [B, T, D]; `Transformer.logits` turns them, or some of them, into logits.
        0 at padding.
      state: the state after the call's tokens.
      diagnostics: what FAM did, by layer.
    """

    hidden: Leaf
    state: State
    diagnostics: Diagnostics


@struct.dataclass
class AttentionProbabilities:
    """Where attention went in a call, in every layer and head, float32.

    Attributes:
      tokens: of the tokens in their slots, over [memory segments | FAM | block] [L, B, P, H, S, X]; those of a slot
        without a token mean nothing.
      fam: of the FAM that enters each piece, over [FAM | block] [L, B, P, H, F, F + C]; those of a piece that does not
        end its block mean nothing.
    """

    tokens: Leaf
    fam: Leaf


class Transformer(nn.Module):
    """TransformerFAM, or TransformerBSWA where the memory's `fam_length` is 0 (arXiv 2404.09173)."""

    config: TransformerConfig
    deterministic: bool = True

    def setup(self) -> None:
        """Declares the parts of the model."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        self.embedding = Embedding(config.vocab_size, config.emb_dim, dtype, config.embedding_scale, config.logit_scale)
        if config.memory.fam_length and config.memory.fam_start == "prompt":
            init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("fam", "embed"))
            self.fam_prompt: Any = self.param("fam_prompt", init, (config.memory.fam_length, config.emb_dim))
        self.dropout = Dropout(config.dropout_rate, self.deterministic)
        self.layers = _stacked(config, gathers=not self.is_initializing())(config, self.deterministic)
        self.final_norm = make_norm(config)
        if not config.tie_embeddings:
            shape = (config.emb_dim, config.vocab_size)
            self.output = Projection(shape, ("embed", "vocab"), 1, dtype, result_dtype=jnp.dtype(jnp.float32))

    def __call__(
        self, tokens: Tokens, state: State, lengths: Lengths | None = None, texts: Texts | None = None
    ) -> Output:
        """Reads tokens.

        Args:
          tokens: the next tokens of each row.
          state: what the rows have read so far, from `init_state` or an earlier call.
          lengths: how many of a row's tokens are tokens; the rest, to T, is padding, and leaves no trace
            (`famjax.models.layout.left_align` brings padding from anywhere to the end). None: all.
          texts: which of the call's blocks begin a new text, and where they end; it takes the place of `lengths`. Every
            text is read as if alone: nothing before its first block reaches it.
        """
        config = self.config
        memory = config.memory
        batch, num_tokens = tokens.shape
        if texts is None:
            given = jnp.full((batch,), num_tokens, jnp.int32) if lengths is None else lengths
            layout = make_layout(state.num_tokens, given, num_tokens, memory.block_size, state.aligned)
        else:
            _require_blocks(tokens, state, lengths, texts, memory.block_size)
            layout = make_text_layout(state.num_tokens, texts.begins, texts.lengths, memory.block_size)
        offsets = piece_offsets(state, texts, layout)

        def view(is_local: bool) -> LayerView:
            window = config.local_window if is_local else None
            start = None
            if texts is not None:
                start = initial_fam_rotation(config, texts.start.position_offset, is_local)
            return LayerView(
                token_rotation=token_rotation(config, layout, offsets, is_local),
                fam_rotation=fam_rotation(config, layout, offsets, is_local),
                start_rotation=start,
                mask=read_mask(layout, memory.num_segments, memory.fam_length, window),
            )

        context = CallContext(
            layout=layout,
            fam_is_initial=state.fam_is_initial,
            start_is_initial=texts and texts.start.fam_is_initial,
            view=by_kind(config, view),
        )
        x = self.dropout(self.embedding(layout.scatter_tokens(tokens)))
        x = constrain(x, ("batch", None, None, "activation_embed"))
        start = None if texts is None else texts.start.layers
        x, (layers, diagnostics) = self.layers(x, state.layers, kind_flags(config), start, context)
        hidden = layout.gather_hidden(self.final_norm(x), num_tokens)
        if texts is None:
            new_state = advance_counters(state, layers, layout, num_tokens, padded=lengths is not None)
        else:
            new_state = advance_texts(state, texts, layers, layout)
        return Output(hidden=hidden, state=new_state, diagnostics=diagnostics)

    def init_state(self, batch: int, position_offset: Lengths | None = None, with_cache: bool = True) -> State:
        """Returns the state of `batch` rows that have read nothing, with the initial FAM of each layer.

        Args:
          batch: B.
          position_offset: added to the positions of each row; None: 0.
          with_cache: make room for keys and values. Without it the state is small, and a call on it, whatever its
            length, gives the same results; but a state that a loop carries needs the room from the start.
        """
        state = start_state(self.initial_fam(), batch, position_offset)
        if not with_cache:
            return state
        cache = self._initial_cache(state.layers.fam, state.position_offset)
        return dataclasses.replace(state, layers=LayerState(fam=state.layers.fam, cache=cache))

    def initial_fam(self) -> SavedFam:
        """The FAM that every layer begins a text with [L, F, D], float32."""
        config = self.config
        fam_length = config.memory.fam_length
        fam = jnp.zeros((config.num_layers, fam_length, config.emb_dim), jnp.float32)
        if fam_length:
            positions = jnp.arange(-fam_length, 0)[None]
            rotation = by_kind(config, lambda is_local: layer_rotation(config, positions, is_local))
            prompt = self.fam_prompt if config.memory.fam_start == "prompt" else fam[0]
            _, fam = self.layers.start_fam(prompt[None], kind_flags(config), rotation)
        return fam

    def _initial_cache(self, fam: StackedFam, position_offset: Lengths) -> Cache:
        """Of every layer [L, ...]: no tokens, and the keys and values of the initial FAM."""
        config = self.config
        cache = jax.tree.map(
            lambda array: jnp.broadcast_to(array[None], (config.num_layers, *array.shape)),
            empty_cache(config, fam.shape[1]),
        )
        if not config.memory.fam_length:
            return cache
        rotation = by_kind(config, lambda is_local: initial_fam_rotation(config, position_offset, is_local))
        _, fam_keys = self.layers.cache_fam(None, fam, kind_flags(config), rotation)
        return cache.replace(fam=fam_keys)

    def logits(self, hidden: Any) -> Logits:
        """Turns activations [..., D] into logits [..., V], float32."""
        config = self.config
        if config.tie_embeddings:
            values = self.embedding.attend(hidden)
        else:
            values = self.output(hidden if config.logit_scale is None else hidden * config.logit_scale)
        return soft_cap(values, config.logit_soft_cap)

    def read_from_start(self, tokens: Tokens) -> Logits:
        """Logits of rows read from the initial state."""
        return self.logits(self(tokens, self.init_state(tokens.shape[0])).hidden)

    def use_parameters(self, tokens: Tokens) -> Logits:
        """Takes tokens through every layer with no memory; what initialisation calls.

        flax makes a parameter where it is first used. This uses all of them, with a fifth of the operations to trace.
        """
        config = self.config
        positions = jnp.zeros((1, 1), jnp.int32)
        rotation = by_kind(config, lambda is_local: layer_rotation(config, positions, is_local))
        x, _ = self.layers.read_alone(self.embedding(tokens), kind_flags(config), rotation)
        return self.logits(self.final_norm(x))


def start_state(fam: SavedFam, batch: int, position_offset: Lengths | None = None) -> State:
    """The state of `batch` rows that have read nothing, without a cache, from the FAM that every layer begins with."""
    zeros = jnp.zeros((batch,), jnp.int32)
    return State(
        layers=LayerState(fam=broadcast_fam(fam, batch), cache=None),
        num_tokens=zeros,
        position_offset=zeros if position_offset is None else position_offset,
        fam_is_initial=jnp.ones((batch,), jnp.bool_),
        aligned=True,
    )


def initial_fam(model: Transformer, params: Any) -> SavedFam:
    """`Transformer.initial_fam` with these parameters."""
    fam: Any = model.apply({"params": params}, method="initial_fam")
    return fam


def initial_state(
    model: Transformer,
    params: Any,
    batch: int,
    position_offset: Lengths | None = None,
    *,
    with_cache: bool = True,
) -> State:
    """`Transformer.init_state` with these parameters."""
    state: Any = model.apply({"params": params}, batch, position_offset, with_cache, method="init_state")
    return state


def read(
    model: Transformer,
    params: Any,
    tokens: Tokens,
    state: State,
    lengths: Lengths | None = None,
    *,
    texts: Texts | None = None,
    dropout_key: jax.Array | None = None,
) -> Output:
    """`Transformer.__call__` with these parameters; a model that is not deterministic needs the key."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    output: Any = model.apply({"params": params}, tokens, state, lengths, texts, rngs=rngs)
    return output


def read_with_attention(
    model: Transformer, params: Any, tokens: Tokens, state: State, lengths: Lengths | None = None
) -> tuple[Output, AttentionProbabilities]:
    """`read`, with the probabilities that it used; they take memory by layers, heads and keys."""
    output: Any
    output, seen = model.apply({"params": params}, tokens, state, lengths, mutable=[INTERMEDIATES])
    kept: Any = seen[INTERMEDIATES]["layers"]

    def by_head(name: str) -> jax.Array:
        (probabilities,) = kept[name]
        *before, kv_heads, group, queries, keys = probabilities.shape
        return probabilities.reshape(*before, kv_heads * group, queries, keys)

    return output, AttentionProbabilities(tokens=by_head("token_attention"), fam=by_head("fam_attention"))


def logits(model: Transformer, params: Any, hidden: Any) -> Logits:
    """`Transformer.logits` with these parameters."""
    values: Any = model.apply({"params": params}, hidden, method="logits")
    return values


def broadcast_fam(fam: SavedFam, batch: int) -> StackedFam:
    """Gives every row of a batch the same FAM: [L, F, D] to [L, B, F, D]."""
    num_layers, fam_length, width = fam.shape
    return jnp.broadcast_to(fam[:, None], (num_layers, batch, fam_length, width))


def init_params(model: Transformer, key: jax.Array) -> Any:
    """Returns initial parameters, each in a box with its logical axis names."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return model.init(key, tokens, method=Transformer.use_parameters)["params"]


def parameter_shapes(config: TransformerConfig) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of every parameter by its path ("layers/mlp/up/kernel"), without making any."""
    key = jax.eval_shape(jax.random.key, 0)  # A key itself would be made by a device.
    shapes = jax.eval_shape(lambda key: nn.meta.unbox(init_params(Transformer(config), key)), key)
    return flatten_dict(shapes, sep="/")


@functools.lru_cache(maxsize=32)
def parameter_axes(config: TransformerConfig) -> Mapping[str, Axes]:
    """Logical axis names of every parameter by its path."""
    model = Transformer(config, parent=None)  # A layer may ask, which is not to become its parent.
    boxed = jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
    return {path: tuple(box.names) for path, box in flatten_dict(boxed, sep="/").items()}


def gather_outside_layers(config: TransformerConfig, params: Any) -> Any:
    """Makes the parameters whole that no layer has (`famjax.models.sharding.gather`); a layer's are, one by one."""
    outside = {name: tree for name, tree in params.items() if name != "layers"}
    return {**params, **gather(outside, parameter_axes(config))}


def _require_blocks(tokens: Tokens, state: State, lengths: Lengths | None, texts: Texts, block_size: int) -> None:
    """ValueError where a call with texts is not one of whole blocks."""
    blocks = texts.begins.shape[1]
    if lengths is not None or not state.aligned or tokens.shape[1] != blocks * block_size:
        raise ValueError(
            f"texts of {blocks} blocks of {block_size} need as many tokens a row (not {tokens.shape[1]}), rows at the "
            "start of a block, and no lengths besides"
        )


def _stacked(config: TransformerConfig, gathers: bool) -> Any:
    """The decoder layer, rematerialised as configured, scanned over layers: compile time does not grow with depth.

    Where parameters are cut over devices, a layer's are gathered when it is called, and again in the backward pass.
    """
    layer: Any = DecoderLayer
    policy: RematPolicy = config.remat_policy
    gathers = gathers and bool(mesh_axes(KEPT_AXIS))
    if gathers:
        layer = nn.map_variables(layer, "params", functools.partial(_gather_layer, config), methods=["__call__"])
    if gathers or policy != "none":
        layer = nn.remat(layer, policy=_REMAT_POLICIES[policy], prevent_cse=False, methods=["__call__"])
    over_layers = {
        "variable_axes": {"params": 0, INTERMEDIATES: 0},
        "split_rngs": {"params": True, "dropout": True},
        "length": config.num_layers,
        "metadata_params": {nn.PARTITION_NAME: "layers"},
    }
    methods = {
        "__call__": {"in_axes": (0, 0, 0, nn.broadcast), **over_layers},
        "start_fam": {"in_axes": (0, nn.broadcast), **over_layers},
        "read_alone": {"in_axes": (0, nn.broadcast), **over_layers},
        "cache_fam": {"in_axes": (0, 0, nn.broadcast), **over_layers},
    }
    return nn.scan(layer, methods=methods)


def _gather_layer(config: TransformerConfig, variables: Mapping[str, Any]) -> Any:
    """The variables of a layer, its parameters whole."""
    prefix = "layers/"
    axes = {path.removeprefix(prefix): names[1:] for path, names in parameter_axes(config).items() if prefix in path}
    return {**variables, "params": gather(variables["params"], axes)}
