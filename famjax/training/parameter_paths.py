"""Parameters by path: "layers/mlp/gate/kernel", matched by regular expressions over the whole path."""

import re
from collections.abc import Sequence
from typing import Any

import jax

from famjax.errors import ConfigError

Tree = Any  # A nested dict of parameters, or of one thing for each parameter.

_NUM_SHOWN = 4


def parameter_paths(params: Tree) -> Tree:
    """The same tree with each leaf's path, its keys joined by "/"."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_name(path), params)


def path_name(path: jax.tree_util.KeyPath) -> str:
    """A key path as jax gives it, joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def select(params: Tree, patterns: Sequence[str], setting: str, optional: Sequence[str] = ()) -> Tree:
    """Which parameters match at least one of the patterns.

    Args:
      params: arrays or abstract arrays, unboxed.
      patterns: regular expressions; each must match the whole path of at least one parameter.
      setting: whose patterns they are, for the message ("OptimizerConfig.freeze").
      optional: patterns that may match nothing (defaults made for every model).

    Returns:
      The tree of `params` with a bool for each leaf.

    Raises:
      ConfigError: a pattern is no regular expression, or matches no parameter.
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    compiled = [_compile(pattern, setting) for pattern in patterns]
    for expression in compiled:
        if expression.pattern not in optional and not any(map(expression.fullmatch, paths)):
            raise ConfigError(
                f"{setting} has the pattern {expression.pattern!r}, which matches no parameter; a pattern must match a "
                f"whole path, as {_some(paths)}."
            )
    chosen = {path for path in paths if any(expression.fullmatch(path) for expression in compiled)}
    return jax.tree.map(lambda path: path in chosen, parameter_paths(params))


def without(params: Tree, left_out: Tree) -> Tree:
    """The tree with None, which is no leaf, in place of each parameter that `left_out` has a True for."""
    return jax.tree.map(lambda is_left_out, param: None if is_left_out else param, left_out, params)


def replaced(params: Tree, others: Tree) -> Tree:
    """`params`, each parameter that `others` (the same tree, with None in places) has replaced by it."""
    return jax.tree.map(lambda param, other: param if other is None else other, params, others)


def _compile(pattern: str, setting: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{setting} has the pattern {pattern!r}, which is no regular expression: {error}.") from error


def _some(paths: Sequence[str]) -> str:
    """A few paths spread over the model, for a message."""
    stride = max(1, -(-len(paths) // _NUM_SHOWN))
    shown = ", ".join(paths[::stride])
    return f"{shown} (of {len(paths)})"
