"""The compiled steps of inference: begin, read a chunk, score a chunk, decode. The place that jits them.

Each has a fixed shape, whatever the length of the text: a text is read in chunks of `chunk_blocks` blocks, and decoding
appends a token to the unfinished block. When the block is full the same call updates FAM and shifts the segments, in
the middle of an answer too.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float
from numpy.typing import NDArray

from famjax.errors import ConfigError
from famjax.inference.compiling import compile_step
from famjax.inference.context import Rows, rows_axes
from famjax.inference.sampling import NO_LIMIT, Draw, draw_tokens
from famjax.models.config import TransformerConfig
from famjax.models.dims import Leaf, Lengths, Tokens
from famjax.models.transformer import Transformer, initial_state, logits, read
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import make_mesh, num_batch_shards, partition_spec, use_mesh
from famjax.training.losses import score_tokens

# Tokens, over the batch, whose logits exist at one time while a text is scored.
_SCORED_AT_ONCE = 4096
# Tokens of an answer that are decoded before the host looks at them.
BURST = 32


@struct.dataclass
class ChunkScores:
    """Of every token of a chunk, given all before it; both [B, T].

    Attributes:
      logprobs: log-probability, nats.
      greedy: it was the most probable token.
    """

    logprobs: Leaf
    greedy: Leaf


@struct.dataclass
class BurstPlan:
    """What a burst of decoding is to do.

    Attributes:
      draw: how each row draws.
      done: tokens that each row's answer has already [B].
      budgets: tokens that each row may still append; 0: its answer has ended [B].
      stop_tokens: tokens before which a row ends, filled up with -1 [B, any].
      vocab_size: ids of the vocabulary, below which a token is drawn; the model's table may have more rows.
      steps: tokens at most, up to BURST.
    """

    draw: Draw
    done: Leaf
    budgets: Leaf
    stop_tokens: Leaf
    vocab_size: Leaf
    steps: Leaf


@struct.dataclass
class Decoded:
    """What a burst of decoding gave.

    Attributes:
      rows: after the tokens.
      tokens: [B, BURST]; a row's first `counts` are tokens.
      logprobs: of the tokens [B, BURST].
      counts: tokens of each row [B].
      stopped: rows whose next token was one to stop at; it is not read [B].
    """

    rows: Rows
    tokens: Leaf
    logprobs: Leaf
    counts: Leaf
    stopped: Leaf


@dataclasses.dataclass
class Clock:
    """Seconds spent, for whoever reports where the time went.

    Attributes:
      running: in compiled steps.
      compiling: in compiling them.
      compilations: how many steps were compiled.
    """

    running: float = 0.0
    compiling: float = 0.0
    compilations: int = 0


class Programs:
    """The steps of one model on one mesh; each is compiled when it is first called with so many rows.

    Attributes:
      chunk_size: tokens of a chunk.
      vocab_size: ids are below this.
      clock: the time that they took.
    """

    def __init__(
        self,
        config: TransformerConfig,
        mesh: MeshConfig,
        chunk_blocks: int,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        """Compiles nothing yet; `devices` are jax's where none are given."""
        self._model, self._config = Transformer(config), mesh
        self._mesh = make_mesh(mesh, devices)
        self._compiled: dict[Any, Any] = {}
        self.chunk_size = chunk_blocks * config.memory.block_size
        self.vocab_size = config.vocab_size
        self.clock = Clock()

    def begin(self, params: Any, num_rows: int, first_token: int) -> Rows:
        """Rows that have read the beginning token only."""
        tokens = np.full((num_rows, 1), first_token, np.int32)
        return self._call("begin", functools.partial(_begin, self._model), num_rows, params, tokens)

    def empty_rows(self, params: Any, num_rows: int) -> Rows:
        """Shapes and dtypes of `begin`'s result."""
        tokens = jax.ShapeDtypeStruct((num_rows, 1), jnp.int32)
        return jax.eval_shape(functools.partial(_begin, self._model), params, tokens)

    def read(self, params: Any, rows: Rows, tokens: NDArray[np.int32], lengths: NDArray[np.int32]) -> Rows:
        """Reads a chunk: `tokens` [B, chunk_size], of which each row reads its first `lengths` [B]."""
        return self._call("read", functools.partial(_read, self._model), len(lengths), params, rows, tokens, lengths)

    def score(
        self, params: Any, rows: Rows, tokens: NDArray[np.int32], lengths: NDArray[np.int32]
    ) -> tuple[Rows, ChunkScores]:
        """Reads a chunk and scores its tokens."""
        return self._call("score", functools.partial(_score, self._model), len(lengths), params, rows, tokens, lengths)

    def decode(self, params: Any, rows: Rows, plan: BurstPlan) -> Decoded:
        """Appends tokens to each row, as planned."""
        greedy = not np.any(plan.draw.temperature)
        filtered = bool(np.any(plan.draw.top_p < 1) or np.any(plan.draw.top_k < NO_LIMIT))
        function = functools.partial(_decode, self._model, greedy=greedy, filtered=filtered)
        name = ("decode", greedy, filtered, plan.stop_tokens.shape[1])
        return self._call(name, function, len(plan.done), params, rows, plan)

    def abstract_rows(self, params: Any, num_rows: int) -> Rows:
        """Shapes, dtypes and shardings of `begin`'s result."""
        rows: Rows = self._place_abstract(self.empty_rows(params, num_rows), self._rules(num_rows))
        return rows

    def lower_read(self, params: Any, num_rows: int) -> jax.stages.Lowered:
        """The step of `read` for abstract parameters, ready to be compiled."""
        tokens = jax.ShapeDtypeStruct((num_rows, self.chunk_size), jnp.int32)
        lengths = jax.ShapeDtypeStruct((num_rows,), jnp.int32)
        rows = self.empty_rows(params, num_rows)
        return self._lower(functools.partial(_read, self._model), num_rows, params, rows, tokens, lengths)

    def lower_decode(self, params: Any, num_rows: int) -> jax.stages.Lowered:
        """The step of `decode`, greedy, for abstract parameters, ready to be compiled."""
        function = functools.partial(_decode, self._model, greedy=True, filtered=False)
        return self._lower(function, num_rows, params, self.empty_rows(params, num_rows), _abstract_plan(num_rows))

    def _lower(self, function: Callable[..., Any], num_rows: int, params: Any, *arrays: Any) -> jax.stages.Lowered:
        config = self._rules(num_rows)
        placed = tuple(self._place_abstract(array, config) for array in arrays)
        with use_mesh(self._mesh, config):
            return self._jit(function, config, params, *placed).lower(params, *placed)

    def _place_abstract(self, tree: Any, config: MeshConfig) -> Any:
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self._placement(tree, config),
        )

    def _jit(self, function: Callable[..., Any], config: MeshConfig, params: Any, *placed: Any) -> Any:
        outputs = jax.eval_shape(function, params, *placed)
        return jax.jit(function, out_shardings=self._placement(outputs, config))

    def _call(self, name: Any, function: Callable[..., Any], num_rows: int, params: Any, *arrays: Any) -> Any:
        """Runs a step, compiled for so many rows, to its end."""
        config = self._rules(num_rows)
        placed = jax.device_put(arrays, tuple(self._placement(array, config) for array in arrays))
        # A model read without FAM may bring FAM's prompt, which one trained without has not.
        key = (name, num_rows, jax.tree.structure(params))
        if key not in self._compiled:
            start = time.perf_counter()
            self._compiled[key] = compile_step(
                lambda: self._compile(function, config, params, *placed), is_first=not self._compiled
            )
            self.clock.compiling += time.perf_counter() - start
            self.clock.compilations += 1
        with use_mesh(self._mesh, config):
            start = time.perf_counter()
            result = jax.block_until_ready(self._compiled[key](params, *placed))
            self.clock.running += time.perf_counter() - start
        return result

    def _compile(self, function: Callable[..., Any], config: MeshConfig, params: Any, *placed: Any) -> Any:
        with use_mesh(self._mesh, config):
            return self._jit(function, config, params, *placed).lower(params, *placed).compile()

    def _placement(self, tree: Any, config: MeshConfig) -> Any:
        """Where the arrays of a step's arguments or results lie: `Rows` by their logical axes, others by row."""

        def place_rows(rows: Rows) -> Any:
            return jax.tree.map(lambda array, names: self._sharding(array.shape, names, config), rows, rows_axes(rows))

        def place(node: Any) -> Any:
            if isinstance(node, Rows):
                return place_rows(node)
            return self._sharding(node.shape, ("batch",)[: node.ndim] + (None,) * (node.ndim - 1), config)

        return jax.tree.map(place, tree, is_leaf=lambda node: isinstance(node, Rows))

    def _sharding(self, shape: tuple[int, ...], axes: tuple[str | None, ...], config: MeshConfig) -> NamedSharding:
        return NamedSharding(self._mesh, partition_spec("inference", shape, axes, self._mesh, config))

    def _rules(self, num_rows: int) -> MeshConfig:
        """The mesh's rules; rows that do not divide over its data and fsdp axes are on every device of them."""
        if num_rows % num_batch_shards(self._mesh) == 0:
            return self._config
        rules = tuple((axis, None if axis == "batch" else place) for axis, place in self._config.rules)
        return dataclasses.replace(self._config, rules=rules)


