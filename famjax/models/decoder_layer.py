"""A decoder layer with working memory: the recurrence in four functions - project, write, read, feed_forward.

With F_p the FAM that enters piece p's block, and k_p, v_p the keys and values of that block:

    q, k, v   = project(norm(X))                                     all pieces at once
    F_{p+1}   = feed_forward(attend(q(F_p), [k(F_p) | k_p]) + F_p)   write: a scan over pieces, F rows wide
    A_p       = attend(q_p, [segments_p | k(F_p) | k_p]) + X_p       read: mapped over pieces
    O         = feed_forward(A)                                      all pieces at once

F_{p+1} depends on the block's keys and values and not on the tokens' attention outputs, so this order equals the
paper's Algorithm 1 exactly (spec: Order of computation). FAM uses the weights of the tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float

from famjax.models.attention import Probabilities, attend, attention_probabilities, weigh_values
from famjax.models.config import TransformerConfig
from famjax.models.dims import Fam, Flags, Leaf, PieceHidden, PieceQueries
from famjax.models.layers import GatedMLP, Projection, RMSNorm
from famjax.models.layout import Layout
from famjax.models.memory import KeyValues, LayerState, advance_cache, fill_blocks, segment_windows
from famjax.models.rope import Rotation, rotate
from famjax.models.sharding import Dropout, Fanned, constrain, fan_out

# Flax's collection of what a caller wants to see besides (`famjax.models.transformer.read_with_attention`). Where it is
# not mutable, as in training and in inference, the program has no trace of it.
INTERMEDIATES = "intermediates"


@struct.dataclass
class CallContext:
    """What is the same for every layer of a call; or, of a model with layers of both kinds, for those of each kind.

    Attributes:
      layout: where the tokens lie.
      fam_is_initial: rows whose FAM carries no context at the start of the call [B].
      start_is_initial: rows in which the FAM that a text begins with carries no context [B]; None where no text begins
        in the call.
      view: what the layers look at; `LayerView` or, of both kinds, `ByKind` of it.
    """

    layout: Layout
    fam_is_initial: Leaf
    start_is_initial: Leaf | None
    view: Any


@struct.dataclass
class LayerView:
    """What tokens and FAM look at, and where they stand, in layers of one kind.

    Attributes:
      token_rotation: RoPE of the tokens [B, P, S].
      fam_rotation: RoPE of the FAM that enters each piece, and of the one that leaves the last [B, P + 1, F].
      start_rotation: RoPE of the FAM that enters a text's first block [B, F]; None where no text begins in the call.
      mask: which of [segments | FAM | block] a token looks at [B, P, S, X].
    """

    token_rotation: Rotation
    fam_rotation: Rotation
    start_rotation: Rotation | None
    mask: Leaf


@struct.dataclass
class ByKind:
    """What global and local layers have each their own of: two trees of one structure, made by `by_kind`."""

    of_global: Any
    of_local: Any


def by_kind(config: TransformerConfig, make: Callable[[bool], Any]) -> Any:
    """What the layers need: made once where all are of one kind, otherwise a `ByKind`.

    Args:
      config: the model.
      make: takes whether it is for local layers.
    """
    kinds = set(config.local_layers)
    return make(kinds.pop()) if len(kinds) == 1 else ByKind(of_global=make(False), of_local=make(True))


def kind_flags(config: TransformerConfig) -> Bool[Array, " L"] | None:
    """Whether each layer is local: what the scan over layers gives to each; None where all are of one kind."""
    return None if len(set(config.local_layers)) == 1 else jnp.asarray(config.local_layers)


def _chosen(made: Any, is_local: Bool[Array, ""] | None) -> Any:
    """A layer's own part of what `by_kind` made."""
    if is_local is None:
        return made
    return jax.tree.map(lambda shared, local: jnp.where(is_local, local, shared), made.of_global, made.of_local)


@struct.dataclass
class Average:
    """A mean that can still be summed with others: over microbatches, say.

    Attributes:
      total: of the values, float32.
      count: of them.
    """

    total: Leaf
    count: Leaf

    @property
    def mean(self) -> Float[Array, "..."]:
        """0 where nothing was counted."""
        return self.total / jnp.maximum(self.count, 1)


