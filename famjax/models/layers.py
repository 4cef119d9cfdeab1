"""The parts of a decoder layer that know nothing of memory: norm, projection, gated MLP, embedding."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from famjax.models.config import MlpActivation

_ACTIVATIONS = {"silu": jax.nn.silu, "gelu": jax.nn.gelu}


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467), its statistics in float32."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        width = x.shape[-1]
        scale = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("embed",)), (width,))
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        normed = x * jax.lax.rsqrt(mean_square + self.epsilon)
        return (normed * jnp.broadcast_to(scale, normed.shape)).astype(self.dtype)


class Projection(nn.Module):
    """A matrix product without bias, written as an einsum in legend letters.

    Attributes:
      equation: of (input, kernel), as "...D,DHh->...Hh".
      shape: of the kernel.
      axes: logical axis names of the kernel.
      num_inputs: how many leading dimensions of the kernel are summed over (initial values have variance 1 / their size).
      dtype: of the result.
    """

    equation: str
    shape: Sequence[int]
    axes: Sequence[str]
    num_inputs: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        inputs, outputs = range(self.num_inputs), range(self.num_inputs, len(self.shape))
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", tuple(inputs), tuple(outputs))
        kernel = self.param("kernel", nn.with_logical_partitioning(init, tuple(self.axes)), tuple(self.shape))
        return jnp.einsum(self.equation, x, jnp.asarray(kernel, self.dtype))


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU or GeGLU (Shazeer, arXiv 2002.05202)."""

    width: int
    hidden_width: int
    activation: MlpActivation
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        shape, axes = (self.width, self.hidden_width), ("embed", "mlp")
        gate = Projection("...D,Dm->...m", shape, axes, 1, self.dtype, name="gate")(x)
        up = Projection("...D,Dm->...m", shape, axes, 1, self.dtype, name="up")(x)
        hidden = _ACTIVATIONS[self.activation](gate) * up
        return Projection("...m,mD->...D", shape[::-1], axes[::-1], 1, self.dtype, name="down")(hidden)


class Embedding(nn.Module):
    """The embedding table [V, D]; rows have variance 1, which the first norm expects.

    Attributes:
      vocab_size: V.
      width: D.
      dtype: of the activations.
    """

    vocab_size: int
    width: int
    dtype: jnp.dtype

    def setup(self) -> None:
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        self.table = self.param("table", init, (self.vocab_size, self.width))

    def __call__(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        return jnp.asarray(self.table, self.dtype)[tokens]

    def attend(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits of a tied output layer, in float32, scaled by D ** -0.5 as the table's rows have variance 1."""
        scaled = x * self.width**-0.5
        table = jnp.asarray(self.table, self.dtype)
        return jnp.einsum("...D,VD->...V", scaled, table, preferred_element_type=jnp.float32)
