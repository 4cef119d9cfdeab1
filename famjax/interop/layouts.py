"""How a tensor of a pretrained checkpoint lies in a parameter: its shape there, and the way between the two.

A linear layer's weight is [outputs, inputs] there, and here a kernel of the inputs' dimensions, then the outputs'.
Biases and norms differ in shape alone, and the embedding table not at all.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
from numpy.typing import NDArray

from famjax.interop.families import Family, tensor_names
from famjax.models.config import TransformerConfig
from famjax.models.transformer import parameter_shapes

Array = NDArray[Any]

PARAMS = "params"
FAM_PARAMETERS = ("fam_prompt", "layers/fam_prefix")
_STACKED = "layers/"


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of one tensor in the parameters.

    Attributes:
      path: of the parameter.
      layer: whose part of a stacked parameter it is; None where it is not stacked.
      shape: of that part.
      num_inputs: of a kernel, the dimensions that are inputs; 0 of what is no kernel.
    """

    path: str
    layer: int | None
    shape: tuple[int, ...]
    num_inputs: int

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        if self.num_inputs:
            return (math.prod(self.shape[self.num_inputs :]), math.prod(self.shape[: self.num_inputs]))
        return self.shape if self.path.endswith("table") else (math.prod(self.shape),)

    def to_parameter(self, tensor: Array) -> Array:
        """The parameter's part: a view of the tensor."""
        return (tensor.T if self.num_inputs else tensor).reshape(self.shape)

    def to_tensor(self, part: Array) -> Array:
        """The way back."""
        if not self.num_inputs:
            return part.reshape(self.tensor_shape)
        outputs, inputs = self.tensor_shape
        return part.reshape(inputs, outputs).T


@functools.lru_cache(maxsize=4)
def shapes_of(config: TransformerConfig) -> Mapping[str, jax.ShapeDtypeStruct]:
    """`parameter_shapes`, which traces the model, once."""
    return parameter_shapes(config)


def slots_of(family: Family, config: TransformerConfig) -> dict[str, Slot]:
    """The place of every tensor of a model, by the tensor's name; FAM's own parameters have none."""
    slots = {}
    for path, array in shapes_of(config).items():
        if path in FAM_PARAMETERS:
            continue
        stacked = path.startswith(_STACKED)
        shape = array.shape[1:] if stacked else array.shape
        for layer, name in enumerate(tensor_names(family, path, config)):
            slots[name] = Slot(
                path=path,
                layer=layer if stacked else None,
                shape=shape,
                num_inputs=_num_inputs(path),
            )
    return slots


def _num_inputs(path: str) -> int:
    if not path.endswith("/kernel"):
        return 0
    return 2 if path.endswith("/out/kernel") else 1