@struct.dataclass
class Diagnostics:
    """What FAM does, in a layer; in `Output`, stacked over layers.

    Attributes:
      fam_norm: root mean square of the FAM that a block writes, over rows and blocks.
      fam_update: mean square of its change over that of itself, the first update of a text (which has no residual) left
        out.
      fam_departure: mean square of its difference from what the text's first update wrote (or, later in a text, from
        what it was at the start of the call) over that of itself: 0 of a memory that only keeps. No gradient flows
        through what it is compared with in size: a loss on it makes the difference smaller, not FAM larger.
      fam_attention: share of the tokens' attention that goes to FAM, over tokens and heads.
    """

    fam_norm: Average
    fam_update: Average
    fam_departure: Average
    fam_attention: Average


@struct.dataclass
class Written:
    """The write path's results.

    Attributes:
      entering: keys and values of the FAM that enters each piece [B, P, F, K, h].
      fam: what is left at the end [B, F, D].
      fam_keys: its keys and values [B, F, K, h].
      norm: see `Diagnostics.fam_norm`.
      update: see `Diagnostics.fam_update`.
      departure: see `Diagnostics.fam_departure`.
    """

    entering: KeyValues
    fam: Leaf
    fam_keys: KeyValues
    norm: Average
    update: Average
    departure: Average


# FAM, its keys and values, the FAM that its departure is measured from, and the rows where it carries no context.
FamCarry = tuple[Fam, KeyValues, Fam, Flags]


def make_norm(config: TransformerConfig, axis: str = "embed") -> RMSNorm:
    """A norm of the model, over the dimension with this logical axis."""
    return RMSNorm(config.norm_epsilon, jnp.dtype(config.dtype), config.unit_offset_norms, axis)


class Attention(nn.Module):
    """The four projections of attention; RoPE on queries and keys."""

    config: TransformerConfig

    def setup(self) -> None:
        """Declares the projections."""
        config = self.config
        dtype, has_bias = jnp.dtype(config.dtype), config.attention_bias
        width, head_dim = config.emb_dim, config.head_dim
        query_shape = (width, config.num_heads, head_dim)
        key_shape = (width, config.num_kv_heads, head_dim)
        query_axes, key_axes = ("embed", "heads", "head_dim"), ("embed", "kv_heads", "head_dim")
        self.query = Projection(query_shape, query_axes, 1, dtype, use_bias=has_bias, lora=config.lora)
        self.key = Projection(key_shape, key_axes, 1, dtype, use_bias=has_bias, lora=config.lora)
        self.value = Projection(key_shape, key_axes, 1, dtype, use_bias=has_bias, lora=config.lora)
        self.out = Projection(
            (config.num_heads, head_dim, width),
            ("heads", "head_dim", "embed"),
            2,
            dtype,
            config.residual_init_scale,
            use_bias=config.attention_out_bias,
            lora=config.lora,
        )
        if config.query_key_norm:
            self.query_norm = make_norm(config, "head_dim")
            self.key_norm = make_norm(config, "head_dim")

    def queries(self, x: Float[Array, "... D"] | Fanned, rotation: Rotation) -> Float[Array, "... H h"]:
        """Queries, normed where the model has it, then rotated."""
        queries = self._by_head(self.query(x), "heads")
        return rotate(self.query_norm(queries) if self.config.query_key_norm else queries, rotation)

    def key_values(self, x: Float[Array, "... D"] | Fanned, rotation: Rotation) -> KeyValues:
        """Keys, normed where the model has it, then rotated, and values [..., K, h]."""
        keys = self._by_head(self.key(x), "kv_heads")
        keys = rotate(self.key_norm(keys) if self.config.query_key_norm else keys, rotation)
        return KeyValues(keys=keys, values=self._by_head(self.value(x), "kv_heads"))

    def _by_head(self, x: Float[Array, "... K h"], heads: str) -> Float[Array, "... K h"]:
        """Rows over the devices of the batch, heads over those of their axis."""
        return constrain(x, ("batch", *[None] * (x.ndim - 3), heads, None))


