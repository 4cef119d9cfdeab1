"""How an optimizer's state lies on the mesh, from how the parameters lie."""

from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec

from famjax.training.optimizers import STACKED_PREFIX
from famjax.training.parameter_paths import Tree, path_name


def optimizer_state_specs(optimizer: optax.GradientTransformation, params: Tree, specs: Tree) -> Tree:
    """Derives the layout of the optimizer's state.

    An array of a parameter's shape (a moment) lies as the parameter does; Adafactor's rows and columns lie as the
    parameter without the axis that they average over; counts, and Adafactor's placeholders for what it does not keep,
    are replicated.

    Args:
      optimizer: made by `famjax.training.optimizers.make_optimizer`.
      params: parameters or abstract parameters, unboxed.
      specs: the tree of `params` with a `PartitionSpec` (of mesh axes or of logical axes) for each leaf.

    Returns:
      The tree of `optimizer.init(params)` with a `PartitionSpec` for each leaf.
    """
    spec_leaves = jax.tree.leaves(specs, is_leaf=lambda node: isinstance(node, PartitionSpec))
    by_path = {
        path_name(path): (param.shape, spec)
        for (path, param), spec in zip(jax.tree_util.tree_leaves_with_path(params), spec_leaves, strict=True)
    }

    def spec_of(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> PartitionSpec:
        field, parameter = _field_and_parameter(path)
        if parameter not in by_path:
            return PartitionSpec()
        shape, spec = by_path[parameter]
        if leaf.shape == shape:
            return spec
        axis = _averaged_axis(field, shape, is_stacked=parameter.startswith(STACKED_PREFIX))
        if axis is None or leaf.shape != shape[:axis] + shape[axis + 1 :]:
            return PartitionSpec()
        names = tuple(spec) + (None,) * (len(shape) - len(spec))
        return PartitionSpec(*names[:axis], *names[axis + 1 :])

    return jax.tree_util.tree_map_with_path(spec_of, jax.eval_shape(optimizer.init, params))


def _field_and_parameter(path: jax.tree_util.KeyPath) -> tuple[str, str]:
    """Splits the path of a state's leaf, `...mu["layers"]["mlp"]`, into ("mu", "layers/mlp")."""
    last_field = max(index for index, key in enumerate(path) if not isinstance(key, jax.tree_util.DictKey))
    field: Any = path[last_field]
    return getattr(field, "name", ""), path_name(path[last_field + 1 :])


def _averaged_axis(field: str, shape: tuple[int, ...], *, is_stacked: bool) -> int | None:
    """The axis of a parameter that optax.scale_by_factored_rms averages over: the largest for `v_row`, then `v_col`."""
    first = 1 if is_stacked else 0
    by_size = np.argsort(shape[first:])
    if field not in ("v_row", "v_col") or len(by_size) < 2:
        return None
    return first + int(by_size[-1] if field == "v_row" else by_size[-2])