@functools.lru_cache(maxsize=32)
def make_programs(config: TransformerConfig, mesh: MeshConfig, chunk_blocks: int) -> Programs:
    """The steps of a model; models with equal settings, as the checkpoints of one training, share them.

    Raises:
      ConfigError: a mesh that the devices cannot form, or no block in a chunk.
    """
    if chunk_blocks < 1:
        raise ConfigError(f"chunk_blocks = {chunk_blocks}; allowed: 1 or more.")
    return Programs(config, mesh, chunk_blocks)


def _begin(model: Transformer, params: Any, tokens: Tokens) -> Rows:
    state = dataclasses.replace(initial_state(model, params, tokens.shape[0]), aligned=False)
    output = read(model, params, tokens, state)
    return Rows(state=output.state, hidden=output.hidden[:, 0])


def _read(model: Transformer, params: Any, rows: Rows, tokens: Tokens, lengths: Lengths) -> Rows:
    output = read(model, params, tokens, rows.state, lengths)
    return Rows(state=output.state, hidden=_last(output.hidden, lengths, rows.hidden))


def _score(model: Transformer, params: Any, rows: Rows, tokens: Tokens, lengths: Lengths) -> tuple[Rows, ChunkScores]:
    output = read(model, params, tokens, rows.state, lengths)
    before = jnp.concatenate([rows.hidden[:, None], output.hidden[:, :-1]], axis=1)
    scores = score_tokens(functools.partial(logits, model, params), before, tokens, _SCORED_AT_ONCE)
    new_rows = Rows(state=output.state, hidden=_last(output.hidden, lengths, rows.hidden))
    return new_rows, ChunkScores(logprobs=-scores.loss, greedy=scores.correct)


