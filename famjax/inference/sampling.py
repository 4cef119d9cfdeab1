"""The next token of each row, from its logits. Pure functions of arrays."""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, UInt32

from famjax.models.dims import Leaf

NO_LIMIT = 2**31 - 1


@struct.dataclass
class Draw:
    """How each row draws, so that rows of a batch may differ; all [B].

    Attributes:
      keys: random keys [B, 2].
      temperature: float32; 0 is greedy.
      top_k: int32; NO_LIMIT draws among all.
      top_p: float32; 1 where there is no limit.
    """

    keys: Leaf
    temperature: Leaf
    top_k: Leaf
    top_p: Leaf


def draw_tokens(
    logits: Float[Array, "B V"], draw: Draw, index: Int[Array, " B"], *, greedy: bool, filtered: bool
) -> Int[Array, " B"]:
    """Draws a token for each row.

    Args:
      logits: of the next token.
      draw: how.
      index: how many tokens of the answer there are: token number `index` has random numbers of its own, which depend
        neither on the other rows nor on how decoding is cut into calls.
      greedy: every row's temperature is 0.
      filtered: some row has a top-k or a top-p.
    """
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    if greedy:
        return best
    scaled = logits / jnp.where(draw.temperature > 0, draw.temperature, 1)[:, None]
    if filtered:
        scaled = _limit(scaled, draw.top_k, draw.top_p)
    drawn = jax.vmap(_categorical)(draw.keys, index, scaled)
    return jnp.where(draw.temperature > 0, drawn, best)


def _categorical(key: UInt32[Array, "2"], index: Int[Array, ""], logits: Float[Array, " V"]) -> Int[Array, ""]:
    return jax.random.categorical(jax.random.fold_in(key, index), logits).astype(jnp.int32)


def _limit(logits: Float[Array, "B V"], top_k: Int[Array, " B"], top_p: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Takes away what is not among the k most probable, nor among the fewest whose probabilities reach p.

    The most probable token always stays.
    """
    order = jnp.argsort(logits, axis=-1, descending=True)
    ordered = jnp.take_along_axis(logits, order, axis=-1)
    probabilities = jax.nn.softmax(jnp.where(_ranks(logits) < top_k[:, None], ordered, -jnp.inf), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    within_p = (before < top_p[:, None]) | (top_p[:, None] >= 1) | (_ranks(logits) == 0)
    kept = (_ranks(logits) < top_k[:, None]) & within_p
    limited = jnp.where(kept, ordered, -jnp.inf)
    return jnp.take_along_axis(limited, jnp.argsort(order, axis=-1), axis=-1)


def _ranks(logits: Float[Array, "B V"]) -> Int[Array, "1 V"]:
    return jnp.arange(logits.shape[-1])[None, :]
