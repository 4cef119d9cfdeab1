"""Document streaming on the devices: what the rows of a batch carry from step to step, and what it is worth.

Back-propagation is truncated between steps. The keys and values of past segments stay as the parameters of their step
made them, as in Transformer-XL (arXiv 1901.02860). FAM's keys and values are made anew from FAM at the beginning of a
step, by the parameters of that step.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from numpy.typing import NDArray

from famjax.data.document_rows import StreamCounts
from famjax.models.config import TransformerConfig
from famjax.models.dims import Leaf
from famjax.models.layout import text_blocks
from famjax.models.memory import Cache, LayerState, State, Texts, empty_cache
from famjax.models.transformer import Transformer, initial_state
from famjax.training.losses import TokenScores

Batch = Mapping[str, jax.Array]

# Blocks of a document are counted in buckets that double: 0, 1, 2-3, 4-7, ..., 16384 and more.
NUM_BUCKETS = 16


@struct.dataclass
class BlockSums:
    """Sums over the blocks of a (micro)batch; they add up over microbatches and batches.

    Attributes:
      loss: weighted loss in each bucket of blocks, counted from the beginning of their document [NUM_BUCKETS].
      weight: the weights there [NUM_BUCKETS].
      blocks_since_reset: blocks of the document before each block, summed [].
      blocks: those that hold a token [].
    """

    loss: Leaf
    weight: Leaf
    blocks_since_reset: Leaf
    blocks: Leaf


def block_metrics(sums: BlockSums) -> dict[str, jax.Array]:
    """What a step reports of them: blocks_since_reset [], a mean; loss_by_block and weight_by_block [NUM_BUCKETS]."""
    return {
        "blocks_since_reset": sums.blocks_since_reset / jnp.maximum(sums.blocks, 1),
        "loss_by_block": sums.loss,
        "weight_by_block": sums.weight,
    }


def begin_stream(config: TransformerConfig, batch_size: int) -> State:
    """What rows carry before the first step, when each begins a document: arrays of the right shapes, all 0."""
    shape = (config.num_layers, batch_size, config.memory.fam_length, config.emb_dim)
    zeros = jnp.zeros(batch_size, jnp.int32)
    cache = jax.tree.map(
        lambda array: jnp.zeros((config.num_layers, *array.shape), array.dtype), empty_cache(config, batch_size)
    )
    return carry_on(
        State(
            layers=LayerState(fam=jnp.zeros(shape, jnp.float32), cache=cache),
            num_tokens=zeros,
            position_offset=zeros,
            fam_is_initial=jnp.ones(batch_size, jnp.bool_),
            aligned=True,
        )
    )


def carry_on(state: State) -> State:
    """What rows carry from one step to the next: no gradient, and of the keys and values those of past segments only.

    Rows stand at the start of a block, or the next one begins a document; and FAM's are made anew.
    """
    cache = state.layers.cache
    if cache is not None:
        has_segments = cache.segments.keys.shape[2] > 0
        cache = Cache(segments=cache.segments, block=None, fam=None) if has_segments else None
    layers = LayerState(fam=state.layers.fam, cache=cache)
    return jax.lax.stop_gradient(dataclasses.replace(state, layers=layers))


def ablated(model: Transformer, params: Any, stream: State) -> State:
    """The stream of rows that have forgotten what they read: the initial state in every row."""
    return initial_state(model, params, stream.num_tokens.shape[0], stream.position_offset, with_cache=False)


def texts_of(batch: Batch, start: State) -> Texts:
    """The documents of a batch, each of which begins in the state `start`."""
    return Texts(begins=batch["begins"], lengths=batch["block_lengths"], start=start)


def sum_by_block(scores: TokenScores, batch: Batch, stream: State, block_size: int) -> BlockSums:
    """Sums the scores of a batch by their place in the document; `stream` is what the rows carried into it."""
    index_BxN = text_blocks(stream.num_tokens, batch["begins"], block_size)
    holds_tokens = batch["block_lengths"] > 0
    bucket_BxN = jnp.sum(index_BxN[:, :, None] >= 2 ** jnp.arange(NUM_BUCKETS - 1)[None, None, :], axis=2)
    in_bucket_BxNxk = (bucket_BxN[:, :, None] == jnp.arange(NUM_BUCKETS)[None, None, :]).astype(jnp.float32)

    def by_bucket(values_BxT: jax.Array) -> jax.Array:
        values_BxN = jnp.sum(values_BxT.reshape(*index_BxN.shape, block_size), axis=2)
        return jnp.einsum("BN,BNk->k", values_BxN, in_bucket_BxNxk)

    return BlockSums(
        loss=by_bucket(scores.loss * batch["weights"]),
        weight=by_bucket(batch["weights"]),
        blocks_since_reset=jnp.sum(jnp.where(holds_tokens, index_BxN, 0), dtype=jnp.float32),
        blocks=jnp.sum(holds_tokens, dtype=jnp.float32),
    )


def loss_at_blocks(
    loss: NDArray[np.floating], weight: NDArray[np.floating], name: str = "loss_at_block"
) -> dict[str, float]:
    """The mean loss of each bucket that has a target, as "loss_at_block/4-7"; arguments as of `BlockSums`."""
    values = {}
    for bucket in np.flatnonzero(weight > 0):
        first, last = (0, 0) if bucket == 0 else (2 ** (bucket - 1), 2**bucket - 1)
        blocks = f"{first}+" if bucket == NUM_BUCKETS - 1 else f"{first}" if first == last else f"{first}-{last}"
        values[f"{name}/{blocks}"] = float(loss[bucket] / weight[bucket])
    return values


def stream_metrics(
    loss_by_block: NDArray[np.floating], weight_by_block: NDArray[np.floating], counts: StreamCounts
) -> dict[str, float]:
    """What is reported of streamed documents besides a step's own metrics."""
    return {
        "documents_read": counts.documents,
        "tokens_read": counts.tokens,
        "padding": counts.padding,
        **loss_at_blocks(loss_by_block, weight_by_block),
    }


def cut_rows(stream: State, parts: int) -> State:
    """Cuts a stream into microbatches, stacked on a new first axis, as the step cuts its batch."""

    def cut(array: jax.Array, axis: int) -> jax.Array:
        shape = (*array.shape[:axis], -1, parts, *array.shape[axis + 1 :])
        return jnp.moveaxis(array.reshape(shape), axis + 1, 0)

    return _map_rows(cut, stream)


def join_rows(streams: State) -> State:
    """Puts together again what `cut_rows` has cut."""

    def join(array: jax.Array, axis: int) -> jax.Array:
        joined = jnp.moveaxis(array, 0, axis + 1)
        return joined.reshape(*joined.shape[:axis], -1, *joined.shape[axis + 2 :])

    return _map_rows(join, streams)


def _map_rows(function: Callable[[jax.Array, int], jax.Array], stream: State) -> State:
    """Applies a function of an array and its axis of rows: 1 in the layers' arrays, 0 in the others."""
    return State(
        layers=jax.tree.map(lambda array: function(array, 1), stream.layers),
        num_tokens=function(stream.num_tokens, 0),
        position_offset=function(stream.position_offset, 0),
        fam_is_initial=function(stream.fam_is_initial, 0),
        aligned=stream.aligned,
    )
