"""Texts that begin within a call, for document streaming: each is read as if it were alone."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from famjax.models.config import TransformerConfig
from famjax.models.memory import Cache, State, Texts
from famjax.models.transformer import Transformer, broadcast_fam, initial_state, read
from small import BLOCK, params_of, random_tokens, vary
from tolerances import FLOAT32, FLOAT32_GRADIENT, assert_close

# Tokens of each row's texts: whole blocks and parts of one, a text in every block, one that fills the row, and one that
# begins with the last block.
ROWS = ((9, 4, 7), (24,), (1, 4, 3, 2, 4, 1), (19, 2))
NUM_BLOCKS = 6
MEMORIES = [
    {"num_segments": 0, "fam_length": 3},
    {"num_segments": 1, "fam_length": 3},
    {"num_segments": 3, "fam_length": 3},
    {"num_segments": 1, "fam_length": 0},
    {"num_segments": 3, "fam_length": 0},
    {"num_segments": 1, "fam_length": 2, "fam_start": "prefix", "fam_position": "between_blocks"},
    {"num_segments": 1, "fam_length": 2, "stop_gradient": True, "remat_policy": "full"},
    {"num_segments": 2, "layer_pattern": ("local", "global"), "local_window": 6, "local_rope_base": 50.0},
]
# Calls that the six blocks are read in: at once, block by block, and so that texts begin and end at a call's edges.
CALLS = ((6,), (1, 1, 1, 1, 1, 1), (3, 3), (2, 4))


@dataclasses.dataclass(frozen=True)
class Laid:
    """Texts in rows: what a call with texts takes."""

    tokens: np.ndarray
    begins: np.ndarray
    lengths: np.ndarray
    texts: tuple[tuple[tuple[int, np.ndarray], ...], ...]


def lay_out(seed: int = 1) -> Laid:
    """Random texts of ROWS; the padding is random tokens too. `texts` has each row's (first slot, tokens)."""
    tokens = random_tokens(len(ROWS), NUM_BLOCKS * BLOCK, seed)
    begins = np.zeros((len(ROWS), NUM_BLOCKS), np.bool_)
    lengths = np.zeros((len(ROWS), NUM_BLOCKS), np.int32)
    texts = []
    for row, sizes in enumerate(ROWS):
        block, found = 0, []
        for size in sizes:
            begins[row, block] = True
            found.append((block * BLOCK, tokens[row, block * BLOCK : block * BLOCK + size]))
            for rest in range(size, 0, -BLOCK):
                lengths[row, block] = min(rest, BLOCK)
                block += 1
        assert block == NUM_BLOCKS
        texts.append(tuple(found))
    return Laid(tokens, begins, lengths, tuple(texts))


def offset_of(block: int, row: int) -> int:
    """Another position offset for every row and call."""
    return 100 * row + 7 * block


@functools.cache
def model_of(config: TransformerConfig) -> Any:
    """Compiled: (parameters, tokens, state, lengths, texts) -> output."""
    model = Transformer(config)
    return jax.jit(
        lambda params, tokens, state, lengths, texts: read(model, params, tokens, state, lengths, texts=texts)
    )


@functools.cache
def starter_of(config: TransformerConfig) -> Any:
    """Compiled: (parameters, offsets) -> the initial state, without a cache."""
    model = Transformer(config)
    return jax.jit(lambda params, offsets: initial_state(model, params, len(offsets), offsets, with_cache=False))


def text_start(config: TransformerConfig, params: Any, offsets: Sequence[int], passed: bool = False) -> State:
    """What a text begins with: the initial state, or, as random state passing has it, another FAM."""
    start: State = starter_of(config)(params, jnp.array(offsets, jnp.int32))
    if not passed:
        return start
    fam = jnp.sin(jnp.arange(start.fam[:, 0].size, dtype=jnp.float32)).reshape(start.fam[:, 0].shape)
    layers = dataclasses.replace(start.layers, fam=broadcast_fam(fam, len(offsets)))
    return dataclasses.replace(start, layers=layers, fam_is_initial=jnp.zeros_like(start.fam_is_initial))


