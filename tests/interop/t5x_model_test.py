"""The model class for t5x, where t5x is on the path (docs/t5x.md): each of its methods against famjax's own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from famjax.errors import ConfigError
from famjax.inference.programs import BurstPlan, make_programs
from famjax.inference.sampling import NO_LIMIT, Draw
from famjax.models.config import TransformerConfig
from famjax.models.transformer import Transformer
from famjax.pods.config import MeshConfig
from famjax.training.config import LossConfig, StatePassing
from famjax.training.evaluator import evaluation_step
from famjax.training.losses import mean_scores
from famjax.training.optimizers import make_optimizer
from famjax.training.state import init_train_state
from famjax.training.state_passing import PassedFam
from famjax.training.step import step_key, train_step
from small import BLOCK, CONFIG, params_of, vary
from tiny_job import make_job
from tolerances import FLOAT32, assert_close

REASON = "t5x is not on the path (it is on no package index; docs/t5x.md says how to put it there)"
models = pytest.importorskip("t5x.models", reason=REASON)
seqio = pytest.importorskip("seqio")
t5x_model = pytest.importorskip("famjax.interop.t5x_model", reason=REASON)

from t5x import adafactor, decoding, partitioning, train_state  # noqa: E402 # after the check that there is t5x

# 11 ids in a model that has room for 13.
VOCABULARY = seqio.PassThroughVocabulary(size=11, eos_id=1)
ROWS = 3
# With tied embeddings random parameters say the last token again and again.
UNTIED = [vary(tie_embeddings=False), vary(tie_embeddings=False, num_segments=0, num_kv_heads=1)]
LENGTHS = (4 * BLOCK, 2 * BLOCK + 1, BLOCK - 1)


@pytest.fixture(autouse=True)
def t5x_promotes_ranks():
    """t5x's metrics and sampling add arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def make_model(config=CONFIG, vocabulary=VOCABULARY, **changes):
    """The plug-in's model."""
    optimizer = adafactor.Adafactor(logical_factor_rules=t5x_model.logical_factor_rules())
    return t5x_model.FamModel(config, vocabulary, optimizer, **changes)


def make_batch(lengths=LENGTHS, seed=0):
    """What seqio's DecoderFeatureConverter makes of texts of these lengths: shifted by a 0, padded with 0."""
    random = np.random.default_rng(seed)
    targets = np.zeros((len(lengths), 4 * BLOCK), np.int32)
    for row, length in enumerate(lengths):
        targets[row, :length] = random.integers(2, 11, length)
    weights = (targets != 0) * np.array([1, 0, 1, 1] * BLOCK)
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    batch = {"decoder_input_tokens": inputs, "decoder_target_tokens": targets, "decoder_loss_weights": weights}
    return {name: jnp.asarray(array, jnp.int32) for name, array in batch.items()}


def as_famjax(batch, lengths=LENGTHS):
    """The same batch as famjax's trainer has it."""
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    return {
        "tokens": batch["decoder_input_tokens"],
        "targets": batch["decoder_target_tokens"],
        "weights": weights,
        "answers": jnp.zeros_like(weights, jnp.bool_),
        "lengths": jnp.asarray(lengths, jnp.int32),
    }


def initial_mutables(model):
    """flax_mutables at the start of a run."""
    variables = model.get_initial_variables(jax.random.key(0), {})
    return variables.__class__({name: variables[name] for name in [t5x_model.PASSED_FAM]})


