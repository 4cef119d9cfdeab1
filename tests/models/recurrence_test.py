"""The model against the naive oracle, and the invariants of the specification that need one device (all but 7)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

from famjax.models import transformer
from famjax.models.config import RopeScaling, TransformerConfig
from famjax.models.layout import left_align
from famjax.models.memory import State
from famjax.models.transformer import Output, Transformer, broadcast_fam, initial_state, parameter_shapes
from small import BLOCK, KV_HEADS, params_of, random_tokens, vary
from tolerances import FLOAT32, FLOAT32_GRADIENT, Tolerance, assert_close

# The oracle counts in float64: a chain of blocks and layers in float32 drifts a little from it.
ORACLE = Tolerance(2e-4, 5e-5)
# RoPE's cosines and sines differ by up to 1e-6 between positions that are far apart.
OFFSET = Tolerance(1e-4, 3e-5)
# FAM of 4 layers with post-norms by 1 + w grows to 15; an operation in float32 has 1e-6 of that.
GROWN = Tolerance(2e-4, 3e-4)
LENGTH = 4 * BLOCK + 3


@functools.partial(jax.jit, static_argnames=("config", "batch", "with_cache"))
def start(config: TransformerConfig, params, batch: int, **options) -> State:
    """The state of rows that have read nothing."""
    return initial_state(Transformer(config), params, batch, **options)


@functools.partial(jax.jit, static_argnames="config")
def call(config: TransformerConfig, params, tokens, state: State, lengths=None) -> Output:
    """One call of the model."""
    return transformer.read(Transformer(config), params, jnp.asarray(tokens), state, lengths)


@functools.partial(jax.jit, static_argnames="config")
def logits(config: TransformerConfig, params, hidden) -> jax.Array:
    """The output layer."""
    return transformer.logits(Transformer(config), params, hidden)


def read(config: TransformerConfig, params, tokens) -> tuple[np.ndarray, State]:
    """Logits and the final state of texts read from the start."""
    output = call(config, params, tokens, start(config, params, tokens.shape[0]))
    return np.asarray(logits(config, params, output.hidden)), output.state


SETTINGS = [
    {"mlp_activation": "gelu"},
    {"tie_embeddings": False},
    {"tie_embeddings": False, "logit_scale": 0.5},
    {"rope_base": 500.0},
    {"rope_scaling": RopeScaling("linear", 3.0)},
    {"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, original_length=40)},
    {"attention_bias": True},
    {"attention_out_bias": True},
    {"mlp_bias": True},
    {"query_key_norm": True},
    {"post_norms": True},
    {"unit_offset_norms": True},
    {"query_scale": 0.7},
    {"attention_soft_cap": 0.8},
    {"logit_soft_cap": 0.5},
    {"embedding_scale": 3.0},
    {"logit_scale": 1.0},
    {"layer_pattern": ("local",), "local_window": 3},
    {"layer_pattern": ("local", "global"), "local_window": BLOCK + 2},
    {"layer_pattern": ("global", "local"), "local_window": BLOCK, "local_rope_base": 30.0},
]
MEMORIES = {
    "fam": {},
    "no_segments": {"num_segments": 0},
    "fam_longer_than_block": {"fam_length": BLOCK + 2, "num_segments": 1},
    "prefix": {"fam_start": "prefix"},
    "between_blocks": {"fam_position": "between_blocks"},
    "zero_positions": {"fam_position": "zero"},
    "bswa": {"fam_length": 0},
}


@pytest.mark.parametrize("memory", MEMORIES.values(), ids=MEMORIES)
@pytest.mark.parametrize("kv_heads", KV_HEADS.values(), ids=KV_HEADS)
def test_equals_naive_loop(memory, kv_heads):
    """Invariant 4. Guards against a scan that computes another recurrence than the text of the specification."""
    config = vary(num_kv_heads=kv_heads, **memory)
    params, tokens = params_of(config), random_tokens(2, LENGTH)
    actual, state = read(config, params, tokens)
    for row in range(2):
        expected, fam = oracle.read(config, params, tokens[row])
        assert_close(actual[row], expected, ORACLE, "logits")
        assert_close(state.fam[:, row], fam, ORACLE, "final FAM")


@pytest.mark.parametrize("change", SETTINGS, ids=str)
def test_settings_equal_naive_loop(change):
    """Guards against a setting of the layer that is read wrongly, or not at all, by tokens or by FAM."""
    config = vary(num_kv_heads=2, **change)
    params, tokens = params_of(config), random_tokens(1, LENGTH)
    actual, state = read(config, params, tokens)
    expected, fam = oracle.read(config, params, tokens[0])
    assert_close(actual[0], expected, ORACLE, "logits")
    assert_close(state.fam[:, 0], fam, ORACLE, "final FAM")
    plain = vary(num_kv_heads=2)
    if set(parameter_shapes(plain)) == set(parameter_shapes(config)):
        assert np.abs(read(plain, params, tokens)[0] - actual).max() > 1e-3


FAMILY_LIKE = {
    "mistral": {"layer_pattern": ("local",), "local_window": 3, "num_kv_heads": 2, "tie_embeddings": False},
    "qwen2": {"attention_bias": True, "logit_scale": 1.0, "num_kv_heads": 2},
    "gemma3": {
        "layer_pattern": ("local", "local", "global"),
        "num_layers": 4,
        "local_window": 6,
        "local_rope_base": 40.0,
        "rope_scaling": RopeScaling("linear", 8.0),
        "query_key_norm": True,
        "post_norms": True,
        "unit_offset_norms": True,
        "attention_soft_cap": 2.0,
        "logit_soft_cap": 3.0,
        "embedding_scale": 4.0,
        "num_kv_heads": 1,
    },
}


@pytest.mark.parametrize("family", FAMILY_LIKE.values(), ids=FAMILY_LIKE)
def test_settings_together_in_any_split(family):
    """Guards against a cut that changes a window or a layer's own RoPE: the whole text, odd pieces, rows far apart."""
    config = vary(**family)
    params, tokens = params_of(config), random_tokens(2, LENGTH)
    whole = call(config, params, tokens, start(config, params, 2))
    for row in range(2):
        expected, fam = oracle.read(config, params, tokens[row])
        assert_close(logits(config, params, whole.hidden[row]), expected, GROWN, "logits")
        assert_close(whole.state.fam[:, row], fam, GROWN, "final FAM")
    for split in ([3, 6, 1, 9], [1] * 6 + [LENGTH - 6]):
        state, hidden, begin = start(config, params, 2), [], 0
        for size in split:
            output = call(config, params, tokens[:, begin : begin + size], state)
            state, begin = output.state, begin + size
            hidden.append(output.hidden)
        assert_close(jnp.concatenate(hidden, axis=1), whole.hidden, GROWN, "hidden")
        assert_close(state.fam, whole.state.fam, GROWN, "FAM")
    uneven = call(config, params, tokens[:, :9], start(config, params, 2), jnp.array([9, 2]))
    rest = call(config, params, np.stack([tokens[0, 9:], tokens[1, 2:12]]), uneven.state)
    assert_close(rest.hidden[0], whole.hidden[0, 9:], GROWN)
    assert_close(rest.hidden[1], whole.hidden[1, 2:12], GROWN)


