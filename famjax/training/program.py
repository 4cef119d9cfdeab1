"""The compiled programs of a run: initial state, train step, evaluation step. The only place that jits."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from famjax.data.feeding import open_vocabulary
from famjax.models.config import TransformerConfig
from famjax.models.memory import State, state_axes
from famjax.models.transformer import Transformer, init_params
from famjax.pods.config import MeshConfig
from famjax.pods.mesh import batch_sharding, make_mesh, parameter_specs, partition_spec, to_shardings, use_mesh
from famjax.training import fam_prompt
from famjax.training.checkpoint_arrays import by_path
from famjax.training.compiled_steps import NotLoaded, load_step
from famjax.training.config import TrainJob
from famjax.training.evaluator import EvaluationSums, StreamedEvaluation, evaluation_step, streamed_evaluation_step
from famjax.training.optimizer_sharding import optimizer_state_specs
from famjax.training.optimizers import frozen_parameters, make_optimizer
from famjax.training.parameter_paths import path_name, without
from famjax.training.state import TrainState, frozen_base, init_train_state
from famjax.training.step import Metrics, ablated_loss, train_step
from famjax.training.streaming import begin_stream

_BATCH_DTYPES = {"tokens": jnp.int32, "targets": jnp.int32, "weights": jnp.float32, "answers": jnp.bool_}
TrainStep = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled for a training run, and where its arrays lie.

    Attributes:
      job: the run.
      mesh: its devices.
      optimizer: made for the model's parameters.
      of_base: which parameters a frozen base gives, so that checkpoints need not hold them: a bool for each.
      abstract_state: shape, dtype and sharding of every array of the train state.
    """

    job: TrainJob
    mesh: Mesh
    optimizer: optax.GradientTransformation
    of_base: Any
    abstract_state: TrainState

    @property
    def shardings(self) -> TrainState:
        """Where every array of the train state lies."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)

    @functools.cached_property
    def trained(self) -> frozenset[str]:
        """Paths of the parameters that are trained."""
        is_frozen = frozen_parameters(self.job.applied_optimizer, self.abstract_state.params)
        leaves = jax.tree_util.tree_leaves_with_path(is_frozen)
        return frozenset(path_name(path) for path, frozen in leaves if not frozen)

    def parameter_counts(self) -> tuple[int, int]:
        """How many parameters there are, and how many of them are trained."""
        sizes = {path: math.prod(leaf.shape) for path, leaf in by_path(self.abstract_state.params).items()}
        return sum(sizes.values()), sum(sizes[path] for path in self.trained)

    def saved_part(self, state: TrainState) -> TrainState:
        """A state, or an abstract one, without the parameters that a frozen base gives: what a checkpoint holds."""
        return dataclasses.replace(state, params=without(state.params, self.of_base))

    def init(self) -> TrainState:
        """Makes the state before the first step, straight in its shards."""
        model = Transformer(self.job.model)
        make = functools.partial(init_train_state, self.job, model, self.optimizer)
        with use_mesh(self.mesh, self.job.mesh):
            state: TrainState = jax.jit(make, out_shardings=self.shardings)()
        return dataclasses.replace(state, params=self.draw_fam_prompt(state.params, [fam_prompt.NAME]))

    def draw_fam_prompt(self, params: Any, initialised: Sequence[str]) -> Any:
        """Draws the FAM prompt from the embedding table, where the job says so.

        Args:
          params: initial ones, or those after the restoring.
          initialised: paths of the parameters that were not restored; a FAM prompt that was keeps its values.

        Raises:
          ConfigError: the vocabulary has fewer tokens than the prompt has rows.
          DataError: the vocabulary cannot be opened.
        """
        if self.job.fam_prompt_init != "embedding" or fam_prompt.NAME not in initialised:
            return params
        vocab_size = open_vocabulary(self.job.data).vocab_size
        draw = functools.partial(fam_prompt.draw_fam_prompt, self.job, vocab_size)
        with use_mesh(self.mesh, self.job.mesh):
            drawn = jax.jit(lambda params: draw(params)[fam_prompt.NAME])(params)
        return {**params, fam_prompt.NAME: jax.device_put(drawn, self.shardings.params[fam_prompt.NAME])}

    def compile_step(self, length: int, warn: Callable[[str], None] = logging.warning) -> TrainStep:
        """Compiles the train step for batches [B, length], or loads it. The state given to it is donated.

        Args:
          length: tokens of a row [T].
          warn: is told where `TrainJob.compiled_steps` has no step for this program on these devices.
        """
        lowered, folder = self.lower_step(length), self.job.compiled_steps
        if folder is not None:
            try:
                return load_step(folder, length, lowered, self.mesh)
            except NotLoaded as error:
                warn(f"the train step is compiled anew: {error}")
        return lowered.compile()

    def lower_step(self, length: int) -> jax.stages.Lowered:
        """The train step for batches [B, length], ready to be compiled."""
        model = Transformer(self.job.model, deterministic=False)
        step = functools.partial(train_step, job=self.job, model=model, optimizer=self.optimizer)
        replicated = NamedSharding(self.mesh, PartitionSpec())
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(self.shardings, replicated))
        with use_mesh(self.mesh, self.job.mesh):
            return jitted.lower(self.abstract_state, self.abstract_batch(length))

    def compile_ablation(self, length: int) -> Callable[[TrainState, Mapping[str, jax.Array]], jax.Array]:
        """Compiles what the loss of a step over batches [B, length] is without a memory; the state is not donated."""
        model = Transformer(self.job.model, deterministic=False)
        replicated = NamedSharding(self.mesh, PartitionSpec())
        jitted = jax.jit(functools.partial(ablated_loss, job=self.job, model=model), out_shardings=replicated)
        with use_mesh(self.mesh, self.job.mesh):
            return jitted.lower(self.abstract_state, self.abstract_batch(length)).compile()

    def abstract_batch(self, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape, dtype and sharding of the batches [B, length] of the step."""
        block_size = self.job.model.memory.block_size if self.job.streaming.enabled else None
        return abstract_batch(self.job.data.batch_size, length, self.mesh, block_size)