def carry(state: State, strip: bool) -> State:
    """A state between two calls; `strip` leaves out of the cache what the next call can do without."""
    cache = state.layers.cache
    if not strip or cache is None:
        return state
    kept = Cache(segments=cache.segments, block=None, fam=None) if cache.segments.keys.shape[2] else None
    return dataclasses.replace(state, layers=dataclasses.replace(state.layers, cache=kept))


def read_laid(
    config: TransformerConfig, params: Any, laid: Laid, calls: Sequence[int], strip: bool = False, passed: bool = False
) -> tuple[jax.Array, State]:
    """Reads the rows in so many calls, from a state full of what was before."""
    rows, call = len(ROWS), model_of(config)
    prefix = jnp.asarray(random_tokens(rows, 3 * BLOCK, 9))
    before = call(params, prefix, text_start(config, params, [0] * rows), None, None)
    state, block, hidden = carry(before.state, strip), 0, []
    for size in calls:
        blocks, slots = slice(block, block + size), slice(block * BLOCK, (block + size) * BLOCK)
        texts = Texts(
            begins=jnp.asarray(laid.begins[:, blocks]),
            lengths=jnp.asarray(laid.lengths[:, blocks]),
            start=text_start(config, params, [offset_of(block, row) for row in range(rows)], passed),
        )
        output = call(params, jnp.asarray(laid.tokens[:, slots]), state, None, texts)
        hidden.append(output.hidden)
        state, block = carry(output.state, strip), block + size
    return jnp.concatenate(hidden, axis=1), state


def read_alone(
    config: TransformerConfig, params: Any, laid: Laid, calls: Sequence[int], passed: bool = False
) -> tuple[jax.Array, State, list[int]]:
    """The oracle: every text a row of its own, read from its start in one ordinary call.

    Returns:
      The activations where `read_laid` has them, the state of every text, and the number of each row's last one.
    """
    begins = np.cumsum([0, *calls])
    texts = [(row, slot, tokens) for row, found in enumerate(laid.texts) for slot, tokens in found]
    calls_of = [begins[np.searchsorted(begins, slot // BLOCK, side="right") - 1] for _, slot, _ in texts]
    offsets = [offset_of(int(call), row) for call, (row, _, _) in zip(calls_of, texts, strict=True)]
    lengths = np.array([len(tokens) for _, _, tokens in texts])
    padded = np.stack([np.pad(tokens, (0, NUM_BLOCKS * BLOCK - len(tokens))) for _, _, tokens in texts])
    start = text_start(config, params, offsets, passed)
    output = model_of(config)(params, jnp.asarray(padded), start, jnp.asarray(lengths, jnp.int32), None)
    hidden = jnp.zeros((len(ROWS), NUM_BLOCKS * BLOCK, config.emb_dim))
    for number, (row, slot, tokens) in enumerate(texts):
        hidden = hidden.at[row, slot : slot + len(tokens)].set(output.hidden[number, : len(tokens)])
    last = [max(number for number, text in enumerate(texts) if text[0] == row) for row in range(len(ROWS))]
    return hidden, output.state, last


CASES = [(memory, calls) for memory in MEMORIES for calls in CALLS if calls == (2, 4) or memory is MEMORIES[1]]


@pytest.mark.parametrize(("memory", "calls"), CASES, ids=str)
def test_every_text_is_read_as_if_alone(memory, calls):
    """Guards against activations, and a state, that depend on the texts before, on padding or on the calls."""
    config = vary(**memory)
    params, laid = params_of(config), lay_out()
    expected, alone, last = read_alone(config, params, laid, calls)
    for strip in {True, len(calls) > 2}:
        hidden, state = read_laid(config, params, laid, calls, strip)
        assert_close(hidden, expected, FLOAT32, f"strip {strip}")
        for row, number in enumerate(last):
            assert_close(state.fam[:, row], alone.fam[:, number], FLOAT32, f"FAM of row {row}")
            for name in ("num_tokens", "position_offset", "fam_is_initial"):
                assert getattr(state, name)[row] == getattr(alone, name)[number], name


@pytest.mark.parametrize("memory", [MEMORIES[2], MEMORIES[3], MEMORIES[6]], ids=str)
def test_gradients_are_those_of_the_texts_alone(memory):
    """Guards against a gradient that flows from one text into another, or is lost where one begins."""
    config, laid = vary(**memory), lay_out()
    shape = (len(ROWS), NUM_BLOCKS * BLOCK, config.emb_dim)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=shape) / NUM_BLOCKS, jnp.float32)

    def loss(reader: Any, params: Any) -> jax.Array:
        return jnp.sum(reader(config, params, laid, (2, 4))[0] * weights)

    actual, expected = (
        jax.grad(functools.partial(loss, reader))(params_of(config)) for reader in (read_laid, read_alone)
    )
    assert_close(actual, expected, FLOAT32_GRADIENT)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(actual)) > 1e-2