def test_a_window_ends_what_a_token_sees():
    """Guards against a window that is a token too long or too short, with segments, in the first block and later."""
    config = vary(fam_length=0, num_segments=4, num_layers=1, layer_pattern=("local",), local_window=5)
    seen = input_gradient(config, LENGTH)
    assert seen[: LENGTH - 5].max() == 0
    assert seen[LENGTH - 5 :].min() > 0
    with_fam = input_gradient(vary(num_layers=1, layer_pattern=("local",), local_window=1), LENGTH)
    assert with_fam[:BLOCK].min() > 0, "FAM is seen whatever the window"


def test_restored_fam_keeps_its_residual():
    """Guards against a FAM of state passing that is treated as initial, and against an offset that FAM does not get."""
    config = vary()
    params, tokens = params_of(config), random_tokens(2, LENGTH)
    saved = np.random.default_rng(5).normal(size=(config.num_layers, 3, config.emb_dim)).astype(np.float32)
    state = start(config, params, 2, position_offset=jnp.array([7, 0]), with_cache=False)
    layers = dataclasses.replace(state.layers, fam=broadcast_fam(jnp.asarray(saved), 2))
    state = dataclasses.replace(state, layers=layers, fam_is_initial=jnp.zeros(2, bool))
    output = call(config, params, tokens, state)
    for row, offset in enumerate((7, 0)):
        expected, fam = oracle.read(config, params, tokens[row], offset, saved)
        assert_close(logits(config, params, output.hidden)[row], expected, ORACLE)
        assert_close(output.state.fam[:, row], fam, ORACLE)


