"""Attention of one piece's queries over its keys, and which keys a token may look at."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from famjax.models.layers import soft_cap
from famjax.models.layout import Layout

Probabilities = Float[Array, "B K G S X"]


def attention_probabilities(
    q_BxSxHxh: Float[Array, "B S H h"],
    k_BxXxKxh: Float[Array, "B X K h"],
    mask_BxSxX: Bool[Array, "B S X"] | None,
    scale: float | None = None,
    score_cap: float | None = None,
) -> Probabilities:
    """Softmax of the scaled scores, in float32.

    Query head i looks at key head i // G. Every query needs one key at least.

    Args:
      q_BxSxHxh: queries.
      k_BxXxKxh: keys.
      mask_BxSxX: which keys a query looks at; None: all.
      scale: of the scores; None: h ** -0.5.
      score_cap: soft cap of the scaled scores (`famjax.models.layers.soft_cap`).
    """
    batch, slots, heads, width = q_BxSxHxh.shape
    kv_heads = k_BxXxKxh.shape[2]
    q_BxSxKxGxh = q_BxSxHxh.reshape(batch, slots, kv_heads, heads // kv_heads, width)
    scores = jnp.einsum("BSKGh,BXKh->BKGSX", q_BxSxKxGxh, k_BxXxKxh, preferred_element_type=jnp.float32)
    scores = soft_cap(scores * (width**-0.5 if scale is None else scale), score_cap)
    if mask_BxSxX is not None:
        scores = jnp.where(mask_BxSxX[:, None, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, axis=-1)


def weigh_values(probabilities: Probabilities, v_BxXxKxh: Float[Array, "B X K h"]) -> Float[Array, "B S H h"]:
    """Sums the values by their probabilities."""
    batch, kv_heads, group, slots, _ = probabilities.shape
    mixed_BxSxKxGxh = jnp.einsum("BKGSX,BXKh->BSKGh", probabilities.astype(v_BxXxKxh.dtype), v_BxXxKxh)
    return mixed_BxSxKxGxh.reshape(batch, slots, kv_heads * group, v_BxXxKxh.shape[-1])


def attend(
    q_BxSxHxh: Float[Array, "B S H h"],
    k_BxXxKxh: Float[Array, "B X K h"],
    v_BxXxKxh: Float[Array, "B X K h"],
    mask_BxSxX: Bool[Array, "B S X"] | None = None,
    scale: float | None = None,
    score_cap: float | None = None,
) -> Float[Array, "B S H h"]:
    """Multi-head, grouped-query or multi-query attention (K = H, a divisor of H, or 1); no mask: every key is seen."""
    return weigh_values(attention_probabilities(q_BxSxHxh, k_BxXxKxh, mask_BxSxX, scale, score_cap), v_BxXxKxh)


def read_mask(layout: Layout, num_segments: int, fam_length: int, window: int | None = None) -> Bool[Array, "B P S X"]:
    """Which of [memory segments | FAM | block] the token in a slot may look at (spec: The layer, step 2).

    All of the segments that exist, all of FAM, and the block up to the token itself; of segments and block only the
    last `window` tokens, the token itself included. An empty slot sees some keys too, so that its softmax is finite;
    nobody reads what it computes.
    """
    batch, pieces, slots = layout.occupied.shape
    size = layout.block_size
    segment_exists = layout.block_index[:, :, None] - num_segments + jnp.arange(num_segments)[None, None, :] >= 0
    see_segments = jnp.repeat(segment_exists, size, axis=2)[:, :, None, :]
    see_fam = jnp.ones((1, 1, 1, fam_length), jnp.bool_)
    own_slot: Int[Array, "B P S"] = layout.start[:, :, None] + jnp.arange(slots)[None, None, :]
    see_block = jnp.arange(size)[None, None, None, :] <= own_slot[:, :, :, None]
    if window is not None:
        in_window = own_slot[:, :, :, None] - jnp.arange(-num_segments * size, size)[None, None, None, :] < window
        see_segments = see_segments & in_window[..., : num_segments * size]
        see_block = see_block & in_window[..., num_segments * size :]
    parts = [see_segments, see_fam, see_block]
    return jnp.concatenate([jnp.broadcast_to(part, (batch, pieces, slots, part.shape[-1])) for part in parts], axis=3)
