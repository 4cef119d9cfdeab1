"""The train state: all that a run needs to go on, in one pytree."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from famjax.models.dims import Leaf
from famjax.models.transformer import Transformer, init_params
from famjax.training.config import TrainJob
from famjax.training.curriculum import Progress, start_progress
from famjax.training.optimizers import frozen_parameters
from famjax.training.state_passing import PassedFam, no_fam
from famjax.training.streaming import begin_stream


@struct.dataclass
class TrainState:
    """What a step takes and gives.

    Attributes:
      step: steps done, int32 [].
      params: parameters, unboxed: float32, those of a frozen base in `Finetuning.base_dtype`.
      opt_state: the optimizer's.
      passed_fam: for random state passing.
      progress: where the run stands in its curriculum.
      stream: what the rows carry from step to step, where the run streams documents (`famjax.training.streaming`);
        otherwise None.
      key: data of the run's base key, from which the step's number makes the step's keys, uint32.
    """

    step: Leaf
    params: Any
    opt_state: Any
    passed_fam: PassedFam
    progress: Progress
    stream: Leaf | None
    key: Leaf


def init_train_state(job: TrainJob, model: Transformer, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step; to be jitted, so that it is made in its shards."""
    init_key, base_key = jax.random.split(jax.random.key(job.random_seed))
    params = _with_base_dtype(job, nn.meta.unbox(init_params(model, init_key)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        passed_fam=no_fam(job.model),
        progress=start_progress(job.curriculum),
        stream=begin_stream(job.model, job.data.batch_size) if job.streaming.enabled else None,
        key=jax.random.key_data(base_key),
    )


def frozen_base(job: TrainJob, params: Any) -> Any:
    """Which parameters a run leaves to the base that it finetunes: a bool for each; False everywhere without one."""
    if not job.has_frozen_base:
        return jax.tree.map(lambda _: False, params)
    return frozen_parameters(job.applied_optimizer, params)


def _with_base_dtype(job: TrainJob, params: Any) -> Any:
    """Parameters of the base in the dtype that it is kept in."""
    dtype = jnp.dtype(job.finetuning.base_dtype)
    return jax.tree.map(
        lambda is_base, param: param.astype(dtype) if is_base else param, frozen_base(job, params), params
    )
