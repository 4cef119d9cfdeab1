"""The parts of a decoder layer that know nothing of memory: norm, projection, gated MLP, embedding."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from famjax.models.config import MlpActivation
from famjax.models.lora_config import LoraConfig
from famjax.models.sharding import Dropout, Fanned, constrain, fan_out, multiply

_ACTIVATIONS = {"silu": jax.nn.silu, "gelu": jax.nn.gelu}


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467), its statistics in float32.

    Attributes:
      epsilon: added to the mean square.
      dtype: of the result.
      unit_offset: multiply by 1 + scale, and start the scale at 0.
      axis: logical axis name of the dimension that is normed.
    """

    epsilon: float
    dtype: jnp.dtype
    unit_offset: bool = False
    axis: str = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Brings each vector to root mean square 1, times the scale."""
        init = nn.initializers.zeros if self.unit_offset else nn.initializers.ones
        scale: Any = self.param("scale", nn.with_logical_partitioning(init, (self.axis,)), (x.shape[-1],))
        scale = scale.astype(jnp.float32)  # 1 + w in bfloat16 would lose most of w.
        if self.unit_offset:
            scale = 1 + scale
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        normed = x * jax.lax.rsqrt(mean_square + self.epsilon)
        return (normed * jnp.broadcast_to(scale, normed.shape)).astype(self.dtype)


class Projection(nn.Module):
    """A matrix product, with a bias where asked for, from the last dimensions of the input to new ones.

    It is done on matrices, whatever the dimensions before and after: XLA's CPU backend takes 1.6 times as long for the
    backward pass of the same product with more dimensions.

    Attributes:
      shape: of the kernel: the input's dimensions, then the output's.
      axes: logical axis names of the kernel.
      num_inputs: how many dimensions of the kernel are summed over (initial values have variance 1 / their size).
      dtype: of the operands.
      init_scale: initial values are so many times as large.
      result_dtype: of the sum and of the result; None: as `dtype`.
      use_bias: add a bias, which starts at 0.
      lora: the model's adapters; where they include this matrix, it has a branch of low rank. A setting of the model
        and not of the training, since it decides which parameters there are, in training and in inference alike.
    """

    shape: Sequence[int]
    axes: Sequence[str]
    num_inputs: int
    dtype: jnp.dtype
    init_scale: float = 1.0
    result_dtype: jnp.dtype | None = None
    use_bias: bool = False
    lora: LoraConfig | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "..."] | Fanned) -> Float[Array, "..."]:
        """Multiplies the last dimensions of `x` by the kernel."""
        inputs, outputs = tuple(self.shape[: self.num_inputs]), tuple(self.shape[self.num_inputs :])
        axes = range(len(self.shape))
        init = nn.initializers.variance_scaling(
            self.init_scale**2,
            "fan_in",
            "truncated_normal",
            tuple(axes[: self.num_inputs]),
            tuple(axes[self.num_inputs :]),
        )
        kernel: Any = self.param("kernel", nn.with_logical_partitioning(init, tuple(self.axes)), tuple(self.shape))
        matrix = jnp.asarray(kernel, self.dtype).reshape(math.prod(inputs), math.prod(outputs))
        whole = x.whole if isinstance(x, Fanned) else x
        leading = whole.shape[: whole.ndim - self.num_inputs]
        product = multiply(x, matrix, outputs[0], self.result_dtype)
        if self.use_bias:
            bias_init = nn.with_logical_partitioning(nn.initializers.zeros, tuple(self.axes[self.num_inputs :]))
            bias: Any = self.param("bias", bias_init, outputs)
            product = product + jnp.asarray(bias, product.dtype).reshape(1, -1)
        if self.lora is not None and self.lora.adapts("/".join((*self.path, "kernel"))):
            product = product + self._low_rank(self.lora, whole)
        return product.reshape(*leading, *outputs)

    def _low_rank(self, lora: LoraConfig, x: Float[Array, "..."]) -> Float[Array, "n m"]:
        """The adapter's branch, (alpha / rank) (dropout(x) A) B; 0 as long as B is what it is at first.

        Dropout acts where the call has a key for it, which the FAM prompt's way up the stack has not.
        """
        inputs, outputs = tuple(self.shape[: self.num_inputs]), tuple(self.shape[self.num_inputs :])
        input_axes, output_axes = tuple(self.axes[: self.num_inputs]), tuple(self.axes[self.num_inputs :])
        summed = tuple(range(self.num_inputs))
        init_a = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", summed, (self.num_inputs,))
        init_b = nn.initializers.zeros
        a: Any = self.param("lora_a", nn.with_logical_partitioning(init_a, (*input_axes, "lora")), (*inputs, lora.rank))
        b: Any = self.param(
            "lora_b", nn.with_logical_partitioning(init_b, ("lora", *output_axes)), (lora.rank, *outputs)
        )
        if lora.dropout and self.has_rng("dropout"):
            x = Dropout(lora.dropout)(x)
        low = x.reshape(-1, math.prod(inputs)) @ jnp.asarray(a, self.dtype).reshape(math.prod(inputs), lora.rank)
        return (low * lora.scale) @ jnp.asarray(b, self.dtype).reshape(lora.rank, math.prod(outputs))


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)): SwiGLU or GeGLU (Shazeer, arXiv 2002.05202)."""

    width: int
    hidden_width: int
    activation: MlpActivation
    dtype: jnp.dtype
    out_init_scale: float = 1.0
    use_bias: bool = False
    lora: LoraConfig | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Applies the MLP to each vector."""
        shape, axes = (self.width, self.hidden_width), ("embed", "mlp")
        settings: Any = {"use_bias": self.use_bias, "lora": self.lora}
        fanned = fan_out(x, "mlp")
        gate = Projection(shape, axes, 1, self.dtype, **settings, name="gate")(fanned)
        up = Projection(shape, axes, 1, self.dtype, **settings, name="up")(fanned)
        hidden = _ACTIVATIONS[self.activation](gate) * up
        hidden = constrain(hidden, ("batch", *[None] * (hidden.ndim - 2), "mlp"))
        down = Projection(shape[::-1], axes[::-1], 1, self.dtype, self.out_init_scale, **settings, name="down")
        return down(hidden)


def soft_cap(x: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """Brings values smoothly into (-cap, cap): cap * tanh(x / cap) (arXiv 2408.00118). None leaves them."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Embedding(nn.Module):
    """The embedding table [V, D]; rows have variance 1, which the first norm expects.

    Attributes:
      vocab_size: V.
      width: D.
      dtype: of the activations.
      scale: rows are multiplied by it when they are looked up.
      logit_scale: the logits are multiplied by it; None: D ** -0.5, as the table's rows have variance 1.
    """

    vocab_size: int
    width: int
    dtype: jnp.dtype
    scale: float = 1.0
    logit_scale: float | None = None

    def setup(self) -> None:
        """Declares the table."""
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        self.table: Any = self.param("table", init, (self.vocab_size, self.width))

    def __call__(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Looks up the rows of the tokens."""
        rows = jnp.asarray(self.table, self.dtype)[tokens]
        return rows if self.scale == 1.0 else rows * jnp.asarray(self.scale, self.dtype)

    def attend(self, x: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Logits of a tied output layer, in float32."""
        scaled = x * (self.width**-0.5 if self.logit_scale is None else self.logit_scale)
        table = jnp.asarray(self.table, self.dtype)
        return jnp.einsum("...D,VD->...V", scaled, table, preferred_element_type=jnp.float32)
