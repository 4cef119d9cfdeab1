"""The layout of a call against loops over rows and tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from famjax.models.layout import left_align, make_layout

# (tokens read before, tokens of the call, T, C)
CASES = {
    "aligned_with_remainder": ([0, 0], [11, 11], 11, 4),
    "aligned_later": ([8, 4], [8, 8], 8, 4),
    "in_the_middle": ([3, 6], [9, 9], 9, 4),
    "one_token": ([3, 4], [1, 1], 1, 4),
    "less_than_a_block": ([2, 0, 3], [2, 2, 2], 2, 4),
    "padded": ([0, 5, 7, 2], [0, 3, 10, 1], 10, 4),
    "blocks_of_one": ([2, 0], [5, 3], 5, 1),
    "one_large_block": ([1, 0], [6, 7], 7, 16),
}


@pytest.mark.parametrize(
    ("name", "aligned"),
    [*((name, False) for name in CASES), *((name, True) for name in ("aligned_with_remainder", "aligned_later"))],
)
def test_equals_loop(name, aligned):
    """Guards against a token in a wrong slot, or in two, where calls begin or end within a block."""
    num_read, lengths, num_tokens, size = CASES[name]
    layout = make_layout(jnp.array(num_read), jnp.array(lengths), num_tokens, size, aligned)
    rows, pieces, slots = layout.occupied.shape
    assert slots == min(num_tokens, size)
    occupied = np.zeros((rows, pieces, slots), bool)
    for row, (read, length) in enumerate(zip(num_read, lengths, strict=True)):
        fill = read % size
        filled = [fill if piece == 0 else 0 for piece in range(pieces)]
        for token in range(length):
            piece = (read + token) // size - read // size
            slot = (read + token) % size - (fill if piece == 0 else 0)
            occupied[row, piece, slot] = True
            filled[piece] += 1
            assert layout.token_index[row, piece, slot] == token
            assert layout.positions[row, piece, slot] == read + token
        assert layout.filled[row].tolist() == filled
        assert layout.start[row].tolist() == [fill] + [0] * (pieces - 1)
        assert layout.num_blocks_completed[row] == (read + length) // size - read // size
        assert layout.block_index[row, 0] == read // size
    np.testing.assert_array_equal(layout.occupied, occupied)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tokens_come_back_in_order(case):
    """Guards against activations that come back at another token, and against padding that is not zero."""
    num_read, lengths, num_tokens, size = case
    aligned = all(read % size == 0 for read in num_read)
    layout = make_layout(jnp.array(num_read), jnp.array(lengths), num_tokens, size, aligned)
    tokens = jnp.arange(len(num_read) * num_tokens).reshape(len(num_read), num_tokens) + 1
    scattered = layout.scatter_tokens(tokens)
    assert scattered.shape == layout.occupied.shape
    hidden = jnp.where(layout.occupied, scattered, -7)[..., None].astype(jnp.float32)
    back = layout.gather_hidden(hidden, num_tokens)[..., 0]
    is_token = np.arange(num_tokens) < np.array(lengths)[:, None]
    np.testing.assert_array_equal(back, np.where(is_token, tokens, 0))


def test_left_align_keeps_the_order():
    """Guards against padding that stays in front, and against tokens that change places."""
    tokens = jnp.array([[5, 6, 7, 8], [1, 2, 3, 4], [9, 9, 9, 9]])
    valid = jnp.array([[False, True, False, True], [True] * 4, [False] * 4])
    aligned, lengths = left_align(tokens, valid)
    assert lengths.tolist() == [2, 4, 0]
    assert aligned[0, :2].tolist() == [6, 8]
    assert aligned[1].tolist() == [1, 2, 3, 4]