class DecoderLayer(nn.Module):
    """One layer. Called with (x, state, kind, a text's first state, context), it returns (x, (new state, diagnostics)).

    `is_local`, here and in its methods: the layer's entry of `kind_flags`.
    """

    config: TransformerConfig
    deterministic: bool

    def setup(self) -> None:
        """Declares the parts of the layer."""
        config = self.config
        dtype = jnp.dtype(config.dtype)
        memory = config.memory
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = GatedMLP(
            config.emb_dim,
            config.mlp_dim,
            config.mlp_activation,
            dtype,
            out_init_scale=config.residual_init_scale,
            use_bias=config.mlp_bias,
            lora=config.lora,
        )
        if config.post_norms:
            self.attention_post_norm = make_norm(config)
            self.mlp_post_norm = make_norm(config)
        self.dropout = Dropout(config.dropout_rate, self.deterministic)
        if memory.fam_length and memory.fam_start == "prefix":
            init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("fam", "embed"))
            self.fam_prefix: Any = self.param("fam_prefix", init, (memory.fam_length, config.emb_dim))

    def __call__(
        self, x: PieceHidden, state: LayerState, is_local: Leaf, start: LayerState | None, context: CallContext
    ) -> tuple[PieceHidden, tuple[LayerState, Diagnostics]]:
        """Reads the tokens and writes the memory; `start` is what a text begins with, None where none begins."""
        memory, layout = self.config.memory, context.layout
        context = dataclasses.replace(context, view=_chosen(context.view, is_local))
        normed = fan_out(self.attention_norm(x), "heads")
        queries = self.attention.queries(normed, context.view.token_rotation)
        of_tokens = self.attention.key_values(normed, context.view.token_rotation)
        unfinished = (state.cache and state.cache.block) or KeyValues(None, None)
        blocks = KeyValues(
            keys=fill_blocks(of_tokens.keys, unfinished.keys, layout),
            values=fill_blocks(of_tokens.values, unfinished.values, layout),
        )
        written = self.write(blocks, state, start, context)
        segments = self._segments(blocks, state)
        attended, fam_attention = self.read(queries, segments, written.entering, blocks, context)
        x = x + self.dropout(self.attention_branch(attended))
        x = self.feed_forward(x)
        cache = advance_cache(blocks, written.fam_keys, state.cache, layout, memory)
        new_state = LayerState(fam=written.fam, cache=cache)
        return x, (new_state, Diagnostics(written.norm, written.update, written.departure, fam_attention))

    def start_fam(self, prompt: Float[Array, "1 F D"], is_local: Leaf, rotation: Any) -> tuple[Array, Array]:
        """Carries the FAM prompt through the layer, where it attends, fully, to itself only (spec: The first block).

        There is no dropout on the way: the initial FAM is the same in training and in inference.

        Args:
          prompt: what the layer before made of the prompt.
          is_local: the layer's kind.
          rotation: of the prompt's positions, as `by_kind` makes it.

        Returns:
          The prompt for the next layer, and this layer's initial FAM [F, D] in float32.
        """
        if self.config.memory.fam_start == "prefix":
            return prompt, self.fam_prefix
        return self.read_alone(prompt, is_local, rotation)[0], prompt[0].astype(jnp.float32)

    def read_alone(self, x: Float[Array, "B S D"], is_local: Leaf, rotation: Any) -> tuple[Array, None]:
        """Lets activations attend, fully, to themselves only, without memory and without dropout.

        Args:
          x: of the layer before.
          is_local: the layer's kind.
          rotation: of their positions, as `by_kind` makes it.

        Returns:
          The activations for the next layer, in the form that a scan over layers takes.
        """
        normed, rotation = fan_out(self.attention_norm(x), "heads"), _chosen(rotation, is_local)
        queries, own = self.attention.queries(normed, rotation), self.attention.key_values(normed, rotation)
        scale, cap = self.config.query_scale, self.config.attention_soft_cap
        attended = attend(queries, own.keys, own.values, scale=scale, score_cap=cap)
        x = x + self.attention_branch(attended)
        return x + self.mlp_branch(x), None

    def fam_keys(self, fam: Fam, rotation: Rotation) -> KeyValues:
        """Keys and values of a FAM at the positions of the block that it enters [B, F, K, h]."""
        return self.attention.key_values(fan_out(self.attention_norm(fam), "heads"), rotation)

    def cache_fam(self, carry: None, fam: Fam, is_local: Leaf, rotation: Any) -> tuple[None, KeyValues]:
        """`fam_keys`, in the form that a scan over layers takes; `rotation` as `by_kind` makes it."""
        return carry, self.fam_keys(fam, _chosen(rotation, is_local))

    def write(self, blocks: KeyValues, state: LayerState, start: LayerState | None, context: CallContext) -> Written:
        """Updates FAM block by block: a scan over pieces (spec: The layer, step 3).

        FAM's queries see FAM and every key of the block, and only a full block is written, so there is nothing to mask.
        A call shorter than a block completes none, mostly: where no row does, nothing is computed. Where a text begins,
        FAM is that of its start again.
        """
        layout, rotations = context.layout, context.view.fam_rotation
        # (Variables are made where they are first used, which must not be within a condition.)
        makes_variables = self.is_initializing() or self.is_mutable_collection(INTERMEDIATES)
        update_always = layout.occupied.shape[2] == layout.block_size or makes_variables

        def step(layer: "DecoderLayer", carry: FamCarry, piece: Any, new_text: FamCarry | None) -> tuple[Any, Any]:
            block, rotation, next_rotation, full, begins = piece
            fam, own, first_fam, is_initial = carry if new_text is None else _choose(begins, new_text, carry)
            if layer.config.memory.stop_gradient:
                # The initial FAM is the prompt's: it is trained in the ablation too.
                fam = jnp.where(is_initial[:, None, None], fam, jax.lax.stop_gradient(fam))

            def update(layer: "DecoderLayer") -> tuple[Fam, KeyValues]:
                # The first update has no residual: the initial FAM carries no context.
                residual = jnp.where(is_initial[:, None, None], 0.0, fam)
                updated = layer.update_fam(fam, own, block, residual, rotation)
                detach = jax.lax.stop_gradient if layer.config.memory.stop_gradient else (lambda array: array)
                next_own = layer.fam_keys(detach(updated), next_rotation)
                next_own = jax.tree.map(lambda new, old: jnp.where(full[:, None, None, None], new, old), next_own, own)
                return jnp.where(full[:, None, None], updated, fam), next_own

            if update_always:
                new_fam, new_own = update(layer)
            else:
                new_fam, new_own = nn.cond(jnp.any(full), update, lambda _: (fam, own), layer)
            new_first_fam = jnp.where((full & is_initial)[:, None, None], new_fam, first_fam)
            sizes = (*_sizes(new_fam, fam, new_first_fam), full & ~is_initial)
            return (new_fam, new_own, new_first_fam, is_initial & ~full), (own, sizes)

        scan = nn.scan(
            step,
            variable_broadcast="params",
            variable_axes={INTERMEDIATES: 1},
            split_rngs={"params": False, "dropout": True},
            in_axes=(1, nn.broadcast),
            out_axes=1,
        )
        fam = state.fam
        entering_at = jax.tree.map(lambda table: table[:, :-1], rotations)
        leaving_at = jax.tree.map(lambda table: table[:, 1:], rotations)
        own = (state.cache and state.cache.fam) or self.fam_keys(fam, _first(rotations))
        carry = (fam, own, fam, context.fam_is_initial)
        new_text: FamCarry | None = None
        if start is not None and context.start_is_initial is not None:
            own_start = self.fam_keys(start.fam, context.view.start_rotation)
            new_text = (start.fam, own_start, start.fam, context.start_is_initial)
        pieces = (blocks, entering_at, leaving_at, layout.full, layout.begins)
        (fam, own, _, _), (entering, sizes) = scan(self, carry, pieces, new_text)
        square, change, departure, is_later = sizes
        return Written(
            entering=entering,
            fam=fam,
            fam_keys=own,
            norm=_average(jnp.sqrt(square), layout.full),
            update=_average(change, is_later),
            departure=_average(departure, is_later),
        )

    def update_fam(self, fam: Fam, own: KeyValues, block: KeyValues, residual: Fam, rotation: Rotation) -> Fam:
        """What FAM becomes at the end of a block: FAM looks at itself and at the block."""
        queries = self.attention.queries(self.attention_norm(fam), rotation)
        keys = jnp.concatenate([own.keys, block.keys], axis=1)
        values = jnp.concatenate([own.values, block.values], axis=1)
        probabilities = _probabilities(self.config, queries, keys, None)
        self.sow(INTERMEDIATES, "fam_attention", probabilities)
        update = self.dropout(self.attention_branch(weigh_values(probabilities, values)))
        return self.feed_forward(residual + update)

    def read(
        self, queries: PieceQueries, segments: KeyValues, fam: KeyValues, blocks: KeyValues, context: CallContext
    ) -> tuple[PieceQueries, Average]:
        """Lets the tokens look at [segments | FAM | block] (spec: The layer, step 2).

        It is mapped over pieces, and each is computed again in the backward pass, which bounds memory.

        Returns:
          The attended values, and the share of attention that went to FAM.
        """
        fam_begin = segments.keys.shape[2]
        fam_end = fam_begin + fam.keys.shape[2]
        is_watched = self.is_mutable_collection(INTERMEDIATES)

        def read_piece(piece: Any) -> tuple[Array, Array, Array | None]:
            q, sources, mask, occupied = piece
            keys = jnp.concatenate([source.keys for source in sources], axis=1)
            values = jnp.concatenate([source.values for source in sources], axis=1)
            probabilities = _probabilities(self.config, q, keys, mask)
            share = jnp.sum(probabilities[..., fam_begin:fam_end], axis=-1)
            share = jnp.sum(jnp.where(occupied[:, None, None, :], share, 0)) / self.config.num_heads
            return weigh_values(probabilities, values), share, probabilities if is_watched else None

        layout = context.layout
        pieces = (queries, (segments, fam, blocks), context.view.mask, layout.occupied)
        by_piece = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), pieces)
        attended, share, probabilities = jax.lax.map(jax.checkpoint(read_piece), by_piece)
        if is_watched:
            self.sow(INTERMEDIATES, "token_attention", jnp.moveaxis(probabilities, 0, 1))
        return jnp.moveaxis(attended, 0, 1), Average(jnp.sum(share), jnp.sum(layout.occupied, dtype=jnp.float32))

    def feed_forward(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """The gated MLP with its norms and its residual."""
        return x + self.dropout(self.mlp_branch(x))

    def attention_branch(self, attended: Float[Array, "... H h"]) -> Float[Array, "... D"]:
        """What attention adds to the residual stream, of what the heads mixed."""
        update = self._of_stream(self.attention.out(attended))
        return self.attention_post_norm(update) if self.config.post_norms else update

    def mlp_branch(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """What the MLP adds to the residual stream."""
        update = self._of_stream(self.mlp(self.mlp_norm(x)))
        return self.mlp_post_norm(update) if self.config.post_norms else update

    def _of_stream(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Rows over the devices of the batch, the width of the residual stream whole."""
        return constrain(x, ("batch", *[None] * (x.ndim - 2), "activation_embed"))

    def _segments(self, blocks: KeyValues, state: LayerState) -> KeyValues:
        memory = self.config.memory
        past = KeyValues(None, None) if state.cache is None else state.cache.segments
        segments = KeyValues(
            keys=segment_windows(blocks.keys, past.keys, memory.num_segments),
            values=segment_windows(blocks.values, past.values, memory.num_segments),
        )
        return jax.lax.stop_gradient(segments) if memory.stop_gradient else segments


def _probabilities(
    config: TransformerConfig,
    queries: Float[Array, "B S H h"],
    keys: Float[Array, "B X K h"],
    mask: Bool[Array, "B S X"] | None,
) -> Probabilities:
    """Attention with the model's scale and soft cap."""
    return attention_probabilities(queries, keys, mask, config.query_scale, config.attention_soft_cap)


def _choose(flags: Flags, chosen: FamCarry, other: FamCarry) -> FamCarry:
    """Row by row, one or the other."""

    def choose(left: Array, right: Array) -> Array:
        return jnp.where(flags.reshape(-1, *[1] * (left.ndim - 1)), left, right)

    return jax.tree.map(choose, chosen, other)


def _first(rotations: Rotation) -> Rotation:
    """The rotation of the FAM that enters the first piece [B, F]."""
    return jax.tree.map(lambda table: table[:, 0], rotations)


def _average(values: Float[Array, "B P"], counted: Bool[Array, "B P"]) -> Average:
    return Average(jnp.sum(jnp.where(counted, values, 0)), jnp.sum(counted, dtype=jnp.float32))


def _sizes(new_fam: Fam, fam: Fam, first_fam: Fam) -> tuple[Array, Array, Array]:
    """Mean square of a FAM, of its change and of its departure over that; see `Diagnostics`."""
    square = jax.lax.stop_gradient(jnp.maximum(_mean_square(new_fam), 1e-30))
    return square, _mean_square(new_fam - fam) / square, _mean_square(new_fam - first_fam) / square


def _mean_square(fam: Fam) -> Float[Array, " B"]:
    """Mean square of a FAM; 1 where it has no rows."""
    return jnp.sum(jnp.square(fam), axis=(1, 2)) / max(fam.shape[1] * fam.shape[2], 1)
