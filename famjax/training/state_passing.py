"""Random state passing: a step may start from the FAM that the last step ended with (paper, section 3.3)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from famjax.models.config import TransformerConfig
from famjax.models.dims import Leaf
from famjax.models.memory import State
from famjax.models.transformer import broadcast_fam
from famjax.training.config import StatePassing
from famjax.training.schedules import ramp


@struct.dataclass
class PassedFam:
    """The final FAM of the first example of the last global batch.

    Attributes:
      fam: every layer's [L, F, D], float32.
      exists: whether a step has been made that left one, bool [].
    """

    fam: Leaf
    exists: Leaf


def no_fam(config: TransformerConfig) -> PassedFam:
    """What there is before the first step."""
    shape = (config.num_layers, config.memory.fam_length, config.emb_dim)
    return PassedFam(fam=jnp.zeros(shape, jnp.float32), exists=jnp.zeros((), jnp.bool_))


def keep_fam(state: State) -> PassedFam:
    """Keeps the first row's FAM of a final state, without its gradient.

    A row that has completed no block has the initial FAM still, which carries no context: nothing is passed then.
    """
    return PassedFam(fam=jax.lax.stop_gradient(state.fam[:, 0]), exists=~state.fam_is_initial[0])


def draw(config: StatePassing, passed: PassedFam, step: Int[Array, ""], key: jax.Array) -> Bool[Array, ""]:
    """Decides, once for the whole step, whether it starts from the passed FAM."""
    probability = config.probability * ramp(step, config.start_step, config.ramp_steps)
    return passed.exists & jax.random.bernoulli(key, probability)


def start_from(state: State, passed: PassedFam, is_passed: Bool[Array, ""]) -> State:
    """Puts the passed FAM, which is not initial and keeps its residual, into every row, if `is_passed`."""
    assert state.layers.cache is None, "a cache has the keys of the FAM that is replaced"
    batch = state.num_tokens.shape[0]
    fam = jnp.where(is_passed, broadcast_fam(jax.lax.stop_gradient(passed.fam), batch), state.fam)
    layers = dataclasses.replace(state.layers, fam=fam)
    return dataclasses.replace(state, layers=layers, fam_is_initial=state.fam_is_initial & ~is_passed)
