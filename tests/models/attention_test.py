"""Attention and its mask against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from famjax.models.attention import attend, attention_probabilities, read_mask
from famjax.models.layout import make_layout
from tolerances import BFLOAT16, FLOAT32, assert_close

B, S, X, H, WIDTH = 2, 3, 5, 4, 6


def draw(kv_heads: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Queries, keys, values and a mask in which every query sees something."""
    random = np.random.default_rng(0)
    q = random.normal(size=(B, S, H, WIDTH))
    k, v = random.normal(size=(2, B, X, kv_heads, WIDTH))
    mask = random.random((B, S, X)) < 0.5
    mask[:, :, 0] = True
    as_float32 = functools.partial(jnp.asarray, dtype=jnp.float32)
    return as_float32(q), as_float32(k), as_float32(v), jnp.asarray(mask)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_loop(kv_heads, masked):
    """Guards against query heads that look at another group's keys, a wrong scale, and keys seen through the mask."""
    q, k, v, mask = draw(kv_heads)
    actual = attend(q, k, v, mask if masked else None)
    for b in range(B):
        for s in range(S):
            for head in range(H):
                kv = head // (H // kv_heads)
                seen = [x for x in range(X) if not masked or mask[b, s, x]]
                scores = np.array([float(q[b, s, head] @ k[b, x, kv]) for x in seen]) / np.sqrt(WIDTH)
                weights = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
                expected = sum(weight * np.asarray(v[b, x, kv]) for weight, x in zip(weights, seen, strict=True))
                assert_close(actual[b, s, head], expected, FLOAT32)


def test_softmax_in_float32():
    """Guards against a softmax in bfloat16: the shares of many keys would not add up."""
    q, k, v, mask = draw(2)
    probabilities = attention_probabilities(q.astype(jnp.bfloat16), k.astype(jnp.bfloat16), mask)
    assert probabilities.dtype == jnp.float32
    assert_close(jnp.sum(probabilities, axis=-1), jnp.ones(probabilities.shape[:-1]), FLOAT32)
    half = attend(*(array.astype(jnp.bfloat16) for array in (q, k, v)), mask)
    assert half.dtype == jnp.bfloat16
    assert_close(half, attend(q, k, v, mask), BFLOAT16)


def test_gradients_of_masked_keys_are_zero():
    """Guards against a mask that hides a key's value and lets its gradient through, and against NaN."""
    q, k, v, _ = draw(2)
    mask = jnp.zeros((B, S, X), bool).at[:, :, 0].set(True)
    gradient = jax.grad(lambda k: jnp.sum(attend(q, k, v, mask) ** 2))(k)
    assert jnp.isfinite(gradient).all()
    assert not gradient[:, 1:].any()


@pytest.mark.parametrize(("segments", "fam_length"), [(0, 0), (2, 3), (1, 0), (0, 2)])
def test_mask_equals_loop(segments, fam_length):
    """Guards against a segment before the beginning of the text, and against a token that sees its future."""
    size, num_read, lengths = 4, [0, 3, 9], [9, 6, 9]
    layout = make_layout(jnp.array(num_read), jnp.array(lengths), 9, size, aligned=False)
    mask = read_mask(layout, segments, fam_length)
    rows, pieces, slots = layout.occupied.shape
    assert mask.shape == (rows, pieces, slots, segments * size + fam_length + size)
    for row in range(rows):
        for piece in range(pieces):
            block = num_read[row] // size + piece
            for slot in range(slots):
                if not layout.occupied[row, piece, slot]:
                    assert mask[row, piece, slot].any(), "an empty slot needs a key for a finite softmax"
                    continue
                own = int(layout.positions[row, piece, slot]) % size
                expected = [block - segments + index // size >= 0 for index in range(segments * size)]
                expected += [True] * fam_length + [index <= own for index in range(size)]
                assert mask[row, piece, slot].tolist() == expected
