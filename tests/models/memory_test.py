"""How blocks of keys pass through the state, against lists of tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from famjax.models.layout import Layout, make_layout
from famjax.models.memory import (
    Cache,
    KeyValues,
    LayerState,
    State,
    advance_cache,
    advance_counters,
    empty_cache,
    fam_rotation,
    fill_blocks,
    segment_windows,
    state_axes,
)
from famjax.models.rope import make_rotation
from famjax.models.transformer import Transformer
from small import params_of, vary

SIZE, SEGMENTS = 4, 2
CONFIG = vary(num_segments=SEGMENTS, block_size=SIZE, num_kv_heads=1, head_dim=2)


def pieces_of(layout: Layout, first: list[int]) -> jax.Array:
    """Keys of a call: the token with position p in row r has the number 100 r + p + 1, an empty slot -1."""
    base = 100 * jnp.arange(len(first))[:, None, None] + 1
    values = jnp.where(layout.occupied, base + layout.positions, -1)
    return jnp.broadcast_to(values[..., None, None], (*values.shape, 1, 2)).astype(jnp.float32)


@pytest.mark.parametrize("calls", [[7, 6, 9], [4, 8, 1], [1] * 13, [3, 1, 12], [22]], ids=str)
def test_segments_and_the_unfinished_block(calls):
    """Guards against a segment that is lost or comes twice where a call ends within a block, or spans many."""
    read, cache = 0, empty_cache(CONFIG, 2)
    for num_tokens in calls:
        counts = jnp.full(2, read)
        layout = make_layout(counts, jnp.full(2, num_tokens), num_tokens, SIZE, aligned=False)
        keys = fill_blocks(pieces_of(layout, [0, 1]), cache.block.keys, layout)
        windows = segment_windows(keys, cache.segments.keys, SEGMENTS)
        for row in range(2):
            for piece in range(layout.occupied.shape[1]):
                block = read // SIZE + piece
                if not layout.occupied[row, piece].any():
                    continue
                text = [100 * row + p + 1 for p in range(read + num_tokens)]
                own = text[block * SIZE : (block + 1) * SIZE]
                assert keys[row, piece, : len(own), 0, 0].tolist() == own
                for index in range(SEGMENTS):
                    past = block - SEGMENTS + index
                    if past >= 0:
                        seen = windows[row, piece, index * SIZE : (index + 1) * SIZE, 0, 0].tolist()
                        assert seen == text[past * SIZE : (past + 1) * SIZE]
        cache = advance_cache(KeyValues(keys, keys), cache.fam, cache, layout, CONFIG.memory)
        read += num_tokens
    for row in range(2):
        text = [100 * row + p + 1 for p in range(read)]
        begin = read // SIZE * SIZE
        assert cache.block.keys[row, : read - begin, 0, 0].tolist() == text[begin:]
        kept = text[max(begin - SEGMENTS * SIZE, 0) : begin]
        assert cache.segments.keys[row, SEGMENTS * SIZE - len(kept) :, 0, 0].tolist() == kept
    np.testing.assert_array_equal(cache.block.keys, cache.block.values)


@pytest.mark.parametrize("fam_position", ["block_end", "between_blocks", "zero"])
def test_positions_of_fam(fam_position):
    """Guards against FAM whose keys stand elsewhere than the specification says, in any block of any row."""
    rows, config = 3, vary(fam_position=fam_position, fam_length=3, block_size=SIZE)
    layout = make_layout(jnp.array([0, 9]), jnp.array([9, 9]), 9, SIZE, aligned=False)
    offset = jnp.array([0, 1000])
    actual = fam_rotation(config, layout, jnp.broadcast_to(offset[:, None], layout.block_index.shape))
    for row, first_block in enumerate((0, 2)):
        for piece in range(layout.start.shape[1] + 1):
            begin = (first_block + piece) * SIZE + int(offset[row])
            whole, fraction = {
                "block_end": ([begin - rows + i for i in range(rows)], None),
                "between_blocks": ([begin - 1] * rows, jnp.array([1, 2, 3]) / 4),
                "zero": ([0] * rows, None),
            }[fam_position]
            expected = make_rotation(jnp.array(whole), config.head_dim, config.rope_base, fraction)
            np.testing.assert_allclose(actual.cos[row, piece], expected.cos, atol=1e-6)
            np.testing.assert_allclose(actual.sin[row, piece], expected.sin, atol=1e-6)


def test_counters():
    """Guards against a state that is taken for aligned when it is not, and against FAM that stays initial."""
    layers = LayerState(fam=jnp.zeros((1, 2, 3, 16)), cache=None)
    zeros = jnp.zeros(2, jnp.int32)
    state = State(
        layers=layers, num_tokens=zeros, position_offset=zeros + 5, fam_is_initial=jnp.ones(2, bool), aligned=True
    )

    def after(num_tokens: int, lengths: list[int], padded: bool) -> State:
        layout = make_layout(state.num_tokens, jnp.array(lengths), num_tokens, SIZE, aligned=True)
        return advance_counters(state, layers, layout, num_tokens, padded)

    new = after(8, [8, 8], padded=False)
    assert (new.num_tokens.tolist(), new.fam_is_initial.tolist(), new.aligned) == ([8, 8], [False, False], True)
    new = after(8, [3, 8], padded=True)
    assert (new.num_tokens.tolist(), new.fam_is_initial.tolist(), new.aligned) == ([3, 8], [True, False], False)
    assert not after(6, [6, 6], padded=False).aligned
    assert new.position_offset.tolist() == [5, 5]


@pytest.mark.parametrize("with_cache", [True, False])
def test_every_array_of_the_state_has_axes(with_cache):
    """Guards against a state that cannot be laid out on a mesh, or whose names do not fit its shapes."""
    config = vary()
    state = Transformer(config).apply({"params": params_of(config)}, 2, with_cache=with_cache, method="init_state")
    axes = state_axes(state)
    names = jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, tuple))
    arrays = jax.tree.leaves(state)
    assert len(names) == len(arrays) == (10 if with_cache else 4)
    assert all(len(name) == array.ndim for name, array in zip(names, arrays, strict=True))
    sizes = {"layers": 2, "batch": 2, "fam": 3, "embed": 16, "kv_heads": 4, "head_dim": 8}
    for name, array in zip(names, arrays, strict=True):
        assert [sizes.get(axis, size) for axis, size in zip(name, array.shape, strict=True)] == list(array.shape)


def test_an_empty_cache_has_room():
    """Guards against a cache of another dtype than the activations', or without its segments."""
    cache = empty_cache(dataclasses.replace(CONFIG, dtype="bfloat16"), 3)
    assert isinstance(cache, Cache)
    assert cache.segments.keys.shape == (3, SEGMENTS * SIZE, 1, 2)
    assert cache.block.values.shape == (3, SIZE, 1, 2)
    assert cache.block.keys.dtype == jnp.bfloat16