def test_texts_may_begin_with_a_passed_memory():
    """Guards against a text that begins with the initial FAM where state passing put in another."""
    config = vary()
    params, laid = params_of(config), lay_out()
    expected, _, _ = read_alone(config, params, laid, (2, 4), passed=True)
    hidden, state = read_laid(config, params, laid, (2, 4), passed=True)
    assert_close(hidden, expected, FLOAT32)
    assert not np.any(state.fam_is_initial)
    unpassed, _ = read_laid(config, params, laid, (2, 4))
    assert float(jnp.max(jnp.abs(hidden - unpassed))) > 1e-2


@pytest.mark.parametrize("fam_length", [0, 3])
def test_nothing_crosses_into_a_new_text(fam_length):
    """Guards against a path, however faint, from earlier tokens or the carried state into a new text."""
    config = vary(fam_length=fam_length, num_segments=3)
    call, params, laid = model_of(config), params_of(config), lay_out()
    texts = Texts(
        begins=jnp.asarray(laid.begins).at[:, 0].set(False),
        lengths=jnp.asarray(laid.lengths),
        start=text_start(config, params, [0] * len(ROWS)),
    )
    first = [next((b for b in range(1, NUM_BLOCKS) if laid.begins[row, b]), NUM_BLOCKS) for row in range(len(ROWS))]
    is_new = np.arange(NUM_BLOCKS * BLOCK)[None, :] // BLOCK >= np.array(first)[:, None]

    def hidden_of(tokens: np.ndarray, seed: int) -> tuple[jax.Array, State]:
        prefix = jnp.asarray(random_tokens(len(ROWS), 3 * BLOCK, seed))
        state = call(params, prefix, text_start(config, params, [0] * len(ROWS)), None, None).state
        return call(params, jnp.asarray(tokens), state, None, texts).hidden, state

    other = np.where(is_new, laid.tokens, random_tokens(len(ROWS), NUM_BLOCKS * BLOCK, 8))
    one, state = hidden_of(laid.tokens, 4)
    two, _ = hidden_of(other, 5)
    is_token = np.asarray(laid.lengths)[:, :, None] > np.arange(BLOCK)[None, None, :]
    is_token = is_token.reshape(is_new.shape)
    assert np.array_equal(np.asarray(one)[is_new], np.asarray(two)[is_new])
    assert float(np.max(np.abs(np.asarray(one - two)[~is_new & is_token]))) > 1e-2

    def loss(layers: Any, mask: np.ndarray) -> jax.Array:
        given = dataclasses.replace(state, layers=layers)
        hidden = call(params, jnp.asarray(laid.tokens), given, None, texts).hidden
        return jnp.sum(jnp.where(mask[:, :, None], jnp.square(hidden), 0))

    from_new, from_old = jax.grad(loss)(state.layers, is_new), jax.grad(loss)(state.layers, ~is_new)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(from_new))
    assert np.any(from_old.cache.segments.keys)


def test_calls_that_are_no_whole_blocks_are_refused():
    """Guards against texts laid over tokens that they do not fit, which would be read in the wrong blocks."""
    config: TransformerConfig = vary()
    model, params, laid = Transformer(config), params_of(config), lay_out()
    state = initial_state(model, params, len(ROWS))
    texts = Texts(jnp.asarray(laid.begins), jnp.asarray(laid.lengths), state)
    for tokens, given, lengths in (
        (laid.tokens[:, :-1], state, None),
        (laid.tokens, dataclasses.replace(state, aligned=False), None),
        (laid.tokens, state, jnp.full(len(ROWS), 24)),
    ):
        with pytest.raises(ValueError, match="texts of 6 blocks"):
            read(model, params, jnp.asarray(tokens), given, lengths, texts=texts)
