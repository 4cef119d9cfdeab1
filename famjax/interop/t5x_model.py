"""TransformerFAM for those who run t5x itself: a model class for its trainer, and what its partitioner needs to know.

Nothing else in famjax imports t5x, which is on no package index (docs/t5x.md). Importing this module makes famjax's
settings known to gin, so that t5x's gin can read the files of gin/models and gin/memory; gin/t5x has the runs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import seqio
from clu import metrics as clu_metrics
from flax import core
from flax.linen.partitioning import AxisMetadata
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int
from t5x import adafactor, decoding, losses, metrics, models, partitioning

from famjax.configuration import registry
from famjax.errors import ConfigError
from famjax.models.config import TransformerConfig
from famjax.models.decoder_layer import Diagnostics
from famjax.models.dims import Lengths, Logits
from famjax.models.memory import State
from famjax.models.transformer import Output, Transformer, init_params, initial_state, logits, read
from famjax.training.config import LossConfig, StatePassing
from famjax.training.losses import TokenScores, score_tokens
from famjax.training.state_passing import PassedFam, draw, keep_fam, no_fam, start_from
from famjax.training.step import draw_position_offset

registry.register_all()

Batch = Mapping[str, jax.Array]
Metrics = dict[str, Any]

# The collection of t5x's flax_mutables that holds the saved FAM, and the logical axes of its arrays.
PASSED_FAM = "passed_fam"
_PASSED_FAM_AXES = {"fam": ("layers", "fam", "embed"), "exists": (), "steps": ()}

# Those of t5x's logical axes that it lacks: whether Adafactor takes them for rows or for columns of a matrix.
_FACTOR_RULES = {
    "kv_heads": adafactor.FactorDim.COLUMN,
    "head_dim": adafactor.FactorDim.COLUMN,
    "lora": adafactor.FactorDim.COLUMN,
    "fam": adafactor.FactorDim.NONE,
}

_COUNTERS = ("num_tokens", "position_offset", "fam_is_initial")


class ScannedTransformer(Transformer):
    """The model, as t5x asks for it: it looks for `scan_layers` to know that a cache has layers before rows."""

    scan_layers: bool = True


class FamModel(models.DecoderOnlyModel):
    """A `t5x.models.DecoderOnlyModel` that is famjax's model.

    Every row is one text, read from its start: packed batches are refused. A text begins with the feature converter's
    beginning token (0), and ends where its last target that is not 0 stands.

    The loss is the sum over the batch, as t5x has it, and logits are made for some tokens at a time. t5x's step has no
    place for a state that goes on over steps but flax_mutables: there the saved FAM of random state passing lies, in
    the collection `PASSED_FAM`, with the number of calls of the loss. Of t5x's microbatches each is a step here: it may
    start from the FAM of the one before. Evaluation, scoring and prediction start from the prompt.

    Attributes:
      config: the model's settings.
    """

    def __init__(  # noqa: PLR0913 # t5x's own arguments, and the model's
        self,
        config: TransformerConfig,
        vocabulary: seqio.Vocabulary,
        optimizer_def: Any,
        *,
        decode_fn: Callable[..., Any] = decoding.temperature_sample,
        feature_converter_cls: Any = None,
        loss: LossConfig = LossConfig(),
        loss_normalizing_factor: Any = None,
        state_passing: StatePassing = StatePassing(),
        random_position_offset: bool = True,
    ) -> None:
        """Makes the model; no array is made.

        Args:
          config: its settings.
          vocabulary: of the tasks; ids that it lacks are never predicted, though the model may have room for more.
          optimizer_def: t5x's optimizer, as `t5x.adafactor.Adafactor` with `logical_factor_rules` of this module.
          decode_fn: of predictions; it must take `initial_index`, which t5x's beam search does not.
          feature_converter_cls: seqio's; None: `seqio.DecoderFeatureConverter`.
          loss: weight of log(Z)^2 and size of a chunk of logits.
          loss_normalizing_factor: t5x's: None, a number, or a name of `t5x.losses.SpecialLossNormalizingFactor`.
          state_passing: when a step starts from the FAM of the step before.
          random_position_offset: in training each text gets, with probability 1/2, a position offset.

        Raises:
          ConfigError: a vocabulary with more ids than the model, or state passing without a FAM to pass.
        """
        if vocabulary.vocab_size > config.vocab_size:
            raise ConfigError(
                f"TransformerConfig.vocab_size = {config.vocab_size}; the vocabulary has {vocabulary.vocab_size} ids."
            )
        if state_passing.probability and not config.memory.fam_length:
            raise ConfigError(
                f"StatePassing.probability = {state_passing.probability} needs a FAM to pass (MemoryConfig.fam_length)."
            )
        super().__init__(
            module=ScannedTransformer(config),
            vocabulary=vocabulary,
            optimizer_def=optimizer_def,
            decode_fn=decode_fn,
            feature_converter_cls=feature_converter_cls,
            z_loss=loss.z_loss,
            loss_normalizing_factor=loss_normalizing_factor,
        )
        self.config = config
        self._loss, self._state_passing = loss, state_passing
        self._random_position_offset = random_position_offset

    def get_initial_variables(
        self, rng: jax.Array, input_shapes: Mapping[str, Any], input_types: Mapping[str, Any] | None = None
    ) -> core.FrozenDict[str, Any]:
        """Parameters, the saved FAM where the model has one, and the logical axis names of both.

        Args:
          rng: draws the parameters.
          input_shapes: of a batch; the parameters do not depend on it.
          input_types: likewise.
        """
        del input_shapes, input_types
        boxed = flatten_dict(init_params(Transformer(self.config), rng), sep="/")
        params = {path: box.unbox() for path, box in boxed.items()}
        axes = {f"{path}_axes": AxisMetadata(names=box.names) for path, box in boxed.items()}
        variables = {"params": unflatten_dict(params, sep="/"), "params_axes": unflatten_dict(axes, sep="/")}
        if self.config.memory.fam_length:
            variables[PASSED_FAM] = _saved(no_fam(self.config), jnp.zeros((), jnp.int32))
            variables[f"{PASSED_FAM}_axes"] = {
                f"{name}_axes": AxisMetadata(names=names) for name, names in _PASSED_FAM_AXES.items()
            }
        return core.freeze(variables)

    def loss_fn(
        self,
        params: Any,
        batch: Batch,
        dropout_rng: jax.Array | None,
        flax_mutables: Mapping[str, Any] | None = None,
    ) -> tuple[jax.Array, Any]:
        """The loss of a batch, as t5x's trainer asks for it.

        Args:
          params: parameters.
          batch: decoder_input_tokens, decoder_target_tokens and decoder_loss_weights, each [B, T].
          dropout_rng: draws dropout, position offsets and whether the saved FAM is passed; None: nothing is drawn.
          flax_mutables: with the collection `PASSED_FAM`; None: nothing is passed or saved.

        Returns:
          The loss [], and metrics; with `flax_mutables` metrics and the new ones.

        Raises:
          ConfigError: a packed batch.
        """
        start, is_passed, dropout_key = self._start(params, batch, dropout_rng, flax_mutables)
        output = self._read(params, batch, start, dropout_key)
        loss, computed = self._loss_and_metrics(params, batch, output)
        if flax_mutables is None:
            return loss, computed
        computed["state_passed"] = metrics.AveragePerStep(total=jnp.asarray(is_passed, jnp.float32))
        steps = flax_mutables[PASSED_FAM]["steps"] + 1
        return loss, (computed, core.freeze({PASSED_FAM: _saved(keep_fam(output.state), steps)}))

    def eval_fn(
        self, params: Any, batch: Batch, flax_mutables: Mapping[str, Any] | None = None
    ) -> tuple[jax.Array, Metrics]:
        """The loss of a batch read from the prompt, and metrics; see `loss_fn`."""
        del flax_mutables
        loss, computed = self.loss_fn(params, batch, None)
        return loss, computed

    def score_batch(self, params: Any, batch: Batch, return_intermediates: bool = False) -> Any:
        """Log-likelihood of each row's targets [B], nats, each times its loss weight.

        With `return_intermediates` also t5x's tree with target_tokens, loss_weights and token_scores [B, T].

        Raises:
          ConfigError: a packed batch.
        """
        weights = _weights(batch)
        scores = self._score(params, batch, self._read_from_prompt(params, batch))
        token_scores = -scores.loss * weights
        row_scores = jnp.sum(token_scores, axis=-1)
        if not return_intermediates:
            return row_scores
        of_tokens = {
            "target_tokens": (batch["decoder_target_tokens"],),
            "loss_weights": (weights,),
            "token_scores": (token_scores,),
        }
        return row_scores, {"decoder": of_tokens}

    def _loss_and_metrics(self, params: Any, batch: Batch, output: Output) -> tuple[jax.Array, Metrics]:
        scores = self._score(params, batch, output)
        weighted = {**batch, "decoder_loss_weights": _weights(batch)}
        # An average for each sequence is one of other weights.
        factor, weights = losses.get_loss_normalizing_factor_and_weights(self._loss_normalizing_factor, weighted)
        divisor = 1.0 if factor is None else factor
        z_loss = self._loss.z_loss * jnp.sum(jnp.square(scores.log_z) * weights) / divisor
        loss = jnp.sum(scores.loss * weights) / divisor + z_loss
        # t5x's metrics look at logits for the accuracy alone. These have two classes, and the right one is 1.
        is_correct = jnp.stack([~scores.correct, scores.correct], axis=-1).astype(jnp.float32)
        computed = self._compute_metrics(
            logits=is_correct,
            targets=jnp.ones_like(batch["decoder_target_tokens"]),
            mask=weights,
            loss=loss,
            z_loss=z_loss,
            segment_ids={"decoder_target_tokens": batch["decoder_target_tokens"] != 0},
        )
        if self.config.memory.fam_length:
            computed |= _fam_metrics(output.diagnostics)
        return loss, computed

    def _start(
        self, params: Any, batch: Batch, rng: jax.Array | None, flax_mutables: Mapping[str, Any] | None
    ) -> tuple[State, jax.Array | bool, jax.Array | None]:
        """The state that the rows begin with, whether that is the saved FAM, and the key of dropout."""
        rows = batch["decoder_input_tokens"].shape[0]
        if rng is None:
            return initial_state(self.module, params, rows, with_cache=False), False, None
        passing_key, example_key = jax.random.split(rng)
        offset_key, dropout_key = jax.random.split(example_key)
        offset = draw_position_offset(offset_key, rows, self.config.rope_base) if self._random_position_offset else None
        start = initial_state(self.module, params, rows, offset, with_cache=False)
        if flax_mutables is None:
            return start, False, dropout_key
        saved = flax_mutables[PASSED_FAM]
        passed = PassedFam(fam=saved["fam"], exists=saved["exists"])
        is_passed = draw(self._state_passing, passed, saved["steps"], passing_key)
        return start_from(start, passed, is_passed), is_passed, dropout_key

    def _read(self, params: Any, batch: Batch, start: State, dropout_key: jax.Array | None) -> Output:
        _require_unpacked(batch)
        module = self.module.clone(deterministic=dropout_key is None)
        tokens = batch["decoder_input_tokens"]
        return read(module, params, tokens, start, _text_lengths(batch), dropout_key=dropout_key)

    def _read_from_prompt(self, params: Any, batch: Batch) -> Output:
        start, _, _ = self._start(params, batch, None, None)
        return self._read(params, batch, start, None)

    def _score(self, params: Any, batch: Batch, output: Output) -> TokenScores:
        of_hidden = functools.partial(logits, self.module, params)
        return score_tokens(of_hidden, output.hidden, batch["decoder_target_tokens"], self._loss.chunk_size)

    def _compute_logits(self, params: Any, batch: Batch, dropout_rng: jax.Array | None = None) -> Logits:
        """Logits of a whole batch [B, T, V], for what others derive from this class; nothing in it asks for them."""
        start, _, dropout_key = self._start(params, batch, dropout_rng, None)
        return logits(self.module, params, self._read(params, batch, start, dropout_key).hidden)

    def _compute_kv_cache(
        self, params: Any, inputs: Int[Array, "B T"], causal_attention_mask: Int[Array, "B T"]
    ) -> tuple[dict[str, Any], Lengths]:
        """Reads the prompts, all but their last tokens, which decoding begins with (t5x's convention).

        Returns:
          The state, as t5x's decoding takes it, and the index of each prompt's last token.
        """
        del causal_attention_mask  # FAM reads in one direction.
        lengths = jnp.sum(inputs[:, 1:] != 0, axis=-1, dtype=jnp.int32)
        output = read(self.module, params, inputs, initial_state(self.module, params, inputs.shape[0]), lengths)
        return _to_cache(output.state), lengths

    def _compute_logits_from_slice(
        self, decoding_state: Any, params: Any, max_decode_length: int
    ) -> tuple[Float[Array, "B V"], dict[str, Any]]:
        """Reads one more token of each row: logits of the next one, and the state."""
        del max_decode_length  # The state's size does not depend on it.
        output = read(self.module, params, decoding_state.cur_token, _from_cache(decoding_state.cache))
        scores = logits(self.module, params, output.hidden[:, 0])
        exists = jnp.arange(scores.shape[-1])[None] < self.output_vocabulary.vocab_size
        return jnp.where(exists, scores, decoding.NEG_INF), _to_cache(output.state)


def logical_axis_rules(
    config: TransformerConfig,
    num_partitions: int,
    activation_partitioning_dims: int = 1,
    parameter_partitioning_dims: int = 1,
) -> Any:
    """t5x's standard rules, with those of the model's own logical axes.

    Args:
      config: the model's settings.
      num_partitions: `PjitPartitioner.num_partitions`; key and value heads that it does not divide are replicated.
      activation_partitioning_dims: see `t5x.partitioning.standard_logical_axis_rules`.
      parameter_partitioning_dims: likewise.
    """
    kv_heads = None if config.num_kv_heads % num_partitions else "model"
    own = [("kv_heads", kv_heads), ("head_dim", None), ("fam", None), ("lora", None)]
    return partitioning.standard_logical_axis_rules(activation_partitioning_dims, parameter_partitioning_dims, own)


def logical_factor_rules() -> core.FrozenDict[str, Any]:
    """t5x's standard rules for `adafactor.Adafactor`, with those of the model's own logical axes."""
    return core.freeze({**adafactor.standard_logical_factor_rules(), **_FACTOR_RULES})


def _require_unpacked(batch: Batch) -> None:
    if "decoder_segment_ids" in batch:
        raise ConfigError(
            "The batch is packed (it has decoder_segment_ids), and a row is read as one text: set pack = False in "
            "utils.DatasetConfig, as gin/t5x does."
        )


def _text_lengths(batch: Batch) -> Lengths:
    """Tokens of each row, up to the one that predicts its last target that is not padding."""
    targets = batch["decoder_target_tokens"]
    places = jnp.arange(1, targets.shape[1] + 1, dtype=jnp.int32)[None]
    return jnp.max(jnp.where(targets != 0, places, 0), axis=1)


def _weights(batch: Batch) -> Float[Array, "B T"]:
    """Of the targets in the loss: padding has none where the batch does not say."""
    return jnp.asarray(batch.get("decoder_loss_weights", batch["decoder_target_tokens"] != 0), jnp.float32)


def _saved(passed: PassedFam, steps: Int[Array, ""]) -> dict[str, jax.Array]:
    """The collection `PASSED_FAM`: the FAM of every layer [L, F, D], whether there is one, calls of the loss."""
    return {"fam": passed.fam, "exists": passed.exists, "steps": steps}


def _fam_metrics(diagnostics: Diagnostics) -> Metrics:
    """What FAM does, over all layers; see `Diagnostics`."""
    return {
        field.name: clu_metrics.Average(
            total=jnp.sum(getattr(diagnostics, field.name).total),
            count=jnp.maximum(jnp.sum(getattr(diagnostics, field.name).count), 1e-8),
        )
        for field in dataclasses.fields(Diagnostics)
    }


def _to_cache(state: State) -> dict[str, Any]:
    """A state, as t5x's decoding takes it: every array has the rows on axis 1, behind the layers, or behind nothing."""
    return {"layers": state.layers, "counters": {name: getattr(state, name)[None] for name in _COUNTERS}}


def _from_cache(cache: Mapping[str, Any]) -> State:
    """The state again. Rows stand anywhere in their blocks."""
    counters = {name: array[0] for name, array in cache["counters"].items()}
    return State(layers=cache["layers"], **counters, aligned=False)