def _last(hidden: Float[Array, "B T D"], lengths: Lengths, before: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Activations of the last token of each row; a row that reads none keeps those that it had."""
    index = jnp.maximum(lengths - 1, 0)[:, None, None]
    last = jnp.take_along_axis(hidden, index, axis=1)[:, 0]
    return jnp.where((lengths > 0)[:, None], last, before)


def _abstract_plan(num_rows: int) -> BurstPlan:
    """Shapes and dtypes of a burst's plan."""

    def abstract(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    draw = Draw(
        keys=abstract(jnp.uint32, num_rows, 2),
        temperature=abstract(jnp.float32, num_rows),
        top_k=abstract(jnp.int32, num_rows),
        top_p=abstract(jnp.float32, num_rows),
    )
    return BurstPlan(
        draw=draw,
        done=abstract(jnp.int32, num_rows),
        budgets=abstract(jnp.int32, num_rows),
        stop_tokens=abstract(jnp.int32, num_rows, 1),
        vocab_size=abstract(jnp.int32),
        steps=abstract(jnp.int32),
    )


@struct.dataclass
class _Burst:
    """What the loop over a burst carries; see `Decoded`."""

    rows: Rows
    tokens: Leaf
    logprobs: Leaf
    counts: Leaf
    stopped: Leaf
    step: Leaf


def _decode(model: Transformer, params: Any, rows: Rows, plan: BurstPlan, *, greedy: bool, filtered: bool) -> Decoded:
    batch = plan.done.shape[0]

    def is_active(burst: _Burst) -> Bool[Array, " B"]:
        return ~burst.stopped & (burst.counts < plan.budgets)

    def go_on(burst: _Burst) -> Bool[Array, ""]:
        return (burst.step < plan.steps) & jnp.any(is_active(burst))

    def append(burst: _Burst) -> _Burst:
        scores = logits(model, params, burst.rows.hidden)
        exists = jnp.arange(scores.shape[-1])[None, :] < plan.vocab_size
        token = draw_tokens(
            jnp.where(exists, scores, -jnp.inf), plan.draw, plan.done + burst.counts, greedy=greedy, filtered=filtered
        )
        stops = jnp.any(token[:, None] == plan.stop_tokens, axis=1)
        active = is_active(burst)
        kept = active & ~stops
        logprob = jnp.take_along_axis(jax.nn.log_softmax(scores, axis=-1), token[:, None], axis=1)[:, 0]
        lengths = kept.astype(jnp.int32)
        # Tokens of a row lie one behind the other from the start: it is active until it is not, for good.
        return _Burst(
            rows=_read(model, params, burst.rows, token[:, None], lengths),
            tokens=burst.tokens.at[:, burst.step].set(jnp.where(kept, token, 0)),
            logprobs=burst.logprobs.at[:, burst.step].set(jnp.where(kept, logprob, 0)),
            counts=burst.counts + lengths,
            stopped=burst.stopped | (active & stops),
            step=burst.step + 1,
        )

    start = _Burst(
        rows=rows,
        tokens=jnp.zeros((batch, BURST), jnp.int32),
        logprobs=jnp.zeros((batch, BURST), jnp.float32),
        counts=jnp.zeros((batch,), jnp.int32),
        stopped=jnp.zeros((batch,), jnp.bool_),
        step=jnp.zeros((), jnp.int32),
    )
    end = jax.lax.while_loop(go_on, append, start)
    return Decoded(rows=end.rows, tokens=end.tokens, logprobs=end.logprobs, counts=end.counts, stopped=end.stopped)
