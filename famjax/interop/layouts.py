"""How a tensor of a pretrained checkpoint lies in a parameter: its shape there, and the way between the two."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
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
      tensor_shape: of the tensor.
      axes: the tensor's axes in the order in which the part has them; None: as they are. Neighbours may then be one
        axis in the tensor and several in the part, or the other way round.
    """

    path: str
    layer: int | None
    shape: tuple[int, ...]
    tensor_shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    def to_parameter(self, tensor: Array) -> Array:
        """The parameter's part: a view of the tensor."""
        return (tensor if self.axes is None else tensor.transpose(self.axes)).reshape(self.shape)

    def to_tensor(self, part: Array) -> Array:
        """The way back."""
        if self.axes is None:
            return part.reshape(self.tensor_shape)
        turned = part.reshape(tuple(self.tensor_shape[axis] for axis in self.axes))
        return turned.transpose(tuple(np.argsort(self.axes)))


def is_stacked(path: str) -> bool:
    """Whether a parameter has the layers on its first axis."""
    return path.startswith(_STACKED)


@functools.lru_cache(maxsize=4)
def shapes_of(config: TransformerConfig) -> Mapping[str, jax.ShapeDtypeStruct]:
    """`parameter_shapes`, which traces the model, once."""
    return parameter_shapes(config)


def slots_of(family: Family, config: TransformerConfig) -> dict[str, Slot]:
    """The place of every tensor of a Hugging Face model, by its name; FAM's own parameters have none.

    A linear layer's weight is [outputs, inputs] there, and here a kernel of the inputs' dimensions, then the outputs'.
    Biases and norms differ in shape alone, and the embedding table not at all.
    """
    slots = {}
    for path, array in shapes_of(config).items():
        if path in FAM_PARAMETERS:
            continue
        stacked = is_stacked(path)
        shape = array.shape[1:] if stacked else array.shape
        tensor_shape, axes = _linear_layout(path, shape)
        for layer, name in enumerate(tensor_names(family, path, config)):
            slots[name] = Slot(path, layer if stacked else None, shape, tensor_shape, axes)
    return slots


def _linear_layout(path: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The shape of a parameter's tensor, and its axes' order in the parameter."""
    if not path.endswith("/kernel"):
        return (shape if path.endswith("table") else (math.prod(shape),)), None
    num_inputs = 2 if path.endswith("/out/kernel") else 1
    return (math.prod(shape[num_inputs:]), math.prod(shape[:num_inputs])), (1, 0)
