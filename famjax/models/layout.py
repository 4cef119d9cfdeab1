"""Where the tokens of a call lie: integers only, the same for every layer.

A call brings T tokens a row to a state whose unfinished block already holds `fill` tokens, and `fill` may differ from
row to row. The call is cut into pieces such that piece p of every row lies within one block:

    row with fill 0:   [0 ........ C-1] [C ....... 2C-1] [2C ..
    row with fill 3:   ...[3 ..... C-1] [C ....... 2C-1] [2C ..
                       piece 0           piece 1          piece 2

so that all rows end their blocks together and one computation, over [B, P, S], serves training (fill 0, whole blocks),
prefill in chunks and decoding (T = 1: one piece of one slot).

Where rows read one text after another (document streaming), each text begins with a block: a piece is a block then, and
a text's last block may end in padding (`make_text_layout`).
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from famjax.models.dims import BlockFlags, BlockLengths, Hidden, Leaf, Lengths, Tokens


@struct.dataclass
class Layout:
    """The pieces of a call.

    Attributes:
      token_index: which token of the call lies in a slot (any token, where the slot is empty) [B, P, S].
      occupied: whether a slot holds a token [B, P, S].
      positions: a slot's token's position in its text, from 0 [B, P, S].
      start: slots of the block that were filled before the piece [B, P].
      filled: slots of the block that are filled after the piece [B, P].
      block_index: index, in its text, of the block that a piece lies in [B, P].
      lengths: tokens of the call, for each row [B].
      begins: whether a new text begins with a piece [B, P]; None: no text begins or ends in the call.
      block_size: C.
      identity: the pieces are the tokens in order, padded at the end: no gathering is needed.
    """

    token_index: Leaf
    occupied: Leaf
    positions: Leaf
    start: Leaf
    filled: Leaf
    block_index: Leaf
    lengths: Leaf
    begins: Leaf | None
    block_size: int = struct.field(pytree_node=False)
    identity: bool = struct.field(pytree_node=False)

    @property
    def full(self) -> Bool[Array, "B P"]:
        """Whether the block is complete at the end of the piece."""
        return self.filled == self.block_size

    @property
    def num_blocks_completed(self) -> Lengths:
        """Blocks that the call completes, for each row."""
        return jnp.sum(self.full, axis=1)

    def scatter_tokens(self, tokens: Tokens) -> Int[Array, "B P S"]:
        """Brings the tokens of a call into their slots (an empty slot holds some token)."""
        batch, pieces, slots = self.occupied.shape
        if self.identity:
            padding = pieces * slots - tokens.shape[1]
            return jnp.pad(tokens, ((0, 0), (0, padding))).reshape(batch, pieces, slots)
        return jnp.take_along_axis(tokens[:, None, :], self.token_index, axis=2)

    def gather_hidden(self, hidden_BxPxSxD: Float[Array, "B P S D"], num_tokens: int) -> Hidden:
        """Brings activations in slots back to the order of the call's tokens; those of padding are 0."""
        batch, pieces, slots, width = hidden_BxPxSxD.shape
        hidden_BxQxD = hidden_BxPxSxD.reshape(batch, pieces * slots, width)
        ranks = jnp.arange(num_tokens)[None, :]
        if self.identity:
            hidden_BxTxD = hidden_BxQxD[:, :num_tokens]
            is_token = self.occupied.reshape(batch, pieces * slots)[:, :num_tokens]
        else:
            slot_in_text = self.start[:, :1] + ranks
            piece = slot_in_text // self.block_size
            slot = slot_in_text % self.block_size - jnp.where(piece == 0, self.start[:, :1], 0)
            hidden_BxTxD = jnp.take_along_axis(hidden_BxQxD, (piece * slots + slot)[:, :, None], axis=1, mode="clip")
            is_token = ranks < self.lengths[:, None]
        return jnp.where(is_token[:, :, None], hidden_BxTxD, 0)


def make_layout(num_read: Lengths, lengths: Lengths, num_tokens: int, block_size: int, aligned: bool) -> Layout:
    """Lays a call's tokens out in pieces.

    Args:
      num_read: tokens that each row has read before.
      lengths: tokens of this call in each row; the rest of a row, to `num_tokens`, is padding.
      num_tokens: T, the call's shape.
      block_size: C.
      aligned: every row is known to stand at the start of a block.
    """
    slots = min(num_tokens, block_size)
    furthest = num_tokens if aligned else num_tokens + block_size - 1
    pieces = -(-furthest // block_size)
    fill = jnp.zeros_like(num_read) if aligned else num_read % block_size
    ends = jnp.clip((jnp.arange(pieces)[None, :] + 1) * block_size - fill[:, None], 0, lengths[:, None])
    begins = jnp.concatenate([jnp.zeros_like(ends[:, :1]), ends[:, :-1]], axis=1)
    rank = begins[:, :, None] + jnp.arange(slots)[None, None, :]
    start = jnp.where(jnp.arange(pieces)[None, :] == 0, fill[:, None], 0)
    return Layout(
        token_index=jnp.minimum(rank, num_tokens - 1),
        occupied=rank < ends[:, :, None],
        positions=num_read[:, None, None] + rank,
        start=start,
        filled=start + ends - begins,
        block_index=(num_read // block_size)[:, None] + jnp.arange(pieces)[None, :],
        lengths=lengths,
        begins=None,
        block_size=block_size,
        identity=aligned,
    )


def make_text_layout(num_read: Lengths, begins: BlockFlags, lengths: BlockLengths, block_size: int) -> Layout:
    """Lays out the blocks of rows that read text after text, all standing at the start of a block.

    Args:
      num_read: tokens that each row has read of the text that it is in.
      begins: blocks with which a new text begins.
      lengths: tokens of each block; the rest of it is padding.
      block_size: C.
    """
    batch, pieces = begins.shape
    block_index = text_blocks(num_read, begins, block_size)
    slot = jnp.arange(block_size)[None, None, :]
    rank = jnp.arange(pieces)[None, :, None] * block_size + slot
    return Layout(
        token_index=jnp.broadcast_to(rank, (batch, pieces, block_size)),
        occupied=slot < lengths[:, :, None],
        positions=block_index[:, :, None] * block_size + slot,
        start=jnp.zeros_like(lengths),
        filled=lengths,
        block_index=block_index,
        lengths=jnp.sum(lengths, axis=1),
        begins=begins,
        block_size=block_size,
        identity=True,
    )


def text_blocks(num_read: Lengths, begins: BlockFlags, block_size: int) -> BlockLengths:
    """Index, in its text, of each block; arguments as of `make_text_layout`."""
    rank = jnp.arange(begins.shape[1])[None, :]
    first = jax.lax.cummax(jnp.where(begins, rank, -1), axis=1)
    return jnp.where(first < 0, num_read[:, None] // block_size + rank, rank - first)


def left_align(tokens: Tokens, valid: Bool[Array, "B T"]) -> tuple[Tokens, Lengths]:
    """Moves a row's padding, wherever it stands, behind its tokens.

    Args:
      tokens: any tokens.
      valid: False where a token is padding.

    Returns:
      The tokens, padding last, and how many of each row are tokens: what `Transformer` takes.
    """
    order = jnp.argsort(~valid, axis=1, stable=True)
    return jnp.take_along_axis(tokens, order, axis=1), jnp.sum(valid, axis=1, dtype=jnp.int32)