@pytest.mark.parametrize("kv_heads", KV_HEADS.values(), ids=KV_HEADS)
@pytest.mark.parametrize("memory", [{}, {"fam_length": 0}, {"fam_start": "prefix"}], ids=["fam", "bswa", "prefix"])
def test_causality(memory, kv_heads):
    """Invariant 1. Guards against a token that sees its future: through FAM, the prompt, in the first block too."""
    config = vary(num_kv_heads=kv_heads, **memory)
    params, tokens = params_of(config), random_tokens(1, LENGTH)
    reference, _ = read(config, params, tokens)
    for position in range(LENGTH):
        changed = tokens.copy()
        changed[0, position] = (changed[0, position] + 1) % config.vocab_size
        actual, _ = read(config, params, changed)
        np.testing.assert_array_equal(actual[0, :position], reference[0, :position])
        assert np.abs(actual[0, position] - reference[0, position]).max() > 1e-4


SPLITS = {
    "blocks": [BLOCK] * 4 + [3],
    "one_by_one": [1] * LENGTH,
    "odd": [3, 6, 1, 9],
    "long_then_short": [LENGTH - 1, 1],
    "two_blocks_and_more": [2 * BLOCK + 1, 2 * BLOCK + 2],
}


SPLIT_MODELS = {
    "fam": {"num_kv_heads": 4},
    "fam_grouped_query": {"num_kv_heads": 2},
    "fam_multi_query": {"num_kv_heads": 1},
    "no_segments": {"num_segments": 0, "num_kv_heads": 2},
    "bswa": {"fam_length": 0, "num_kv_heads": 1},
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("model", SPLIT_MODELS.values(), ids=SPLIT_MODELS)
def test_split_invariance(split, model):
    """Invariant 2. Guards against a state that forgets something, at a block boundary or within a block."""
    config = vary(**model)
    params, tokens = params_of(config), random_tokens(2, LENGTH)
    whole = call(config, params, tokens, start(config, params, 2))
    state, hidden, begin = start(config, params, 2), [], 0
    for size in split:
        output = call(config, params, tokens[:, begin : begin + size], state)
        state, begin = output.state, begin + size
        hidden.append(output.hidden)
    assert begin == LENGTH
    assert_close(jnp.concatenate(hidden, axis=1), whole.hidden, FLOAT32, "hidden")
    assert_close(jax.tree.leaves(live(state)), jax.tree.leaves(live(whole.state)), FLOAT32, "state")


def live(state: State) -> State:
    """The state without the slots of the unfinished block that hold nothing yet: what lies there, nobody reads."""
    filled = state.num_tokens % BLOCK
    slot = jnp.arange(BLOCK)[None, None, :, None, None]
    mask = slot < filled[None, :, None, None, None]
    assert state.layers.cache is not None
    block = jax.tree.map(lambda array: jnp.where(mask, array, 0), state.layers.cache.block)
    cache = dataclasses.replace(state.layers.cache, block=block)
    return dataclasses.replace(state, layers=dataclasses.replace(state.layers, cache=cache))


def test_small_state_equals_full_state():
    """Guards against training, which starts without a cache, computing another function than inference."""
    config = vary()
    params, tokens = params_of(config), random_tokens(2, LENGTH)
    full = call(config, params, tokens, start(config, params, 2))
    small = call(config, params, tokens, start(config, params, 2, with_cache=False))
    assert_close(full, small, FLOAT32)


@pytest.mark.parametrize("kv_heads", KV_HEADS.values(), ids=KV_HEADS)
def test_reduces_to_banded_and_to_full_attention(kv_heads):
    """Invariant 3. Guards against a window that is a block too long or too short."""
    tokens = random_tokens(1, LENGTH)
    banded = vary(num_kv_heads=kv_heads, fam_length=0, num_segments=1)
    full = vary(num_kv_heads=kv_heads, fam_length=0, num_segments=5)
    params = params_of(banded)
    for config in (banded, full):
        actual, _ = read(config, params, tokens)
        assert_close(actual[0], oracle.banded_attention(config, params, tokens[0]), ORACLE)
    one_block = vary(num_kv_heads=kv_heads, fam_length=0, block_size=LENGTH, num_segments=0)
    assert_close(read(full, params, tokens)[0], read(one_block, params, tokens)[0], FLOAT32)
    assert np.abs(read(full, params, tokens)[0] - read(banded, params, tokens)[0]).max() > 1e-3


@pytest.mark.parametrize("lengths", [[0, 1], [BLOCK - 1, BLOCK], [BLOCK + 1, 3 * BLOCK + 3]], ids=str)
@pytest.mark.parametrize("memory", [{}, {"fam_length": 0}], ids=["fam", "bswa"])
def test_batch_independence(lengths, memory):
    """Invariant 5. Guards against padding that is attended to or written into memory, and against rows that mix.

    The rows go on, in a second call, from different places in their blocks.
    """
    config = vary(**memory)
    params, tokens = params_of(config), random_tokens(2, 6 * BLOCK)
    first = call(config, params, tokens[:, : 4 * BLOCK], start(config, params, 2), jnp.array(lengths))
    second = call(config, params, tokens[:, 4 * BLOCK :], first.state)
    for row, length in enumerate(lengths):
        text = np.concatenate([tokens[row, :length], tokens[row, 4 * BLOCK :]])
        alone = np.pad(text, (0, 7 * BLOCK - len(text)))[None]
        expected = call(config, params, alone, start(config, params, 1), jnp.array([len(text)]))
        assert_close(first.hidden[row, :length], expected.hidden[0, :length], FLOAT32, "before")
        assert_close(first.hidden[row, length:], jnp.zeros_like(first.hidden[row, length:]), FLOAT32, "padding")
        assert_close(second.hidden[row], expected.hidden[0, length : len(text)], FLOAT32, "after")
        assert_close(second.state.fam[:, row], expected.state.fam[:, 0], FLOAT32, "FAM")


def test_padding_anywhere():
    """Guards against padding before or between tokens that takes a position or a slot."""
    config = vary()
    params, tokens = params_of(config), random_tokens(2, LENGTH)
    valid = np.random.default_rng(2).random((2, LENGTH)) < 0.6
    aligned, lengths = left_align(jnp.asarray(tokens), jnp.asarray(valid))
    output = call(config, params, aligned, start(config, params, 2), lengths)
    for row in range(2):
        alone = tokens[row : row + 1, valid[row]]
        expected = call(config, params, alone, start(config, params, 1))
        assert alone.shape[1] < LENGTH
        assert_close(output.hidden[row, : alone.shape[1]], expected.hidden[0], FLOAT32)


def input_gradient(config: TransformerConfig, length: int) -> np.ndarray:
    """Size of the gradient of the last position's activations with respect to every token's embedding [T]."""
    params, tokens = params_of(config), random_tokens(1, length)
    one_hot = jax.nn.one_hot(tokens, config.vocab_size)

    def last(perturbation):
        # Every position gets a token of its own, so that rows of the embedding table are positions.
        table = jnp.concatenate(
            [params["embedding"]["table"], (one_hot @ params["embedding"]["table"])[0] + perturbation]
        )
        own = {**params, "embedding": {"table": table}}
        wide = dataclasses.replace(config, vocab_size=config.vocab_size + length)
        own_tokens = jnp.arange(length)[None] + config.vocab_size
        output = call(wide, own, own_tokens, start(wide, own, 1, with_cache=False))
        return jnp.sum(output.hidden[0, -1] * jnp.arange(1.0, config.emb_dim + 1))

    return np.abs(np.asarray(jax.jit(jax.grad(last))(jnp.zeros((length, config.emb_dim))))).max(axis=1)


def test_reach():
    """Invariant 6. Guards against a memory that carries no gradient, and against a window that leaks."""
    blocks, layers, segments = 9, 2, 1
    length = blocks * BLOCK
    with_fam = input_gradient(vary(num_segments=segments), length)
    assert with_fam[:BLOCK].min() > 0
    without = input_gradient(vary(num_segments=segments, fam_length=0), length)
    field = layers * segments + 1
    assert without[: length - field * BLOCK].max() == 0
    assert without[length - field * BLOCK :].min() > 0
    for fam_length in (0, 3):
        stopped = input_gradient(vary(num_segments=segments, fam_length=fam_length, stop_gradient=True), length)
        assert stopped[:-BLOCK].max() == 0
        assert stopped[-BLOCK:].min() > 0


def test_stopped_gradient_reaches_the_prompt():
    """Guards against an ablation whose prompt stays at its initial values."""
    config = vary(stop_gradient=True)
    params, tokens = params_of(config), jnp.asarray(random_tokens(1, LENGTH))

    @jax.jit
    def loss(params):
        return jnp.sum(jnp.square(call(config, params, tokens, start(config, params, 1)).hidden))

    assert jnp.abs(jax.grad(loss)(params)["fam_prompt"]).min() > 0


@pytest.mark.parametrize("policy", ["full", "dots", "dots_without_batch"])
def test_rematerialisation_changes_nothing(policy):
    """Invariant 8. Guards against a policy that drops or repeats something, dropout included."""
    params, tokens = params_of(vary()), jnp.asarray(random_tokens(2, LENGTH))

    def gradient(config: TransformerConfig):
        model = Transformer(config, deterministic=False)

        def loss(params):
            state = model.apply({"params": params}, 2, method="init_state", with_cache=False)
            output = model.apply({"params": params}, tokens, state, rngs={"dropout": jax.random.key(3)})
            return jnp.sum(jnp.square(output.hidden) * 0.01)

        return jax.jit(jax.value_and_grad(loss))(params), str(jax.make_jaxpr(jax.grad(loss))(params))

    expected, plain_program = gradient(vary(dropout_rate=0.3))
    actual, program = gradient(vary(dropout_rate=0.3, remat_policy=policy))
    assert program != plain_program
    assert_close(actual, expected, FLOAT32_GRADIENT)


@pytest.mark.parametrize("kv_heads", KV_HEADS.values(), ids=KV_HEADS)
def test_offset_invariance(kv_heads):
    """Invariant 9. Guards against attention that depends on absolute positions; far away too."""
    config = vary(fam_length=0, num_kv_heads=kv_heads)
    params, tokens = params_of(config), random_tokens(1, LENGTH)
    near = call(config, params, tokens, start(config, params, 1))
    for offset in (1, 62_831, 3_000_000):
        far = call(config, params, tokens, start(config, params, 1, position_offset=jnp.array([offset])))
        assert_close(far.hidden, near.hidden, OFFSET)


def test_offset_reaches_positions():
    """Guards against an offset that is ignored: with positions of FAM fixed at zero it must change the outputs."""
    config = vary(fam_position="zero")
    params, tokens = params_of(config), random_tokens(1, LENGTH)
    near = call(config, params, tokens, start(config, params, 1))
    far = call(config, params, tokens, start(config, params, 1, position_offset=jnp.array([100])))
    assert jnp.abs(far.hidden - near.hidden).max() > 1e-3


def test_dropout_needs_training_and_changes_every_path():
    """Guards against dropout that never acts, or that acts in evaluation."""
    config = vary(dropout_rate=0.5)
    params, tokens = params_of(config), jnp.asarray(random_tokens(1, LENGTH))
    state = start(config, params, 1)
    plain = call(config, params, tokens, state)
    assert_close(plain.hidden, call(vary(), params, tokens, state).hidden, FLOAT32)
    model = Transformer(config, deterministic=False)
    first, second = (
        jax.jit(model.apply)({"params": params}, tokens, state, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 1)
    )
    assert jnp.abs(first.hidden - second.hidden).max() > 1e-3
    assert jnp.abs(first.state.fam - second.state.fam).max() > 1e-3
    assert jnp.abs(first.state.fam - plain.state.fam).max() > 1e-3


def test_diagnostics_equal_hand_count():
    """Guards against reports on FAM that count padding or unwritten blocks, or that are not shares."""
    config = vary(num_layers=1)
    params, tokens = params_of(config), random_tokens(2, 2 * BLOCK)
    state = start(config, params, 2)
    output = call(config, params, tokens, state, jnp.array([BLOCK, 2 * BLOCK - 1]))
    diagnostics = output.diagnostics
    fam = np.asarray(output.state.fam[0])
    rms = [np.sqrt(np.mean(row**2)) for row in fam]
    np.testing.assert_allclose(diagnostics.fam_norm.mean[0], np.mean(rms), rtol=1e-5)
    assert diagnostics.fam_update.mean[0] == 0, "a text's first update does not count"
    later = call(config, params, tokens, output.state, jnp.array([BLOCK, BLOCK - 1]))
    new, old = np.asarray(later.state.fam[0]), fam
    change = [np.mean((new[row] - old[row]) ** 2) / np.mean(new[row] ** 2) for row in (0, 1)]
    np.testing.assert_allclose(later.diagnostics.fam_update.mean[0], np.mean(change), rtol=1e-5)
    whole = call(config, params, tokens := random_tokens(2, 3 * BLOCK), start(config, params, 2)).diagnostics
    states, departures = [start(config, params, 2)], []
    for block in range(3):
        states.append(call(config, params, tokens[:, block * BLOCK :][:, :BLOCK], states[-1]).state)
    for state in states[2:]:
        first, now = np.asarray(states[1].fam[0]), np.asarray(state.fam[0])
        departures += [np.mean((now[row] - first[row]) ** 2) / np.mean(now[row] ** 2) for row in (0, 1)]
    np.testing.assert_allclose(whole.fam_departure.mean[0], np.mean(departures), rtol=1e-5)
    zero_queries = {
        **params["layers"]["attention"],
        "query": {"kernel": 0 * params["layers"]["attention"]["query"]["kernel"]},
    }
    uniform = {**params, "layers": {**params["layers"], "attention": zero_queries}}
    shares = call(
        config, uniform, tokens[:1], start(config, uniform, 1), jnp.array([BLOCK + 1])
    ).diagnostics.fam_attention.mean
    expected = [3 / (3 + 1 + slot) for slot in range(BLOCK)] + [3 / (BLOCK + 3 + 1)]
    np.testing.assert_allclose(shares[0], np.mean(expected), rtol=1e-5)