def make_program(job: TrainJob, devices: Sequence[Any] | None = None) -> Program:
    """Lays the train state out on the mesh.

    Args:
      job: the run.
      devices: of the mesh; None: jax's. Those of another machine serve to compile for it, or to count on.

    Raises:
      ConfigError: a rule of the mesh that cannot hold, or a pattern of the optimizer that matches nothing.
    """
    mesh = make_mesh(job.mesh, devices)
    model = Transformer(job.model)
    params, param_specs = abstract_params(job.model, mesh, job.mesh)
    optimizer = make_optimizer(job.applied_optimizer, params)
    state = jax.eval_shape(functools.partial(init_train_state, job, model, optimizer))
    fam_axes = ("layers", "fam", "embed")
    specs = jax.tree.map(lambda _: PartitionSpec(), state).replace(
        params=param_specs,
        opt_state=optimizer_state_specs(optimizer, params, param_specs),
        passed_fam=state.passed_fam.replace(
            fam=partition_spec("passed_fam", state.passed_fam.fam.shape, fam_axes, mesh, job.mesh),
            exists=PartitionSpec(),
        ),
        stream=state.stream and _stream_specs(state.stream, mesh, job.mesh),
    )
    return Program(
        job=job,
        mesh=mesh,
        optimizer=optimizer,
        of_base=frozen_base(job, params),
        abstract_state=place(state, to_shardings(specs, mesh)),
    )


def abstract_params(config: TransformerConfig, mesh: Mesh, mesh_config: MeshConfig) -> tuple[Any, Any]:
    """Abstract parameters, each with its sharding, and the tree of their PartitionSpecs."""
    boxed = jax.eval_shape(functools.partial(init_params, Transformer(config)), jax.random.key(0))
    specs = parameter_specs(boxed, mesh, mesh_config)
    unboxed = jax.tree.map(lambda box: box.unbox(), boxed, is_leaf=lambda node: hasattr(node, "unbox"))
    return place(unboxed, to_shardings(specs, mesh)), specs


def place(abstract: Any, shardings: Any) -> Any:
    """Abstract arrays with their shardings."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, shardings
    )


def _stream_specs(stream: State, mesh: Mesh, mesh_config: MeshConfig) -> State:
    """Where what the rows carry lies: with the rows of the batch."""
    specs: State = jax.tree.map(
        lambda leaf, axes: partition_spec("the streamed state", leaf.shape, axes, mesh, mesh_config),
        stream,
        state_axes(stream),
    )
    return specs


def abstract_batch(
    batch_size: int, length: int, mesh: Mesh, block_size: int | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape, dtype and sharding of a batch [B, length]; with a block size, of one of streamed documents."""

    def abstract(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))

    batch = {name: abstract((batch_size, length), dtype) for name, dtype in _BATCH_DTYPES.items()}
    if block_size is None:
        return {**batch, "lengths": abstract((batch_size,), jnp.int32)}
    blocks = (batch_size, length // block_size)
    return {**batch, "begins": abstract(blocks, jnp.bool_), "block_lengths": abstract(blocks, jnp.int32)}


def compile_evaluation(
    config: TransformerConfig,
    params: Any,
    mesh: Mesh,
    mesh_config: MeshConfig,
    *,
    batch_size: int,
    length: int,
    chunk_size: int,
    position_buckets: int,
) -> Callable[[Any, Mapping[str, jax.Array]], EvaluationSums]:
    """Compiles the evaluation step for batches [batch_size, length], and parameters as these, which may be abstract."""
    step = functools.partial(
        evaluation_step, model=Transformer(config), chunk_size=chunk_size, position_buckets=position_buckets
    )
    batch = abstract_batch(batch_size, length, mesh)
    with use_mesh(mesh, mesh_config):  # Replicated, so that every process can read the sums.
        return jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec())).lower(params, batch).compile()


def compile_streamed_evaluation(
    config: TransformerConfig,
    params: Any,
    mesh: Mesh,
    mesh_config: MeshConfig,
    *,
    batch_size: int,
    length: int,
    chunk_size: int,
) -> StreamedEvaluation:
    """Compiles the evaluation of streamed documents in batches [batch_size, length]; see `compile_evaluation`."""
    begin = functools.partial(begin_stream, config, batch_size)
    stream = jax.eval_shape(begin)
    shardings = to_shardings(_stream_specs(stream, mesh, mesh_config), mesh)
    step = functools.partial(streamed_evaluation_step, model=Transformer(config), chunk_size=chunk_size)
    batch = abstract_batch(batch_size, length, mesh, config.memory.block_size)
    replicated = NamedSharding(mesh, PartitionSpec())
    with use_mesh(mesh, mesh_config):
        jitted = jax.jit(step, donate_argnums=2, out_shardings=(replicated, shardings))
        return StreamedEvaluation(
            step=jitted.lower(params, batch, place(stream, shardings)).compile(),
            begin=jax.jit(begin, out_shardings=shardings).lower().compile(),
        )


def timed(compile_program: Callable[[], Any]) -> tuple[Any, float]:
    """Compiles something and measures the seconds."""
    start = time.perf_counter()
    program = compile_program()
    return program, time.perf_counter() - start
