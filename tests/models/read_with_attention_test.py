"""The probabilities of a call: equal to the naive model's, and nothing of them in an ordinary call."""

import functools

import jax
import numpy as np
import oracle
import pytest
from jax.extend.core import jaxprs_in_params

from famjax.models.transformer import Transformer, initial_state, read, read_with_attention
from small import BLOCK, params_of, random_tokens, vary
from tolerances import FLOAT32, assert_close

LENGTH = 5 * BLOCK + 2
MEMORIES = {
    "fam": {},
    "grouped": {"num_kv_heads": 2, "fam_position": "between_blocks"},
    "no_segments": {"num_segments": 0},
    "bswa": {"fam_length": 0},
    "block_only": {"fam_length": 0, "num_segments": 0},
}


def weights_of(config, queries, keys):
    """Softmax of one query's scores over the keys that it sees, for each head [H, keys]."""
    group = config.num_heads // config.num_kv_heads
    scores = [[q @ key[head // group] for key in keys] for head, q in enumerate(queries)]
    exponents = np.exp(np.array(scores) / config.head_dim**0.5)
    return exponents / exponents.sum(axis=1, keepdims=True)


def naive_maps(config, params, tokens):
    """Probabilities of the tokens [n, X] and of FAM [F, F + n], by (layer, head, block), from the oracle's parts."""
    memory, maps = config.memory, {}
    layers = oracle.layers_of(config, params)
    table = np.asarray(params["embedding"]["table"], np.float64)
    fams = oracle.initial_fam(config, params) if memory.fam_length else [np.zeros((0, config.emb_dim))] * len(layers)
    pasts = [[] for _ in layers]
    for block in range(-(-len(tokens) // memory.block_size)):
        x = [table[token] for token in tokens[block * memory.block_size :][: memory.block_size]]
        for index, layer in enumerate(layers):
            places = oracle.fam_positions(config, block, 0)
            fam = [oracle.project(config, layer, row, at) for row, at in zip(fams[index], places, strict=True)]
            own = [oracle.project(config, layer, row, block * memory.block_size + i) for i, row in enumerate(x)]
            room = memory.num_segments * memory.block_size
            window = [key for key, _ in pasts[index][max(len(pasts[index]) - room, 0) :]]
            fam_keys, own_keys = [key for _, key, _ in fam], [key for _, key, _ in own]
            before = room - len(window)
            of_tokens = np.zeros((config.num_heads, len(x), room + len(fam) + len(x)))
            for i, (query, _, _) in enumerate(own):
                seen = window + fam_keys + own_keys[: i + 1]
                of_tokens[:, i, before : before + len(seen)] = weights_of(config, query, seen)
            of_fam = np.array([weights_of(config, query, fam_keys + own_keys) for query, _, _ in fam])
            for head in range(config.num_heads):
                of_head = of_fam[:, head] if fam else np.zeros((0, len(x)))
                maps[index, head, block] = of_tokens[head], of_head
            x, fams[index], new = oracle.read_block(config, layer, fams[index], block == 0, block, 0, pasts[index], x)
            pasts[index] = pasts[index] + new
    return maps


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(config, params, tokens, first):
    """Reads `first` tokens, then the others, with probabilities."""
    model = Transformer(config)
    state = initial_state(model, params, len(tokens))
    state = read(model, params, tokens[:, :first], state).state if first else state
    return read_with_attention(model, params, tokens[:, first:], state)


@pytest.mark.parametrize(("memory", "first"), [*((memory, 0) for memory in MEMORIES), ("fam", 4), ("bswa", 4)])
def test_equal_to_the_naive_model(memory, first):
    """Guards against the probabilities of another row, layer, head, block or key, from the start and later on."""
    config = vary(**MEMORIES[memory])
    params, tokens = params_of(config), random_tokens(2, LENGTH)
    _, seen = jax.device_get(run(config, params, tokens, first * BLOCK))
    assert seen.tokens.shape[:4] == (config.num_layers, 2, 6 - first, config.num_heads)
    for row in range(2):
        for (layer, head, block), (of_tokens, of_fam) in naive_maps(config, params, tokens[row]).items():
            if block < first:
                continue
            where = f"row {row}, layer {layer}, head {head}, block {block}"
            place = (layer, row, block - first, head)
            slots, keys = of_tokens.shape
            assert_close(seen.tokens[place][:slots, :keys], of_tokens, FLOAT32, where)
            if slots == BLOCK:
                assert_close(seen.fam[place], of_fam, FLOAT32, where)


def test_the_call_is_the_same():
    """Guards against activations or a state that depend on being looked at, in the middle of a block, too."""
    config = vary()
    model, params, tokens = Transformer(config), params_of(config), random_tokens(2, LENGTH)
    state = jax.jit(lambda tokens: initial_state(model, params, len(tokens)))(tokens)
    for some in (tokens[:, : BLOCK + 1], tokens[:, BLOCK + 1 : BLOCK + 3], tokens[:, BLOCK + 3 :]):
        watched, _ = jax.jit(functools.partial(read_with_attention, model, params))(some, state)
        ordinary = jax.jit(functools.partial(read, model, params))(some, state)
        assert_close(watched, ordinary, FLOAT32)
        state = ordinary.state


def loop_outputs(jaxpr):
    """Shapes of what every loop of a program hands out."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield from (variable.aval.shape for variable in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from loop_outputs(inner)


@pytest.mark.parametrize(("length", "remat_policy"), [(1, "none"), (3 * BLOCK + 1, "none"), (3 * BLOCK + 1, "dots")])
def test_an_ordinary_call_has_no_trace_of_it(length, remat_policy):
    """Guards against probabilities that training and inference would compute or store."""
    config = vary(num_kv_heads=2, remat_policy=remat_policy)
    model, params, tokens = Transformer(config), params_of(config), random_tokens(2, length)
    state = jax.eval_shape(lambda: initial_state(model, params, 2))
    ordinary, watched = (
        set(loop_outputs(jax.make_jaxpr(functools.partial(function, model, params))(tokens, state).jaxpr))
        for function in (read, read_with_attention)
    )
    slots, pieces = min(length, BLOCK), -(-length // BLOCK)
    num_keys = 2 * BLOCK + 3 + BLOCK
    of_tokens, of_fam = (pieces, 2, 2, 2, slots, num_keys), (pieces, 2, 2, 2, 3, 3 + BLOCK)
    assert {of_tokens, of_fam} <= watched
    assert not any(shape[-1:] == (num_keys,) or shape[-2:] == of_fam[-2:] for shape in ordinary)
    assert len(ordinary & watched) == len(ordinary)