@pytest.mark.parametrize("config", [CONFIG, vary(fam_length=0)], ids=["fam", "bswa"])
def test_loss_scores_and_metrics_are_famjax_s(config):
    """Guards against a shift of the targets, padding that is read, weights that are lost, and another sum."""
    batch, params = make_batch(), params_of(config)
    step = functools.partial(evaluation_step, model=Transformer(config), chunk_size=8, position_buckets=1)
    sums = jax.jit(step)(params, as_famjax(batch)).scores
    model = make_model(config, loss=LossConfig(z_loss=0.1, chunk_size=8))
    loss, metrics = jax.jit(model.eval_fn)(params, batch)
    assert_close(loss, sums.loss + 0.1 * sums.z_loss, FLOAT32)
    assert_close(metrics["accuracy"].compute(), mean_scores(sums)["accuracy"], FLOAT32)
    assert ("fam_norm" in metrics) == bool(config.memory.fam_length)

    mean = make_model(config, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
    assert_close(jax.jit(mean.eval_fn)(params, batch)[0], mean_scores(sums)["loss"], FLOAT32)

    scores, seen = jax.jit(functools.partial(model.score_batch, return_intermediates=True))(params, batch)
    assert_close(jnp.sum(scores), -sums.loss, FLOAT32)
    assert_close(jnp.sum(seen["decoder"]["token_scores"][0], axis=1), scores, FLOAT32)
    per_row = make_model(config, loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
    of_rows = -scores / jnp.sum(batch["decoder_loss_weights"], axis=1)
    assert_close(jax.jit(per_row.eval_fn)(params, batch)[0], jnp.mean(of_rows), FLOAT32)
    logprobs = jax.nn.log_softmax(jax.jit(model._compute_logits)(params, batch), axis=-1)
    of_targets = jnp.take_along_axis(logprobs, batch["decoder_target_tokens"][..., None], axis=-1)[..., 0]
    assert_close(jnp.sum(of_targets * batch["decoder_loss_weights"], axis=1), scores, FLOAT32)


def test_a_training_step_is_famjax_s(tmp_path):
    """Guards against dropout or position offsets that do not act, and a passed FAM that is another or not passed."""
    config, always = dataclasses.replace(CONFIG, dropout_rate=0.1), StatePassing(probability=1.0)
    job = dataclasses.replace(make_job(tmp_path, "run"), model=config, num_microbatches=1, state_passing=always)
    params, batch = params_of(config), make_batch()
    optimizer = make_optimizer(job.applied_optimizer, params)
    of_famjax = functools.partial(
        train_step, job=job, model=Transformer(config, deterministic=False), optimizer=optimizer
    )
    of_famjax = jax.jit(of_famjax)
    model = make_model(config, state_passing=always)
    loss_fn = jax.jit(model.loss_fn)
    weight = jnp.sum(batch["decoder_loss_weights"])

    state = dataclasses.replace(init_train_state(job, Transformer(config), optimizer), params=params)
    before = initial_mutables(model)
    loss, (metrics, first) = loss_fn(params, batch, step_key(state), before)
    after, expected = of_famjax(state, as_famjax(batch))
    assert_close(loss / weight, expected["loss"], FLOAT32)
    assert metrics["state_passed"].total == 0
    assert jax.tree.structure(first) == jax.tree.structure(before)
    saved = first[t5x_model.PASSED_FAM]
    assert_close(PassedFam(fam=saved["fam"], exists=saved["exists"]), after.passed_fam, FLOAT32)
    assert saved["steps"] == 1

    after = dataclasses.replace(after, params=params)
    key = step_key(after)
    passed_loss, (metrics, _) = loss_fn(params, batch, key, first)
    _, expected = of_famjax(after, as_famjax(batch))
    assert metrics["state_passed"].total == 1
    assert expected["state_passed"]
    assert_close(passed_loss / weight, expected["loss"], FLOAT32)

    never = make_model(config, state_passing=dataclasses.replace(always, start_step=2))
    assert abs(jax.jit(never.loss_fn)(params, batch, key, first)[0] - passed_loss) > 0.1
    evaluate = jax.jit(model.eval_fn)
    assert_close(evaluate(params, batch, first)[0], evaluate(params, batch)[0], FLOAT32)


def test_a_first_row_without_a_block_leaves_no_fam():
    """Guards against an initial FAM that is passed as if it carried something."""
    model = make_model(state_passing=StatePassing(probability=1.0))
    lengths = LENGTHS[::-1]
    _, (_, mutables) = jax.jit(model.loss_fn)(
        params_of(CONFIG), make_batch(lengths), jax.random.PRNGKey(0), initial_mutables(model)
    )
    assert not mutables[t5x_model.PASSED_FAM]["exists"]


@pytest.mark.parametrize(("config", "num_ids"), [(UNTIED[0], 13), (UNTIED[1], 11)], ids=["fam", "multi_query"])
def test_prediction_is_famjax_s_decoding(config, num_ids):
    """Guards against a prompt that is read shifted or twice, rows that mix, and ids that the vocabulary lacks."""
    prompt_lengths = (2 * BLOCK + 1, BLOCK - 1, 1)
    length, params = 5 * BLOCK, params_of(config)
    random = np.random.default_rng(3)
    inputs, causal = np.zeros((ROWS, length), np.int32), np.zeros((ROWS, length), np.int32)
    for row, prompt in enumerate(prompt_lengths):
        inputs[row, 1 : prompt + 1] = random.integers(2, 11, prompt)
        causal[row, : prompt + 1] = 1
        inputs[row, prompt + 1 :] = 7 * (row == 0)  # the targets, which evaluation brings and prediction must not see
    batch = {"decoder_input_tokens": jnp.asarray(inputs), "decoder_causal_attention": jnp.asarray(causal)}
    sample = functools.partial(decoding.temperature_sample, temperature=0.0, topk=0, rescale_log_probs=False)
    vocabulary = seqio.PassThroughVocabulary(size=num_ids, eos_id=1)
    model = make_model(config, vocabulary, decode_fn=sample)
    twice = functools.partial(model.predict_batch_with_aux, num_decodes=2, return_all_decodes=True)
    answers, aux = jax.device_get(jax.jit(twice)(params, batch))
    assert answers.shape == (ROWS, 2, length)
    seen = set()
    for row, prompt in enumerate(prompt_lengths):
        expected, score = greedy(config, params, inputs[row, 1 : prompt + 1], length - prompt, num_ids)
        for decode in range(2):
            assert answers[row, decode, : len(expected)].tolist() == expected
        if num_ids == config.vocab_size and len(expected) == length - prompt:
            assert_close(aux["scores"][row, 1], score, FLOAT32)
        seen |= {*expected}
    assert len(seen) > 3, "answers too simple to tell anything"
    assert np.array_equal(jax.jit(model.predict_batch)(params, batch), answers[:, 1])


def greedy(config, params, prompt, count, num_ids):
    """famjax's decoding of one prompt, to the end token or `count` tokens, and their log-probability."""
    programs = make_programs(config, MeshConfig(num_devices=1), chunk_blocks=1)
    rows = programs.begin(params, 1, 0)
    for first in range(0, len(prompt), BLOCK):
        chunk = prompt[first : first + BLOCK]
        tokens = np.pad(chunk, (0, BLOCK - len(chunk)))[None]
        rows = programs.read(params, rows, tokens, np.array([len(chunk)], np.int32))
    draw = Draw(
        keys=np.zeros((1, 2), np.uint32),
        temperature=np.zeros(1, np.float32),
        top_k=np.full(1, NO_LIMIT, np.int32),
        top_p=np.ones(1, np.float32),
    )
    plan = BurstPlan(
        draw=draw,
        done=np.zeros(1, np.int32),
        budgets=np.array([count], np.int32),
        stop_tokens=np.ones((1, 1), np.int32),
        vocab_size=np.int32(num_ids),
        steps=np.int32(count),
    )
    decoded = programs.decode(params, rows, plan)
    return decoded.tokens[0, : decoded.counts[0]].tolist(), decoded.logprobs.sum()


@pytest.mark.parametrize(("num_kv_heads", "kv_place"), [(4, "model"), (1, None)])
def test_the_partitioner_and_adafactor_know_every_axis(num_kv_heads, kv_place):
    """Guards against an axis without a rule, names in another order, and matrices that Adafactor does not factor."""
    config = vary(num_kv_heads=num_kv_heads)
    model = make_model(config)
    rules = t5x_model.logical_axis_rules(config, num_partitions=2)
    partitioner = partitioning.PjitPartitioner(num_partitions=2, logical_axis_rules=rules)
    axes = partitioner.get_mesh_axes(jax.eval_shape(functools.partial(train_state_of, model), jax.random.PRNGKey(0)))
    spec = jax.sharding.PartitionSpec
    layers = axes.params["layers"]
    assert layers["attention"]["query"]["kernel"] == spec(None, None, "model", None)
    assert layers["attention"]["key"]["kernel"] == spec(None, None, kv_place, None)
    assert layers["mlp"]["down"]["kernel"] == spec(None, "model", None)
    assert axes.params["embedding"]["table"] == spec("model", None)
    assert axes.flax_mutables[t5x_model.PASSED_FAM]["fam"] == spec(None, None, None)
    factored = {path for path, rule in model.optimizer_def.hyper_params.factor_map.items() if is_factored(rule)}
    kernels = {"query", "key", "value", "out"}
    assert {f"layers/attention/{name}/kernel" for name in kernels} | {"embedding/table"} <= factored


def train_state_of(model, key):
    """t5x's train state."""
    return train_state.FlaxOptimTrainState.create(model.optimizer_def, model.get_initial_variables(key, {}))


def is_factored(rule):
    """Whether a rule has rows and columns."""
    return {adafactor.FactorDim.ROW, adafactor.FactorDim.COLUMN} <= set(rule)


def test_what_would_be_read_wrongly_is_refused():
    """Guards against packed texts that flow into each other, and tokens without a row of the embedding."""
    model, batch = make_model(), make_batch()
    with pytest.raises(ConfigError, match="pack = False"):
        model.eval_fn(params_of(CONFIG), {**batch, "decoder_segment_ids": batch["decoder_target_tokens"]})
    small: TransformerConfig = dataclasses.replace(CONFIG, vocab_size=10)
    with pytest.raises(ConfigError, match="vocab_size = 10"):
        make_model(small)
    with pytest.raises(ConfigError, match="needs a FAM to pass"):
        make_model(vary(fam_length=0), state_passing=StatePassing(probability=0.5))
