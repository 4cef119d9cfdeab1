"""The recurrent state, and how blocks of keys and values pass through it. No parameters live here.

State of a layer after any number of tokens (spec: State): the feedback memory F_prev that enters the unfinished block,
the keys and values of the M blocks before it, and those of its own tokens so far. Keys are kept rotated.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from famjax.models.config import MemoryConfig, TransformerConfig
from famjax.models.dims import BlockKeys, Leaf, Lengths, PieceKeys, SegmentKeys
from famjax.models.layout import Layout, make_layout
from famjax.models.rope import Rotation, make_rotation

PieceOffsets = Int[Array, "B P"]


@struct.dataclass
class KeyValues:
    """Keys and values over the same slots: [B, slots, K, h] or [B, P, slots, K, h] each."""

    keys: Leaf
    values: Leaf


@struct.dataclass
class Cache:
    """What a layer keeps of the tokens.

    Attributes:
      segments: keys and values of the past M blocks, oldest first [B, M * C, K, h].
      block: those of the unfinished block [B, C, K, h]; nothing reads what lies in its free slots. None: every row
        stands at the start of a block.
      fam: those of F_prev [B, F, K, h], made once a block: decoding would otherwise make them again for every token.
        They belong to the parameters that made them: a state carried over an update of these has None, and the call
        makes them anew.
    """

    segments: KeyValues
    block: Leaf | None
    fam: Leaf | None


@struct.dataclass
class LayerState:
    """A layer's state; in `State`, stacked over layers.

    Attributes:
      fam: F_prev [B, F, D], float32. Whoever puts another FAM in takes a state without a cache: that has FAM's keys.
      cache: keys and values; None where nothing has been read yet (training starts so, and saves its memory).
    """

    fam: Leaf
    cache: Cache | None


@struct.dataclass
class State:
    """The model's whole state; its size does not depend on how many tokens were read.

    Attributes:
      layers: the layers' states, stacked: every array has a leading L.
      num_tokens: tokens that each row has read [B].
      position_offset: added to every position of a row (training's random offset; 0 in inference) [B].
      fam_is_initial: FAM carries no context yet, so the first update leaves its residual out [B].
      aligned: every row is known to stand at the start of a block; lets the model skip all gathering.
    """

    layers: LayerState
    num_tokens: Leaf
    position_offset: Leaf
    fam_is_initial: Leaf
    aligned: bool = struct.field(pytree_node=False)

    @property
    def fam(self) -> Leaf:
        """FAM of every layer [L, B, F, D]."""
        return self.layers.fam


@struct.dataclass
class Texts:
    """What rows read that go on from one text to the next within a call (document streaming).

    Every text begins with a block, and padding fills its last one up. All rows stand at the start of a block. A row
    whose last block of a call ends in padding begins a new text with its next block.

    Attributes:
      begins: whether a new text begins with this block [B, N].
      lengths: tokens of each block [B, N]: C, or fewer in a text's last.
      start: the state that a text begins with in each row, of `Transformer.init_state` without a cache. (Random state
        passing puts another FAM in, the training's position offset lies in it.)
    """

    begins: Leaf
    lengths: Leaf
    start: State


def empty_cache(config: TransformerConfig, batch: int) -> Cache:
    """A cache that holds nothing, for one layer; the keys of the initial FAM are still to be put in."""
    memory = config.memory

    def zeros(slots: int) -> KeyValues:
        array = jnp.zeros((batch, slots, config.num_kv_heads, config.head_dim), config.dtype)
        return KeyValues(keys=array, values=array)

    return Cache(
        segments=zeros(memory.num_segments * memory.block_size),
        block=zeros(memory.block_size),
        fam=zeros(memory.fam_length),
    )


def layer_rotation(
    config: TransformerConfig, positions: Int[Array, "..."], is_local: bool, fraction: Float[Array, "..."] | None = None
) -> Rotation:
    """RoPE of positions in layers of one kind."""
    base, scaling = config.rope_base, config.rope_scaling
    if is_local and config.local_rope_base is not None:
        base, scaling = config.local_rope_base, None
    return make_rotation(positions, config.head_dim, base, fraction, scaling)


def piece_offsets(state: State, texts: Texts | None, layout: Layout) -> PieceOffsets:
    """What is added to the positions of each piece: the offset of the text that it belongs to."""
    offset = jnp.broadcast_to(state.position_offset[:, None], layout.block_index.shape)
    if texts is None:
        return offset
    is_new = jnp.cumsum(texts.begins, axis=1) > 0
    return jnp.where(is_new, texts.start.position_offset[:, None], offset)


def token_rotation(
    config: TransformerConfig, layout: Layout, position_offset: PieceOffsets, is_local: bool = False
) -> Rotation:
    """RoPE of the tokens in their slots [B, P, S]."""
    return layer_rotation(config, layout.positions + position_offset[:, :, None], is_local)


def fam_rotation(
    config: TransformerConfig, layout: Layout, position_offset: PieceOffsets, is_local: bool = False
) -> Rotation:
    """RoPE of the FAM that enters each piece's block, and the block behind the last piece's [B, P + 1, F].

    (Spec: Positions.)

    "block_end" gives it the positions of the F tokens before the block: FAM's queries too have the position of the
    activation that they are a copy of, so that one rotation serves its queries and keys.
    """
    memory = config.memory
    block_begin = layout.block_index * memory.block_size + position_offset
    behind = block_begin[:, -1:] + memory.block_size
    block_begin = jnp.concatenate([block_begin, behind], axis=1)
    row = jnp.arange(memory.fam_length)
    fraction = None
    if memory.fam_position == "block_end":
        positions = block_begin[:, :, None] - memory.fam_length + row[None, None, :]
    elif memory.fam_position == "between_blocks":
        positions = jnp.broadcast_to(block_begin[:, :, None] - 1, (*block_begin.shape, memory.fam_length))
        fraction = jnp.broadcast_to((row + 1) / (memory.fam_length + 1), positions.shape)
    else:
        positions = jnp.zeros((*block_begin.shape, memory.fam_length), jnp.int32)
    return layer_rotation(config, positions, is_local, fraction)


def initial_fam_rotation(config: TransformerConfig, position_offset: Lengths, is_local: bool = False) -> Rotation:
    """RoPE of the FAM that enters the first block of a text [B, F]."""
    zeros = jnp.zeros_like(position_offset)
    layout = make_layout(zeros, zeros, 1, config.memory.block_size, aligned=True)
    return jax.tree.map(lambda table: table[:, 0], fam_rotation(config, layout, position_offset[:, None], is_local))


def fill_blocks(piece: PieceKeys, unfinished: Float[Array, "B C K h"] | None, layout: Layout) -> BlockKeys:
    """Puts each piece's keys (or values) into its block, behind those that the unfinished block already holds."""
    size, slots = layout.block_size, piece.shape[2]
    blocks = jnp.pad(piece, ((0, 0), (0, 0), (0, size - slots), (0, 0), (0, 0)))
    if layout.identity or unfinished is None:
        return blocks
    slot = jnp.arange(size)[None, :]
    start = layout.start[:, :1]
    source = jnp.clip(slot - start, 0, slots - 1)[:, :, None, None]
    from_piece = jnp.take_along_axis(piece[:, 0], source, axis=1)
    first = jnp.where((slot < start)[:, :, None, None], unfinished, from_piece)
    return jnp.concatenate([first[:, None], blocks[:, 1:]], axis=1)


def segment_windows(blocks: BlockKeys, segments: Float[Array, "B MC K h"] | None, num_segments: int) -> SegmentKeys:
    """Returns for each piece the M blocks before its own, oldest first [B, P, M * C, K, h]."""
    batch, pieces, _, heads, width = blocks.shape
    history = _with_history(blocks, segments, num_segments)
    shifted = [history[:, first : first + pieces] for first in range(num_segments)]
    if not shifted:
        return jnp.zeros((batch, pieces, 0, heads, width), blocks.dtype)
    return jnp.concatenate(shifted, axis=2)


def advance_cache(
    blocks: KeyValues, fam: KeyValues, cache: Cache | None, layout: Layout, memory: MemoryConfig
) -> Cache:
    """The cache after the call: the M blocks before each row's unfinished one, that one, and FAM's keys and values."""
    if layout.begins is not None:
        return _advance_texts(blocks, fam, cache, memory.num_segments)
    if cache is not None and blocks.keys.shape[1] == 1:
        return _advance_one_block(blocks, fam, cache, layout)
    segments = memory.num_segments
    index = layout.num_blocks_completed

    def advance(new: BlockKeys, old_segments: Float[Array, "B MC K h"] | None) -> tuple[jax.Array, jax.Array]:
        batch, _, size, heads, width = new.shape
        history = _with_history(new, old_segments, segments)
        history = jnp.pad(history, ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
        wanted = (index[:, None] + jnp.arange(segments + 1)[None, :])[:, :, None, None, None]
        kept = jnp.take_along_axis(history, wanted, axis=1)
        return kept[:, :segments].reshape(batch, segments * size, heads, width), kept[:, segments]

    segment_keys, block_keys = advance(blocks.keys, cache.segments.keys if cache else None)
    segment_values, block_values = advance(blocks.values, cache.segments.values if cache else None)
    return Cache(
        segments=KeyValues(keys=segment_keys, values=segment_values),
        block=KeyValues(keys=block_keys, values=block_values),
        fam=fam,
    )


def _advance_texts(blocks: KeyValues, fam: KeyValues, cache: Cache | None, num_segments: int) -> Cache:
    """`advance_cache` of a call in which texts begin: no later token comes into any of its blocks."""
    batch, pieces, size, heads, width = blocks.keys.shape

    def advance(new: BlockKeys, past: Float[Array, "B MC K h"] | None) -> jax.Array:
        last = _with_history(new, past, num_segments)[:, pieces:]
        return last.reshape(batch, num_segments * size, heads, width)

    return Cache(
        segments=KeyValues(
            keys=advance(blocks.keys, cache.segments.keys if cache else None),
            values=advance(blocks.values, cache.segments.values if cache else None),
        ),
        block=None,
        fam=fam,
    )


def _advance_one_block(blocks: KeyValues, fam: KeyValues, cache: Cache, layout: Layout) -> Cache:
    """`advance_cache` of a call within one block: nothing moves unless the block is full in some row."""
    full = layout.full[:, 0, None, None, None]
    block = jax.tree.map(lambda array: array[:, 0], blocks)

    def shift(old: KeyValues) -> KeyValues:
        def shifted(past: jax.Array, newest: jax.Array) -> jax.Array:
            both = jnp.concatenate([past, newest], axis=1)
            return jnp.where(full, both[:, newest.shape[1] :], past)

        return jax.tree.map(shifted, old, block)

    segments = cache.segments
    if segments.keys.shape[1]:
        segments = jax.lax.cond(jnp.any(layout.full), shift, lambda old: old, segments)
    return Cache(segments=segments, block=block, fam=fam)


def advance_counters(state: State, layers: LayerState, layout: Layout, num_tokens: int, padded: bool) -> State:
    """The state after a call whose layers ended in `layers`."""
    aligned = state.aligned and not padded and num_tokens % layout.block_size == 0
    return State(
        layers=layers,
        num_tokens=state.num_tokens + layout.lengths,
        position_offset=state.position_offset,
        fam_is_initial=state.fam_is_initial & (layout.num_blocks_completed == 0),
        aligned=aligned,
    )


def advance_texts(state: State, texts: Texts, layers: LayerState, layout: Layout) -> State:
    """The state after a call in which texts begin, whose layers ended in `layers`."""
    last_block, is_full = layout.block_index[:, -1], layout.full[:, -1]
    is_new = jnp.any(texts.begins, axis=1)
    is_unwritten = jnp.where(is_new, (last_block == 0) & ~is_full, layout.num_blocks_completed == 0)
    return State(
        layers=layers,
        num_tokens=last_block * layout.block_size + layout.filled[:, -1],
        position_offset=jnp.where(is_new, texts.start.position_offset, state.position_offset),
        fam_is_initial=jnp.where(is_new, texts.start.fam_is_initial, state.fam_is_initial) & is_unwritten,
        aligned=True,
    )


def _with_history(blocks: BlockKeys, segments: jax.Array | None, num_segments: int) -> Float[Array, "B history C K h"]:
    """The M blocks before the call, then the call's blocks."""
    batch, _, size, heads, width = blocks.shape
    shape = (batch, num_segments, size, heads, width)
    past = jnp.zeros(shape, blocks.dtype) if segments is None else segments.reshape(shape)
    return jnp.concatenate([past, blocks], axis=1)


def state_axes(state: State) -> State:
    """Logical axis names of every array of a state, in a state of the same structure."""

    def key_values_axes(key_values: KeyValues, slots: str = "length") -> KeyValues:
        axes = ("layers", "batch", slots, "kv_heads", "head_dim")
        return dataclasses.replace(key_values, keys=axes, values=axes)

    cache = state.layers.cache
    cache_axes = cache and Cache(
        segments=key_values_axes(cache.segments),
        block=cache.block and key_values_axes(cache.block),
        fam=cache.fam and key_values_axes(cache.fam, "fam"),
    )
    layers = dataclasses.replace(state.layers, fam=("layers", "batch", "fam", "activation_embed"), cache=cache_axes)
    rows = ("batch",)
    return dataclasses.replace(state, layers=layers, num_tokens=rows, position_offset=rows, fam_is_initial=rows)
